"""Exact gradient x input of every response token for every prompt token, at the cost of min(N, M) passes.

    I[n,m] = < d t_m / d E[x_n], E[x_n] >         t_m = target of response token m, of the logits there

The computation is split at the unembedding's input h. t_m depends on h_m alone, so one backward pass through the
unembedding gives every g_m = d t_m / d h_m. Then, with J[m,n] = d h_m / d E[x_n],

    forward mode    I[n,m] = < g_m, J[m,n] E[x_n] >      one Jacobian-vector product an input token gives all outputs
    reverse mode    I[n,m] = < J[m,n]^T g_m, E[x_n] >    one vector-Jacobian product an output token gives all inputs

Both are exact. Forward mode keeps no graph: memory is the tangents of one layer times the chunk, which is bounded
however many tokens there are (`fitting`); reverse mode holds the graph of one pass. Forward mode goes by matrix
products through models whose derivative is known by hand (`models.linear`), and by automatic differentiation through
others, of which some cannot be run in it. Reverse mode computes no weight gradients and cuts the sequence at the
outputs it computes, where that leaves them as they are.

E[x_n] is what the embedding module gives: the token's own embedding, before positions and before a norm that follows
(BLOOM), with the scale that the module itself applies (Gemma; a constant factor cancels). Both modes also take the
derivative elsewhere (`embedded`) and along other directions than the embeddings; `paths` integrates them so.

Ignores: nothing. Sign: positive where a larger multiple of the embedding would raise the target.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.attribute.fitting import how_many, of_pass
from lensdiff.analyses.attribute.targets import Target
from lensdiff.models import ModelView, Point
from lensdiff.models.linear.passes import NotLinear
from lensdiff.models.linear.push import can_linearize, push_tangents
from lensdiff.results import InputError
from lensdiff.results.memory import is_lack_of_memory

Mode = Literal["forward", "reverse"]
# of every target at the unembedding's input, or what makes them of that input
Gradients = Float[Tensor, "out_pos d_model"] | Callable[[Float[Tensor, "out_pos d_model"]], Tensor]
_ONE_TRANSFORM = threading.Lock()  # forward-mode levels are counted for the whole process, whichever model is in them
SAME = 1e-3  # of the largest number: more than rounding, less than what another length does to a stretched rotation
REVERSE_GROUP = 8  # output tokens that share one forward pass, cut after the last of them
# of a vector-Jacobian product, in units of a tangent's row; experiments/benchmarks/attribution.py --no-rivals measured
# that both modes cost the same within 12 % where this makes them equal
REVERSE_COST = 1.6


class NoForwardMode(InputError):
    """A model does something in its forward pass that forward mode has no rule for."""


def target_gradients(
    view: ModelView,
    hidden: Float[Tensor, "out_pos d_model"],
    ids: Int[Tensor, " out_pos"],
    target: Target,
) -> tuple[Float[Tensor, " out_pos"], Float[Tensor, "out_pos d_model"]]:
    """Return the targets t_m and g_m = d t_m / d h_m, by one backward pass of their sum through the unembedding."""
    with torch.enable_grad():
        hidden = hidden.detach().requires_grad_(True)
        values = target(view.forward.unembed(hidden), ids)
        (gradients,) = torch.autograd.grad(values.sum(), hidden)
    return values.detach(), gradients


def forward_scores(
    view: ModelView,
    tokens: Int[Tensor, " pos"],
    inputs: slice,
    outputs: slice,
    gradients: Gradients,
    *,
    chunk: int | None = None,
    embedded: Float[Tensor, "pos d_model"] | None = None,
    directions: Float[Tensor, "in_pos d_model"] | None = None,
    by_hand: bool = True,
) -> Float[Tensor, "in_pos out_pos"]:
    """Return I by forward mode; `inputs` and `outputs` are positions in `tokens`, `chunk` inputs go at once.

    Args:
        gradients: of the targets, or a function that makes them of the unembedding's input at the outputs: it gets that
            of the pass that is made anyway, where the blocks are differentiated by formula.
        embedded: where the derivative is taken, by default at the tokens' own embeddings; `gradients` are taken there.
        directions: along what, by default along the embeddings.
        by_hand: by matrix products where the model's derivative is known so (`models.linear`), which is faster; else,
            and where a pass shows that it does not hold, by automatic differentiation.

    Raises:
        NoForwardMode: the model cannot be run in forward mode.
    """
    embedded = view.forward.embed(tokens[None])[0].detach() if embedded is None else embedded
    along = embedded[inputs] if directions is None else directions
    positions = torch.arange(len(tokens), device=tokens.device)[inputs]
    where = (view, tokens, positions, along, outputs, gradients, embedded, chunk)
    if by_hand and can_linearize(view):
        with suppress(NotLinear):
            return _in_chunks(*where, fast=True)
    return _in_chunks(*where, fast=False)


def _in_chunks(
    view: ModelView,
    tokens: Tensor,
    positions: Tensor,
    directions: Tensor,
    outputs: slice,
    gradients: Gradients,
    embedded: Tensor,
    chunk: int | None,
    *,
    fast: bool,
) -> Tensor:
    chunk = chunk or forward_chunk(view, len(positions), len(tokens), fast=fast)
    parts = []
    for at, some in zip(positions.split(chunk), directions.split(chunk), strict=True):
        if fast:
            tangents, hidden = push_tangents(view, tokens, some, at, outputs, embedded=embedded)
        else:
            tangents, hidden = _generic_tangents(view, tokens, embedded, some, at, outputs), None
        if not isinstance(gradients, Tensor):  # by the first chunk
            gradients = gradients(final_at(view, tokens, embedded, outputs) if hidden is None else hidden)
        parts.append(torch.einsum("nmd,md->nm", tangents, gradients))
    return torch.cat(parts)


@torch.no_grad()
def final_at(
    view: ModelView, tokens: Int[Tensor, " pos"], embedded: Float[Tensor, "pos d_model"], outputs: slice
) -> Float[Tensor, "out_pos d_model"]:
    """Return the unembedding's input at some positions, from some embeddings."""
    return view.forward.final(tokens[None], embedded[None])[0, outputs]


def _generic_tangents(
    view: ModelView, tokens: Tensor, embedded: Tensor, directions: Tensor, positions: Tensor, outputs: slice
) -> Tensor:
    # any architecture: the tangents of one pass, through a forward hook that puts the embedding in
    last = outputs.stop
    view.forward.require(write=[Point("embed")])  # measured here, not under a transform

    def hidden(x: Tensor) -> Tensor:
        return view.forward.final(tokens[None, :last], x[None])[0, outputs]

    def along(direction: Tensor, position: Tensor) -> Tensor:
        here = torch.arange(last, device=tokens.device) == position
        return torch.func.jvp(hidden, (embedded[:last],), (here[:, None] * direction,))[1]

    try:
        with _ONE_TRANSFORM, torch.no_grad():
            return torch.func.vmap(along)(directions, positions)
    except InputError:
        raise  # what the reverse mode could not do either
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        if is_lack_of_memory(error):
            raise
        raise NoForwardMode(
            f"{view.info.id} cannot be differentiated in forward mode ({_first_line(error)}); "
            "method='reverse' gives the same scores"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:160]


def reverse_scores(
    view: ModelView,
    tokens: Int[Tensor, " pos"],
    inputs: slice,
    outputs: slice,
    gradients: Float[Tensor, "out_pos d_model"],
    *,
    chunk: int | None = None,
    hidden: Float[Tensor, "out_pos d_model"] | None = None,
    embedded: Float[Tensor, "pos d_model"] | None = None,
    directions: Float[Tensor, "in_pos d_model"] | None = None,
) -> Float[Tensor, "in_pos out_pos"]:
    """Return I by reverse mode; `chunk` is the number of output tokens that share one forward pass.

    Args:
        hidden: the unembedding's input of the whole pass; a pass that is cut short must give the same, or is not cut.
        embedded, directions: as in `forward_scores`.
    """
    embedded = view.forward.embed(tokens[None])[0].detach() if embedded is None else embedded
    along = embedded[inputs] if directions is None else directions
    columns = []
    with view.forward.frozen():
        for group in torch.arange(outputs.start, outputs.stop).split(chunk or REVERSE_GROUP):
            end = int(group[-1]) + 1
            with torch.enable_grad():
                x, computed = _traced(view, tokens, embedded, end)
                if hidden is not None and not _equal(computed[group], hidden[group - outputs.start]):
                    x, computed = _traced(view, tokens, embedded, len(tokens))  # its outputs depend on the length
            for m in group.tolist():
                last = m == int(group[-1])
                (grad,) = torch.autograd.grad(computed[m], x, gradients[m - outputs.start], retain_graph=not last)
                columns.append((grad[inputs] * along).sum(dim=-1))
    return torch.stack(columns, dim=1)


def _traced(view: ModelView, tokens: Tensor, embedded: Tensor, end: int) -> tuple[Tensor, Tensor]:
    x = embedded[:end].clone().requires_grad_(True)
    return x, view.forward.final(tokens[None, :end], x[None])[0]


def _equal(a: Tensor, b: Tensor) -> bool:
    return float((a.detach() - b).abs().max()) <= SAME * float(b.abs().max())


def rows_of(view: ModelView, n_inputs: int | float, n_outputs: int | float) -> dict[Mode, float]:
    """Return the rows that each mode computes: forward N (T - N/2), reverse M (N + M/2) and its forward passes."""
    length = n_inputs + n_outputs
    linear = can_linearize(view)
    forward = n_inputs * (length - n_inputs / 2) if linear else 1.5 * n_inputs * length
    mean = n_inputs + n_outputs / 2
    reverse = n_outputs * mean * REVERSE_COST + -(-n_outputs // REVERSE_GROUP) * mean
    return {"forward": forward, "reverse": reverse}


def cheaper_mode(view: ModelView, n_inputs: int, n_outputs: int) -> Mode:
    """Return the mode with fewer rows to compute."""
    rows = rows_of(view, n_inputs, n_outputs)
    return "forward" if rows["forward"] <= rows["reverse"] else "reverse"


def forward_chunk(view: ModelView, n_inputs: int, length: int, *, fast: bool) -> int:
    """Return how many input tokens are computed at once (see `fitting`)."""
    # tangents kept for the whole sequence, and in the general way what a block needs of them at a time
    return how_many(view, n_inputs, length * view.d_model if fast else of_pass(view, length))
