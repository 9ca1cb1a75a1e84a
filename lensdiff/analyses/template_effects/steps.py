"""The step that sets two models in two renderings beside each other."""

from typing import Any

from lensdiff.analyses.attribute.gradients import rows_of
from lensdiff.analyses.template_effects import TemplateEffectsOptions
from lensdiff.analyses.template_effects.measure import template_effects
from lensdiff.analyses.template_effects.result import TemplateEffects
from lensdiff.results import InputError
from lensdiff.steps.beside import tell_failures, told_once
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import NotPossible, Step, one_unit
from lensdiff.steps.tables import TableDoc, of_one
from lensdiff.steps.unit import SIDES, Unit

FOUR = 4  # models in renderings
READ_TOKENS = 64  # of an own response
PASSES = {"attention": 1, "output_shift": 2, "knock_out": 2}  # over a text
ROW = 1.2  # of an attribution, by which density is found, as tokens of a pass


def units(plan: Plan, options: TemplateEffectsOptions) -> list[Unit]:
    """Return the only unit, where the run reads prompts in both renderings."""
    return one_unit(plan, options) if len(plan.templates) > 1 else []


def work(inputs: Inputs, unit: Unit, options: TemplateEffectsOptions) -> TemplateEffects:
    """Set the four beside each other, of the first prompts.

    Raises:
        NotPossible: no prompt can be read in all four, or no number be had.
    """
    prompts = list(inputs.unrendered.values())[: options.max_prompts]
    try:
        with told_once():
            found = template_effects(
                inputs.pair,
                prompts,
                [inputs.given(prompt.id) for prompt in prompts],
                measure=options.measures,
                draws=options.draws,
                seed=inputs.seed,
                max_new_tokens=READ_TOKENS,
            )
    except InputError as error:
        raise NotPossible(str(error)) from None
    tell_failures(inputs, "template effects", found.failures)
    return found


def cost(probe: Probe, unit: Unit, options: TemplateEffectsOptions) -> float:
    n = min(options.max_prompts, len(probe.prompts))
    n_out = probe.n_reference or READ_TOKENS  # what all four read; the tuned model writes it where no reference is
    written = 0.0 if probe.n_reference else n * probe.step * n_out
    passes = sum(PASSES.get(name, 1 + min(options.draws, n)) for name in options.measures if name != "density")
    tokens = passes * (probe.n_prompt + n_out)
    if "density" in options.measures:
        tokens += ROW * min(rows_of(probe.view, probe.n_prompt, n_out).values())
    return written + probe.read(n * FOUR * tokens, passes=n)


STEPS: tuple[Step[Any, Any], ...] = (
    Step(
        name="template_effects",
        title="effects of the template",
        options=TemplateEffectsOptions,
        result=TemplateEffects,
        units=units,
        work=work,
        cost=cost,
        needs=frozenset({"pair", "prompts", "seed"}),
        keys=("measures", "draws", "max_prompts"),
        lacks=lambda found: found.failures,
    ),
)
TABLES: tuple[TableDoc[Any], ...] = (
    TableDoc(
        "template_effects",
        "a number and an effect, over prompts",
        {
            "measure": "what is measured in each of the four: both models, raw and in the chat template",
            "effect": "model (tuned - base), template (chat - raw), or interaction (the first in chat less in raw)",
            "estimate": "mean over prompts; of output_shift a distance of distributions",
            "low": "limits of the estimate over prompts",
            "high": "as low",
            "p": "paired over prompts; missing of mean distances, which are never negative",
            "n": "prompts with all four numbers",
        },
        of=("template_effects",),
        build=of_one("template_effects", TemplateEffects),
    ),
    TableDoc(
        "template_cells",
        "a number",
        {
            "measure": "as in template_effects",
            **{
                f"{side}_{way}": f"mean over prompts, of the {side} {words}"
                for side in SIDES
                for way, words in (("raw", "on raw prompts"), ("chat", "in the chat template"))
            },
            "n": "prompts with all four",
        },
        of=("template_effects",),
        build=of_one("template_effects", TemplateEffects, TemplateEffects.cell_means),
    ),
)
