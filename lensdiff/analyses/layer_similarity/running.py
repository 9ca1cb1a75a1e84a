"""Running sums over the positions of two streams, from which linear CKA follows without holding the streams.

    xx, xy, yy   sum over positions of (x - mean x) (x - mean x)^T, and so on; float64 [d_model d_model]

A block of rows is centred on its own mean and joined to what is there as two samples are:

    S = S_a + S_b + n_a n_b / (n_a + n_b) (mean_b - mean_a) (mean_b - mean_a)^T

so nothing is subtracted from the large sums that a stream with a large mean has. While the two streams have been equal
in every bit they share their sums: what then follows from them is exact.

Reference: Kornblith et al., ICML 2019, arXiv 1905.00414 (linear CKA); Chan, Golub, LeVeque, 1983 (joining samples).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

CONSTANT = 1e-24  # variance up to this share of the mean square is rounding


@dataclass(eq=False)
class Other:
    """The sums with y: its mean, and its products with x and with itself."""

    mean: Float[Tensor, " d_model"]
    xy: Float[Tensor, "d_model d_model"]
    yy: Float[Tensor, "d_model d_model"]


@dataclass(eq=False)
class Products:
    """See the module; `other` is None while every y was x."""

    n: int
    mean: Float[Tensor, " d_model"]
    xx: Float[Tensor, "d_model d_model"]
    other: Other | None = None

    @classmethod
    def none(cls, d_model: int) -> "Products":
        """Return the sums of no position."""
        return cls(0, torch.zeros(d_model, dtype=torch.float64), torch.zeros(d_model, d_model, dtype=torch.float64))

    def add(self, x: Float[Tensor, "pos d_model"], y: Float[Tensor, "pos d_model"]) -> None:
        """Add positions, in float64."""
        if not len(x):
            return
        if self.other is None and not torch.equal(x, y):
            self.other = self._shared()
        n = len(x)
        mean, weight, share = x.mean(dim=0), self.n * n / (self.n + n), n / (self.n + n)
        x, dx = x - mean, mean - self.mean
        self.xx.addmm_(x.T, x).addr_(dx, dx, alpha=weight)
        if self.other is not None:
            mean = y.mean(dim=0)
            y, dy = y - mean, mean - self.other.mean
            self.other.xy.addmm_(x.T, y).addr_(dx, dy, alpha=weight)
            self.other.yy.addmm_(y.T, y).addr_(dy, dy, alpha=weight)
            self.other.mean += share * dy
        self.mean += share * dx
        self.n += n

    def _shared(self) -> Other:
        """Return the sums with a y that was x so far."""
        return Other(self.mean.clone(), self.xx.clone(), self.xx.clone())

    def __add__(self, more: "Products") -> "Products":
        """Return the sums of both samples' positions."""
        n = self.n + more.n
        weight, share = self.n * more.n / max(1, n), more.n / max(1, n)
        dx = more.mean - self.mean
        found = Products(n, self.mean + share * dx, (self.xx + more.xx).addr_(dx, dx, alpha=weight))
        if self.other is not None or more.other is not None:
            one, two = self.other or self._shared(), more.other or more._shared()
            dy = two.mean - one.mean
            xy = (one.xy + two.xy).addr_(dx, dy, alpha=weight)
            found.other = Other(one.mean + share * dy, xy, (one.yy + two.yy).addr_(dy, dy, alpha=weight))
        return found

    def cka(self) -> float:
        """Return linear CKA, |xy|^2 / (|xx| |yy|) by Frobenius norms, in [0, 1].

        1 of equal streams; NaN where they differ and one of them does not vary, as at a single position.
        """
        other = self.other
        if other is None:
            return 1.0
        if not (_varies(self.n, self.mean, self.xx) and _varies(self.n, other.mean, other.yy)):
            return float("nan")
        both, one, two = (float(torch.linalg.matrix_norm(part)) for part in (other.xy, self.xx, other.yy))
        return min(1.0, both / one * (both / two))


def _varies(n: int, mean: Float[Tensor, " d_model"], products: Float[Tensor, "d_model d_model"]) -> bool:
    spread = float(products.trace())
    return spread > CONSTANT * (spread + n * float(mean @ mean))
