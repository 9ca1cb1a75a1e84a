"""Doses made by hand, without a model."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lensdiff.analyses.dose.reading import MEASURES
from lensdiff.analyses.dose.result import Dose
from lensdiff.results import Provenance
from lensdiff.results.diff import SIDES
from tests.analyses.controls import controls_of

PROMPTS = ("poem", "list", "french", "repeat")
GAIN = 2.0  # of the tuned model's response, a tenth more with each prompt
SHARES = {"all": 1.0, "W_out": 0.25, "not W_out": 0.5}
AMOUNTS = (-0.5, 0.0, 0.5, 1.0, 1.5)


def dose(
    prompts: Sequence[str] = PROMPTS,
    *,
    controls: Mapping[str, int] | None = None,
    groups: Sequence[str] = tuple(SHARES),
    model: str = "a -> b",
    texts: Sequence[str] = SIDES,
) -> Dose:
    """A pair in which every measure follows the dose: each group does its share of what the whole change does.

    Measures start at -1, -3, 0, 1, 0.5 and end at -2, -1 + 0.1 i, 1, 0, 0.7; controls' W_out is the base's, give or
    take.
    """
    made, n = controls_of(controls or {}), len(prompts)
    rise = torch.arange(n, dtype=torch.float64) / 10
    base = torch.tensor([-1.0, -3.0, 0.0, 1.0, 0.5], dtype=torch.float64).repeat(n, 1)
    tuned = torch.tensor([-2.0, -3.0 + GAIN, 1.0, 0.0, 0.7], dtype=torch.float64).repeat(n, 1)
    tuned[:, MEASURES.index("tuned_response_log_prob")] += rise
    points = [(group, amount) for group in groups for amount in AMOUNTS]
    values = torch.stack([base + SHARES.get(group, 0.0) * amount * (tuned - base) for group, amount in points])
    noise = 0.3 * np.random.default_rng(0).normal(size=(len(made), n))
    return Dose(
        Provenance("dose", model, options={"base": model.split(" -> ")[0]}, controls=made),
        tuple(prompts),
        tuple(texts),
        tuple(group for group, _ in points),
        torch.tensor([amount for _, amount in points], dtype=torch.float64),
        values,
        torch.stack([base, tuned]),
        torch.tensor([SHARES.get(group, 0.0) for group, _ in points], dtype=torch.float64),
        torch.full((n, len(texts)), 8),
        base[:, 1] + torch.tensor(noise),
        {},
        0.95,
    )
