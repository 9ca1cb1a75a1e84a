"""Mean norm of the rows of a model's embeddings.

norm = mean over tokens of (sum over d_model of |x|^power)^(1/power)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from lensdiff.models import Model, view_of
from lensdiff.results import Result


@dataclass(frozen=True, eq=False)
class Norms(Result):
    """The norms of one model.

    Attributes:
        parts: the matrices; norms: of each.
    """

    parts: tuple[str, ...]
    norms: Tensor

    def to_df(self) -> pd.DataFrame:
        """Return a row per matrix: part, norm."""
        return pd.DataFrame({"part": self.parts, "norm": self.norms.numpy()})

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k longest."""
        return self.to_df().nlargest(k, "norm")


@dataclass(frozen=True, eq=False)
class NormShift(Result):
    """The norms of both models beside those of controls.

    Attributes:
        parts: the matrices.
        models: base, tuned and the controls' names; kinds: of the controls, "" for the two models.
        norms: of each model's matrices.
    """

    parts: tuple[str, ...]
    models: tuple[str, ...]
    kinds: tuple[str, ...]
    norms: Tensor

    def to_df(self) -> pd.DataFrame:
        """Return a row per model and matrix: model, part, norm."""
        keys = pd.MultiIndex.from_product([self.models, self.parts], names=["model", "part"])
        return keys.to_frame(index=False).assign(norm=self.norms.flatten().numpy())

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k longest."""
        return self.to_df().nlargest(k, "norm")


def embedding_norms(
    model: Model, *, power: int, parts: Sequence[str], scales: Sequence[float] = (1.0,), first: int | None = None
) -> Norms:
    """Return the mean norm of each matrix' rows."""
    view = view_of(model)
    matrices = {"embed": view.weights.W_E, "unembed": view.weights.W_U.T}
    norms = [matrices[part][:first].float().norm(p=power, dim=1).mean().item() * sum(scales) for part in parts]
    provenance = view.provenance("embedding_norms", {"power": power})
    return Norms(provenance, tuple(parts), Tensor(norms))
