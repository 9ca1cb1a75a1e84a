"""What a model's blocks are made of, measured on one short pass, so far as `tangents` can differentiate them.

Of every block: which norms stand before and behind its parts, what its MLP reads, how queries and keys are normed,
turned and scaled before softmax (`scores`), and its activation. Each is the one of a few known forms that explains the
values of the pass; where none does, the model is not differentiated by hand (`NotUnderstood`). Nothing is decided by a
family's name.

Memory: the recorded activations of a few tokens in every layer.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lensdiff.models.inside.meaning import Meaning
from lensdiff.models.inside.norms import Unknown, is_norm, norm_weight, scale_of
from lensdiff.models.inside.parts import MATRICES, Sizes
from lensdiff.models.inside.points import Point, Site
from lensdiff.models.inside.record import BlockRecord
from lensdiff.models.inside.tape import CLOSE, Tape, same
from lensdiff.models.inside.wrappers import Wrapper
from lensdiff.models.linear.forms import NormPlan, NotUnderstood, RotationPlan, least_squares, require
from lensdiff.models.linear.scores import scores_of
from lensdiff.models.linear.seen import Angles, Seen, see

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_rounded": lambda x: 0.5 * x * (1 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))),  # BLOOM
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


class BlockPlan(NamedTuple):
    """One block; see `tangents.Block`, None where there is nothing of the kind."""

    attn_norm: NormPlan | None
    mlp_norm: NormPlan | None
    attn_post: NormPlan | None
    mlp_post: NormPlan | None
    parallel: bool
    shared: bool
    q_norm: NormPlan | None
    k_norm: NormPlan | None
    turn: RotationPlan | None
    scale: float
    slopes: Tensor | None
    activation: str


class Plan(NamedTuple):
    """A whole model; its stream begins as `embedding` times what the embedding gives, positions added, then normed."""

    embedding: float
    start: NormPlan | None
    blocks: tuple[BlockPlan, ...]
    final: NormPlan | None


Norms = dict[int, tuple[str, nn.Module]]


def norms_of(wrapper: Wrapper) -> Norms:
    """Return by identity what may be a norm, with its path."""
    return {id(module): (path, module) for path, module in wrapper.model.named_modules() if is_norm(module)}


def plan_of(wrapper: Wrapper, meaning: Meaning, tape: Tape, norms: Norms, angles: Angles) -> Plan:
    """Return the plan of a model, given a recorded pass.

    Raises:
        NotUnderstood: with the reason.
    """
    sizes = wrapper.sizes()
    blocks = []
    for layer in range(sizes.n_layers):
        record = BlockRecord(wrapper, layer, tape, norms)
        blocks.append(_block(wrapper, meaning, record, see(record, meaning, angles)))
    first, last = (
        _there(meaning, point, tape) for point in (Point("resid_pre", 0), Point("resid_post", sizes.n_layers - 1))
    )
    final = meaning.gains[("final", 0)]
    if isinstance(final, Unknown):
        raise NotUnderstood(final.reason)
    read = tape.read(wrapper.model.unembed)
    assert read is not None  # else its gain were unknown
    found = _norm_that_makes(read, tape, norms, CLOSE[sizes.dtype])
    require(same(last if found is None else tape.ins[found[0]], last, CLOSE[sizes.dtype]), "what the end reads")
    embedding, start = _beginning(wrapper, meaning, tape, norms, first)
    return Plan(embedding, start, tuple(blocks), None if found is None else found[1])


def _beginning(
    wrapper: Wrapper, meaning: Meaning, tape: Tape, norms: Norms, first: Tensor
) -> tuple[float, NormPlan | None]:
    embedded, close = _there(meaning, Point("embed"), tape), CLOSE[first.dtype]
    norm = _norm_that_makes(first, tape, norms, close)
    summed = first if norm is None else tape.ins[norm[0]]
    positions = None if meaning.positions else wrapper.W_pos()
    scaled = summed if positions is None else summed - positions[: summed.shape[1]]
    require(scaled.shape == embedded.shape, "how the stream begins")
    factor = least_squares(embedded, scaled)
    factor = 1.0 if abs(factor - 1.0) < close else factor
    require(same(embedded * factor, scaled, close), "how the stream begins")
    return factor, None if norm is None else norm[1]


def _block(wrapper: Wrapper, meaning: Meaning, record: BlockRecord, seen: Seen) -> BlockPlan:
    sizes, tape, close = wrapper.sizes(), record.tape, record.close
    for name in MATRICES:
        require(not (why := meaning.matrices.get((name, record.layer))), f"{name}: {why}")
    attn_norm, mlp_norm = (_norm_before(record, name) for name in ("attn", "mlp"))
    source = seen.attn_read if attn_norm is None else tape.ins[attn_norm[0]]
    require(_same_rows(source, seen.entered, close), "what attention reads")
    source = seen.mlp_read if mlp_norm is None else tape.ins[mlp_norm[0]]
    parallel = not _same_rows(source, seen.entered + seen.attn_out, close)
    require(not parallel or _same_rows(source, seen.entered, close), "what the MLP reads")
    require(same(seen.entered + seen.attn_out + seen.mlp_out, seen.left, close), "what leaves the block")
    q_norm, k_norm = (_head_norm(wrapper, meaning, record.layer, name, sizes) for name in ("q_norm", "k_norm"))
    turn, scale, slopes = scores_of(wrapper, seen, q_norm, k_norm)
    return BlockPlan(
        attn_norm and attn_norm[1],
        mlp_norm and mlp_norm[1],
        _post(record, seen.attn_made, seen.attn_added),
        _post(record, seen.mlp_made, seen.mlp_added),
        parallel,
        parallel and attn_norm is not None and mlp_norm is not None and attn_norm[0] == mlp_norm[0],
        q_norm,
        k_norm,
        turn,
        scale,
        slopes,
        _activation(seen, close),
    )


# norms
def _norm_before(record: BlockRecord, name: str) -> tuple[int, NormPlan] | None:
    key = record.norm_before(name)
    return None if key is None else (key, _norm(key, record.tape, record.norms, record.close))


def _norm_that_makes(value: Tensor, tape: Tape, norms: Norms, close: float) -> tuple[int, NormPlan] | None:
    key = next((key for key in norms if key in tape.outs and _same_rows(tape.outs[key], value, close)), None)
    return None if key is None else (key, _norm(key, tape, norms, close))


def _norm(key: int, tape: Tape, norms: Norms, close: float) -> NormPlan:
    gain = scale_of(*norms[key], tape.ins[key], tape.outs[key], close)
    if isinstance(gain, Unknown):
        raise NotUnderstood(gain.reason)
    return NormPlan(norms[key][0], gain)


def _post(record: BlockRecord, made: Tensor, added: Tensor) -> NormPlan | None:
    """Return the norm that a part's output goes through on its way into the stream."""
    if _same_rows(made, added, record.close):
        return None
    found = _norm_that_makes(added, record.tape, record.norms, record.close)
    require(found is not None and _same_rows(record.tape.ins[found[0]], made, record.close), "what follows a part")
    assert found is not None
    return found[1]


def _head_norm(wrapper: Wrapper, meaning: Meaning, layer: int, name: str, sizes: Sizes) -> NormPlan | None:
    gain = meaning.gains[(name, layer)]  # pyright: ignore[reportArgumentType]
    if isinstance(gain, Unknown):
        raise NotUnderstood(gain.reason)
    if gain.module is None:
        return None
    weight = norm_weight(wrapper.model.get_submodule(gain.module))
    assert weight is not None
    return NormPlan(gain.module, gain, flat=len(weight) != sizes.d_head)


# the MLP
def _activation(seen: Seen, close: float) -> str:
    driving = seen.pre if seen.gate is None else seen.gate
    factor = 1.0 if seen.gate is None else seen.pre
    errors = {
        name: float((function(driving) * factor - seen.post).abs().max()) for name, function in ACTIVATIONS.items()
    }
    best = min(errors, key=errors.__getitem__)
    require(errors[best] <= close * float(seen.post.abs().max()), "its activation")
    return best


# small things
def _there(meaning: Meaning, point: Point, tape: Tape) -> Tensor:
    site = meaning.points[point]
    value = site.value(tape) if isinstance(site, Site) else None
    if value is None:
        raise NotUnderstood(site.reason if isinstance(site, Unknown) else f"{point} was not passed")
    return value


def _same_rows(a: Tensor, b: Tensor, close: float) -> bool:
    return a.numel() == b.numel() and same(a.reshape(b.shape), b, close)
