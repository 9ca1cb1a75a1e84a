"""What a patch moves: one number of a forced response, the mean over its tokens.

    "log_prob"      mean over m of log p(y_m | x, y_<m)                         nats per token
    contrast(a, b)  mean over m of logit(a) - logit(b), two texts of one token each
    a target        mean over m of a function (logits [out_pos, d_vocab], ids [out_pos]) -> [out_pos], or of one that
                    `attribute` has a name for

Each model is read in its own vocabulary.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.attribute.targets import Contrast, Target, log_probability, target_of
from lensdiff.analyses.patch.defaults import METRIC
from lensdiff.models import view_of
from lensdiff.models.pair import ModelPair
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES

Metric = str | Target | Contrast


def name_of(metric: Metric) -> str:
    """Return what a metric is called in a result."""
    return metric if isinstance(metric, str) else str(getattr(metric, "__name__", "a function"))


def targets_of(pair: ModelPair, metric: Metric) -> Mapping[str, Target]:
    """Return the function that a metric is, for each model of a pair.

    Raises:
        InputError: there is no such metric, or a text of a contrast is not one token.
    """
    if metric == METRIC:
        return dict.fromkeys(SIDES, log_probability)
    try:
        return {side: target_of(metric, view_of(getattr(pair, side))) for side in SIDES}
    except InputError as error:
        raise InputError(f"metric={name_of(metric)!r} is not {METRIC!r}, and {error}") from None


def mean_of(
    target: Target, logits: Float[Tensor, "out_pos d_vocab"], ids: Int[Tensor, " out_pos"]
) -> Float[Tensor, ""]:
    """Return the mean of a target over the response, with its graph.

    Raises:
        InputError: the target does not give a number for every response token.
    """
    found = target(logits, ids)
    if not isinstance(found, Tensor) or found.shape != ids.shape or not found.is_floating_point():
        given = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"the metric gives {given}, expected a number for each of {len(ids)} response tokens")
    return found.mean()


def means_of(
    target: Target, logits: Float[Tensor, "row out_pos d_vocab"], ids: Int[Tensor, " out_pos"]
) -> Float[Tensor, " row"]:
    """Return the mean of a target over the response in each row, in float64 on the CPU.

    Raises:
        InputError: as `mean_of`, or a mean is not finite.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if target is log_probability:  # all rows at once
        own = wide.gather(-1, ids.expand(len(wide), -1)[..., None])[..., 0]
        found = (own - wide.logsumexp(dim=-1)).double().mean(dim=-1)
    else:
        found = torch.stack([mean_of(target, row, ids).double() for row in wide])
    if not bool(found.isfinite().all()):
        raise InputError("the metric is not finite on this text, expected numbers")
    return found.cpu()
