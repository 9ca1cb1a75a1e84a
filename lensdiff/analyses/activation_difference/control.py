"""What one control's stream differs from the base's by, whatever the text."""

from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.activation_difference.sums import constant_share
from lensdiff.results import Result
from lensdiff.results.tidy import tidy


@dataclass(frozen=True, eq=False)
class ControlDifference(Result):
    """The mean difference of one control's stream from the base's, and the words that it speaks for.

    Attributes:
        layers: whose entering stream is read.
        n: texts that have each position.
        difference: mean of h_control - h_base; size: mean of its length.
        words, read_words, read_ids, read_logits: what the difference reads under the control's own head, of both
            signs, best first, as places in `words`, as ids and as logits.
    """

    calls = ("top()", "to_df()")

    layers: tuple[int, ...]
    n: Int[Tensor, " position"]
    difference: Float[Tensor, "layer position d_model"]
    size: Float[Tensor, "layer position"]
    words: tuple[str, ...]
    read_words: Int[Tensor, "sign layer position k"]
    read_ids: Int[Tensor, "sign layer position k"]
    read_logits: Float[Tensor, "sign layer position k"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per layer and position: layer, position, constant_share, size."""
        axes = {"layer": self.layers, "position": range(len(self.n))}
        return tidy(axes, {"constant_share": constant_share(self.difference, self.size), "size": self.size})

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k places of the largest constant share."""
        return self.to_df().nlargest(k, "constant_share").reset_index(drop=True)
