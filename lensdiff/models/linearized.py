"""The derivative of a HookedTransformer's blocks along many directions at once, without automatic differentiation.

A block is a smooth function of its input, and every quantity its derivative needs stands at a TransformerLens hook
point: normalised input and scale of the norms, rotated queries and keys, values, pattern, the MLP's pre-activations.
With those captured from one forward pass, the tangents of N directions follow by matrix products alone:

    norm      dy = (w / s) (dx - x^ mean(x^ dx))       x^ = normalised input, s = scale; dx centred for LayerNorm
    scores    dS = (dq k^T + q dk^T) / attn_scale      rotary embedding is linear: it acts on dq and dk as on q and k
    pattern   dA = A (dS - sum_key A dS)
    MLP       d post = act'(pre) (linear) d pre + act(pre) d linear

Causality saves work: a perturbation of position n leaves every earlier position untouched, so directions come in
chunks and each chunk computes only from its first perturbed position on. The primal pass is computed once and not
once a chunk.

Memory: the tangents of the residual stream [direction, pos, d_model] and one layer's activations times the chunk.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from lensdiff.models.view import ModelView

ROWS = 400  # direction-position rows of a chunk: enough for full matrix-multiply speed, few enough to stay in cache
_NORMS = ("RMS", "RMSPre", "LN", "LNPre")


def can_linearize(view: ModelView) -> bool:
    """Return whether a model is a HookedTransformer, every block of the kinds that this module differentiates."""
    cfg = view.model.cfg
    return (
        view.info.wrapper == "hooked"
        and cfg.normalization_type in _NORMS
        and cfg.positional_embedding_type in ("standard", "rotary")
        and not cfg.use_normalization_before_and_after
        and not cfg.attn_only
        and not cfg.num_experts
        and not cfg.use_attn_in
        and not cfg.use_split_qkv_input
        and not cfg.use_hook_mlp_in
        and not cfg.use_attn_result
        and not cfg.use_logn_attn
        and not cfg.use_attention_sinks
        and not cfg.ungroup_grouped_query_attention
        and cfg.clip_qkv is None
        and cfg.attn_scores_soft_cap <= 0
        and not cfg.is_layer_norm_activation()
        and cfg.original_architecture not in ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM")
    )


class Pushed(NamedTuple):
    """The tangents, and the unembedding's input h itself, at the output positions."""

    tangents: Float[Tensor, "direction out_pos d_model"]
    hidden: Float[Tensor, "out_pos d_model"]


def push_tangents(
    view: ModelView,
    tokens: Int[Tensor, " pos"],
    directions: Float[Tensor, "direction d_model"],
    positions: Int[Tensor, " direction"],
    out: slice,
    *,
    embedded: Float[Tensor, "pos d_model"] | None = None,
    rows: int = ROWS,
) -> Pushed:
    """Return d h / d E[position] . direction at the output positions, h the unembedding's input, one row a direction.

    Args:
        directions: direction i perturbs the embedding at `positions[i]`; positions must not decrease.
        out: output positions, a slice of the sequence.
        embedded: what the embedding gives where the derivative is taken; by default that of the tokens.
        rows: about how many direction-position rows are computed at once.
    """
    model, length = view.model, len(tokens)
    chunks = _chunks(positions.tolist(), length, rows)
    tangents = [_start(directions[a:b], positions[a:b], s, length) for a, b, s in chunks]
    saved: dict[str, Tensor] = {}

    def save(value: Tensor, hook: Any) -> None:
        saved[hook.name.split(".", 2)[2] if hook.name.startswith("blocks") else hook.name] = (
            value if value.ndim == 2 else value[0]
        )

    def put_in(value: Tensor, hook: Any) -> Tensor:
        return value if embedded is None else embedded[None]

    hooks = [("hook_embed", put_in), (_needed, save)]
    with torch.no_grad(), view.forward.wrapper.lock, model.hooks(fwd_hooks=hooks):
        # the tokens are whole: a mask made of them would take a prompt's own padding token for padding
        resid, *_ = model.input_to_embed(tokens[None], attention_mask=torch.ones_like(tokens[None]))
        for block in model.blocks:
            saved.clear()
            resid = block(resid)
            step = _BlockTangent(block, saved)
            for i, (_, _, s) in enumerate(chunks):
                tangents[i] = step(tangents[i], s)  # in its place: one layer's are in memory, not two
        saved.clear()
        hidden = model.ln_final(resid)[0, out]
        norm = _NormTangent(model.ln_final, saved["ln_final.hook_scale"], saved["ln_final.hook_normalized"])
        start, stop, _ = out.indices(length)
        result = directions.new_zeros(len(directions), stop - start, directions.shape[1])
        for tangent, (a, b, s) in zip(tangents, chunks, strict=True):
            first = max(start, s)
            result[a:b, first - start :] = norm(tangent[:, first - s : stop - s], slice(first, stop))
    return Pushed(result, hidden)


_SAVED = (
    "scale",
    "normalized",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "hook_rot_q",
    "hook_rot_k",
    "hook_pattern",
    "hook_pre",
    "hook_pre_linear",
)


def _needed(name: str) -> bool:
    return name.endswith(_SAVED)


def _chunks(positions: list[int], length: int, rows: int) -> list[tuple[int, int, int]]:
    # (first direction, after the last, first perturbed position), so that every chunk has about `rows` rows
    chunks, a = [], 0
    while a < len(positions):
        b = min(len(positions), a + max(1, round(rows / (length - positions[a]))))
        chunks.append((a, b, positions[a]))
        a = b
    return chunks


def _start(directions: Tensor, positions: Tensor, start: int, length: int) -> Tensor:
    tangent = directions.new_zeros(len(directions), length - start, directions.shape[1])
    tangent[torch.arange(len(directions)), positions - start] = directions
    return tangent


class _NormTangent:
    """dy = (w / s) (dx - x^ mean(x^ dx)); dx is centred for LayerNorm, whose x^ has mean 0 already."""

    def __init__(self, norm: Any, scale: Tensor, normalized: Tensor):
        weight = getattr(norm, "w", None)
        self.normalized = normalized
        self.factor = (1.0 if weight is None else weight) / scale
        self.centred = type(norm).__name__.startswith("LayerNorm")

    def __call__(self, tangent: Tensor, where: slice) -> Tensor:
        normalized = self.normalized[where]
        along = torch.linalg.vecdot(tangent, normalized).unsqueeze(-1).div_(tangent.shape[-1])
        out = torch.addcmul(tangent, along, normalized, value=-1)
        if self.centred:
            out.sub_(tangent.mean(dim=-1, keepdim=True))
        return out.mul_(self.factor[where])


class _BlockTangent:
    """The derivative of one block at the point where `saved` was captured, for chunks of directions."""

    def __init__(self, block: Any, saved: dict[str, Tensor]):
        cfg = block.cfg
        self.parallel = cfg.parallel_attn_mlp
        self.ln1 = _NormTangent(block.ln1, saved["ln1.hook_scale"], saved["ln1.hook_normalized"])
        self.ln2 = _NormTangent(block.ln2, saved["ln2.hook_scale"], saved["ln2.hook_normalized"])
        self.attention = _AttentionTangent(block.attn, saved, rotary=cfg.positional_embedding_type == "rotary")
        self.mlp = _MLPTangent(block.mlp, saved)

    def __call__(self, tangent: Tensor, start: int) -> Tensor:
        where = slice(start, None)
        attended = self.attention(self.ln1(tangent, where), start)
        if self.parallel:
            return attended.add_(tangent).add_(self.mlp(self.ln2(tangent, where), where))
        mid = attended.add_(tangent)
        return self.mlp(self.ln2(mid, where), where).add_(mid)


class _AttentionTangent:
    """dz = dA v + A dv with dA = A (dS - sum_key A dS) and dS = (dq k^T + q dk^T) / attn_scale."""

    def __init__(self, attn: Any, saved: dict[str, Tensor], *, rotary: bool):
        self.W = torch.cat([flat_heads(attn, name) for name in ("W_Q", "W_K", "W_V")])
        self.W_O = rearrange(attn.W_O, "head_index d_head d_model -> d_model (head_index d_head)")
        heads, d_head = attn.W_Q.shape[0], attn.W_Q.shape[-1]
        self.n_kv = (len(self.W) // d_head - heads) // 2
        self.groups, self.sizes = heads // self.n_kv, (heads, self.n_kv, self.n_kv)
        self.rotate = Rotation(attn) if rotary else None
        self.q_norm, self.k_norm = (
            _head_norm(attn, name, saved, heads) for name, heads in (("q_norm", heads), ("k_norm", self.n_kv))
        )
        q, k = (saved[f"attn.hook_rot_{n}" if rotary else f"attn.hook_{n}"] for n in ("q", "k"))
        scale = float(attn.attn_scale)
        # key-value head first: every product is then one batched matrix multiplication over it
        self.q = rearrange(q / scale, "pos (kv group) d_head -> kv (group pos) d_head", kv=self.n_kv)
        self.k = rearrange(k / scale, "pos kv d_head -> kv d_head pos")
        self.v = rearrange(saved["attn.hook_v"], "pos kv d_head -> kv pos d_head")
        self.pattern = rearrange(saved["attn.hook_pattern"], "(kv group) query key -> kv group query key", kv=self.n_kv)

    def _project(self, tangent: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        found = rearrange(
            F.linear(tangent, self.W), "n pos (head d_head) -> n pos head d_head", d_head=self.v.shape[-1]
        )
        dq, dk, dv = found.split(self.sizes, dim=2)
        norms = ((dq, self.q_norm), (dk, self.k_norm))
        dq, dk = (part if norm is None else norm(part, slice(start, None)) for part, norm in norms)
        if self.rotate is not None:
            dq, dk = self.rotate(dq, start), self.rotate(dk, start)
        return dq, dk, dv

    def __call__(self, tangent: Tensor, start: int) -> Tensor:
        n, pos = tangent.shape[:2]
        kv, group = self.n_kv, self.groups
        dq, dk, dv = self._project(tangent, start)
        dv = rearrange(dv, "n pos kv d_head -> kv pos (n d_head)")
        # d scores at the perturbed queries: through the query at all keys, through the key at the perturbed ones
        dq = rearrange(dq, "n pos (kv group) d_head -> kv (n group pos) d_head", kv=kv)
        scores = rearrange(torch.bmm(dq, self.k), "kv (n group q) k -> kv n group q k", n=n, group=group)
        q = rearrange(self.q, "kv (group pos) d_head -> kv group pos d_head", group=group)[:, :, start:]
        through_key = torch.bmm(
            rearrange(dk, "n pos kv d_head -> kv (n pos) d_head"),
            rearrange(q, "kv group pos d_head -> kv d_head (group pos)"),
        )
        scores[..., start:].add_(rearrange(through_key, "kv (n k) (group q) -> kv n group q k", n=n, group=group))
        # d pattern; a masked key has pattern 0 and stays so
        pattern = self.pattern[:, None, :, start:]
        scores.mul_(pattern).addcmul_(pattern, scores.sum(dim=-1, keepdim=True), value=-1)
        dz = torch.bmm(rearrange(scores, "kv n group q k -> kv (n group q) k"), self.v)
        through_value = torch.bmm(rearrange(pattern[:, 0, ..., start:], "kv group q k -> kv (group q) k"), dv)
        dz = rearrange(dz, "kv (n group q) d_head -> n q kv group d_head", n=n, group=group)
        dz = dz + rearrange(through_value, "kv (group q) (n d_head) -> n q kv group d_head", n=n, group=group)
        return F.linear(dz.reshape(n, pos, -1), self.W_O)


class _MLPTangent:
    """d post = act'(pre) d pre, and for gated layers act'(pre) linear d pre + act(pre) d linear."""

    def __init__(self, mlp: Any, saved: dict[str, Tensor]):
        gate = getattr(mlp, "W_gate", None)
        self.gate, self.W_in, self.W_out = None if gate is None else gate.T, mlp.W_in.T, mlp.W_out.T
        self.value, self.slope = _value_and_slope(mlp.act_fn, saved["mlp.hook_pre"])
        if gate is not None:
            self.slope = self.slope * saved["mlp.hook_pre_linear"]

    def __call__(self, tangent: Tensor, where: slice) -> Tensor:
        inner = F.linear(tangent, self.W_in)
        if self.gate is None:
            return F.linear(inner.mul_(self.slope[where]), self.W_out)
        inner.mul_(self.value[where]).addcmul_(F.linear(tangent, self.gate), self.slope[where])
        return F.linear(inner, self.W_out)


class Rotation:
    """The rotary embedding of a block: pairs of a head's dimensions are turned by an angle of their position."""

    def __init__(self, attn: Any):
        cfg = attn.cfg
        cos, self.sin = (table[:, None] for table in (attn.rotary_cos, attn.rotary_sin))
        self.dim = cfg.rotary_dim
        self.cos = F.pad(cos, (0, cfg.d_head - self.dim), value=1.0) if self.dim < cfg.d_head else cos
        half = self.dim // 2
        adjacent = slice(0, self.dim, 2), slice(1, self.dim, 2)
        self.pair = adjacent if cfg.rotary_adjacent_pairs else (slice(0, half), slice(half, self.dim))

    def __call__(self, x: Float[Tensor, "n pos head d_head"], start: int = 0) -> Float[Tensor, "n pos head d_head"]:
        where, (one, other) = slice(start, start + x.shape[1]), self.pair
        sin, out = self.sin[where], x * self.cos[where]
        out[..., one].addcmul_(x[..., other], sin[..., one], value=-1)
        out[..., other].addcmul_(x[..., one], sin[..., other])
        return out


def flat_heads(attn: Any, name: str) -> Float[Tensor, "head_d_head d_model"]:
    """Return W_Q, or W_K or W_V of the key-value heads alone, as one matrix that `F.linear` takes."""
    weight = getattr(attn, f"_{name}", None)  # grouped-query attention: the plain names are repeated to the query heads
    weight = getattr(attn, name) if weight is None else weight
    return rearrange(weight, "head_index d_model d_head -> (head_index d_head) d_model")


def _head_norm(attn: Any, name: str, saved: dict[str, Tensor], heads: int) -> _NormTangent | None:
    norm = getattr(attn, name, None)
    if norm is None:
        return None
    scale, normalized = (
        rearrange(saved[f"attn.{name}.hook_{what}"], "(pos head) length -> pos head length", head=heads)
        for what in ("scale", "normalized")
    )
    return _NormTangent(norm, scale, normalized)


def _value_and_slope(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        at = at.detach().requires_grad_(True)
        value = function(at)
        (slope,) = torch.autograd.grad(value.sum(), at)
    return value.detach(), slope
