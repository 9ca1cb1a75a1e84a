"""Whether a model's derivative is known by hand, and directions in its embedding pushed through it.

A model is served so once three things are shown of it: a plan explains a short pass (`plan`); on other tokens the
tangents are those of its own backward pass, along random directions; and the hooks on it are those that were on it
then.
"""

from contextlib import ExitStack
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lensdiff.models.inside.record import recorded_modules
from lensdiff.models.inside.tape import probe, recorded, same
from lensdiff.models.linear.forms import NotUnderstood
from lensdiff.models.linear.passes import NotLinear, Pushed, tangents_behind
from lensdiff.models.linear.plan import Plan, norms_of, plan_of
from lensdiff.models.linear.seen import NotSeen, angles_seen
from lensdiff.models.view import ModelView
from lensdiff.results import InputError
from lensdiff.results.memory import is_lack_of_memory

ROWS = 400  # direction-position rows of a chunk: enough for full matrix-multiply speed, few enough to stay in cache
# largest difference from the model's own backward pass, as a share of the largest value, that rounding explains
SAME = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}

Known = tuple[tuple[int, ...], Plan | str]  # the hooks there were, and the plan or why there is none
# by what it is computed in: half precision may be widened
_KNOWN: "WeakKeyDictionary[nn.Module, dict[torch.dtype, Known]]" = WeakKeyDictionary()


def can_linearize(view: ModelView) -> bool:
    """Return whether a model's derivative is known by hand; measured once, and again where hooks were put on it."""
    return isinstance(_known(view), Plan)


def why_not_linearized(view: ModelView) -> str:
    """Return what of a model is not differentiated by hand; an empty text where all is."""
    found = _known(view)
    return found if isinstance(found, str) else ""


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

    Raises:
        NotLinear: the model is not served so, or the pass did not go as its plan says.
    """
    plan = _known(view)
    if isinstance(plan, str):
        raise NotLinear(plan)
    return tangents_behind(view, plan, tokens, directions, positions, out, embedded, rows)


def _known(view: ModelView) -> Plan | str:
    wrapper = view.forward.wrapper
    with wrapper.lock:
        hooks = _hooks(wrapper.model)
        known = _KNOWN.setdefault(wrapper.model, {})
        if view.dtype not in known or known[view.dtype][0] != hooks:
            known[view.dtype] = (hooks, _measured(view))
    return known[view.dtype][1]


def _hooks(model: nn.Module) -> tuple[int, ...]:
    return tuple(key for m in model.modules() for key in (*m._forward_hooks, *m._forward_pre_hooks))


def _measured(view: ModelView) -> Plan | str:
    # what a model is not known to have may end in any error; want of memory says nothing about it
    try:
        plan = _planned(view)
        return plan if _is_own_derivative(view, plan) else "its derivative is not that of its own backward pass"
    except (InputError, NotUnderstood, NotSeen, NotLinear) as error:
        return str(error)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as error:
        if is_lack_of_memory(error):
            raise
        return f"{type(error).__name__}: {error}".split("\n", 1)[0]


def _planned(view: ModelView) -> Plan:
    wrapper, sizes = view.forward.wrapper, view.weights.sizes
    with (
        torch.no_grad(),
        recorded(recorded_modules(wrapper)) as tape,
        angles_seen(wrapper) as angles,
        ExitStack() as stack,
    ):
        stack.enter_context(wrapper.precision())
        wrapper(probe(sizes.d_vocab, sizes.n_ctx, sizes.device))
        return plan_of(wrapper, view.weights.meaning, tape, norms_of(wrapper), angles)


def _is_own_derivative(view: ModelView, plan: Plan) -> bool:
    sizes = view.weights.sizes
    tokens = probe(sizes.d_vocab, sizes.n_ctx, sizes.device).flip(1)
    embedded = view.forward.embed(tokens).detach()[0]
    generator = torch.Generator().manual_seed(5)
    directions, weights = (
        torch.randn(embedded.shape, generator=generator, dtype=torch.float32).to(embedded) for _ in range(2)
    )
    positions = torch.arange(len(embedded), device=embedded.device)
    pushed = tangents_behind(
        view, plan, tokens[0], directions, positions, slice(0, len(positions)), embedded, ROWS
    ).tangents
    with view.forward.frozen(), torch.enable_grad():
        x = embedded.clone().requires_grad_(True)
        (pulled,) = torch.autograd.grad(view.forward.final(tokens, x[None])[0], x, weights)
    return same(torch.einsum("nmd,md->n", pushed, weights), (pulled * directions).sum(dim=-1), SAME[sizes.dtype])
