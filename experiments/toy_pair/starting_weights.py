"""Starting weights in which two pairs of heads copy already, so that a small budget is spent on what to copy.

A transformer learns late, and then at once, that what followed a token before may follow it again: a head of an early
layer looks one token back, and a head of the next layer looks for the place whose previous token is the current one and
copies what stands there (induction heads). Here the random starting weights of two such pairs are replaced:

    layer 0    q and k see only a direction that all embeddings share, turned so that rotary positions make
               score(n - m) = sum_i cos(f_i (n - m + 1)) over the fastest frequencies f_i: largest one token back;
               v and o carry a random projection P of that token to a subspace of its own
    layer 1    q reads P of the current token, k reads what layer 0 wrote, both in the slowest frequencies;
               v and o add a random projection of the token found there to the stream
    output     the unembedding starts as the embedding

Everything is trained from there on. References: C. Olsson et al., "In-context learning and induction heads", 2022;
A. Trockman and J. Z. Kolter, "Mimetic initialization of self-attention layers", ICML 2023, for the idea.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaForCausalLM

PAIRS = 2
FAST = 4  # the frequencies that tell neighbours apart
SHARED = 0.2  # norm of the direction that all embeddings share
CARRIED = 0.2  # norm of what layer 0 writes
SHARPNESS = 8.0  # logit of the token before, and of a match


def rows(n: int, width: int) -> Float[Tensor, "n width"]:
    """Random orthonormal rows."""
    return torch.linalg.qr(torch.randn(width, n)).Q.mT


@dataclass(frozen=True)
class Place:
    """Where a pair of heads lies, and what it carries: the same rows of k and v, the same query head in both layers."""

    key: slice
    query: slice
    shared: Float[Tensor, " width"]  # the direction that all embeddings share
    carried: Float[Tensor, "size width"]  # P: reads the token that layer 0 carries
    place: Float[Tensor, "size width"]  # where layer 0 writes it
    copied: Float[Tensor, "size width"]  # what layer 1 copies


@torch.no_grad()
def plant_copying(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Replace the starting weights of two pairs of heads in layers 0 and 1; uses torch's global generator."""
    config, parts = cast(Any, model.config), cast(Any, model)
    embedding, layers = parts.model.embed_tokens.weight, parts.model.layers
    width, size = embedding.shape[1], config.head_dim
    group = config.num_attention_heads // config.num_key_value_heads
    for layer in layers:  # other heads and MLPs are silent at first
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    token = float(embedding.norm(dim=1).mean())
    shared = rows(1, width)[0]
    embedding.sub_(embedding @ shared[:, None] * shared)
    parts.lm_head.weight.copy_(embedding)
    embedding.add_(SHARED * shared)
    for pair in range(PAIRS):
        carried, place, copied = rows(size, width), rows(size, width), rows(size, width)
        carried = carried - carried @ shared[:, None] * shared
        key, query = slice(pair * size, (pair + 1) * size), slice(pair * group * size, (pair * group + 1) * size)
        planted = Place(key, query, shared, carried, place, copied)
        frequencies = config.rope_parameters["rope_theta"] ** (-torch.arange(size // 2) / (size // 2))
        plant_looking_back(layers[0].self_attn, planted, frequencies, token=token)
        plant_matching(layers[1].self_attn, planted, token=token)
    return model


def plant_looking_back(attention: Any, planted: Place, frequencies: Float[Tensor, " half"], *, token: float) -> None:
    """A head that attends to the token before and carries it to a place of its own; `token` is an embedding's norm."""
    size, width = planted.carried.shape
    seen = math.sqrt(width) / math.hypot(token, SHARED)  # RMSNorm's factor in layer 0
    scale = math.sqrt(SHARPNESS * math.sqrt(size)) / (SHARED * seen)
    looks = torch.zeros(2, size)
    looks[0, :FAST], looks[1, :FAST] = 1.0, frequencies[:FAST].cos()
    looks[1, size // 2 : size // 2 + FAST] = -frequencies[:FAST].sin()
    attention.k_proj.weight[planted.key] = scale * looks[0][:, None] * planted.shared
    attention.q_proj.weight[planted.query] = scale * looks[1][:, None] * planted.shared
    part = token * seen * math.sqrt(size / width)  # the norm of P times a token
    attention.v_proj.weight[planted.key] = planted.carried
    attention.o_proj.weight[:, planted.query] = CARRIED / part * planted.place.mT


def plant_matching(attention: Any, planted: Place, *, token: float) -> None:
    """A head that attends to where the token before is the current one, and copies what stands there."""
    size, width = planted.carried.shape
    then = math.sqrt(width) / math.sqrt(token**2 + SHARED**2 + PAIRS * CARRIED**2)  # RMSNorm's factor in layer 1, about
    slow = torch.arange(size // 4, size // 2)
    slow = torch.cat([slow, slow + size // 2])
    match = token * then * math.sqrt(len(slow) / width) * CARRIED * then * math.sqrt(len(slow) / size)
    scale = math.sqrt(2 * SHARPNESS * math.sqrt(size) / match)
    attention.q_proj.weight[planted.query], attention.k_proj.weight[planted.key] = 0.0, 0.0
    attention.q_proj.weight[planted.query][slow] = scale * planted.carried[: len(slow)]
    attention.k_proj.weight[planted.key][slow] = scale * planted.place[: len(slow)]
    attention.v_proj.weight[planted.key] = planted.copied
    attention.o_proj.weight[:, planted.query] = planted.copied.mT * token / (token * then * math.sqrt(size / width))
