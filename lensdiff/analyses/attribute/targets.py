"""What is differentiated: a number per response token, computed from the logits that predict it.

A target is a function (logits [out_pos, d_vocab], ids [out_pos]) -> [out_pos], or the name of one of these.

The gradient of a probability by its own logit is p (1 - p). With p near 1 the digits of 1 - p are lost in float32 (and
all of them where 1 - p < 6e-8), and with them those of every score of that response token. So the rest, 1 - p, is
never a difference here: with z the logits and r = log of the sum of exp(z_v) over all v but y,

    log p = log sigmoid(z_y - r),   d log p = (1 - p) d(z_y - r)  with  1 - p = sigmoid(r - z_y),   d p = p d log p
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.results import InputError

Target = Callable[[Float[Tensor, "out_pos d_vocab"], Int[Tensor, " out_pos"]], Float[Tensor, " out_pos"]]


def probability(logits: Float[Tensor, "out_pos d_vocab"], ids: Int[Tensor, " out_pos"]) -> Float[Tensor, " out_pos"]:
    """Return the probability of each response token: the paper's target; exact gradients however near 1 it is."""
    return log_probability(logits, ids).exp()


def log_probability(
    logits: Float[Tensor, "out_pos d_vocab"], ids: Int[Tensor, " out_pos"]
) -> Float[Tensor, " out_pos"]:
    """Return the natural logarithm of each response token's probability; see the module for its gradient."""
    own = ids[:, None]
    rest = logits.scatter(-1, own, -torch.inf).logsumexp(dim=-1)
    return torch.nn.functional.logsigmoid(logit(logits, ids) - rest)


def logit(logits: Float[Tensor, "out_pos d_vocab"], ids: Int[Tensor, " out_pos"]) -> Float[Tensor, " out_pos"]:
    """Return each response token's logit."""
    return logits.gather(-1, ids[:, None])[:, 0]


TargetName = Literal["probability", "log_probability", "logit"]
TARGETS: dict[TargetName, Target] = {"probability": probability, "log_probability": log_probability, "logit": logit}


def target_of(target: str | Target) -> Target:
    """Return the target that is meant.

    Raises:
        InputError: there is no target of that name.
    """
    if callable(target):
        return target
    if target not in TARGETS:
        raise InputError(f"target {target!r} is none of {', '.join(TARGETS)}, nor a function of (logits, ids)")
    return TARGETS[target]
