"""Attention made by hand, without a model."""

from collections.abc import Sequence

import torch

from lensdiff.analyses.attention.distances import DISTANCES
from lensdiff.analyses.attention.patterns import MEASURES, AttentionPatterns
from lensdiff.analyses.attention.shift import STATISTICS, AttentionShift
from lensdiff.results import Control, ControlModel, Provenance
from lensdiff.stats import FEWEST_FOR_RANK, against_controls

LAYERS, HEADS = 3, 2
TOKENS = ("Blue", " waves", ".")


def attention(
    tokens: Sequence[str] = TOKENS, *, model: str = "a", prompt_id: str = "p1", sharp: tuple[int, int] | None = None
) -> AttentionPatterns:
    """Uniform attention in every head; the sharp head looks at its own token alone."""
    n = len(tokens)
    patterns = torch.ones(LAYERS, HEADS, n, n).tril()
    patterns /= patterns.sum(-1, keepdim=True)
    if sharp is not None:
        patterns[sharp] = torch.eye(n)
    shares = {
        name: torch.rand(LAYERS, HEADS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        for name in MEASURES
    }
    return AttentionPatterns(
        Provenance("attention", model, options={"sink": "apart"}),
        prompt_id,
        tuple(tokens),
        0,
        n - 1,
        tuple(range(LAYERS)),
        torch.zeros(3, n, dtype=torch.bool),
        **shares,
        patterns=patterns,
    )


def attention_shift(*, controls: int = 19, model: str = "b") -> AttentionShift:
    """Head 1 of layer 2 moved beyond its band, head 0 of layer 1 towards the base; no context was marked.

    There are bands from 19 controls.
    """
    distances = torch.full((len(DISTANCES), LAYERS, HEADS), 0.1, dtype=torch.float64)
    distances[:, 2, 1] = 0.9
    band = torch.tensor([0.05, 0.2]).double()[None, :, None, None].expand(len(DISTANCES), 2, LAYERS, HEADS).clone()
    measures = torch.full((len(MEASURES), len(STATISTICS), LAYERS, HEADS), 0.01, dtype=torch.float64)
    measures[:, STATISTICS.index("difference"), 1, 0] = -0.4
    measures[[MEASURES.index(name) for name in ("context_share", "template_share")]] = torch.nan
    if controls < FEWEST_FOR_RANK:
        band[:] = torch.nan
        measures[:, [STATISTICS.index(name) for name in ("control_low", "control_high")]] = torch.nan
    made = tuple(ControlModel(f"c{i}", Control("spectrum", i)) for i in range(controls))
    beside = {"spectrum": torch.linspace(0.1, 0.2, controls).numpy()} if controls else {}
    return AttentionShift(
        Provenance("attention_shift", model, options={"base": "a", "n_prompts": 4}, controls=made),
        tuple(range(LAYERS)),
        (4, 4, 4, 0, 4, 0),
        distances,
        band,
        measures,
        against_controls(0.4, beside).envelope,
    )
