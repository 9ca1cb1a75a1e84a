"""What a response loses when no attention reaches its instruction."""

from lensdiff.analyses.knock_out.defaults import DRAWS, READ_TOKENS
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, Options, option


class KnockOutOptions(Options):
    """Options of `knock_out`."""

    draws: Count = option(DRAWS, "Draws of as many other prompt tokens, which are cut in the instruction's place.")
    max_tokens: Count = option(READ_TOKENS, "Tokens of each own response that are read.")


ANALYSIS = Analysis(
    name="knock_out",
    question="What responses lose with their instruction cut off",
    more="Both models read the same texts, their own responses. Attention to the instruction is cut from the response "
    "alone, and from all that stands behind it; in all layers, and in one window of them after the other.",
    beside="as many other prompt tokens cut; control models",
    options=KnockOutOptions,
    asks=frozenset({"prompts"}),
    controls=19,
    effects=("knock_out",),
)
