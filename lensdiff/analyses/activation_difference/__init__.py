"""What tuning adds to the residual stream whatever the text, and what that says."""

from typing import Annotated

from pydantic import Field

from lensdiff.analyses.activation_difference.defaults import POSITIONS
from lensdiff.defaults import MOST
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, LayersToTheEnd, Options, option

Several = Annotated[int, Field(ge=2, le=MOST)]  # the mean of one text is that text


class ActivationDifferenceOptions(Options):
    """Options of `activation_difference`."""

    layers: LayersToTheEnd | None = option(
        None, "Layers whose entering stream is read; by default all, and what leaves the last.", example=[0, 1, 2]
    )
    positions: Count = option(POSITIONS, "First tokens of each text that are read, each position apart.")
    max_texts: Several | None = option(None, "Only the first texts; by default all.", example=128)


ANALYSIS = Analysis(
    name="activation_difference",
    question="What tuning adds to the stream whatever the text",
    more="Both models read the first tokens of texts that have nothing to do with the tuning: how much of the "
    "difference of their streams is the same in every text, and which words it speaks for.",
    beside="control models; the tuned model's own mean; the base's head",
    options=ActivationDifferenceOptions,
    asks=frozenset({"texts"}),
    controls=19,
    first_kind=True,
)
