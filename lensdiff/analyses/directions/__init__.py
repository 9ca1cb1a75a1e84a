"""The direction in which an instruction moves the stream, in both models."""

from typing import Annotated

from pydantic import Field

from lensdiff.analyses.directions.defaults import DRAWS, FEWEST_PERMUTATIONS, FOLDS, PERMUTATIONS, READ_TOKENS
from lensdiff.defaults import MOST
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, Number, Options, option


class DirectionOptions(Options):
    """Options of `directions`."""

    folds: Annotated[int, Field(ge=2, le=MOST)] = option(FOLDS, "Parts of the prompts, each of which is held out once.")
    permutations: Annotated[int, Field(ge=FEWEST_PERMUTATIONS, le=MOST)] = option(
        PERMUTATIONS, "Drawings of permuted labels."
    )
    layer: Number | None = option(
        None, "Layer at which vectors are added and projected out; by default half of all.", example=1
    )
    draws: Count = option(DRAWS, "Random vectors of the same length beside an effect.")
    max_tokens: Count = option(READ_TOKENS, "Tokens of each response that effects are measured on.")


ANALYSIS = Analysis(
    name="directions",
    question="In which direction an instruction moves the stream",
    more="The mean stream at the last prompt token with the instruction, less that without: by layer the cosine of "
    "both models' directions, how well each tells held-out prompts apart in either model, and what adding it or "
    "projecting it out does to the response.",
    beside="permuted labels; random vectors of the same length; control models",
    options=DirectionOptions,
    asks=frozenset({"prompts"}),
    controls=19,
    first_kind=True,
)
