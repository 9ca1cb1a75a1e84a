"""Tiny models whose feed-forward layers hold known directions and whose embeddings put known words on them."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.models import Model, load_model
from tests.checkpoints import hf_model, tokenizer_of

D_MODEL, D_MLP, PLANTED, PER_DIRECTION = 32, 48, 6, 4
MODULE = {"value": "down_proj", "key": "up_proj", "gate": "gate_proj"}


@functools.lru_cache
def single_token_words() -> dict[str, int]:
    """The words that are one token of the tiny tokenizer, with that token."""
    vocabulary = tokenizer_of().get_vocab()
    words = {piece[1:]: i for piece, i in vocabulary.items() if piece.startswith("Ġ") and piece[1:].isalpha()}
    return dict(sorted(words.items(), key=lambda pair: pair[1]))


def planted_words() -> list[list[str]]:
    """The words that stand for each planted direction."""
    words = list(single_token_words())
    return [words[i * PER_DIRECTION : (i + 1) * PER_DIRECTION] for i in range(PLANTED)]


def planted_embedding(
    directions: Float[Tensor, "direction d_model"], *, spread: float = 0.1, seed: int = 0
) -> Float[Tensor, "d_vocab d_model"]:
    """Rows along a direction (up to `spread`) for the planted words, and orthogonal to all of them for the rest."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(400, D_MODEL, dtype=torch.float64, generator=generator)
    rows = rows - rows @ directions.T @ directions
    for direction, words in zip(directions, planted_words(), strict=True):
        for n, word in enumerate(words):
            side = torch.randn(D_MODEL, dtype=torch.float64, generator=generator)
            rows[single_token_words()[word]] = (n + 1) * (direction + spread * side / side.norm())
    return rows


def orthonormal(rows: int, columns: int, *, seed: int = 0) -> Float[Tensor, "rows columns"]:
    """Orthonormal rows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(columns, rows, dtype=torch.float64, generator=generator)).Q.T


def vectors_with(
    components: Float[Tensor, "component d_model"], sizes: Float[Tensor, " component"], *, n: int = D_MLP, seed: int = 1
) -> Float[Tensor, "vector d_model"]:
    """n vectors with these principal components, of variances size ** 2 / (n - 1), around a mean that is not 0."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, len(components), dtype=torch.float64, generator=generator)
    loadings = torch.linalg.qr(noise - noise.mean(dim=0)).Q  # orthonormal columns that sum to 0
    return loadings @ torch.diag(sizes.double()) @ components.double() + 3.0


def model_with(
    weights: Mapping[tuple[int, str], Float[Tensor, "vector d_model"]] | None = None,
    *,
    embedding: Tensor | None = None,
    unembedding: Tensor | None = None,
    family: str = "llama",
) -> Model:
    """A tiny model with the given value, key or gate vectors per (layer, side)."""
    hf: Any = hf_model(family)
    with torch.no_grad():
        for (layer, side), vectors in (weights or {}).items():
            target = getattr(hf.model.layers[layer].mlp, MODULE[side]).weight  # transposed: [out, in]
            target.copy_(vectors.T if side == "value" else vectors)
        if embedding is not None:
            hf.get_input_embeddings().weight.copy_(embedding)
        if unembedding is not None:
            hf.lm_head.weight.copy_(unembedding)
    return load_model(hf, tokenizer=tokenizer_of(), device="cpu")
