"""A norm while its scale does not move: what it then does to every part of its input, and to directions behind it.

    y = (x - mean x) * factor + bias        factor = gain / scale, a row per position; the mean of a LayerNorm alone

The scale is not computed by a formula but taken from what went in and what came out, so that a multiplier behind the
norm (or one without any norm) is in the factor too. With it frozen the norm is linear: parts of x become parts of y.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.models.inside.norms import Gain, Unknown, norm_bias, norm_weight
from lensdiff.models.inside.tape import CLOSE, agree
from lensdiff.models.inside.wrappers import Wrapper
from lensdiff.results import InputError


class Frozen(NamedTuple):
    """See the module; `bias` is None where nothing is added."""

    factor: Float[Tensor, "pos d_model"]
    bias: Float[Tensor, " d_model"] | None
    centred: bool

    def before(self, direction: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_model"]:
        """Return by position the direction in the norm's input that a direction in its output reads (bias apart)."""
        found = direction * self.factor
        return found - found.mean(dim=-1, keepdim=True) if self.centred else found


Pending = list[tuple[Tensor, str]]  # whether a norm is what was measured of it, and where it is


def freeze(
    wrapper: Wrapper,
    gain: Gain | Unknown,
    x: Float[Tensor, "pos d_model"],
    y: Float[Tensor, "pos d_model"],
    name: str,
    pending: Pending | None = None,
) -> Frozen:
    """Return the norm of a gain as it is at these positions, given its input and output there.

    Args:
        name: says where it is.
        pending: takes what is to be checked (`settle`), so that of several norms nobody waits for each.

    Raises:
        InputError: what lies between the two is not what has been measured of the model.
    """
    if isinstance(gain, Unknown):
        raise InputError(f"{name} cannot be split into parts: {gain.reason}")
    weight = bias = None
    if gain.module is not None:
        norm = wrapper.model.get_submodule(gain.module)
        weight, bias = norm_weight(norm), norm_bias(norm)
    scaled = x - x.mean(dim=-1, keepdim=True) if gain.centred else x
    factor = torch.ones_like(x) if weight is None else (weight.detach().to(x) + gain.offset).expand_as(x)
    shift = None if bias is None else bias.detach().to(x)
    unshifted = y if shift is None else y - shift
    made = scaled * factor
    # the least squares fit of one number per position
    inverse = (made * unshifted).sum(dim=-1) / made.square().sum(dim=-1).clamp(min=torch.finfo(x.dtype).tiny)
    own: Pending = [] if pending is None else pending
    own.append((agree(made * inverse[:, None], unshifted, CLOSE[wrapper.sizes().dtype]), name))
    if pending is None:
        settle(own)
    return Frozen(factor * inverse[:, None], shift, gain.centred)


def settle(pending: Sequence[tuple[Tensor, str]]) -> None:
    """Refuse the first norm that is not what has been measured of it.

    Raises:
        InputError: with its name.
    """
    if pending:
        right = torch.stack([found for found, _ in pending]).tolist()
        if not all(right):
            name = pending[right.index(False)][1]
            raise InputError(
                f"{name} cannot be split into parts: what is behind its norm does not follow from its input"
            )
