"""The forms of a model's parts that are told apart, and what each is made of at the values of a pass."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.models.inside.norms import Gain, norm_bias, norm_weight
from lensdiff.models.inside.precision import as_double
from lensdiff.models.inside.wrappers import Wrapper
from lensdiff.models.linear.tangents import HeadNorm, Norm, Rotation, norm_at

# what two ways to the scores of half precision may make of a pattern; else as any two values
PATTERN = {torch.bfloat16: 0.3, torch.float16: 0.1}


class NotUnderstood(Exception):
    """A part of a model has none of the forms that are differentiated by hand."""


class NormPlan(NamedTuple):
    """Where a norm is, and what it does; `flat` for queries and keys that are normed with all heads side by side."""

    path: str
    gain: Gain
    flat: bool = False


class RotationPlan(NamedTuple):
    """How the two tensors that a model has for its angles are to be read; see `Rotation`.

    Attributes:
        swapped: the sine comes first.
        doubled: how an angle stands for a pair: once, twice side by side, or in both halves.
    """

    swapped: bool
    doubled: str
    neighbours: bool


def norm_of(wrapper: Wrapper, plan: NormPlan, x: Tensor) -> tuple[Norm, Tensor]:
    """Return a norm at what it reads, and what it makes of that."""
    module = wrapper.model.get_submodule(plan.path)
    weight, bias = norm_weight(module), norm_bias(module)
    gain = None if weight is None else weight.detach().to(x) + plan.gain.offset
    return norm_at(x, gain, None if bias is None else bias.detach().to(x), centred=plan.gain.centred, eps=plan.gain.eps)


def turned(
    wrapper: Wrapper, heads: Tensor, norm: NormPlan | None, rotate: Rotation | None
) -> tuple[Tensor, HeadNorm | None]:
    """Return queries or keys [pos head d_head] as scores are made of them, and their norm."""
    found = None
    if norm is not None:
        inner, made = norm_of(wrapper, norm, heads.flatten(-2) if norm.flat else heads)
        heads, found = made.reshape(heads.shape), HeadNorm(inner, norm.flat)
    return heads if rotate is None else rotate(heads), found


def rotation_of(plan: RotationPlan | None, angles: tuple[Tensor, Tensor] | None) -> Rotation | None:
    """Return the rotation at the angles of a pass.

    Raises:
        NotUnderstood: the pass had no angles.
    """
    if plan is None:
        return None
    if angles is None:
        raise NotUnderstood("its angles")
    cos, sin = (_once(one, plan.doubled) for one in (reversed(angles) if plan.swapped else angles))
    return Rotation(cos, sin, plan.neighbours)


def _once(angles: Tensor, doubled: str) -> Tensor:
    return {
        "once": lambda: angles,
        "twice": lambda: angles[..., 0::2],
        "halves": lambda: angles[..., : angles.shape[-1] // 2],
    }[doubled]()


def lean(slopes: Float[Tensor, " head_index"], n_keys: int) -> Float[Tensor, "head_index 1 key_pos"]:
    """Return what a head adds to its scores by the key's position (ALiBi)."""
    return (slopes[:, None] * torch.arange(n_keys, device=slopes.device))[:, None]


def require(holds: bool, what: str) -> None:
    """Refuse a model for a part of it.

    Raises:
        NotUnderstood: it does not hold.
    """
    if not holds:
        raise NotUnderstood(what)


def least_squares(given: Tensor, wanted: Tensor) -> float:
    """Return the factor that takes one tensor nearest to another."""
    a, b = as_double(given), as_double(wanted)
    return float((a * b).sum() / (a * a).sum().clamp(min=1e-300))
