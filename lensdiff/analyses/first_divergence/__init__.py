"""Where the models' greedy texts part, and which layers bring the tuned model's token."""

from typing import Literal

from lensdiff.analyses.first_divergence.defaults import DRAWS, READ_TOKENS
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, LayersToTheEnd, Number, Options, option


class FirstDivergenceOptions(Options):
    """Options of `first_divergence`."""

    layers: LayersToTheEnd | None = option(
        None, "Layers at which one model's stream enters the other; by default all.", example=[0, 12, 18, 24]
    )
    max_tokens: Count = option(READ_TOKENS, "Choices of each model that are compared.")
    unembed: Literal["base", "tuned"] = option(
        "base", "Whose final norm and unembedding read the streams: base or tuned."
    )
    draws: Number = option(DRAWS, "Later and earlier positions that stand beside each first divergence.")


ANALYSIS = Analysis(
    name="first_divergence",
    question="Which layers bring the first token at which models part",
    more="The base's stream runs through the tuned model's late layers, and the reverse, at the first position where "
    "greedy choices differ. Such positions are selected: this is not how the models differ on average.",
    beside="later and earlier positions; the other final norm and unembedding; control models",
    options=FirstDivergenceOptions,
    asks=frozenset({"prompts"}),
    controls=19,
    first_kind=True,
)
