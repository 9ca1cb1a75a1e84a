"""How far tuning moved every weight: per matrix and per head, without a forward pass.

With W the base's weight, D = tuned - base, ||.|| the Frobenius norm, s the singular values of D and p_i = s_i / sum(s):

    relative norm    ||D|| / ||W||                           0 for no change
    cosine           <base, tuned> / (||base|| ||tuned||)    in [-1, 1]; 1 for no change and for a mere rescaling
    effective rank   exp( - sum_i p_i ln p_i )               1 .. rank of D; a rank-r change of equal directions has r
    top share        sum_{i <= k} s_i^2 / sum_i s_i^2        share of the change's energy in its k largest directions

Each is given twice: of the weight as the checkpoint has it, and with the gain of the norm that scales its input
multiplied into it (folded), in each model with its own gain. A gain that doubles while the matrix behind it halves is
a change of two raw weights and of no folded one. Where no gain stands in front (W_O, W_out, W_E, norms after a layer)
the two are the same.

A weight is the checkpoint's: W_K and W_V count key-value heads, so head_index does too in their rows. Norm gains
have rows of their own, as vectors, and so have biases, position embeddings and whatever else a checkpoint holds (see
`models.others`): a tensor that has no row did not change. One that only one model has is zero in the other. 0/0 is "no
change": relative norm, effective rank and top share 0, cosine 1.
Singular values that rounding to the weights' dtype can have made are dropped (see `models.change`): rounding has no
rank. Where the vocabularies differ, embeddings are compared on the rows of shared tokens; where the contexts do,
position embeddings on the positions of both.

Ignored: norms after a layer and the gains of query-key norms in the folded view; and that a head's queries and keys can
be turned together without any effect. A control has rows of the weights that it changes lazily, matrices, embeddings
and gains: its biases and the like moved by exactly the real distance, in a random direction.

Memory: both models (streamed, a layer of each) and a few float64 copies of one weight, of a large one of some rows.
Reference: effective rank of Roy and Vetterli, EUSIPCO 2007.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.models import view_of
from lensdiff.models.change import PARAMETER, RealChange, flatten
from lensdiff.models.given import check_pair
from lensdiff.models.inside.parts import GainName, Weight
from lensdiff.models.inside.weights import Weights
from lensdiff.models.others import other_weights
from lensdiff.models.pair import ModelPair
from lensdiff.models.progress import tracked
from lensdiff.models.spectrum import singular_values
from lensdiff.models.tall import Gains, Moments, is_large, moments
from lensdiff.results import Result
from lensdiff.results.numbers import check_count

MEASURES = ("relative_norm", "cosine", "effective_rank", "top_share")
DIRECTIONS = 8
NONE = -1  # layer of an embedding, head_index of a whole weight
HEADED = ("W_Q", "W_K", "W_V", "W_O")
GAIN_BEFORE: dict[str, GainName] = {
    "W_Q": "attn",
    "W_K": "attn",
    "W_V": "attn",
    "W_in": "mlp",
    "W_gate": "mlp",
    "W_U": "final",
}


def relative_norm(base: Float[Tensor, "..."], tuned: Float[Tensor, "..."]) -> float:
    """Return ||tuned - base|| / ||base||: 0 where nothing changed, infinite where a zero weight did."""
    change, size = float((tuned - base).norm()), float(base.norm())
    return 0.0 if change == 0 else change / size if size else math.inf


def cosine(base: Float[Tensor, "..."], tuned: Float[Tensor, "..."]) -> float:
    """Return the cosine of the two as vectors, in [-1, 1]: exactly 1 for no change, 0 where one alone is zero."""
    if torch.equal(base, tuned):
        return 1.0
    size = float(base.norm() * tuned.norm())
    return max(-1.0, min(1.0, float((base * tuned).sum()) / size)) if size else 0.0


def effective_rank(values: Float[Tensor, " rank"]) -> float:
    """Return exp of the entropy (nats) of the singular values' shares of their sum; 0 for no change."""
    if not bool(values.any()):
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def top_share(values: Float[Tensor, " rank"], *, directions: int) -> float:
    """Return the share of sum s^2 that the largest `directions` singular values have, in [0, 1]; 0 for no change."""
    energy = values.square()
    return float(energy[:directions].sum() / energy.sum()) if bool(values.any()) else 0.0


@dataclass(frozen=True, eq=False)
class WeightShift(Result):
    """How far every weight moved, tuned against base; see the module for the measures.

    Attributes:
        matrix, layer, head_index: what a row is about; layer -1 has no layer, head_index -1 is the weight as a whole.
        raw, folded: the measures (axis `measure` as `MEASURES`), without and with the norm's gain multiplied in.
        directions: how many directions `top_share` counts.
    """

    row_is = "weight, or a head's part of one"

    matrix: tuple[str, ...]
    directions: int
    layer: Int[Tensor, " row"]
    head_index: Int[Tensor, " row"]
    raw: Float[Tensor, "row measure"]
    folded: Float[Tensor, "row measure"]

    def told(self) -> list[str]:
        """Return how many rows moved, and the largest relative norms."""
        rows: Any = self.top(3).itertuples()
        whole = self.head_index == NONE
        n = f"{int((self.raw[whole, 0] > 0).sum())} of {int(whole.sum())} weights moved; relative norm of the most:"
        return [n, ", ".join(f"{_place(row)} {row.relative_norm:.3g}" for row in rows)]

    def to_df(self) -> pd.DataFrame:
        """Return a row per weight, and per head where it has heads.

        Columns: layer and head_index (missing where there is none), matrix; relative_norm, cosine, effective_rank,
        top_share; the same with the prefix folded_.
        """

        def index(values: Tensor) -> pd.Series:
            column = pd.Series(values.numpy(), dtype="Int64")
            return column.mask(column == NONE)

        columns = {"layer": index(self.layer), "matrix": self.matrix, "head_index": index(self.head_index)}
        for prefix, measures in (("", self.raw), ("folded_", self.folded)):
            columns |= {prefix + name: measures[:, i].numpy() for i, name in enumerate(MEASURES)}
        return pd.DataFrame(columns)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k weights or heads with the largest relative norm, as the checkpoint has them."""
        return self.ranked(k).loc[:, ["layer", "matrix", "head_index", *MEASURES]]

    def ranked(self, k: int = 10) -> pd.DataFrame:
        """Return the same rows with every column of `to_df`.

        Args:
            k: how many.
        """
        return self.to_df().nlargest(k, "relative_norm").reset_index(drop=True)


def _place(row: Any) -> str:
    where = [row.matrix] + [f"{name} {n}" for name, n in (("layer", row.layer), ("head", row.head_index)) if n == n]
    return " ".join(part for part in where if "<NA>" not in part)


def weight_shift(pair: ModelPair, *, directions: int = DIRECTIONS) -> WeightShift:
    """Return how far each weight of a pair moved from base to tuned.

    Args:
        pair: both models; `load_pair(pair.base, pair.control(...))` is a pair too, which gives a control's numbers.
        directions: how many of a change's largest directions `top_share` counts.

    Raises:
        InputError: `directions` is not positive, the pair keeps one model, or one model is folded and the other not.
    """
    check_pair(pair, "weight_shift")
    check_count("directions", directions)
    change = pair.change()
    rows = [
        row
        for weight in tracked(list(change.base.known()), "comparing weights")
        for row in _rows(change, weight, directions)
    ]
    rows += _other_rows(pair, change, directions)
    return WeightShift(
        pair.provenance("weight_shift", {"directions": directions}),
        tuple(row.matrix for row in rows),
        directions,
        torch.tensor([row.layer for row in rows]),
        torch.tensor([row.head_index for row in rows]),
        torch.tensor([row.raw for row in rows], dtype=torch.float64),
        torch.tensor([row.folded for row in rows], dtype=torch.float64),
    )


class _Row(NamedTuple):
    layer: int
    matrix: str
    head_index: int
    raw: tuple[float, ...]
    folded: tuple[float, ...]


def _rows(change: RealChange, weight: Weight, directions: int) -> Iterator[_Row]:
    """Yield the rows of one weight: the whole, then its heads."""
    layer = NONE if weight.layer is None else weight.layer
    sides = change.read(weight, 0), change.read(weight, 1)
    gains = _gain_before(change.base, weight), _gain_before(change.tuned, weight)
    eps = _eps(change)
    if is_large(sides[0]):
        whole = _large(change, weight, sides, gains, directions)
    else:  # the whole weight's singular values are kept by the pair: its controls need the same
        whole = _small(weight, sides, gains, directions, eps, change.singular_values(weight))
    yield _Row(layer, weight.name, NONE, *whole)
    if weight.name in HEADED:
        for head, both in enumerate(zip(*sides, strict=True)):
            yield _Row(layer, weight.name, head, *_small(weight, both, gains, directions, eps))


def _small(
    weight: Weight,
    sides: tuple[Tensor, Tensor],
    gains: Gains,
    directions: int,
    eps: float,
    values: Float[Tensor, " rank"] | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the measures of a weight, or of one head of it, that is brought to float64 whole: raw and folded."""
    whole = [x.cpu().double() for x in sides]

    def measures(both: list[Tensor], values: Tensor | None = None) -> tuple[float, ...]:
        base, tuned = (flatten(x, weight.name) if x.ndim != 2 else x for x in both)
        return _measures(base, tuned, directions, eps, values)

    raw = measures(whole, values)
    if all(gain is None for gain in gains):
        return raw, raw
    return raw, measures([x if gain is None else x * gain[:, None] for x, gain in zip(whole, gains, strict=True)])


def _large(
    change: RealChange, weight: Weight, sides: tuple[Tensor, Tensor], gains: Gains, directions: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the measures of a weight that is brought to float64 some rows at a time, raw and folded."""
    raw = _of_moments(change.moments(weight), directions)
    if all(gain is None for gain in gains):
        return raw, raw
    base, tuned = (flatten(x, weight.name) for x in sides)
    return raw, _of_moments(moments(base, tuned, gains, eps=_eps(change)), directions)


def _other_rows(pair: ModelPair, change: RealChange, directions: int) -> Iterator[_Row]:
    """Yield a row for everything else that either model holds, if neither is a control."""
    views = view_of(pair.base), view_of(pair.tuned)
    if any(view.control is not None for view in views):
        return
    base, tuned = (other_weights(view) for view in views)
    eps = _eps(change)
    for weight in dict.fromkeys([*base, *tuned]):
        # named like this, a bias of the unembedding is compared on shared tokens
        name = PARAMETER + weight.name
        sides = [
            None if value is None else change.shared(name, value, side)
            for side, value in enumerate((base.get(weight), tuned.get(weight)))
        ]
        there = [value for value in sides if value is not None]
        before, after = (torch.zeros_like(there[0]) if value is None else value for value in sides)
        if weight.name == "W_pos":
            n = min(len(before), len(after))
            before, after = before[:n], after[:n]
        before, after = (flatten(value, weight.name).cpu().double() for value in (before, after))
        whole = _measures(before, after, directions, eps)
        yield _Row(NONE if weight.layer is None else weight.layer, weight.name, NONE, whole, whole)


def _measures(
    base: Float[Tensor, "row col"],
    tuned: Float[Tensor, "row col"],
    directions: int,
    eps: float,
    values: Float[Tensor, " rank"] | None = None,
) -> tuple[float, ...]:
    if values is None:
        values = singular_values(tuned - base, rounding=eps / 2 * float(tuned.norm()))
    share = top_share(values, directions=directions)
    return relative_norm(base, tuned), cosine(base, tuned), effective_rank(values), share


def _eps(change: RealChange) -> float:
    return max(torch.finfo(weights.sizes.dtype).eps for weights in (change.base, change.tuned))


def _of_moments(found: Moments, directions: int) -> tuple[float, ...]:
    relative = 0.0 if found.equal else found.change / found.base if found.base else math.inf
    size = found.base * found.tuned
    turned = 1.0 if found.equal else max(-1.0, min(1.0, found.product / size)) if size else 0.0
    return relative, turned, effective_rank(found.values), top_share(found.values, directions=directions)


def _gain_before(weights: Weights, weight: Weight) -> Float[Tensor, " d_model"] | None:
    name = GAIN_BEFORE.get(weight.name)
    gain = None if name is None else weights.gain(name, weight.layer or 0)
    return None if gain is None else gain.cpu().double()
