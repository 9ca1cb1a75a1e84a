"""Which prompt words drive the response."""

from typing import Literal

from lensdiff.analyses.attribute.defaults import DELETION_DRAWS, METHOD, TARGET
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Number, Options, option


class AttributeOptions(Options):
    """Options of `attribute`."""

    target: Literal["probability", "log_probability", "logit"] = option(
        TARGET, "What is differentiated: probability, log_probability or logit."
    )
    method: Literal["auto", "forward", "reverse"] = option(METHOD, "forward, reverse, or auto: the cheaper.")
    deletion_draws: Number = option(DELETION_DRAWS, "Random deletions beside each map's own; 0: no check.")
    retokenise: bool = option(False, "Attribute an own response as the paper's authors do, from its text.")


ANALYSIS = Analysis(
    name="attribute",
    question="Which prompt words drive the response, in both models",
    options=AttributeOptions,
    asks=frozenset({"prompts"}),
    controls=5,
    first_kind=True,
    exact=True,
)
