"""The derivative of a whole model in one pass of its own, given the plan of its blocks.

As the pass leaves a block, the tangents of all directions follow by matrix products at the values that stood in it.
Causality saves work: a perturbation of position n leaves every earlier position untouched, so directions come in chunks
and each chunk computes only from its first perturbed position on. What the plan makes of norms, patterns, activations
and the stream is held against what stands there, in every pass.

Memory: the tangents of the residual stream [direction, pos, d_model] and one layer's activations times the chunk.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from lensdiff.models.inside.parts import MatrixName
from lensdiff.models.inside.points import Point
from lensdiff.models.inside.record import BlockRecord, recorded_modules
from lensdiff.models.inside.tape import CLOSE, recorded
from lensdiff.models.inside.wrappers import Wrapper
from lensdiff.models.linear.forms import PATTERN, NormPlan, NotUnderstood, lean, norm_of, rotation_of, turned
from lensdiff.models.linear.plan import ACTIVATIONS, BlockPlan, Plan, norms_of
from lensdiff.models.linear.seen import NotSeen, Seen, angles_seen, see
from lensdiff.models.linear.tangents import MLP, Attention, AttentionMatrices, Block, Checks, Norm
from lensdiff.models.view import ModelView


class Pushed(NamedTuple):
    """The tangents, and the unembedding's input h itself, at the output positions."""

    tangents: Float[Tensor, "direction out_pos d_model"]
    hidden: Float[Tensor, "out_pos d_model"]


class NotLinear(Exception):
    """A pass did not go as the plan says: its derivative is to be had in another way."""


@torch.no_grad()
def tangents_behind(
    view: ModelView,
    plan: Plan,
    tokens: Tensor,
    directions: Tensor,
    positions: Tensor,
    out: slice,
    embedded: Tensor | None,
    rows: int,
) -> Pushed:
    """Return what `push.push_tangents` says, by a plan.

    Raises:
        NotLinear: the pass did not go as the plan says.
    """
    length = len(tokens)
    chunks = _chunks(positions.tolist(), length, rows)
    tangents = [_start(directions[a:b] * plan.embedding, positions[a:b], s, length) for a, b, s in chunks]
    embedded = view.forward.embed(tokens[None])[0] if embedded is None else embedded
    begun, entered = _begun(view, plan, embedded)
    if begun is not None:
        tangents = [begun(tangent, slice(s, None)) for tangent, (_, _, s) in zip(tangents, chunks, strict=True)]

    def step(block: Block) -> None:
        for i, (_, _, s) in enumerate(chunks):
            tangents[i] = block(tangents[i], s)  # in its place: one layer's are in memory, not two

    norm, hidden = _differentiated(view, plan, tokens, embedded, entered, step)
    start, stop, _ = out.indices(length)
    result = directions.new_zeros(len(directions), stop - start, directions.shape[1])
    for tangent, (a, b, s) in zip(tangents, chunks, strict=True):
        first = max(start, s)
        behind = tangent[:, first - s : stop - s]
        result[a:b, first - start :] = behind if norm is None else norm(behind, slice(first, stop))
    return Pushed(result, hidden[out])


def _begun(view: ModelView, plan: Plan, embedded: Tensor) -> tuple[Norm | None, Tensor]:
    """Return the norm behind the embedding, and the stream that enters the first block."""
    wrapper = view.forward.wrapper
    positions = None if view.weights.meaning.positions else wrapper.W_pos()
    summed = embedded * plan.embedding
    summed = summed if positions is None else summed + positions[: len(summed)]
    return (None, summed) if plan.start is None else norm_of(wrapper, plan.start, summed)


def _differentiated(
    view: ModelView, plan: Plan, tokens: Tensor, embedded: Tensor, entered: Tensor, step: Callable[[Block], None]
) -> tuple[Norm | None, Tensor]:
    """Run the model, hand out every block's derivative as the pass leaves it; return the final norm's, and h."""
    wrapper, meaning = view.forward.wrapper, view.weights.meaning
    checks, norms, final = Checks(CLOSE[view.dtype]), norms_of(wrapper), Point("final")
    write = {Point("embed"): lambda _: embedded[None]}
    view.forward.require(write=write)  # measured by passes of its own, which must not be taken for this one
    stream = entered  # what the next block is to be given
    with (
        wrapper.lock,
        recorded(recorded_modules(wrapper)) as tape,
        angles_seen(wrapper) as angles,
        ExitStack() as stack,
    ):

        def leave(layer: int) -> Callable[..., None]:
            def left(module: nn.Module, args: tuple, out: Any) -> None:
                nonlocal stream
                seen = see(BlockRecord(wrapper, layer, tape, norms), meaning, angles)
                checks.equal(seen.entered, stream)
                stream = seen.left
                step(_block_at(wrapper, plan.blocks[layer], layer, seen, checks))
                tape.ins.clear()
                tape.outs.clear()

            return left

        for layer, block in enumerate(wrapper.model.blocks):
            stack.callback(block.register_forward_hook(leave(layer)).remove)
        try:
            hidden = view.forward.run(tokens[None], read=[final], write=write, until=final)[final][0]
        except (NotSeen, NotUnderstood) as error:
            raise NotLinear(str(error)) from error
    norm = _checked(wrapper, plan.final, stream, hidden, checks)
    if not checks.hold():
        raise NotLinear("a value of the pass is not what the plan makes of it")
    return norm, hidden


def _block_at(wrapper: Wrapper, plan: BlockPlan, layer: int, seen: Seen, checks: Checks) -> Block:
    mid = seen.entered + seen.attn_out
    checks.equal(seen.left, mid + seen.mlp_out)
    attn_norm = _checked(wrapper, plan.attn_norm, seen.entered, seen.attn_read, checks)
    mlp_norm = _checked(wrapper, plan.mlp_norm, seen.entered if plan.parallel else mid, seen.mlp_read, checks)
    attn_post = _checked(wrapper, plan.attn_post, seen.attn_made, seen.attn_added, checks)
    mlp_post = _checked(wrapper, plan.mlp_post, seen.mlp_made, seen.mlp_added, checks)
    return Block(
        _attention(wrapper, plan, layer, seen, checks),
        _mlp(wrapper, plan, layer, seen, checks),
        *(attn_norm, mlp_norm, attn_post, mlp_post, seen.attn_scale, seen.mlp_scale, plan.parallel, plan.shared),
    )


def _checked(wrapper: Wrapper, plan: NormPlan | None, x: Tensor, expected: Tensor, checks: Checks) -> Norm | None:
    norm, made = (None, x) if plan is None else norm_of(wrapper, plan, x)
    checks.equal(made, expected.reshape(made.shape))
    return norm


def _attention(wrapper: Wrapper, plan: BlockPlan, layer: int, seen: Seen, checks: Checks) -> Attention:
    rotate = rotation_of(plan.turn, seen.angles)
    (q, q_norm), (k, k_norm) = (
        turned(wrapper, heads, norm, rotate) for heads, norm in ((seen.q, plan.q_norm), (seen.k, plan.k_norm))
    )
    matrices = AttentionMatrices(
        head_rows(wrapper, layer, "W_Q"),
        head_rows(wrapper, layer, "W_K"),
        head_rows(wrapper, layer, "W_V"),
        rearrange(_needed(wrapper, layer, "W_O"), "head d_head d_model -> d_model (head d_head)"),
    )
    attention = Attention(
        *(matrices, q, k, seen.v, seen.pattern),
        scale=plan.scale,
        cap=wrapper.attention_soft_cap(),
        bias=None if plan.slopes is None else lean(plan.slopes, len(k)).to(k),
        rotate=rotate,
        q_norm=q_norm,
        k_norm=k_norm,
    )
    attention.check(seen.z, checks, PATTERN.get(seen.pattern.dtype, checks.close))
    return attention


def _mlp(wrapper: Wrapper, plan: BlockPlan, layer: int, seen: Seen, checks: Checks) -> MLP:
    gate = wrapper.matrix(layer, "W_gate")
    mlp = MLP(
        *(ACTIVATIONS[plan.activation], seen.pre, seen.gate),
        *(_needed(wrapper, layer, "W_in").T, None if gate is None else gate.T, _needed(wrapper, layer, "W_out").T),
    )
    checks.equal(mlp.post, seen.post)
    return mlp


def head_rows(wrapper: Wrapper, layer: int, name: MatrixName) -> Float[Tensor, "head_d_head d_model"]:
    """Return W_Q, or W_K or W_V of the key-value heads alone, as one matrix that `F.linear` takes.

    Raises:
        NotSeen: the layer has none.
    """
    return rearrange(_needed(wrapper, layer, name), "head d_model d_head -> (head d_head) d_model")


def _needed(wrapper: Wrapper, layer: int, name: MatrixName) -> Tensor:
    found = wrapper.matrix(layer, name)
    if found is None:
        raise NotSeen(f"{name} of layer {layer}")
    return found


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
