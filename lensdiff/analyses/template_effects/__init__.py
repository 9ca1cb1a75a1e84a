"""What the chat template does, told apart from what tuning did."""

from typing import Annotated, Literal

from pydantic import Field

from lensdiff.analyses.template_effects.defaults import DRAWS, MAX_PROMPTS, MEASURES
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, Options, option

Measure = Literal["instruction_use", "attention", "density", "output_shift", "knock_out"]


class TemplateEffectsOptions(Options):
    """Options of `template_effects`."""

    measures: Annotated[list[Measure], Field(min_length=1)] = option(
        lambda: list(MEASURES),
        "What is measured in both models and renderings: instruction_use, attention, density, output_shift, knock_out.",
        factory=True,
    )
    draws: Count = option(DRAWS, "Other prompts whose instructions take the prompt's place (instruction_use).")
    max_prompts: Count = option(MAX_PROMPTS, "Only the first prompts.")


ANALYSIS = Analysis(
    name="template_effects",
    question="What the chat template does, apart from the tuning",
    more="Both models read each prompt raw and in the tuned model's chat template, and in all four the same response: "
    "the prompt's reference, else the tuned model's own in its template.",
    beside="both renderings of the same prompts",
    options=TemplateEffectsOptions,
    asks=frozenset({"prompts"}),
    both=True,
)
