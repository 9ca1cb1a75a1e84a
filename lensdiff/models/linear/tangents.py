"""The derivatives of a block's parts, for many directions at once, at the values that one pass had there.

    norm      dy = (gain / s) (dx - x^ mean(x^ dx))    x^ = normalised input, s = scale; dx centred for LayerNorm
    scores    dS = (dq k^T + q dk^T) scale             times 1 - (S / cap)^2 where the scores have a soft cap;
                                                       rotary embedding is linear: it acts on dq as on q
    pattern   dA = A (dS - sum_key A dS)               a masked key (of the future, or before a window) has A = 0
    MLP       d post = act'(pre) d pre                 gated: act'(gate) linear d gate + act(gate) d linear

Biases drop out, whatever is added to scores too. A primal value that is made here on the way is held against the one of
the pass (`Checks`): a formula that is not the model's is no derivative of it.

Memory: that of one layer's activations times the number of directions.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


class Checks:
    """What must hold of a pass; nobody waits for the device before all is collected."""

    def __init__(self, close: float):
        self.close, self._found = close, []

    def equal(self, made: Tensor, expected: Tensor, close: float | None = None) -> None:
        """Take note whether two values are one."""
        largest = expected.abs().amax().clamp(min=1e-30)
        self._found.append((made - expected).abs().amax() <= (close or self.close) * largest)

    def hold(self) -> bool:
        """Whether all that was noted was equal."""
        return bool(torch.stack(self._found).all())


class Norm(NamedTuple):
    """A norm at the positions of a pass: x^ [*, width], and what its output is scaled by."""

    normalized: Tensor
    factor: Tensor
    centred: bool

    def __call__(self, tangent: Tensor, where: slice) -> Tensor:
        """Return the derivative of its output at some positions, by that of its input there."""
        normalized = self.normalized[where]
        along = torch.linalg.vecdot(tangent, normalized).unsqueeze(-1).div_(tangent.shape[-1])
        out = torch.addcmul(tangent, along, normalized, value=-1)
        if self.centred:
            out.sub_(tangent.mean(dim=-1, keepdim=True))
        return out.mul_(self.factor[where])


def norm_at(
    x: Float[Tensor, "*rows width"], gain: Tensor | None, bias: Tensor | None, *, centred: bool, eps: float
) -> tuple[Norm, Float[Tensor, "*rows width"]]:
    """Return a norm at x, and what it makes of x."""
    moved = x - x.mean(dim=-1, keepdim=True) if centred else x
    scale = (moved.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    factor = scale if gain is None else scale * gain
    made = moved * factor
    return Norm(moved * scale, factor, centred), made if bias is None else made + bias


class Rotation(NamedTuple):
    """Rotary embedding: pairs of a head's first numbers are turned by position; the rest stays.

    Attributes:
        cos, sin: [pos, pair].
        neighbours: pairs are (0, 1), (2, 3), ...; else the halves of what is turned.
    """

    cos: Tensor
    sin: Tensor
    neighbours: bool

    def __call__(
        self, heads: Float[Tensor, "*n pos head d_head"], start: int = 0
    ) -> Float[Tensor, "*n pos head d_head"]:
        """Turn the heads at positions from `start` on."""
        cos, sin = self.cos[start:, None], self.sin[start:, None]
        width = 2 * cos.shape[-1]
        turned = heads[..., :width]
        a, b = (turned[..., 0::2], turned[..., 1::2]) if self.neighbours else turned.chunk(2, dim=-1)
        pair = (a * cos - b * sin, b * cos + a * sin)
        turned = torch.stack(pair, dim=-1).flatten(-2) if self.neighbours else torch.cat(pair, dim=-1)
        return turned if width == heads.shape[-1] else torch.cat([turned, heads[..., width:]], dim=-1)


class HeadNorm(NamedTuple):
    """A norm of queries or keys: of every head by itself, or of all heads side by side (OLMo 2)."""

    norm: Norm
    flat: bool

    def __call__(self, heads: Float[Tensor, "n pos head d_head"], where: slice) -> Float[Tensor, "n pos head d_head"]:
        """As `Norm`."""
        if not self.flat:
            return self.norm(heads, where)
        return self.norm(heads.flatten(-2), where).unflatten(-1, heads.shape[-2:])


class AttentionMatrices(NamedTuple):
    """[out, in], as `F.linear` takes them."""

    W_Q: Float[Tensor, "q_out d_model"]
    W_K: Float[Tensor, "kv_out d_model"]
    W_V: Float[Tensor, "kv_out d_model"]
    W_O: Float[Tensor, "d_model z_out"]


class Attention:
    """dz = dA v + A dv with dA = A (dS - sum_key A dS) and dS = slope (dq k^T + q dk^T) scale.

    Args:
        q, k: rotated, [pos head d_head], k and v with their own heads; pattern [head_index query_pos key_pos].
        cap: the soft cap of the scores; bias: what is added to them behind it.
    """

    def __init__(
        self,
        matrices: AttentionMatrices,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        pattern: Tensor,
        *,
        scale: float,
        cap: float | None,
        bias: Tensor | None,
        rotate: Rotation | None,
        q_norm: HeadNorm | None,
        k_norm: HeadNorm | None,
    ):
        self.matrices, self.rotate, self.q_norm, self.k_norm = matrices, rotate, q_norm, k_norm
        self.n_kv, self.groups = k.shape[1], q.shape[1] // k.shape[1]
        # key-value head first: every product is then one batched matrix multiplication over it
        self.q = rearrange(q, "pos (kv group) d_head -> kv (group pos) d_head", kv=self.n_kv)
        self.k = rearrange(k * scale, "pos kv d_head -> kv d_head pos")
        self.v = rearrange(v, "pos kv d_head -> kv pos d_head")
        self.pattern = rearrange(pattern, "(kv group) query key -> kv group query key", kv=self.n_kv)
        self.scores, self.slope = torch.bmm(self.q, self.k).unflatten(1, (self.groups, -1)), None
        if cap is not None:
            bent = torch.tanh(self.scores / cap)
            self.scores, self.slope = cap * bent, 1 - bent.square()
        if bias is not None:
            self.scores = self.scores + rearrange(bias, "(kv group) q k -> kv group q k", kv=self.n_kv)
        self.q = self.q * scale

    def check(self, z: Float[Tensor, "pos z_out"], checks: Checks, close: float) -> None:
        """Note whether softmax makes the pattern of these scores, and the pattern z of these values."""
        made = self.scores.masked_fill(self.pattern == 0, -torch.inf).softmax(dim=-1)
        checks.equal(made, self.pattern, close)
        mixed = rearrange(self.pattern @ self.v[:, None], "kv group pos d_head -> pos (kv group d_head)")
        checks.equal(mixed, z)

    def _project(self, tangent: Tensor, W: Tensor, norm: HeadNorm | None, start: int) -> Tensor:
        heads = rearrange(F.linear(tangent, W), "n pos (head d_head) -> n pos head d_head", d_head=self.v.shape[-1])
        if norm is not None:
            heads = norm(heads, slice(start, None))
        return heads if self.rotate is None else self.rotate(heads, start)

    def __call__(self, tangent: Float[Tensor, "n pos d_model"], start: int) -> Float[Tensor, "n pos d_model"]:
        """Return the derivative of what attention makes at positions from `start` on, by that of what it reads."""
        n, pos = tangent.shape[:2]
        kv, group = self.n_kv, self.groups
        dq = self._project(tangent, self.matrices.W_Q, self.q_norm, start)
        dk = self._project(tangent, self.matrices.W_K, self.k_norm, start)
        dv = rearrange(F.linear(tangent, self.matrices.W_V), "n pos (kv d_head) -> kv pos (n d_head)", kv=kv)
        # d scores at the perturbed queries: through the query at all keys, through the key at the perturbed ones
        dq = rearrange(dq, "n pos (kv group) d_head -> kv (n group pos) d_head", kv=kv)
        scores = rearrange(torch.bmm(dq, self.k), "kv (n group q) k -> kv n group q k", n=n, group=group)
        q = rearrange(self.q, "kv (group pos) d_head -> kv group pos d_head", group=group)[:, :, start:]
        through_key = torch.bmm(
            rearrange(dk, "n pos kv d_head -> kv (n pos) d_head"),
            rearrange(q, "kv group pos d_head -> kv d_head (group pos)"),
        )
        scores[..., start:].add_(rearrange(through_key, "kv (n k) (group q) -> kv n group q k", n=n, group=group))
        if self.slope is not None:
            scores.mul_(self.slope[:, None, :, start:])
        # d pattern; a masked key has pattern 0 and stays so
        pattern = self.pattern[:, None, :, start:]
        scores.mul_(pattern).addcmul_(pattern, scores.sum(dim=-1, keepdim=True), value=-1)
        dz = torch.bmm(rearrange(scores, "kv n group q k -> kv (n group q) k"), self.v)
        through_value = torch.bmm(rearrange(pattern[:, 0, ..., start:], "kv group q k -> kv (group q) k"), dv)
        dz = rearrange(dz, "kv (n group q) d_head -> n q kv group d_head", n=n, group=group)
        dz = dz + rearrange(through_value, "kv (group q) (n d_head) -> n q kv group d_head", n=n, group=group)
        return F.linear(dz.reshape(n, pos, -1), self.matrices.W_O)


class MLP:
    """d post = act'(pre) d pre, and for gated layers act'(gate) linear d gate + act(gate) d linear.

    Args:
        pre, gate: what W_in and W_gate make, with their biases.
        W_in, W_gate, W_out: [out, in].
    """

    def __init__(
        self,
        act: Callable[[Tensor], Tensor],
        pre: Float[Tensor, "pos d_mlp"],
        gate: Float[Tensor, "pos d_mlp"] | None,
        W_in: Tensor,
        W_gate: Tensor | None,
        W_out: Tensor,
    ):
        self.W_in, self.W_gate, self.W_out = W_in, W_gate, W_out
        self.value, self.slope = value_and_slope(act, pre if gate is None else gate)
        self.post = self.value if gate is None else self.value * pre
        if gate is not None:
            self.slope = self.slope * pre

    def __call__(self, tangent: Float[Tensor, "n pos d_model"], where: slice) -> Float[Tensor, "n pos d_model"]:
        """Return the derivative of what the MLP makes at some positions, by that of what it reads there."""
        inner = F.linear(tangent, self.W_in)
        if self.W_gate is None:
            return F.linear(inner.mul_(self.slope[where]), self.W_out)
        inner.mul_(self.value[where]).addcmul_(F.linear(tangent, self.W_gate), self.slope[where])
        return F.linear(inner, self.W_out)


def value_and_slope(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """Return an elementwise function and its derivative."""
    with torch.enable_grad():
        at = at.detach().requires_grad_(True)
        value = function(at)
        (slope,) = torch.autograd.grad(value.sum(), at)
    return value.detach(), slope


class Block(NamedTuple):
    """The derivative of a block: its parts, each with a norm before and behind it where it has one.

    Attributes:
        attn_scale, mlp_scale: by what a part is multiplied on its way into the stream (Granite).
        parallel: the MLP reads what enters the block; shared: through the attention's norm.
    """

    attention: Attention
    mlp: MLP
    attn_norm: Norm | None
    mlp_norm: Norm | None
    attn_post: Norm | None
    mlp_post: Norm | None
    attn_scale: float
    mlp_scale: float
    parallel: bool
    shared: bool

    def __call__(self, tangent: Float[Tensor, "n pos d_model"], start: int) -> Float[Tensor, "n pos d_model"]:
        """Return the derivative of the stream behind the block at positions from `start` on."""
        where = slice(start, None)
        read = tangent if self.attn_norm is None else self.attn_norm(tangent, where)
        added = _on_its_way(self.attention(read, start), self.attn_post, self.attn_scale, where)
        mid = added + tangent
        if not self.shared:
            source = tangent if self.parallel else mid
            read = source if self.mlp_norm is None else self.mlp_norm(source, where)
        return _on_its_way(self.mlp(read, where), self.mlp_post, self.mlp_scale, where).add_(mid)


def _on_its_way(made: Tensor, post: Norm | None, scale: float, where: slice) -> Tensor:
    made = made if post is None else post(made, where)
    return made if scale == 1.0 else made.mul_(scale)
