"""Which prompt words drive the response."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lensdiff.analyses.attribute.defaults import (
    BASELINE,
    CURVE_DRAWS,
    CURVE_PROMPTS,
    CURVE_TOKENS,
    DELETION_DRAWS,
    METHOD,
    NODES,
    PATH,
    TARGET,
)
from lensdiff.analyses.attribute.target_names import CHOICE, EXPECTED, NAMES, contrasted
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, Number, Options, contradiction, expected, option


def _is_target(given: str) -> str:
    if given not in NAMES and contrasted(given) is None:
        raise expected(EXPECTED)
    return given


Target = Annotated[str, AfterValidator(_is_target)]
Baseline = Annotated[str, Field(pattern="^(zero|mean|token:.+)$")]


class AttributeOptions(Options):
    """Options of `attribute`."""

    target: Target = option(
        TARGET,
        "What is differentiated: probability, log_probability, logit, two tokens' logits ('contrast: yes| no'), or "
        "choice: the tuned model's next token against the base's, on the tuned model's text (no curves then).",
    )
    path: Literal["point", "integrated"] = option(
        PATH, "Where it is differentiated: point (the prompt itself) or integrated (along a path from a baseline)."
    )
    baseline: Baseline = option(BASELINE, "Where that path begins: zero, mean, or token:TEXT (exactly one token).")
    nodes: Count = option(NODES, "Nodes of that path; each costs what point does.")
    method: Literal["auto", "forward", "reverse"] = option(METHOD, "forward, reverse, or auto: the cheaper.")
    deletion_draws: Number = option(DELETION_DRAWS, "Random deletions beside each map's own; 0: no check.")
    curve_prompts: Number = option(
        CURVE_PROMPTS, "First prompts whose tokens are removed one after the other, most important first; 0: none."
    )
    curve_draws: Number = option(CURVE_DRAWS, "Random orders beside these curves; a band takes 19.")
    curve_tokens: Count = option(CURVE_TOKENS, "Tokens of the tuned model's response that these curves read.")
    retokenise: bool = option(False, "Attribute an own response as the paper's authors do, from its text.")

    @model_validator(mode="after")
    def _one_text(self) -> "AttributeOptions":
        if self.target == CHOICE and self.retokenise:
            raise contradiction(
                "retokenise", f"target {CHOICE} reads one text in both models: leave retokenise to the other targets"
            )
        return self


ANALYSIS = Analysis(
    name="attribute",
    question="Which prompt words drive the response, in both models",
    beside="deletion of random tokens; control models",
    options=AttributeOptions,
    asks=frozenset({"prompts"}),
    controls=5,
    first_kind=True,
    effects=("density",),
)
