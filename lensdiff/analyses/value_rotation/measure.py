"""How much of the change of the feed-forward values is a rotation: the share that one orthogonal map explains.

With V the value vectors of a layer (rows of W_out, not centred), V' the tuned model's, R any map in O(d_model):

    share = 1 - min over R of ||V R - V'||^2 / ||V - V'||^2        in [0, 1]; per layer, and their mean for the model

1 where all values turned as one body by whatever angle, 0 where they were only rescaled or did not change (0/0 is "no
change"; `change` tells it). A meaningless change has a share well above 0, since some map always fits a little: read
it beside the same of controls.

Two changes that leave a model's function as it is are taken away first:
- The basis of the stream. Q is the orthogonal map from the base's unembedding to the tuned model's (shared tokens,
  final gain multiplied in); the tuned values and keys are read as V' Q^T. An unembedding that was merely tuned has such
  a Q too, which is no basis of anything: Q is used only where it brings the values of all layers read, matched,
  nearer to the base's, else (and where the unembedding did not turn beyond rounding) nothing is taken away.
- The order of neurons: those of the two models are matched on keys and values (see `neuron_matching`), and
  `neurons_moved` counts those that are not matched with themselves. Keys are read with their norm's gain.

What it cannot tell:
- A stream whose basis was changed *and* whose unembedding was tuned: Q is then an estimate, and its error is a
  rotation of all values, counted as one.
- Scales and signs that a neuron may move between its keys and its value, norms behind a layer, and the mean that a
  LayerNorm takes away are not taken away: they dilute the share.
- That a change is a rotation says nothing of what it serves.

After a change of basis, what rounding to the weights' dtype leaves is no change.

Memory: one layer of two models in float64, and the tables of `neuron_matching`; per control one number for each layer.
Controls are read one at a time. Reference: Wu et al., NAACL 2024, section 6 (the claim; no rotation was measured
there); doi 10.18653/v1/2024.naacl-long.130.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.value_rotation.shares import Reference
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.given import check_controls, check_pair
from lensdiff.models.layers import chosen_indices
from lensdiff.models.pair import ModelPair
from lensdiff.results import InputError, Result
from lensdiff.results.numbers import n_of
from lensdiff.results.tidy import tidy


@dataclass(frozen=True, eq=False)
class ValueRotation(Result):
    """The share of the values' change that is a rotation, beside that of controls; see the module.

    Attributes:
        layers: the layers that were read.
        shares: of each of them.
        change: ||V' - V|| / ||V||, of what the share is a share of; 0 for no change, where the share is 0 too.
        neurons_moved: how many neurons are matched with another than themselves.
        basis_changed: whether a change of the stream's basis was taken away.
        control_shares: of each control (in the order of `provenance.controls`) and layer.
        level: of the bands.
    """

    layers: tuple[int, ...]
    shares: Float[Tensor, " layer"]
    change: Float[Tensor, " layer"]
    neurons_moved: Int[Tensor, " layer"]
    basis_changed: bool
    control_shares: Float[Tensor, "control layer"]
    level: float

    @property
    def share(self) -> float:
        """The one number of the whole model: the mean over layers."""
        return float(self.shares.mean())

    @property
    def control_kinds(self) -> tuple[str, ...]:
        """The kind of every control ("spectrum", ...)."""
        return self.provenance.control_kinds

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of controls, each once."""
        return tuple(self.provenance.control_counts)

    def of_kind(self, kind: str) -> Float[Tensor, "control layer"]:
        """Return the shares of the controls of one kind."""
        return self.control_shares[[i for i, name in enumerate(self.control_kinds) if name == kind]]

    def band(self, kind: str) -> stats.Band:
        """Return where one more control's share of each layer lies; NaN with fewer than 19 controls of the kind."""
        controls = {kind: self.of_kind(kind).numpy()}
        return stats.against_controls(self.shares.numpy(), controls, level=self.level, limits=(0.0, 1.0)).band

    def beside(self) -> stats.Envelope | None:
        """Return the model's share beside that of each kind of control; None without controls."""
        means = self.control_shares.mean(dim=1).tolist()
        return stats.against_controls(self.share, stats.by_kind(means, self.control_kinds), level=self.level).envelope

    def with_controls(self, controls: "Iterable[ControlRotation]") -> "ValueRotation":
        """Return the same beside controls that were read apart.

        Raises:
            InputError: a control was read in other layers.
        """
        given = list(controls)
        for control in given:
            if control.layers != self.layers:
                raise InputError(f"a control was read in layers {list(control.layers)}, expected {list(self.layers)}")
        nothing = self.control_shares[:0]
        return replace(
            self,
            provenance=self.provenance.beside(control.provenance for control in given),
            control_shares=torch.stack([control.shares for control in given]) if given else nothing,
        )

    def to_df(self) -> pd.DataFrame:
        """Return a row per layer and kind of control (one without a kind where there are no controls).

        Columns: layer, share, kind, control_low, control_high (NaN with fewer than 19 controls of the kind: see
        `controls`), neurons_moved, change.
        """
        rows = []
        for kind in self.kinds or (None,):
            low, high = np.full((2, len(self.layers)), np.nan) if kind is None else self.band(kind)
            columns = {"layer": self.layers, "share": self.shares, "kind": kind, "control_low": low}
            columns |= {"control_high": high, "neurons_moved": self.neurons_moved, "change": self.change}
            rows.append(pd.DataFrame(columns))
        return pd.concat(rows, ignore_index=True).sort_values("layer", kind="stable", ignore_index=True)

    def controls(self) -> pd.DataFrame:
        """Return a row per control and layer: kind, control, layer, share."""
        controls = self.provenance.controls
        axes = {"place": range(len(controls)), "layer": self.layers}
        frame = tidy(axes, {"share": self.control_shares})
        place = frame.pop("place").to_numpy()
        frame.insert(0, "kind", np.array([control.kind for control in controls], dtype=object)[place])
        frame.insert(1, "control", np.array([control.name for control in controls], dtype=object)[place])
        return frame

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k layers whose share lies furthest above every band (or above 0 without one)."""
        highest = self.to_df().groupby("layer").control_high.max().fillna(0.0).reindex(list(self.layers))
        beyond = torch.tensor(self.shares.numpy() - highest.to_numpy())
        order = beyond.argsort(descending=True, stable=True)[:k].tolist()
        frame = self.to_df().set_index("layer").loc[[self.layers[i] for i in order]]
        return frame.reset_index()

    def told(self) -> list[str]:
        """Return the mean share, what is beside it, and the range of each kind's mean shares."""
        moved, unchanged = int(self.neurons_moved.sum()), int((self.change == 0).sum())
        basis = "; a change of the stream's basis was taken away" if self.basis_changed else ""
        lines = [
            f"share {self.share:.3f}, mean of {n_of(len(self.layers), 'layer')}",
            f"{n_of(moved, 'neuron')} moved; {n_of(unchanged, 'layer')} without a change{basis}",
        ]
        for kind in self.kinds:
            means = self.of_kind(kind).mean(dim=1)
            lines.append(f"{len(means)} {kind} control(s): {float(means.min()):.3f} to {float(means.max()):.3f}")
        return lines


@dataclass(frozen=True, eq=False)
class ControlRotation(Result):
    """The share of one control model's change that is a rotation, for `value_rotation`.

    Attributes:
        layers: that were read.
        shares: of each of them.
    """

    calls = ("top()", "to_df()")

    layers: tuple[int, ...]
    shares: Float[Tensor, " layer"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per layer: layer, share."""
        return pd.DataFrame({"layer": self.layers, "share": self.shares})

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k layers of the largest share."""
        return self.to_df().nlargest(k, "share").reset_index(drop=True)


def control_rotation(base: Model, control: Model, *, layers: Sequence[int] | None = None) -> ControlRotation:
    """Return how much of the change of a control's values from the base's is a rotation.

    Raises:
        InputError: as `value_rotation`.
    """
    view, other = view_of(base), view_of(control)
    chosen = chosen_indices(layers, range(view.n_layers), "layers")
    return _control(Reference(view, chosen, {}), other, 0)


def _control(reference: Reference, view: ModelView, i: int) -> ControlRotation:
    base = reference.base
    _check_shape(base, view, i)
    ids = torch.arange(base.d_vocab)  # a control has the base's vocabulary
    shares = reference.compare(view, (ids, ids)).shares
    return ControlRotation(view.provenance("control_rotation", {}), reference.layers, shares)


def value_rotation(
    pair: ModelPair,
    *,
    layers: Sequence[int] | None = None,
    controls: Iterable[Model | ControlRotation] = (),
    level: float = 0.95,
) -> ValueRotation:
    """Return how much of the change of the values of each layer is a rotation, beside the same of controls.

    Args:
        pair: both models, of `load_pair`.
        layers: counted from 0; None for all.
        controls: `pair.control(kind, seed)`, models of the base's shape and vocabulary, or results of
            `control_rotation` on them; a generator is read one at a time. At least 19 of a kind for its bands.
        level: of bands and of the tests' intervals.

    Raises:
        InputError: a layer that the models do not have, a layer without one W_in and W_out (a mixture of experts), a
            control of another shape, or weights that cannot be compared (the pair keeps one model, or one is folded).
    """
    check_pair(pair, "value_rotation")
    check_controls(controls, "value_rotation")
    if pair.keep == "one":
        raise InputError('value_rotation reads both models at once: load the pair with keep="both"')
    pair.check_weights()
    base, tuned = view_of(pair.base), view_of(pair.tuned)
    chosen = chosen_indices(layers, range(base.n_layers), "layers")
    reference = Reference(base, chosen, {})
    found = reference.compare(tuned, pair.shared_tokens)
    options = {"layers": list(chosen), "level": level}
    alone = ValueRotation(
        pair.provenance("value_rotation", options),
        chosen,
        found.shares,
        found.change,
        found.moved,
        found.basis_changed,
        torch.zeros(0, len(chosen), dtype=torch.float64),
        level,
    )
    return alone.with_controls(
        control if isinstance(control, ControlRotation) else _control(reference, view_of(control), i)
        for i, control in enumerate(controls)
    )


def _check_shape(base: ModelView, view: ModelView, i: int) -> None:
    for name in ("n_layers", "d_model", "d_mlp", "d_vocab"):
        mine, theirs = getattr(base, name), getattr(view, name)
        if mine != theirs:
            raise InputError(f"control {i} ({view.info.id}) has {name} {theirs}, expected the base's {mine}")
