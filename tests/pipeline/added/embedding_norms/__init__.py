"""How long the embeddings are: an analysis that a test adds, as anybody might, and that lensdiff does not ship."""

from typing import Annotated, Literal

from pydantic import Field

from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, Options, option

Part = Literal["embed", "unembed"]


class NormOptions(Options):
    """Options of `embedding_norms`."""

    power: Count = option(2, "Exponent of the norm.")
    parts: Annotated[list[Part], Field(min_length=1)] = option(
        lambda: ["embed"], "Matrices that are read: embed or unembed.", factory=True
    )
    scales: Annotated[list[float], Field(min_length=1)] = option(
        lambda: [1.0], "What every norm is multiplied by, and the results summed.", factory=True
    )
    first: Count | None = option(None, "Only the first tokens; by default all.", example=50)


ANALYSIS = Analysis(
    name="embedding_norms",
    question="How long the embeddings are",
    beside="control models",
    options=NormOptions,
    controls=1,
    package="embedding_norms",
)
