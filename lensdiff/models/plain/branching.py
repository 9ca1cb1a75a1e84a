"""Passes over texts of one length of which some begin alike: what they share is computed once.

A position of a causal model depends on the tokens up to it and on how many they are, whatever it makes of positions. So
the positions of several texts are a tree: texts share a row as long as they have the same tokens, and have rows of
their own from where they part. All matrix products run over the rows of all texts side by side; attention alone looks
at each text. In the last block only what is read is computed behind attention.

For a plain model (`blocks`); that this is what the whole model does is measured once, on short texts. Any other reads
whole texts (`final_of`).

Memory: one block's activations of all rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from lensdiff.models.inside.tape import CLOSE, probe, same
from lensdiff.models.inside.wrapper import Wrapper
from lensdiff.models.linear.passes import head_rows
from lensdiff.models.plain.blocks import PROJECTED, is_plain, rotation_in
from lensdiff.models.view import ModelView


class _Tree(NamedTuple):
    """Rows of texts of one length: which row each position of a text is, and where a row first stands among them."""

    row: Int[Tensor, "text pos"]
    first: Int[Tensor, " row"]


def tree_of(texts: Sequence[Sequence[int]]) -> _Tree:
    """Return the rows of texts of one length."""
    length, known, first, row = len(texts[0]), {}, [], []
    for number, text in enumerate(texts):
        above, rows = -1, []
        for position, token in enumerate(text):
            if (above, token) not in known:
                known[above, token] = len(first)
                first.append(number * length + position)
            above = known[above, token]
            rows.append(above)
        row.append(rows)
    return _Tree(torch.tensor(row), torch.tensor(first))


@torch.no_grad()
def final_of(view: ModelView, texts: Sequence[Sequence[int]], n_out: int) -> Float[Tensor, "text out_pos d_model"]:
    """Return the unembedding's input at the last positions of texts of one length."""
    tokens = torch.tensor(texts, device=view.device)
    if not _can_branch(view):
        return view.forward.final(tokens)[:, -n_out:]
    return _branched(view, tokens, tree_of(texts), n_out)


def _can_branch(view: ModelView) -> bool:
    """Return whether passes over a tree are those of the model."""
    forward = view.forward
    with forward.wrapper.lock:  # a pass of another thread has hooks of its own
        if not is_plain(view):
            return False
        if forward.branches is None:
            one = probe(view.d_vocab, view.n_ctx, torch.device("cpu"))[0].tolist()
            texts = [one, [*one[:2], *one[:1:-1]]]
            tokens = torch.tensor(texts, device=view.device)
            found = _branched(view, tokens, tree_of(texts), len(one))
            forward.branches = same(found, forward.final(tokens), CLOSE[view.dtype])
    return forward.branches


def _branched(
    view: ModelView, tokens: Int[Tensor, "text pos"], tree: _Tree, n_out: int
) -> Float[Tensor, "text out_pos d_model"]:
    model, (n_texts, length) = view.model, tokens.shape
    row, first = (index.to(view.device) for index in tree)
    with view.forward.wrapper.lock:
        # the tokens are whole: a mask made of them would take a prompt's own padding token for padding
        resid, *_ = model.input_to_embed(tokens, attention_mask=torch.ones_like(tokens))
        stream = resid.flatten(0, 1)[first]
        for number, block in enumerate(model.blocks):
            z = _Attention(view.forward.wrapper, number)(block.ln1(stream[None])[0], row)
            if number + 1 == len(model.blocks):  # no later position looks at what is not read
                last = torch.arange(n_texts * length, device=view.device).view(n_texts, length)[:, -n_out:].flatten()
                z, stream = z[last], stream[row[:, -n_out:].flatten()]
            else:
                z = z[first]
            attended = F.linear(z, rearrange(block.attn.W_O, "head d_head d_model -> d_model (head d_head)"))
            attended.add_(block.attn.b_O).add_(stream)
            read = stream if block.cfg.parallel_attn_mlp else attended
            stream = attended + block.mlp(block.ln2(read[None]))[0]
        return rearrange(model.ln_final(stream[None])[0], "(text pos) d_model -> text pos d_model", text=n_texts)


class _Attention:
    """One block's attention: from the normalised rows to z, the heads' outputs, of every position of every text."""

    def __init__(self, wrapper: Wrapper, layer: int):
        self.attn = wrapper.model.blocks[layer].attn
        self.W = torch.cat([head_rows(wrapper, layer, name) for name, _ in PROJECTED])
        self.b = torch.cat([bias.flatten() for _, name in PROJECTED if (bias := wrapper.bias(layer, name)) is not None])
        self.heads, self.d_head = self.attn.W_Q.shape[0], self.attn.W_Q.shape[-1]

    def __call__(self, normed: Float[Tensor, "row d_model"], row: Int[Tensor, "text pos"]) -> Tensor:
        attn, length = self.attn, row.shape[1]
        found = rearrange(F.linear(normed, self.W, self.b), "row (head d_head) -> row head d_head", d_head=self.d_head)
        n_kv = (found.shape[1] - self.heads) // 2
        q, k, v = (part[row] for part in found.split((self.heads, n_kv, n_kv), dim=1))
        if attn.cfg.use_qk_norm:
            q, k = (norm(x.reshape(-1, self.d_head)).view_as(x) for norm, x in ((attn.q_norm, q), (attn.k_norm, k)))
        if attn.cfg.positional_embedding_type == "rotary":
            attn.apply_rotary(q[:1, :, :1])  # its tables are now those of texts of this length
            q, k = map(rotation_in(attn, slice(length)), (q, k))
        q, k, v = (rearrange(x, "text pos head d_head -> text head pos d_head") for x in (q, k, v))
        window = None if attn.attn_type == "global" else attn.apply_causal_mask(q.new_zeros(1, 1, length, length))
        how = {"attn_mask": window, "is_causal": window is None, "enable_gqa": n_kv != self.heads}
        z = F.scaled_dot_product_attention(q, k, v, **how, scale=1 / float(attn.attn_scale))
        return rearrange(z, "text head pos d_head -> (text pos) (head d_head)")
