"""What parts of the change do alone, at any dose."""

from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from lensdiff.analyses.dose.defaults import AMOUNTS, PART_AMOUNTS, PARTS, READ_TOKENS
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, Finite, Options, option


def _each_once(values: list) -> list:
    if len(set(values)) < len(values):
        raise PydanticCustomError("distinct", "each once", {})
    return values


Doses = Annotated[list[Finite], AfterValidator(_each_once)]


class DoseOptions(Options):
    """Options of `dose`."""

    amounts: Doses = option(
        lambda: list(AMOUNTS), "Doses of the whole change, beside 0 (the base) and 1 (tuned).", factory=True
    )
    parts: Annotated[list[str], AfterValidator(_each_once)] = option(
        lambda: list(PARTS),
        "Groups dosed alone beside all and W_out: attention, mlp, embedding, W_Q (or another matrix), layer 3, "
        "head 3.5, kv 3.2, not NAME; or logits, a dose of these.",
        factory=True,
    )
    part_amounts: Doses = option(
        lambda: list(PART_AMOUNTS), "Doses of W_out and of each of these groups, beside 0 and 1.", factory=True
    )
    max_tokens: Count = option(READ_TOKENS, "Tokens of each own response that are read.")


ANALYSIS = Analysis(
    name="dose",
    question="What parts of the change do alone, at any dose",
    more="Weights between base and tuned, whole or by group, are put into a copy of the base, which reads both models' "
    "own responses.",
    beside="the same dose of control models' W_out",
    options=DoseOptions,
    asks=frozenset({"prompts"}),
    controls=19,
)
