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


@torch.no_grad()
def plant_copying(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Replace the starting weights of two pairs of heads in layers 0 and 1; uses torch's global generator."""
    config, embedding = model.config, model.model.embed_tokens.weight
    width, size, group = embedding.shape[1], config.head_dim, config.num_attention_heads // config.num_key_value_heads
    frequencies = config.rope_parameters["rope_theta"] ** (-torch.arange(size // 2) / (size // 2))
    for layer in model.model.layers:  # other heads and MLPs are silent at first
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    token = float(embedding.norm(dim=1).mean())
    shared = rows(1, width)[0]
    embedding.sub_(embedding @ shared[:, None] * shared)
    model.lm_head.weight.copy_(embedding)
    embedding.add_(SHARED * shared)
    seen = math.sqrt(width) / math.hypot(token, SHARED)  # RMSNorm's factor in layer 0, and about that in layer 1
    then = math.sqrt(width) / math.sqrt(token**2 + SHARED**2 + PAIRS * CARRIED**2)
    slow = torch.arange(size // 4, size // 2)
    slow = torch.cat([slow, slow + size // 2])
    for pair in range(PAIRS):
        carried, place, copied = rows(size, width), rows(size, width), rows(size, width)
        carried = carried - carried @ shared[:, None] * shared
        first, second = (model.model.layers[i].self_attn for i in (0, 1))
        key, query = slice(pair * size, (pair + 1) * size), slice(pair * group * size, (pair * group + 1) * size)
        scale = math.sqrt(SHARPNESS * math.sqrt(size)) / (SHARED * seen)
        looks = torch.zeros(2, size)
        looks[0, :FAST], looks[1, :FAST], looks[1, size // 2 : size // 2 + FAST] = (
            1.0,
            frequencies[:FAST].cos(),
            -frequencies[:FAST].sin(),
        )
        first.k_proj.weight[key] = scale * looks[0][:, None] * shared
        first.q_proj.weight[query] = scale * looks[1][:, None] * shared
        part = token * seen * math.sqrt(size / width)  # the norm of P times a token
        first.v_proj.weight[key] = carried
        first.o_proj.weight[:, query] = CARRIED / part * place.mT
        match = token * then * math.sqrt(len(slow) / width) * CARRIED * then * math.sqrt(len(slow) / size)
        scale = math.sqrt(2 * SHARPNESS * math.sqrt(size) / match)
        second.q_proj.weight[query], second.k_proj.weight[key] = 0.0, 0.0
        second.q_proj.weight[query][slow] = scale * carried[: len(slow)]
        second.k_proj.weight[key][slow] = scale * place[: len(slow)]
        second.v_proj.weight[key] = copied
        second.o_proj.weight[:, query] = copied.mT * token / (token * then * math.sqrt(size / width))
    return model
