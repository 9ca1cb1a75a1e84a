"""The parts that add up to a logit: of one model and one text, in its own arithmetic.

With u = W_U[:, y] (less W_U[:, against] where a difference is asked for), times the logits' scale, the pre-cap logit is
u . final + bias. Every norm between a part and the unembedding is frozen (see `frozen`), which turns u into a direction
v in the stream, and for a layer with a post-norm v into a direction w behind W_O:

    embed, pos_embed   v . (what enters the first layer), its position embedding apart where it has one
    head h of layer l  w . (z_h W_O[h])                 its value bias, which every pattern sums to 1, is in z
    mlp of layer l     v . mlp_out                      its own bias with it
    bias               v . b_O of every layer, what post-norms and the final norm add, and the unembedding's bias

A LayerNorm takes the mean of its input away; as that is linear, it is taken from every part.

Memory: z, attention's and the MLP's output at the positions that predict the response; passes of 256 MB of activations.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.residual_stream.forced import Read, groups
from lensdiff.models import ModelView, Point
from lensdiff.models.inside.frozen import Frozen, Pending, freeze, settle
from lensdiff.models.inside.meaning import LogitMap
from lensdiff.models.inside.tape import CLOSE
from lensdiff.results import InputError


class Part(NamedTuple):
    """What writes into the stream: "embed", "pos_embed", "head", "mlp" or "bias"; a head has a layer and a number."""

    kind: str
    layer: int | None = None
    head: int | None = None

    def __str__(self) -> str:
        if self.kind == "head":
            return f"head {self.layer}.{self.head}"
        return self.kind if self.layer is None else f"{self.kind} {self.layer}"


@dataclass(frozen=True, eq=False)
class Split:
    """What each part adds to the pre-cap logit of each response token, in logits; `logit` is what they add up to."""

    parts: tuple[Part, ...]
    values: Float[Tensor, "part out_pos"]
    logit: Float[Tensor, " out_pos"]


def parts_of(n_layers: int, n_heads: int, *, positions: bool) -> tuple[Part, ...]:
    """Return the parts of a model in their order: embeddings, each layer's heads and MLP, biases."""
    of_layers = [
        part
        for layer in range(n_layers)
        for part in (*(Part("head", layer, head) for head in range(n_heads)), Part("mlp", layer))
    ]
    first = [Part("embed"), *([Part("pos_embed")] if positions else [])]
    return (*first, *of_layers, Part("bias"))


@torch.no_grad()
def split(view: ModelView, text: Read, against: Int[Tensor, " out_pos"] | None) -> Split:
    """Return the parts of the logits of a response's tokens, less those of other tokens at the same positions.

    Raises:
        InputError: something between the parts and the logits is not understood, or the parts do not add up.
    """
    view = view.whole()
    sizes, found = view.weights.sizes, dict[Part, Tensor]()
    layers = _layers(view, text)
    ends = next(layers)
    u, bias = _direction(view, text.said, against)
    work = u.dtype
    where, final = f"the end of {view.info.id}", view.meaning.gains[("final", 0)]
    pending: Pending = []
    norm = freeze(view.forward.wrapper, final, ends.last.to(work), ends.final.to(work), where, pending)
    logit = (ends.final.to(work) * u).sum(dim=-1) + bias
    v = norm.before(u)
    biases = bias if norm.bias is None else bias + u @ norm.bias
    for at in layers:
        heads, added = _heads(view, at, v, pending)
        biases = biases + added
        for head in range(sizes.n_heads):
            found[Part("head", at.layer, head)] = heads[head]
        found[Part("mlp", at.layer)] = (v * at.mlp_out.to(work)).sum(dim=-1)
        if at.layer == 0:
            found |= _embeddings(view, text, at.entered.to(work), v)
    settle(pending)
    parts = parts_of(sizes.n_layers, sizes.n_heads, positions=Part("pos_embed") in found)
    values = torch.stack([found.get(part, biases) for part in parts])
    _check_sum(view, values, logit)
    return Split(parts, values.double().cpu(), logit.double().cpu())


class _Ends(NamedTuple):
    last: Float[Tensor, "out_pos d_model"]
    final: Float[Tensor, "out_pos d_model"]


class _At(NamedTuple):
    """What one layer wrote at the positions that predict the response; `entered` is of the first layer alone."""

    layer: int
    z: Float[Tensor, "out_pos head_index d_head"]
    attn_out: Float[Tensor, "out_pos d_model"]
    mlp_out: Float[Tensor, "out_pos d_model"]
    entered: Float[Tensor, "out_pos d_model"]


def _layers(view: ModelView, text: Read) -> Iterator:
    """Yield the ends of the model, then each of its layers from the last to the first."""
    sizes, tokens = view.weights.sizes, text.ids[None]
    size = tokens.numel() * sizes.dtype.itemsize * (3 * sizes.d_model + sizes.n_heads * sizes.d_head)
    final, last = Point("final"), Point("resid_post", sizes.n_layers - 1)
    ends = [last, final]
    for some in groups(range(sizes.n_layers)[::-1], size):
        names = ("z", "attn_out", "mlp_out", "resid_pre")
        points = [Point(name, layer) for layer in some for name in names]  # pyright: ignore[reportArgumentType]
        found = view.forward.run(tokens, read=[*points, *ends], until=final if ends else Point("resid_post", some[0]))
        found = {point: value[0, text.first :] for point, value in found.items()}
        if ends:
            yield _Ends(found[last], found[final])
        ends = []
        for layer in some:
            yield _At(layer, *(found[Point(name, layer)] for name in names))  # pyright: ignore[reportArgumentType]


def _direction(
    view: ModelView, said: Int[Tensor, " out_pos"], against: Int[Tensor, " out_pos"] | None
) -> tuple[Float[Tensor, "out_pos d_model"], Float[Tensor, " out_pos"]]:
    """Return what reads the pre-cap logits from the unembedding's input, and the unembedding's bias there.

    Raises:
        InputError: the logits follow from the unembedding's output in a way that has not been understood.
    """
    weights, found = view.weights, view.meaning.logits
    if not isinstance(found, LogitMap):
        raise InputError(f"the unembedding of {view.info.id} cannot be followed: {found.reason}")
    W_U, b_U = weights.W_U, weights.b_U
    work = torch.promote_types(W_U.dtype, torch.float32)

    def read(ids: Tensor) -> tuple[Tensor, Tensor]:
        ids = ids.to(W_U.device)
        own = torch.zeros(len(ids), dtype=work, device=W_U.device) if b_U is None else b_U[ids].to(work)
        return W_U[:, ids].T.to(work), own

    u, bias = read(said)
    if against is not None:
        other, theirs = read(against)
        u, bias = u - other, bias - theirs
    return u * found.scale, bias * found.scale


def _heads(
    view: ModelView, at: _At, v: Float[Tensor, "out_pos d_model"], pending: Pending
) -> tuple[Float[Tensor, "head_index out_pos"], Float[Tensor, " out_pos"]]:
    """Return what each head adds, and what the biases behind them do.

    Args:
        pending: takes whether what attention adds follows from its heads.

    Raises:
        InputError: W_O cannot be read.
    """
    W_O, b_O = view.weights.needed_matrix(at.layer, "W_O").to(v), view.weights.bias(at.layer, "b_O")
    z = at.z.to(v)
    raw = rearrange(z, "pos head d_head -> pos (head d_head)") @ rearrange(W_O, "head d_head d -> (head d_head) d")
    raw = raw if b_O is None else raw + b_O.to(v)
    where = f"attention of layer {at.layer} of {view.info.id}"
    post: Frozen = freeze(view.forward.wrapper, view.meaning.posts[at.layer], raw, at.attn_out.to(v), where, pending)
    w = post.before(v)
    heads = einsum(
        z, einsum(W_O, w, "head d_head d, pos d -> pos head d_head"), "pos head d_head, pos head d_head -> head pos"
    )
    biases = torch.zeros_like(v[:, 0]) if post.bias is None else v @ post.bias
    return heads, biases if b_O is None else biases + w @ b_O.to(v)


def _embeddings(
    view: ModelView, text: Read, entered: Float[Tensor, "out_pos d_model"], v: Float[Tensor, "out_pos d_model"]
) -> dict[Part, Tensor]:
    W_pos, whole = view.weights.W_pos, (v * entered).sum(dim=-1)
    if W_pos is None:
        return {Part("embed"): whole}
    positions = (v * W_pos[text.first : len(text.ids)].to(v)).sum(dim=-1)
    return {Part("embed"): whole - positions, Part("pos_embed"): positions}


def _check_sum(view: ModelView, values: Float[Tensor, "part out_pos"], logit: Float[Tensor, " out_pos"]) -> None:
    """Refuse parts that do not add up to the logit: rounding is measured by the sum of their sizes."""
    gap, size = (values.sum(dim=0) - logit).abs(), values.abs().sum(dim=0)
    if bool((gap > CLOSE[view.dtype] * size).any()):
        raise InputError(
            f"the parts of {view.info.id} do not add up to its logits: they differ by {float(gap.max()):.2g}"
        )
