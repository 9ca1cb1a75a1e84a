"""Running sums over texts of the difference of two streams: nothing of a single text is kept.

mean d = (1/n) sum over texts of (h_t - h_b)        size = (1/n) sum over texts of |h_t - h_b|
constant share = |mean d| / size                    in [0, 1]; n independent directions have about n^-1/2
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.activation_difference.starts import Start, batches, streams
from lensdiff.models import ModelView
from lensdiff.models.progress import tracked


def constant_share(
    difference: Float[Tensor, "*place d_model"], size: Float[Tensor, "*place"]
) -> Float[Tensor, "*place"]:
    """Return |mean d| / mean |d|; NaN where nothing differs: the share of nothing is undefined."""
    share = difference.double().norm(dim=-1) / torch.where(size > 0, size, 1.0).double()
    return torch.where(size > 0, share.clamp(max=1.0), torch.nan)


class Means(NamedTuple):
    """Means over texts, by layer and position.

    Attributes:
        n: texts that have the position.
        difference: of h_t - h_b; size: of its length.
        tuned: of h_t; lengths: of |h_b| and |h_t|.
    """

    n: Int[Tensor, " position"]
    difference: Float[Tensor, "layer position d_model"]
    size: Float[Tensor, "layer position"]
    tuned: Float[Tensor, "layer position d_model"]
    lengths: Float[Tensor, "model layer position"]


class Sums:
    """See the module."""

    def __init__(self, n_layers: int, positions: int, d_model: int):
        places = n_layers, positions
        self.n = torch.zeros(positions, dtype=torch.int64)
        self.difference, self.tuned = (torch.zeros(*places, d_model, dtype=torch.float64) for _ in range(2))
        self.size = torch.zeros(places, dtype=torch.float64)
        self.lengths = torch.zeros(2, *places, dtype=torch.float64)

    def add(
        self, base: Float[Tensor, "layer text position d_model"], tuned: Float[Tensor, "layer text position d_model"]
    ) -> None:
        """Add texts that have so many of the positions."""
        base, tuned = (side.cpu().double() for side in (base, tuned))
        difference, has = tuned - base, slice(base.shape[2])
        self.n[has] += base.shape[1]
        self.difference[:, has] += difference.sum(dim=1)
        self.tuned[:, has] += tuned.sum(dim=1)
        self.size[:, has] += difference.norm(dim=-1).sum(dim=1)
        self.lengths[:, :, has] += torch.stack([side.norm(dim=-1).sum(dim=1) for side in (base, tuned)])

    def means(self, dtype: torch.dtype) -> Means:
        """Return the means; 0 where no text has a position."""
        n = self.n.clamp(min=1)
        return Means(
            self.n.clone(),
            (self.difference / n[:, None]).to(dtype),
            self.size / n,
            (self.tuned / n[:, None]).to(dtype),
            self.lengths / n,
        )


def differences(
    base: ModelView,
    other: ModelView,
    starts: Sequence[Start],
    layers: Sequence[int],
    positions: int,
    *,
    side: int,
) -> Means:
    """Return the means of other - base over the texts.

    Args:
        side: whose ids the other model reads: 0 for the base's (a control), 1 for the tuned model's.
    """
    dtype = torch.promote_types(torch.promote_types(base.dtype, other.dtype), torch.float32)
    sums = Sums(len(layers), positions, base.d_model)
    some = batches(starts, 4 * len(layers) * base.d_model * 8)
    for batch in tracked(some, f"reading {base.info.id} and {other.info.id}"):  # four tensors, float64 on their way
        both = (streams(base, batch.ids[0], layers), streams(other, batch.ids[side], layers))
        sums.add(*(stream[:, :, batch.first :] for stream in both))
    return sums.means(dtype)
