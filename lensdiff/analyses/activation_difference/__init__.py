"""What tuning adds to the residual stream whatever the text, and what that says."""

from typing import Annotated

from pydantic import Field

from lensdiff.analyses.activation_difference.defaults import EFFECT_DRAWS, EFFECT_TEXTS, POSITIONS
from lensdiff.defaults import MOST
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, LayersToTheEnd, Number, Options, option

Several = Annotated[int, Field(ge=2, le=MOST)]  # the mean of one text is that text


class ActivationDifferenceOptions(Options):
    """Options of `activation_difference`."""

    layers: LayersToTheEnd | None = option(
        None, "Layers whose entering stream is read; by default all, and what leaves the last.", example=[0, 1, 2]
    )
    positions: Count = option(POSITIONS, "First tokens of each text that are read, each position apart.")
    max_texts: Several | None = option(None, "Only the first texts; by default all.", example=128)
    layer: Number | None = option(
        None, "Layer at which the difference is written and replaced; by default half of all.", example=1
    )
    position: Number | None = option(
        None, "Position whose difference that is; by default the last that every text has.", example=4
    )
    effect_texts: Several = option(EFFECT_TEXTS, "Texts that are read with the difference added, and replaced.")
    draws: Count = option(EFFECT_DRAWS, "Random vectors of the same length beside it.")


ANALYSIS = Analysis(
    name="activation_difference",
    question="What tuning adds to the stream whatever the text",
    more="Both models read the first tokens of texts that have nothing to do with the tuning: how much of the "
    "difference of their streams is the same in every text, which words it speaks for, and at one place what it does: "
    "said in other prompts (patchscope), added to the base (steering), replaced by the other model's (causal).",
    beside="control models; the tuned model's own mean; the base's head; random vectors",
    options=ActivationDifferenceOptions,
    asks=frozenset({"texts"}),
    controls=19,
    first_kind=True,
)
