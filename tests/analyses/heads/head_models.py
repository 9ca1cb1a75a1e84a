"""Small models and word vectors for the tests of heads, and the word pairs of a head by a plain loop."""

from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import load_model
from lensdiff.results import Provenance
from tests.checkpoints import hf_model, tokenizer_of

N_LAYERS, N_HEADS = 2, 4  # of every tiny family


def known_words(n: int | None = None) -> list[str]:
    """Return words that are one token of the tiny tokenizer after a space."""
    tokenizer = tokenizer_of()
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [piece[1:] for piece, _ in pieces if piece[0] == "Ġ" and len(piece) > 2 and piece[1:].isalpha()][:n]


def ids_of(words: list[str]) -> list[int]:
    tokenizer = tokenizer_of()
    known = tokenizer.get_vocab()
    return [known["Ġ" + word] for word in words]


def random_vectors(words: list[str], *, dim: int = 4, seed: int = 0) -> WordVectors:
    return WordVectors(tuple(words), np.random.default_rng(seed).standard_normal((len(words), dim)))


def paired_vectors(words: list[str]) -> WordVectors:
    """Words 2i and 2i + 1 have one direction, all others are orthogonal to them."""
    return WordVectors(tuple(words), np.eye((len(words) + 1) // 2)[np.arange(len(words)) // 2])


def wrapped(hf: PreTrainedModel, wrapper: Any = "auto", **options: Any) -> Any:
    return load_model(hf, tokenizer=tokenizer_of(), wrapper=wrapper, verify=False, **options)


class HeadWeights(NamedTuple):
    """What a loop needs of one layer, in float64: [head_index d_model d_head], keys repeated to the query heads."""

    gain: np.ndarray | float
    W_Q: np.ndarray
    W_K: np.ndarray


def head_weights(family: str, hf: Any, layer: int) -> HeadWeights:
    """Return one layer's weights as the `transformers` model has them."""
    if family == "gpt2":
        block = hf.transformer.h[layer]
        fused = block.attn.c_attn.weight.detach().double().numpy()  # [d_model, 3 * d_model]
        W_Q, W_K, _ = (part.reshape(len(fused), N_HEADS, -1).transpose(1, 0, 2) for part in np.split(fused, 3, axis=1))
        return HeadWeights(block.ln_1.weight.detach().double().numpy(), W_Q, W_K)
    if family == "gpt_neox":
        block = hf.gpt_neox.layers[layer]
        fused = block.attention.query_key_value.weight.detach().double().numpy()
        per_head = fused.reshape(N_HEADS, 3, -1, fused.shape[1])  # a head's queries, keys and values lie together
        gain = block.input_layernorm.weight.detach().double().numpy()
        return HeadWeights(gain, per_head[:, 0].transpose(0, 2, 1), per_head[:, 1].transpose(0, 2, 1))
    block = hf.model.layers[layer]
    W_Q, W_K = (getattr(block.self_attn, name).weight.detach().double().numpy() for name in ("q_proj", "k_proj"))
    d_head = W_Q.shape[0] // N_HEADS
    W_Q, W_K = (W.reshape(-1, d_head, W.shape[1]).transpose(0, 2, 1) for W in (W_Q, W_K))
    if family == "olmo2":
        gain = 1.0  # its norms follow the layer
    else:
        gain = block.input_layernorm.weight.detach().double().numpy() + (1.0 if family == "gemma" else 0.0)
    return HeadWeights(gain, W_Q, np.repeat(W_K, N_HEADS // len(W_K), axis=0))


class LoopPairs(NamedTuple):
    """One head: its dimensions by falling energy, the energies, and each dimension's (key, query) -> cosine."""

    dims: list[int]
    energy: np.ndarray
    pairs: list[dict[tuple[int, int], float]]


def pairs_by_loop(
    embedded: np.ndarray,
    weights: HeadWeights,
    head: int,
    vectors: np.ndarray,
    *,
    top_k: int,
    threshold_words: int = 3000,
    threshold_std: float = 1.96,
) -> LoopPairs:
    """Return the word pairs of one head, word by word."""
    gain = np.broadcast_to(weights.gain, embedded.shape[1])
    q, k = (embedded @ (gain[:, None] * W[head]) for W in (weights.W_Q, weights.W_K))
    energy = (q**2 + k**2).sum(axis=0)
    lengths = np.linalg.norm(vectors, axis=1)
    unit = np.array([v / n if n > 0 else 0 * v for v, n in zip(vectors.astype(float), lengths, strict=True)])
    cosines = unit @ unit.T
    background = cosines[:, :threshold_words]
    theta = background.mean(axis=1) + threshold_std * background.std(axis=1)
    order = sorted(range(len(energy)), key=lambda d: -energy[d])
    found = []
    for d in order:
        best_q, best_k = (sorted(range(len(x)), key=lambda w: -abs(x[w, d]))[:top_k] for x in (q, k))
        found.append(
            {
                (i, j): float(cosines[i, j])
                for i in best_k
                for j in best_q
                if i != j and cosines[i, j] > max(theta[i], theta[j], 0) and q[j, d] * k[i, d] > 0
            }
        )
    return LoopPairs(order, energy[order], found)


Plant = tuple[int, int, int, int, int, float]


def planted(plants: list[Plant], words: list[str], *, seed: int = 0) -> PreTrainedModel:
    """Return a tiny Llama whose heads hold only what is planted.

    A plant is (layer, head, dim, key word, query word, activation); a negative activation is one of both sides. Plants
    of a dimension add up; keys are shared by two query heads. Words (at most 32) have orthonormal embeddings.
    """
    hf: Any = hf_model("llama", seed=seed)
    basis = torch.eye(32)[torch.randperm(32, generator=torch.Generator().manual_seed(seed))]  # exact zeros elsewhere
    with torch.no_grad():
        hf.model.embed_tokens.weight.zero_()
        hf.model.embed_tokens.weight[ids_of(words)] = basis[: len(words)]
        for block in hf.model.layers:
            block.self_attn.q_proj.weight.zero_()
            block.self_attn.k_proj.weight.zero_()
        for layer, head, dim, key, query, value in plants:
            attention, gain = hf.model.layers[layer].self_attn, hf.model.layers[layer].input_layernorm.weight
            attention.q_proj.weight[head * 8 + dim] += value * basis[query] / gain
            attention.k_proj.weight[head // 2 * 8 + dim] += value * basis[key] / gain
    return hf


Named = list[tuple[str, str]]  # (key, query) pairs of one dimension


def made(dims: list[list[list[Named]]], words: tuple[str, ...], **options: Any) -> HeadWordPairs:
    """Build a result from named pairs: [layer][head][dim]; every head has as many dimensions."""
    shape = len(dims), len(dims[0]), len(dims[0][0])
    flat = [dim for layer in dims for head in layer for dim in head]
    pairs = [pair for dim in flat for pair in dim]
    starts = torch.tensor([0, *(len(dim) for dim in flat)]).cumsum(0)
    key, query = (torch.tensor([words.index(p[i]) for p in pairs], dtype=torch.int32) for i in (0, 1))
    return HeadWordPairs(
        Provenance("head_word_pairs", "made", options={"top_k": 9} | options),
        tuple(range(shape[0])),
        tuple(range(shape[1])),
        words,
        torch.arange(shape[2], dtype=torch.int32).expand(shape).clone(),
        torch.ones(shape),
        starts,
        key,
        query,
        torch.ones(len(pairs)),
    )
