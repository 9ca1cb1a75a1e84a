"""Principal components of what feed-forward layers hold: the value vectors, and the key vectors of each neuron.

    C = V - mean over the d_mlp vectors V;  v_r = r-th principal component of C, with its share of the variance

    value   rows of W_out: what a neuron writes
    key     columns of W_in: what a neuron answers to
    gate    columns of W_gate, where the layer is gated

Key and gate vectors are multiplied by the gain of the norm before the layer (`fold_gain`), because that is what a
neuron reads; values are read as the paper reads them, as they are. The sign of a component is arbitrary, and
components with nearly equal variance are defined only up to a rotation among themselves.

Ignored: biases, the norm's per-input scale and centring, and for keys and gates each other (a gated neuron multiplies
the two).
Memory: one layer's vectors, keys and gates in float64, and four squares of d_model.
Reference: Wu et al., NAACL 2024, section 6 (values); doi 10.18653/v1/2024.naacl-long.130. Keys and gates are
lensdiff's own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, cast, get_args, runtime_checkable

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from sklearn.decomposition import PCA
from torch import Tensor

from lensdiff.analyses.mlp.defaults import COMPONENTS, READ_SIDES
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.inside.precision import as_double
from lensdiff.models.layers import chosen_indices
from lensdiff.models.progress import tracked
from lensdiff.models.spectrum import add_product
from lensdiff.models.tall import LARGE, is_large
from lensdiff.results import InputError, Provenance, Result
from lensdiff.results.numbers import check_count
from lensdiff.results.tidy import tidy

Side = Literal["value", "key", "gate"]
MLP_SIDES: tuple[Side, ...] = get_args(Side)
MATRIX: dict[Side, Literal["W_out", "W_in", "W_gate"]] = {"value": "W_out", "key": "W_in", "gate": "W_gate"}


class PrincipalComponents(NamedTuple):
    """Orthonormal rows, most variance first, and their shares of the total variance."""

    components: Float[Tensor, "component d_model"]
    explained_variance_ratio: Float[Tensor, " component"]


def principal_components(vectors: Float[Tensor, "vector d_model"], *, k: int) -> PrincipalComponents:
    """Return the k leading principal components in float64, k < vectors, k <= d_model.

    By scikit-learn; elsewhere than on the CPU and of many numbers, where that takes half the memory, the same by torch:
    eigenvectors of the covariance. Vectors that do not vary explain nothing: every ratio is 0.
    """
    if vectors.device.type != "cpu" or is_large(vectors):
        return covariance_components(vectors, k=k)
    with np.errstate(invalid="ignore"):  # 0/0 of vectors that do not vary
        fitted = PCA(n_components=k, svd_solver="covariance_eigh").fit(as_double(vectors).numpy())
    ratio = np.nan_to_num(fitted.explained_variance_ratio_)
    return PrincipalComponents(torch.from_numpy(fitted.components_), torch.from_numpy(ratio))


def covariance_components(vectors: Float[Tensor, "vector d_model"], *, k: int) -> PrincipalComponents:
    """Return what `principal_components` does by torch, on any device: centred some rows at a time."""
    blocks = vectors.split(max(1, LARGE // vectors.shape[1]))
    mean = torch.stack([as_double(block).sum(dim=0) for block in blocks]).sum(dim=0) / len(vectors)
    covariance = mean.new_zeros(len(mean), len(mean))
    for block in blocks:
        add_product(covariance, as_double(block) - mean)
    values, rows = torch.linalg.eigh(covariance.div_(len(vectors) - 1), UPLO="U")
    values = values.clamp_min(0.0).flip(0)
    total = values.sum()
    ratio = values[:k] / torch.where(total == 0, torch.ones_like(total), total)
    return PrincipalComponents(rearrange(rows, "d_model component -> component d_model").flip(0)[:k], ratio)


def concept_vectors(
    view: ModelView, layer: int, side: Side, *, fold_gain: bool = True
) -> Float[Tensor, "d_mlp d_model"]:
    """Return a layer's value, key or gate vectors, one per neuron: as they are stored, with a gain in float64.

    Raises:
        InputError: the layer has no such weight (a gate, where it is not gated), with the sides it has.
    """
    matrix = view.weights.matrix(layer, MATRIX[side])
    if matrix is None:
        available = ", ".join(s for s in MLP_SIDES if view.weights.matrix(layer, MATRIX[s]) is not None) or "none"
        raise InputError(f"layer {layer} of {view.info.id} has no side {side!r}, available: {available}")
    if side == "value":
        return matrix
    gain = view.weights.gain("mlp", layer) if fold_gain else None
    keys = rearrange(matrix, "d_model d_mlp -> d_mlp d_model")
    return keys if gain is None else as_double(keys) * as_double(gain)


@dataclass(frozen=True)
class Selection:
    """What of a model is analysed: checked layers and sides, components wanted and components that can be had."""

    layers: tuple[int, ...]
    sides: tuple[Side, ...]
    n_components: int
    components_used: int
    fold_gain: bool

    @classmethod
    def of(
        cls,
        view: ModelView,
        layers: Sequence[int] | None,
        sides: Sequence[str],
        n_components: int,
        fold_gain: bool,
    ) -> "Selection":
        """Return the selection, components clipped to d_model and d_mlp - 1.

        Raises:
            InputError: a layer or side does not exist, none is given, a layer comes twice, or the number of
                components is below 1.
        """
        chosen = chosen_indices(layers, range(view.n_layers), "layers")
        if isinstance(sides, str) or not sides or not set(sides) <= set(MLP_SIDES):
            raise InputError(f"sides={sides!r} given, expected a list of some of {', '.join(MLP_SIDES)}")
        check_count("n_components", n_components)
        used = min(n_components, view.d_model, view.d_mlp - 1)
        return cls(chosen, tuple(dict.fromkeys(cast(Sequence[Side], sides))), n_components, used, fold_gain)

    def options(self, view: ModelView) -> dict[str, Any]:
        """Return the selection as it is recorded."""
        return asdict(self) | {"layers": list(self.layers), "sides": list(self.sides)}

    def components(self, view: ModelView) -> Iterator[tuple[Side, PrincipalComponents]]:
        """Yield the components of each side of each layer, in order, one at a time."""
        for layer in tracked(self.layers, f"reading MLPs of {view.info.id}"):
            for side in self.sides:
                vectors = concept_vectors(view, layer, side, fold_gain=self.fold_gain)
                yield side, principal_components(vectors, k=self.components_used)

    def stack(self, found: Iterable[Sequence[Tensor]]) -> list[Tensor]:
        """Return what was found per component set, one list of arrays each, on the CPU with axes layer and side."""
        n = len(self.sides)
        return [
            rearrange(torch.stack(list(arrays)).cpu(), "(layer side) ... -> layer side ...", side=n)
            for arrays in zip(*found, strict=True)
        ]


@runtime_checkable
class Directions(Protocol):
    """What `rotation` needs of a model: `MLPConcepts` and `ConceptDirections` both have it."""

    @property
    def provenance(self) -> Provenance: ...
    @property
    def layers(self) -> tuple[int, ...]: ...
    @property
    def sides(self) -> tuple[Side, ...]: ...
    @property
    def components(self) -> Float[Tensor, "layer side component d_model"]: ...
    @property
    def explained_variance_ratio(self) -> Float[Tensor, "layer side component"]: ...


@dataclass(frozen=True, eq=False)
class ConceptDirections(Result):
    """Principal components without words: what 99 controls need. Axes follow `layers` and `sides`.

    Attributes:
        layers, sides: what the axes count.
        components: orthonormal rows, most variance first.
        explained_variance_ratio: each component's share of its layer's variance.
    """

    layer_by_layer: ClassVar[bool] = True

    calls = ("top()", "to_df()")

    layers: tuple[int, ...]
    sides: tuple[Side, ...]
    components: Float[Tensor, "layer side component d_model"]
    explained_variance_ratio: Float[Tensor, "layer side component"]

    def to_df(self) -> pd.DataFrame:
        """Return one row per component: layer, side, component, explained_variance_ratio."""
        axes = {"layer": self.layers, "side": self.sides, "component": range(self.components.shape[2])}
        return tidy(axes, {"explained_variance_ratio": self.explained_variance_ratio})

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k components that explain most of their layer's variance."""
        return self.to_df().nlargest(k, "explained_variance_ratio").reset_index(drop=True)


def concept_directions(
    model: Model,
    *,
    layers: Sequence[int] | None = None,
    sides: Sequence[str] = READ_SIDES,
    n_components: int = COMPONENTS,
    fold_gain: bool = True,
) -> ConceptDirections:
    """Return the principal components alone; arguments and errors as `mlp_concepts`."""
    view = view_of(model)
    selection = Selection.of(view, layers, sides, n_components, fold_gain)
    found = [(fitted.components.float(), fitted.explained_variance_ratio) for _, fitted in selection.components(view)]
    provenance = view.provenance("concept_directions", selection.options(view))
    return ConceptDirections(provenance, selection.layers, selection.sides, *selection.stack(found))
