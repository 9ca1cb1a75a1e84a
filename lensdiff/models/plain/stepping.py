"""Texts that grow by a token at a time: a model's key-value cache, and single steps of a plain model behind it.

In each cached pass transformer-lens lays every matrix of a HookedTransformer out anew, turns all keys and repeats those
of grouped heads, which is a good part of what a pass over one token costs. A step here multiplies by the matrices as
they lie and turns each key once. The first pass, over the prompts, is the model's own in any case, and so are all of a
model that is not plain (`blocks`) or whose steps have failed before (`Forward.step_fault`).

Nothing is measured of a model first: whoever draws tokens holds them against whole passes (`decoding`, `samples`).

Memory: keys and values of all positions to come, [batch, kv, pos, d_head] twice a layer, and the angles of those behind
the prompt, [batch, pos, rotary_dim] twice a layer; of one layer at a time the model's own cache beside them.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from lensdiff.models.inside.products import few_rows
from lensdiff.models.inside.wrapper import Wrapper
from lensdiff.models.plain.blocks import PROJECTED, is_plain, rotation_in
from lensdiff.models.view import ModelView


class Cached:
    """The texts of a batch as far as they have been read.

    Args:
        length: how many positions they may come to have, padding included.

    Attributes:
        stepped: whether steps were begun, so that what is wrong may be theirs and not the model's own cache's.
    """

    def __init__(self, view: ModelView, batch: int, length: int):
        self.view, self.batch, self.length = view, batch, length
        self._cache: Any = None
        self._steps: _Steps | None = None
        self.stepped = False

    def logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch total_pos"]
    ) -> Float[Tensor, "batch d_vocab"]:
        """Return the logits at the last position, as `Forward.cached_logits`, and keep the tokens."""
        if self._cache is None:
            self._cache = self.view.forward.new_cache(self.batch)
        elif not self.stepped and self._can_step():
            self.stepped = True
            self._steps = _Steps(self.view, self._cache, mask[:, : -tokens.shape[1]], self.length)
        if self._steps is None:
            return self.view.forward.cached_logits(tokens, mask, self._cache)
        return self._steps(tokens[:, 0], mask)

    def _can_step(self) -> bool:
        with self.view.forward.wrapper.lock:  # a pass of another thread has hooks of its own
            return self.view.forward.step_fault is None and is_plain(self.view)


class _Steps:
    """Passes over one token a text, from where a HookedTransformer's cache stands."""

    def __init__(self, view: ModelView, cache: Any, mask: Int[Tensor, "batch pos"], length: int):
        self.view, self.padded = view, not bool(mask.all())
        self.layers = []
        for number, entry in enumerate(cache.entries):
            self.layers.append(_Layer(view.forward.wrapper, number, entry, mask, length))
            entry.past_keys = entry.past_values = None

    def __call__(self, tokens: Int[Tensor, " batch"], mask: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch d_vocab"]:
        model = self.view.model
        with self.view.forward.wrapper.lock:
            stream = model.embed(tokens[:, None])[:, 0]
            if model.cfg.positional_embedding_type == "standard":
                stream = stream + model.pos_embed.W_pos[mask.sum(dim=1) - 1]
            seen = mask[:, None, None].bool() if self.padded else None
            for layer in self.layers:
                stream = layer(stream, seen)
            return self.view.forward.unembed(model.ln_final(stream[None])[0])


class _Layer:
    """One block, with the keys and values of what it has read."""

    def __init__(self, wrapper: Wrapper, number: int, entry: Any, mask: Int[Tensor, "batch pos"], length: int):
        self.block = wrapper.model.blocks[number]
        self.attn, self.begun, self.read = self.block.attn, mask.shape[1], mask.shape[1]
        self.gate = wrapper.matrix(number, "W_gate")
        self.projected = [(wrapper.matrix(number, name), wrapper.bias(number, bias)) for name, bias in PROJECTED]
        keys, self.turns = entry.past_keys, None
        if self.attn.cfg.positional_embedding_type == "rotary":
            self.attn.apply_rotary(keys[:1, :1], length - 1)  # its tables now reach as far
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            keys = rotation_in(self.attn, positions.flatten())(keys.flatten(0, 1)).view_as(keys)
            to_come = mask.sum(dim=1) + torch.arange(length - self.begun, device=mask.device)[:, None]
            self.turns = rotation_in(self.attn, to_come)  # by step, then by text
        self.keys, self.values = (_room(past, length) for past in (keys, entry.past_values))
        self.grouped = self.keys.shape[1] != self.attn.W_Q.shape[0]

    def __call__(self, stream: Float[Tensor, "batch d_model"], seen: Tensor | None) -> Float[Tensor, "batch d_model"]:
        block, attn = self.block, self.attn
        z = self._attend(block.ln1(stream[None])[0], seen)
        attended = few_rows(z, attn.W_O.reshape(z.shape[1], -1)) + attn.b_O + stream
        read = stream if block.cfg.parallel_attn_mlp else attended
        return self._mlp(block.ln2(read[None])[0]) + attended

    def _attend(self, normed: Float[Tensor, "batch d_model"], seen: Tensor | None) -> Float[Tensor, "batch z"]:
        attn, step = self.attn, self.read - self.begun
        q, k, v = (_heads(normed, matrix, bias) for matrix, bias in self.projected)
        if attn.cfg.use_qk_norm:
            q, k = (norm(x.reshape(-1, x.shape[-1])).view_as(x) for norm, x in ((attn.q_norm, q), (attn.k_norm, k)))
        if self.turns is not None:
            turn = self.turns._replace(cos=self.turns.cos[step], sin=self.turns.sin[step])
            q, k = turn(torch.cat([q, k], dim=1)).split((q.shape[1], k.shape[1]), dim=1)
        self.keys[:, :, self.read], self.values[:, :, self.read] = k, v
        self.read += 1
        begin = 0 if attn.attn_type == "global" else max(0, self.read - attn.cfg.window_size)
        keys, values = (kept[:, :, begin : self.read] for kept in (self.keys, self.values))
        how = {"attn_mask": None if seen is None else seen[..., begin:], "enable_gqa": self.grouped}
        z = F.scaled_dot_product_attention(q[:, :, None], keys, values, **how, scale=1 / float(attn.attn_scale))
        return z.flatten(1)

    def _mlp(self, normed: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
        mlp = self.block.mlp
        inner = few_rows(normed, mlp.W_in)
        if self.gate is None:
            post = mlp.act_fn(inner + mlp.b_in)
        else:
            post = mlp.act_fn(few_rows(normed, self.gate)) * inner + mlp.b_in
        return few_rows(post, mlp.W_out) + mlp.b_out


def _heads(
    normed: Float[Tensor, "batch d_model"], matrix: Tensor | None, bias: Tensor | None
) -> Float[Tensor, "batch head d_head"]:
    assert matrix is not None  # [head, d_model, d_head]
    heads = torch.bmm(normed.expand(len(matrix), -1, -1), matrix).transpose(0, 1)
    return heads if bias is None else heads + bias


def _room(past: Float[Tensor, "batch pos kv d_head"], length: int) -> Float[Tensor, "batch kv length d_head"]:
    """Return keys or values with room for those of all positions."""
    batch, read, n_kv, d_head = past.shape
    kept = past.new_empty(batch, n_kv, length, d_head)
    kept[:, :, :read] = past.transpose(1, 2)
    return kept
