"""Weights that moved, made by hand, without a model."""

from collections.abc import Sequence

import torch

from lensdiff.analyses.weights.weight_shift import NONE, WeightShift
from lensdiff.results import Provenance

LAYERS, HEADS = 3, 2


def weight_shift(model: str = "a -> b", *, planted: float = 2.0, others: Sequence[str] = ()) -> WeightShift:
    """Two headed matrices and one without heads per layer, and `others`; head 1 of W_Q in layer 2 moved most."""
    rows = [("W_E", NONE, NONE)]
    for layer in range(LAYERS):
        rows += [(name, layer, head) for name in ("W_Q", "W_O") for head in range(NONE, HEADS)] + [
            ("W_in", layer, NONE)
        ]
    rows += [(name, layer, NONE) for layer in range(LAYERS) for name in others]
    raw = torch.rand(len(rows), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    raw[rows.index(("W_Q", 2, 1)), 0] = planted
    return WeightShift(
        Provenance("weight_shift", model, options={"base": model.split(" -> ")[0]}),
        tuple(name for name, _, _ in rows),
        8,
        torch.tensor([layer for _, layer, _ in rows]),
        torch.tensor([head for _, _, head in rows]),
        raw,
        raw / 2,
    )
