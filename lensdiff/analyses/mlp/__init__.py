"""Which concepts the feed-forward layers hold, and how far they turned."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lensdiff.analyses.mlp.defaults import COMPONENTS, RANKS, READ_SIDES, TOP_WORDS
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, Layers, Options, checked_once, contradiction, option

Side = Literal["value", "key", "gate"]


class MLPOptions(Options):
    """Options of `mlp_concepts` and of `rotation` (`ranks`)."""

    layers: Layers | None = option(None, "Layers that are read; by default all.", example=[0, 1, 2])
    sides: Annotated[list[Side], Field(min_length=1)] = option(
        lambda: list(READ_SIDES), "Vectors that are read: value, key or gate.", factory=True
    )
    n_components: Count = option(COMPONENTS, "Principal components per layer and side.", flag="--components")
    top_words: Count = option(TOP_WORDS, "Words that name a component.")
    fold_gain: bool = option(True, "Read keys and gates with the gain of the norm before them.")
    ranks: Annotated[list[Count], Field(min_length=1)] | None = option(
        None,
        f"Ranks of the subspaces that are compared; by default those of {', '.join(map(str, RANKS))} that fit.",
        example=[1, 5],
    )

    @model_validator(mode="after")
    def _consistent(self) -> "MLPOptions":
        checked_once("sides", self.sides)
        too_large = [rank for rank in self.ranks or () if rank > self.n_components]
        if too_large:
            raise contradiction("ranks", f"rank {too_large[0]} is above n_components = {self.n_components}")
        if self.ranks is None:
            self.ranks = [rank for rank in RANKS if rank <= self.n_components]
        return self


ANALYSIS = Analysis(
    name="mlp",
    question="Which concepts layers hold, and how far they turned",
    beside="random directions; for angles the band of control models",
    options=MLPOptions,
    asks=frozenset({"words"}),
    controls=99,
)
