"""How far a response depends on its instruction."""

from typing import Annotated, Literal

from pydantic import Field

from lensdiff.analyses.instruction_use.defaults import DRAWS, READ_TOKENS, TEXTS
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, Options, option

Text = Literal["base", "tuned", "reference"]


class InstructionUseOptions(Options):
    """Options of `instruction_use`."""

    texts: Annotated[list[Text], Field(min_length=1)] = option(
        lambda: list(TEXTS),
        "Texts that are forced: the own responses of base and tuned, and the reference that a prompt brings.",
        factory=True,
    )
    draws: Count = option(DRAWS, "Other prompts whose instructions take the prompt's place.")
    max_tokens: Count = option(READ_TOKENS, "Tokens of each own response that are read.")


ANALYSIS = Analysis(
    name="instruction_use",
    question="How far responses depend on their instruction",
    more="The same texts are forced in both models, after the prompt and after it with another prompt's instruction, "
    "or with none; for one prompt alone, with none.",
    beside="instructions of other prompts; control models",
    options=InstructionUseOptions,
    asks=frozenset({"prompts"}),
    controls=19,
    effects=("instruction_use",),
)
