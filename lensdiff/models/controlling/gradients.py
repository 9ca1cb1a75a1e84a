"""Gradient noise: the directions that training moves weights in, without anything that it could learn.

    M = sum_t s_t a_t g_t^T      a_t what a matrix reads at token t, g_t the gradient of the base's loss at its output,
                                 s_t = +1 or -1 at random, one draw a token and seed, the same for all matrices

A change is U S V^T with the singular vectors U, V of M, largest first, and the real change's singular values S. With
divide="rms", M is first divided by its root mean square over the signs, sqrt(sum_t a_t^2 g_t^2) entry by entry, as Adam
divides by that of its gradients.

The text: the base's own samples at temperature 1, or texts that are given; the loss is the base's next-token
cross-entropy, summed. As many tokens are needed as the smaller side of the largest matrix is long: else M lacks rank.

What gets no such gradient (embeddings, gains, biases, positions, experts of a mixture) gets a norm-matched change.

Memory: a_t and g_t of every matrix in half precision, each divided by its length (kept in float32); on disk where there
is a cache, and then one matrix's at a time. Beside it about BATCH_BYTES for the logits of a batch and what its graph
keeps of every layer. One forward and backward pass over the text a pair, two products and a decomposition a weight and
control.
"""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.models.change import flatten, generator_for, random_norm
from lensdiff.models.controlling.options import GradientNoise
from lensdiff.models.controlling.samples import cross_entropy, own_samples
from lensdiff.models.controlling.store import Tensors
from lensdiff.models.inside.around import READ, around
from lensdiff.models.inside.parts import MATRICES, Weight
from lensdiff.models.progress import tracked
from lensdiff.models.text import special_ids
from lensdiff.models.view import ModelView
from lensdiff.results import InputError

KIND = "gradient-noise"
LENGTH = 64  # tokens of a sample
BATCH_TOKENS = 1024
BATCH_BYTES = 2**29  # of a batch's logits and its graph, one text at least
ORTHONORMAL = 1e-7  # largest error of the singular vectors that are had from a product


def signed_sum(
    reads: Float[Tensor, "token d_in"],
    gradients: Float[Tensor, "token d_out"],
    factors: Float[Tensor, " token"],
    *,
    divide: str = "none",
) -> Float[Tensor, "d_in d_out"]:
    """Return sum_t f_t a_t g_t^T; with divide="rms" divided by sqrt(sum_t f_t^2 a_t^2 g_t^2) entry by entry."""
    scaled = reads * factors[:, None]
    found = scaled.T @ gradients
    if divide == "none":
        return found
    mean_square = scaled.square().T @ gradients.square()
    return torch.where(mean_square > 0, found / mean_square.clamp(min=1e-38).sqrt(), 0.0)


def with_spectrum(matrix: Float[Tensor, "row col"], values: Float[Tensor, " rank"]) -> Float[Tensor, "row col"]:
    """Return U S V^T with the leading singular vectors of a matrix and the given singular values S, in float64."""
    matrix, n = matrix.double() / matrix.abs().max().clamp(min=1e-38), len(values)
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    # from the smaller product, several times as fast as a decomposition of the matrix itself
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    left, sizes = vectors.flip(1)[:, :n], squares.flip(0)[:n].clamp(min=1e-300).sqrt()
    right = wide.T @ left / sizes
    error = (right.T @ right - torch.eye(n, dtype=torch.float64)).abs().max()
    if not bool(error <= ORTHONORMAL):  # nearly singular
        u, _, vh = torch.linalg.svd(wide, full_matrices=False)
        left, right = u[:, :n], vh[:n].T
    found = (left * values) @ right.T
    return found if wide is matrix else found.T


class FromGradients:
    """Changes of one seed, made of what was collected of the base."""

    def __init__(self, collected: Tensors, seed: int, divide: str):
        self._collected, self._seed, self._divide = collected, seed, divide

    def __call__(self, weight: Weight, values: Tensor, shape: tuple[int, int]) -> Float[Tensor, "row col"]:
        gradients, matrix = _name("gradient", *weight), None
        if gradients in self._collected:
            lengths = self._collected[_name("length", *weight)]
            signs = torch.randint(2, lengths.shape, generator=generator_for(KIND, self._seed, Weight("signs")))
            assert weight.layer is not None
            reads = self._collected[_name("read", READ[weight.name], weight.layer)]  # pyright: ignore[reportArgumentType]
            factors = lengths * (2 * signs - 1)
            matrix = signed_sum(reads.float(), self._collected[gradients].float(), factors, divide=self._divide)
        if matrix is None or not matrix.any():
            return random_norm(values, shape, generator_for(KIND, self._seed, weight))
        return with_spectrum(matrix, values)


def fewest_tokens(base: ModelView) -> int:
    """Return how many tokens of text gradient noise needs: the largest of min(d_in, d_out) over the matrices."""
    d_attention = base.n_heads * base.d_head
    return min(base.d_model, max(d_attention, base.d_mlp))


def texts_of(base: ModelView, noise: GradientNoise) -> list[Tensor]:
    """Return the text as batches [row pos] of one length each.

    Raises:
        InputError: there are too few tokens, or a text is longer than the context.
    """
    if noise.texts is None:
        n, length, batches = size_of_samples(base, noise)
        return list(own_samples(base, n, length, generator_for(KIND, 0, Weight("samples"))).split(batches))
    special = list(special_ids(base, None))
    rows = [special + base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in noise.texts]
    _check_enough(sum(len(row) - 1 for row in rows if row), fewest_tokens(base))
    if too_long := [n for n, row in enumerate(rows) if len(row) > base.n_ctx]:
        n = too_long[0]
        raise InputError(f"text {n} has {len(rows[n])} tokens, the context of {base.info.id} holds {base.n_ctx}")
    return [torch.tensor([row]) for row in rows if len(row) > 1]


def size_of_samples(base: ModelView, noise: GradientNoise) -> tuple[int, int, list[int]]:
    """Return how many samples are drawn, of how many tokens, and how many of them a batch has, batch by batch.

    Raises:
        InputError: that is too few tokens.
    """
    wanted = fewest_tokens(base)
    tokens = 2 * wanted if noise.tokens is None else noise.tokens
    _check_enough(tokens, wanted)
    length = min(LENGTH, base.n_ctx - 1, tokens)
    fitting = BATCH_BYTES // (base.dtype.itemsize * _numbers(base, length))
    rows, at_once = -(-tokens // length), max(1, min(BATCH_TOKENS, fitting) // length)
    return rows, length, [min(at_once, rows - start) for start in range(0, rows, at_once)]


def _numbers(base: ModelView, length: int) -> int:
    """Return about how many numbers a pass with a graph holds per token of rows of so many tokens.

    Of the logits, their gradient and what lies between four a word; of a layer what its parts read and make, by
    factors that fit the peaks of SmolLM2-135M at two sizes of a batch.
    """
    of_a_layer = 8 * base.d_model + 4 * base.d_mlp + 4 * base.n_heads * length
    return 4 * base.d_vocab + base.n_layers * of_a_layer


def _check_enough(given: int, wanted: int) -> None:
    if given < wanted:
        raise InputError(f"gradient noise of this model needs at least {wanted} tokens of text, got {given}")


def collect(base: ModelView, texts: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return what every matrix reads and the gradients at its outputs, by name, all tokens together."""
    found: dict[str, list[Tensor]] = {}
    for name, part in (
        item for rows in tracked(texts, "collecting gradients for a control") for item in _of_rows(base, rows)
    ):
        found.setdefault(name, []).append(part)
    return {name: torch.cat(found.pop(name)) for name in list(found)}  # never all of it twice


def stand_in(base: ModelView, tokens: int) -> dict[str, Tensor]:
    """Return random numbers in the place of what is collected of the first layer: as large, for its cost alone."""
    generator, found = generator_for(KIND, 0, Weight("cost")), {}
    for name in MATRICES:
        value = base.weights.stored(Weight(name, 0)) if base.weights.has(Weight(name, 0)) else None
        if value is None:
            continue
        for what, size in zip(("read", "gradient"), flatten(value, name).shape, strict=True):
            key = _name(what, READ[name] if what == "read" else name, 0)
            found[key] = torch.randn(tokens, size, generator=generator).half()
        found[_name("length", name, 0)] = torch.ones(tokens)
    return found


def _of_rows(base: ModelView, rows: Int[Tensor, "row pos"]) -> Iterator[tuple[str, Tensor]]:
    following = rows[:, 1:].to(base.device)
    reads, gradients = around(
        base.forward, base.meaning, rows[:, :-1], lambda logits: cross_entropy(logits, following, reduction="sum")
    )
    lengths = {}
    for (place, layer), read in reads.items():
        lengths[(place, layer)], unit = _unit(read)
        yield _name("read", place, layer), unit
    for weight, gradient in gradients.items():
        length, unit = _unit(gradient)
        assert weight.layer is not None
        assert weight.name in MATRICES
        yield _name("gradient", *weight), unit
        yield _name("length", *weight), length * lengths[(READ[weight.name], weight.layer)]


def _unit(value: Float[Tensor, "token d"]) -> tuple[Float[Tensor, " token"], Float[Tensor, "token d"]]:
    value = value.cpu().float()
    length = value.norm(dim=1)
    return length, (value / length.clamp(min=1e-38)[:, None]).half()


def _name(what: str, name: str, layer: int | None) -> str:
    return f"{what} {name} {layer}"
