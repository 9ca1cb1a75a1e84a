"""Whether tuning turned the concepts of feed-forward layers: angles between the two models' principal components.

    principal angles   between the subspaces of the first r components of either model, in radians, [0, pi/2]
    matched components one tuned component for each of the base's (assignment on |cosine|), with the angle between the
                       two, the change of its share of the variance (tuned - base), and the words it lost and gained

A description, without a p-value: an angle grows with any mixing (a change of the same size by noise turns the leading
components as far as a rotation does), so whether the layers rotated is asked by `value_rotation`. Beside the angles
stand those of each kind of control, as bands where there are at least 19 of a kind. What angles cannot show:
- A rotation inside the subspace is invisible to principal angles: two components of the first r that turn into each
  other leave every angle at rank r at 0.
- Components of nearly equal variance are not defined one by one: they mix freely, so a matched component can turn far
  by noise alone. Read a matched angle beside its own band, never by itself.
- An angle is no meaning. It says that the axes moved, not that the new ones serve users.
- Ranks must be far below d_model: subspaces of more than half of all dimensions meet in any case, so such ranks are
  left out, and recorded.

Memory: the components of one control at a time; per control one number for each layer, side, rank and component.
Reference: Wu et al., NAACL 2024, section 6 (the word "rotate", which no angle was measured for); doi
10.18653/v1/2024.naacl-long.130. The measurement is lensdiff's own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.mlp.components import Directions, Side, concept_directions
from lensdiff.analyses.mlp.defaults import RANKS
from lensdiff.analyses.mlp.subspaces import matched, principal_angles
from lensdiff.analyses.mlp.word_changes import WordChanges, word_changes
from lensdiff.models import Model, view_of
from lensdiff.models.given import check_controls, check_results
from lensdiff.models.progress import tracked
from lensdiff.results import InputError, Result
from lensdiff.results.tidy import tidy

HEADLINE, BESIDE = "gradient-noise", "spectrum"  # kinds that every table has columns for


class Turn(NamedTuple):
    """How far one model's components lie from another's: all layers and sides."""

    angles: Float[Tensor, "layer side rank angle"]
    match: Int[Tensor, "layer side component"]
    matched_angle: Float[Tensor, "layer side component"]

    def means(self) -> Float[np.ndarray, "layer side rank"]:
        """Return the mean principal angle at each rank."""
        return self.angles.nanmean(dim=-1).numpy()


def turn(
    base: Float[Tensor, "layer side component d_model"],
    other: Float[Tensor, "layer side component d_model"],
    ranks: Sequence[int],
) -> Turn:
    """Return the principal angles and the matched components of every layer and side."""
    found = []
    for layer in zip(base, other, strict=True):
        for a, b in zip(*layer, strict=True):
            found.append((principal_angles(a, b, ranks), *matched(a, b)))
    shape = base.shape[:2]
    angles, match, angle = (torch.stack(parts).unflatten(0, shape) for parts in zip(*found, strict=True))
    return Turn(angles, match, angle)


SHOWN = 2  # words lost and gained in `top`


def highest(matched: pd.DataFrame) -> pd.Series:
    """Return the highest upper limit of any kind of control, 0 where there is none, of the rows of `matched`."""
    limits = [name for name in matched.columns if name.endswith("_high")]
    return matched[limits].max(axis=1).fillna(0.0)


@dataclass(frozen=True, eq=False)
class Rotation(Result):
    """How far the components turned from base to tuned; see the module for what that can say. Angles are in radians.

    Attributes:
        layers, sides, ranks: what the axes count.
        angles: principal angles at each rank, smallest first, NaN beyond the rank.
        band: limits (low, high) within which one more control's mean angle lies, per kind; NaN with fewer than 19.
        match: the tuned component that each of the base's is matched with.
        matched_angle, matched_band: the angle between the two, and its limits per kind.
        base_variance, tuned_variance: shares of the variance that the two explain.
        words, lost, gained: words, and the indices of those that a component lost and gained; -1 after the last.
    """

    calls = ("matched()", "top()", "to_df()", "show()")

    layers: tuple[int, ...]
    sides: tuple[Side, ...]
    ranks: tuple[int, ...]
    angles: Float[Tensor, "layer side rank angle"]
    band: Float[Tensor, "kind limit layer side rank"]
    match: Int[Tensor, "layer side component"]
    matched_angle: Float[Tensor, "layer side component"]
    matched_band: Float[Tensor, "kind limit layer side component"]
    base_variance: Float[Tensor, "layer side component"]
    tuned_variance: Float[Tensor, "layer side component"]
    words: tuple[str, ...]
    lost: Int[Tensor, "layer side component lost"]
    gained: Int[Tensor, "layer side component gained"]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of controls ("spectrum", "norm", ...), each once."""
        return tuple(self.provenance.control_counts)

    @property
    def n_controls(self) -> tuple[int, ...]:
        """How many controls there are of each kind."""
        return tuple(self.provenance.control_counts.values())

    def told(self) -> list[str]:
        """Return the mean angles by rank, and the component that turned furthest beyond its bands."""
        means = self.angles.nanmean(dim=-1).nanmean(dim=(0, 1)).tolist()
        lines = ["mean principal angle, radians, by rank: " + ", ".join(
            f"{rank}: {mean:.3g}" for rank, mean in zip(self.ranks, means, strict=True)
        )]  # fmt: skip
        row: Any = next(iter(self.top(1).itertuples()), None)
        if row is None:
            return lines
        where = f"layer {row.layer}, {row.side} component {row.component}"
        band = f" (controls up to {row.control_high:.3g})" if row.control_high == row.control_high else ""
        return [*lines, f"turned furthest: {where}, by {row.angle:.3g}{band}"]

    def to_df(self) -> pd.DataFrame:
        """Return one row per layer, side and rank: layer, side, rank, mean_angle, largest_angle and the bands.

        Bands are of mean_angle, _low and _high behind the name of each kind of control: gradient-noise_low,
        gradient-noise_high, spectrum_low, spectrum_high (NaN where there were fewer than 19 such controls).
        """
        angles = {
            "mean_angle": self.angles.nanmean(dim=-1),
            "largest_angle": self.angles.nan_to_num(-1.0).amax(dim=-1),
        }
        axes = {"layer": self.layers, "side": self.sides, "rank": self.ranks}
        return tidy(axes, angles | self._limits(self.band))

    def matched(self, *, words: int = 15) -> pd.DataFrame:
        """Return one row per component: layer, side, component, tuned_component, angle, bands, variance and words.

        Variance: base_variance, tuned_variance, variance_change (tuned - base). Words: lost and gained, the first
        `words` of each in one text. Bands as in `to_df`, of `angle`.
        """
        tuned = torch.gather(self.tuned_variance, 2, self.match)
        variances = {
            "base_variance": self.base_variance,
            "tuned_variance": tuned,
            "variance_change": tuned - self.base_variance,
        }
        angles = {"tuned_component": self.match, "angle": self.matched_angle}
        axes = {"layer": self.layers, "side": self.sides, "component": range(self.match.shape[2])}
        frame = tidy(axes, angles | self._limits(self.matched_band) | variances)
        for name in ("lost", "gained"):
            rows = getattr(self, name).flatten(0, 2)[:, :words].tolist()
            frame[name] = [", ".join(self.words[i] for i in row if i >= 0) for row in rows]
        return frame

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k matched components that turned furthest beyond the highest of their bands (or at all).

        `control_high` is the highest limit of any kind of control; missing without one.
        """
        frame = self.ranked(k)
        for name in ("lost", "gained"):
            frame[name] = [", ".join(text.split(", ")[:SHOWN]) for text in frame[name]]
        limit = highest(frame)
        frame["control_high"] = limit.where(limit > 0)
        return frame.loc[:, ["layer", "side", "component", "angle", "control_high", "lost", "gained"]]

    def ranked(self, k: int = 10) -> pd.DataFrame:
        """Return the same rows with every column of `matched`.

        Args:
            k: how many.
        """
        frame = self.matched()
        beyond = frame.angle - highest(frame)
        return frame.loc[beyond.nlargest(k).index].reset_index(drop=True)

    def _limits(self, band: Float[Tensor, "kind limit ..."]) -> dict[str, Any]:
        return {
            f"{kind}_{limit}": band[self.kinds.index(kind), i] if kind in self.kinds else np.nan
            for kind in dict.fromkeys((HEADLINE, BESIDE, *self.kinds))
            for i, limit in enumerate(("low", "high"))
        }


def rotation(
    base: Directions,
    tuned: Directions,
    *,
    ranks: Sequence[int] = RANKS,
    controls: Iterable[Directions | Model] = (),
    level: float = 0.95,
) -> Rotation:
    """Return how far the concepts turned from base to tuned, beside the same of meaningless changes of the same size.

    Args:
        base, tuned: results of `mlp_concepts` (or `concept_directions`) with the same layers, sides and components.
        ranks: of the subspaces; those above half of d_model or above the number of components are left out.
        controls: `pair.control(kind, seed)`, or results of the same analysis on them; a generator is read one at a
            time. At least 19 of a kind for its bands.
        level: of the bands.

    Raises:
        InputError: the results differ in layers, sides or components, or no rank can be had.
    """
    for given in (base, tuned):
        check_results(given, Directions, "rotation", "mlp_concepts")
    check_controls(controls, "rotation")
    _check(base, tuned, "tuned")
    used = _ranks(ranks, base)
    change = turn(base.components, tuned.components, used)
    origins, means, matched_angles = [], [], []
    for control in tracked(_stream(controls, base), "turning controls"):
        other = turn(base.components, control.components, used)
        origins.append(control.provenance)
        means.append(other.means())
        matched_angles.append(other.matched_angle.numpy())
    changes = word_changes(base, tuned, change.match)
    options = {
        "base": base.provenance.model,
        "concepts": tuned.provenance.options,
        "ranks": list(used),
        "ranks_left_out": [rank for rank in ranks if rank not in used],
        "level": level,
    }
    provenance = replace(tuned.provenance, analysis="rotation", options=options).beside(origins)
    kinds = provenance.control_kinds
    return Rotation(
        provenance,
        base.layers,
        base.sides,
        used,
        change.angles,
        _bands(change.means(), stats.by_kind(means, kinds), level),
        change.match,
        change.matched_angle,
        _bands(change.matched_angle.numpy(), stats.by_kind(matched_angles, kinds), level),
        base.explained_variance_ratio.clone(),  # a file holds no tensor twice, and tuned may be the base itself
        tuned.explained_variance_ratio.clone(),
        *_named(changes),
    )


def _named(changes: WordChanges) -> tuple[tuple[str, ...], Tensor, Tensor]:
    return changes.words, changes.lost, changes.gained


def _ranks(ranks: Sequence[int], base: Directions) -> tuple[int, ...]:
    n_components, d_model = base.components.shape[2:]
    if not ranks or min(ranks) < 1:
        raise InputError(f"ranks={list(ranks)} given, expected numbers from 1")
    used = tuple(sorted({rank for rank in ranks if rank <= n_components and 2 * rank <= d_model}))
    if not used:
        most = min(n_components, d_model // 2)
        raise InputError(f"ranks={list(ranks)} given, expected at least one of 1 to {most} (half of d_model)")
    return used


def _stream(controls: Iterable[Any], base: Directions) -> Iterator[Directions]:
    """Yield the components of one control after the other; a model's are computed here and let go of."""
    options = base.provenance.options
    for i, control in enumerate(controls):
        found = control
        if not isinstance(control, Directions):
            found = concept_directions(
                view_of(control),
                layers=base.layers,
                sides=base.sides,
                n_components=base.components.shape[2],
                fold_gain=options["fold_gain"],
            )
        _check(base, found, f"control {i}")
        yield found


def _check(base: Directions, other: Directions, name: str) -> None:
    for field in ("layers", "sides"):
        mine, theirs = getattr(base, field), getattr(other, field)
        if mine != theirs:
            raise InputError(f"{name} has {field} {list(theirs)}, the base has {list(mine)}: expected the same")
    mine, theirs = base.components.shape[2:], other.components.shape[2:]
    if mine != theirs:
        sizes = [f"{n} components of {d} dimensions" for n, d in (theirs, mine)]
        raise InputError(f"{name} has {sizes[0]}, the base has {sizes[1]}: expected the same")
    folded = [result.provenance.options.get("fold_gain") for result in (other, base)]
    if folded[0] != folded[1]:
        raise InputError(f"{name} has fold_gain={folded[0]}, the base has fold_gain={folded[1]}: expected the same")


def _bands(
    angles: Float[np.ndarray, "*shape"], controls: dict[str, list[np.ndarray]], level: float
) -> Float[Tensor, "kind limit *shape"]:
    bands = stats.against_controls(angles, controls, level=level, limits=(0.0, np.pi / 2)).bands
    return torch.from_numpy(np.stack(bands, axis=1))
