"""How a pattern follows from queries and keys: by which rotation, which scale, and which slopes by position (ALiBi).

Rotations are tried as the angles of a pass allow, scales as a model states them; a scale that none states is what
explains the logarithm of the pattern best, up to a constant of every query.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lensdiff.models.inside.precision import as_double
from lensdiff.models.inside.tape import CLOSE
from lensdiff.models.inside.wrappers import Wrapper
from lensdiff.models.linear.forms import (
    PATTERN,
    NormPlan,
    RotationPlan,
    lean,
    least_squares,
    require,
    rotation_of,
    turned,
)
from lensdiff.models.linear.seen import Seen


def _rotations(angles: tuple[Tensor, Tensor] | None, d_head: int) -> Iterator[RotationPlan | None]:
    yield None
    if angles is None:
        return
    for swapped in (False, True):
        for doubled in ("halves", "twice", "once"):
            for neighbours in (False, True):
                width = angles[0].shape[-1] * (2 if doubled == "once" else 1)
                if width <= d_head and width % 2 == 0:
                    yield RotationPlan(swapped, doubled, neighbours)


class _Scores(NamedTuple):
    """A way to a pattern, and the largest difference from what the pass had."""

    error: float
    order: int
    turn: RotationPlan | None
    scale: float
    slopes: Tensor | None


def scores_of(
    wrapper: Wrapper, seen: Seen, q_norm: NormPlan | None, k_norm: NormPlan | None
) -> tuple[RotationPlan | None, float, Tensor | None]:
    """Return by which rotation, scale and slopes the queries and keys of a pass make its pattern."""
    cap, close = wrapper.attention_soft_cap(), PATTERN.get(seen.pattern.dtype, CLOSE[seen.pattern.dtype])
    pattern = as_double(seen.pattern)
    found: list[_Scores] = []
    for plan in _rotations(seen.angles, seen.q.shape[-1]):
        rotate = rotation_of(plan, seen.angles)
        q, k = (turned(wrapper, *one, rotate)[0] for one in ((seen.q, q_norm), (seen.k, k_norm)))
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        raw = torch.einsum("qhd,khd->hqk", as_double(q), as_double(k))
        for scale, slopes in _ways(raw, seen, cap):
            scores = raw * scale if cap is None else cap * torch.tanh(raw * scale / cap)
            scores = scores if slopes is None else scores + lean(slopes, len(k))
            made = scores.masked_fill(pattern == 0, -torch.inf).softmax(dim=-1)
            error = float((made - pattern).abs().max())
            found.append(_Scores(error, len(found), plan, scale, slopes))
    # slopes only where nothing does without them: one number more explains more
    straight = [way for way in found if way.slopes is None and way.error <= close]
    best = min(straight or found, key=lambda way: way[:2])
    require(best.error <= close, "how its scores are made")
    return best[2:]


def _ways(raw: Tensor, seen: Seen, cap: float | None) -> Iterator[tuple[float, Tensor | None]]:
    """Yield the scales and slopes that are tried: scales that a model states, else what explains log pattern best."""
    stated = [scale for scale in seen.scales if scale > 0]
    if cap is not None:
        yield from ((scale, None) for scale in stated)
        return
    pattern = as_double(seen.pattern)
    visible = pattern > torch.finfo(seen.pattern.dtype).tiny

    def centred(value: Tensor) -> Tensor:
        kept = torch.where(visible, value, 0.0)
        return torch.where(visible, kept - kept.sum(-1, keepdim=True) / visible.sum(-1, keepdim=True), 0.0)

    scores, logs = centred(raw), centred(pattern.clamp(min=1e-300).log())
    fitted = least_squares(scores, logs)
    near = [scale for scale in stated if abs(fitted / scale - 1) <= CLOSE[seen.pattern.dtype]]
    yield (near or [fitted])[0], None
    keys = centred(torch.arange(raw.shape[-1], device=raw.device).double().expand_as(raw))
    for scale in stated:
        left = logs - scores * scale
        yield scale, (left * keys).sum((1, 2)) / keys.square().sum((1, 2)).clamp(min=1e-300)
