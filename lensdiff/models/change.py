"""How large the real change from base to tuned is, weight by weight, and meaningless changes of the same size.

The unit is a weight of the checkpoint as a matrix: all heads of W_Q side by side [d_model, n_heads * d_head], W_K and
W_V with the key-value heads, W_O with the heads stacked [n_heads * d_head, d_model]; embeddings as they are; a vector
(norm gain, bias) is a matrix of one row. With D = tuned - base of one weight and S its singular values:

    spectrum-matched   U' S V'^T with random orthonormal U', V' (Haar): every singular value of D, in random directions
    norm-matched       G ||D||_F / ||G||_F with Gaussian G

S is cut at the numerical rank: the smallest singular values whose joint norm is below what rounding `tuned` to its
dtype can put into D (eps / 2 ||tuned||_F), and at most 1e-3 of ||D||_F, are dropped. So a low-rank change stays
low-rank, and cheap.

Everything is computed in float64 on the CPU, so that a seed means the same change on every device. Memory: a few copies
of one weight; of the real change of a large one some rows (`tall`). Where vocabularies differ, an embedding's change is
that of the shared rows.
"""

import hashlib
from collections.abc import Callable
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.models.inside.parts import Weight
from lensdiff.models.inside.weights import Weights
from lensdiff.models.spectrum import singular_values
from lensdiff.models.tall import Moments, is_large, moments

PARAMETER = "parameter "  # prefix of what only the wrapper has a name for
TALL = 2  # times as many rows as columns, and a Gaussian matrix is well conditioned

SharedTokens = tuple[Int[Tensor, " shared"], Int[Tensor, " shared"]]
# (weight, singular values of its real change, shape as a matrix) -> a meaningless change of that shape
Maker = Callable[[Weight, Tensor, tuple[int, int]], Tensor]


def flatten(value: Tensor, name: str) -> Float[Tensor, "row col"]:
    """Return a weight as one matrix; a vector, or a bias that is kept per head, becomes one row."""
    leaf = name.rsplit(".", 1)[-1].lstrip("_")
    if value.ndim == 1 or leaf.startswith("b"):
        return rearrange(value, "... -> 1 (...)")
    if name in ("W_Q", "W_K", "W_V"):
        return rearrange(value, "head_index d_model d_head -> d_model (head_index d_head)")
    if name == "W_O":
        return rearrange(value, "head_index d_head d_model -> (head_index d_head) d_model")
    return rearrange(value, "row ... -> row (...)")


def unflatten(matrix: Float[Tensor, "row col"], like: Tensor, name: str) -> Tensor:
    """Return the inverse of `flatten`, in the shape of `like`."""
    if name in ("W_Q", "W_K", "W_V"):
        return rearrange(matrix, "d_model (head_index d_head) -> head_index d_model d_head", head_index=like.shape[0])
    return matrix.reshape(like.shape)


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "row col"]:
    """Return `columns` random orthonormal columns, uniform over all such (Haar measure)."""
    gaussian = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    if rows >= TALL * columns:  # twice as fast as a QR decomposition, and as exact where the matrix is well conditioned
        lower = torch.linalg.cholesky(gaussian.T @ gaussian)
        return torch.linalg.solve_triangular(lower, gaussian.T, upper=False).T
    q, r = torch.linalg.qr(gaussian)
    return q * r.diagonal().sign()  # without the signs, q would depend on how the decomposition is computed


def random_spectrum(
    values: Float[Tensor, " rank"], shape: tuple[int, int], generator: torch.Generator
) -> Float[Tensor, "row col"]:
    """Return U' S V'^T: the given singular values in random directions."""
    left, right = (orthonormal(size, len(values), generator) for size in shape)
    return left.mul_(values) @ right.T


def random_norm(
    values: Float[Tensor, " rank"], shape: tuple[int, int], generator: torch.Generator
) -> Float[Tensor, "row col"]:
    """Return Gaussian noise with the norm of the given singular values."""
    return of_norm(torch.randn(shape, dtype=torch.float64, generator=generator), values)


def of_norm(change: Float[Tensor, "row col"], values: Float[Tensor, " rank"]) -> Float[Tensor, "row col"]:
    """Return a change rescaled to the norm of the given singular values."""
    return change * (values.norm() / change.norm())


def generator_for(kind: str, seed: int, weight: Weight) -> torch.Generator:
    """Return a generator that depends on the kind and seed of a control and on the weight's name and layer alone."""
    digest = hashlib.blake2b(repr((kind, seed, *weight)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def rows_to_compare(base_size: int, tuned_size: int, shared: SharedTokens) -> SharedTokens | None:
    """Return the vocabulary entries to compare, in the base and in the tuned model; None for all of both.

    Equally large embeddings with the same ids are compared whole, with the rows that pad them.
    """
    same = base_size == tuned_size and torch.equal(*shared)
    return None if same else shared


def vocabulary_axis(name: str, value: Tensor, d_vocab: int) -> int | None:
    """Return the axis of a weight that counts the vocabulary, or None."""
    if name == "W_U":
        return 1
    counted = name.startswith(PARAMETER) and value.shape[0] == d_vocab  # an unembedding's bias
    return 0 if name == "W_E" or counted else None


def _eps(base: Tensor, tuned: Tensor) -> float:
    return max(torch.finfo(base.dtype).eps, torch.finfo(tuned.dtype).eps)


class RealChange:
    """The change from base to tuned: the singular values of every weight's, computed when first asked for and kept.

    Attributes:
        rows: the shared vocabulary entries in the base and in the tuned model, or None where that is all of them.
    """

    def __init__(self, base: Weights, tuned: Weights, shared: SharedTokens):
        self.base, self.tuned = base, tuned
        self.rows = rows_to_compare(base.sizes.d_vocab, tuned.sizes.d_vocab, shared)
        self._values: dict[Weight, Tensor] = {}

    @cached_property
    def tied(self) -> bool:
        """Whether the base's unembedding is its embedding."""
        return torch.equal(self.base.W_U, self.base.W_E.T)

    def singular_values(self, weight: Weight) -> Float[Tensor, " rank"]:
        """Return S of one weight, to its numerical rank."""
        if weight not in self._values:
            self._values[weight] = self._values_of(weight.name, self.read(weight, 0), self.read(weight, 1))
        return self._values[weight]

    def moments(self, weight: Weight) -> Moments:
        """Return the norms of a large weight's change, read some rows at a time; its singular values are kept."""
        base, tuned = self.read(weight, 0), self.read(weight, 1)
        found = moments(flatten(base, weight.name), flatten(tuned, weight.name), eps=_eps(base, tuned))
        self._values.setdefault(weight, found.values)
        return found

    def read(self, weight: Weight, side: int) -> Tensor:
        """Return what both models have of a weight, as one of them holds it; `side` as of `shared`."""
        value = (self.base, self.tuned)[side].read(weight)
        assert value is not None
        return self.shared(weight.name, value, side)

    def values_of(self, name: str, base: Tensor, tuned: Tensor) -> Float[Tensor, " rank"]:
        """Return the same of any two tensors that are one weight of the two models."""
        return self._values_of(name, self.shared(name, base, 0), self.shared(name, tuned, 1))

    def _values_of(self, name: str, base: Tensor, tuned: Tensor) -> Float[Tensor, " rank"]:
        eps = _eps(base, tuned)
        base, tuned = (flatten(x, name) for x in (base, tuned))
        if is_large(base):
            return moments(base, tuned, eps=eps).values
        base, tuned = (x.cpu().double() for x in (base, tuned))
        return singular_values(tuned - base, rounding=eps / 2 * float(tuned.norm()))

    def shared(self, name: str, value: Tensor, side: int) -> Tensor:
        """Return the part of a weight that both models have; `side` is 0 for the base, 1 for the tuned model."""
        axis, rows = vocabulary_axis(name, value, (self.base, self.tuned)[side].sizes.d_vocab), self.rows_of(name)
        if rows is None or axis is None:
            return value
        return value.index_select(axis, rows[side].to(value.device))

    def rows_of(self, name: str) -> SharedTokens | None:
        """Return the vocabulary entries of a weight that may change, in the base and in the tuned model; None for all.

        Of the embedding without rows that are zero in both: a padding token's, which stays no vector. A norm would make
        a large one of any small change.
        """
        return self._embedded if name == "W_E" else self.rows

    @cached_property
    def _embedded(self) -> SharedTokens | None:
        every = torch.arange(min(weights.sizes.d_vocab for weights in (self.base, self.tuned)))
        base, tuned = self.rows or (every, every)
        sides = ((self.base.W_E, base), (self.tuned.W_E, tuned))
        kept = torch.stack([W_E[rows.to(W_E.device)].any(dim=1).cpu() for W_E, rows in sides]).any(dim=0)
        return self.rows if bool(kept.all()) else (base[kept], tuned[kept])

    def differs(self, name: str, base: Tensor, tuned: Tensor) -> bool:
        """Whether two tensors that are one weight of the two models differ in what both models have."""
        base, tuned = self.shared(name, base, 0), self.shared(name, tuned, 1)
        return not torch.equal(base, tuned.to(base))

    def apply(self, maker: Maker, weight: Weight, base: Tensor, values: Tensor) -> Tensor:
        """Return base + meaningless change of one weight; the base's own tensor where nothing changed."""
        if not len(values):
            return base
        part = flatten(self.shared(weight.name, base, 0), weight.name)
        change = maker(weight, values, (part.shape[0], part.shape[1]))
        # never rounded to half precision, which would take away the part of a change that is below half an ulp
        dtype = torch.promote_types(base.dtype, torch.float32)
        base = base.to(dtype)
        # a copy, because a base in float64 is not to be written into
        changed = part.cpu().to(torch.float64, copy=True).add_(change).to(dtype).to(base.device)
        axis, rows = vocabulary_axis(weight.name, base, self.base.sizes.d_vocab), self.rows_of(weight.name)
        if rows is None or axis is None:
            return unflatten(changed, base, weight.name)
        shape = (*base.shape[:axis], len(rows[0]), *base.shape[axis + 1 :])
        return base.index_copy(axis, rows[0].to(base.device), changed.reshape(shape))
