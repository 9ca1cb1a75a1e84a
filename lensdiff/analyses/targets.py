"""What is differentiated: a number per response token, computed from the logits that predict it.

A target is a function (logits [out_pos, d_vocab], ids [out_pos]) -> [out_pos], or the name of one of these.
"""

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.results import InputError

Target = Callable[[Float[Tensor, "out_pos d_vocab"], Int[Tensor, " out_pos"]], Float[Tensor, " out_pos"]]


def probability(logits: Float[Tensor, "out_pos d_vocab"], ids: Int[Tensor, " out_pos"]) -> Float[Tensor, " out_pos"]:
    """Return the probability of each response token: the paper's target."""
    return log_probability(logits, ids).exp()


def log_probability(
    logits: Float[Tensor, "out_pos d_vocab"], ids: Int[Tensor, " out_pos"]
) -> Float[Tensor, " out_pos"]:
    """Return the natural logarithm of each response token's probability."""
    return logits.log_softmax(dim=-1).gather(-1, ids[:, None])[:, 0]


def logit(logits: Float[Tensor, "out_pos d_vocab"], ids: Int[Tensor, " out_pos"]) -> Float[Tensor, " out_pos"]:
    """Return each response token's logit."""
    return logits.gather(-1, ids[:, None])[:, 0]


TARGETS: dict[str, Target] = {"probability": probability, "log_probability": log_probability, "logit": logit}


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
