"""Results of directions made by hand, without a model."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lensdiff.analyses.directions.result import CURVES, Directions
from lensdiff.results import Provenance
from tests.analyses.controls import controls_of

LAYERS, N, DRAWS = 2, 4, 19


def one(provenance: Provenance, cosine: float, n: int = N, draws: int = DRAWS) -> Directions:
    """One model whose direction keeps that cosine at layers 1 and 2, and 1 at layer 0."""
    values = torch.tensor([1.0, cosine, cosine], dtype=torch.float64)
    arrays: dict[str, Tensor] = {
        name: (values if name == "cosine" else 0.5 + values.abs() / 4)[None] for name in CURVES
    }
    size = torch.tensor([1.0, -2.0], dtype=torch.float64)[:, None]  # of adding, of projecting out
    effect = (size * (1 + 0.1 * torch.arange(n))).expand(2, 2, 2, n).clone()
    random = torch.from_numpy(0.1 * np.random.default_rng(0).normal(size=(2, 2, 2, draws)))
    return Directions(
        provenance,
        n_a=n,
        n_b=n,
        n_folds=min(n, 5),
        paired=True,
        length_auroc=0.75,
        same_last=0.5,
        vectors=torch.ones(2, LAYERS + 1, 3, dtype=torch.float64),
        **arrays,
        auroc_base=torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64),
        permuted_low=torch.full((3,), 0.2, dtype=torch.float64),
        permuted_high=torch.full((3,), 0.8, dtype=torch.float64),
        layer=1,
        prompt_id=tuple(f"p{i}" for i in range(n)),
        effect=effect,
        random_effect=random,
        failures={},
        level=0.95,
    )


def found(controls: Mapping[str, int] | None = None, cosine: float = 0.3, n: int = N, draws: int = DRAWS) -> Directions:
    """A tuned model that turned the direction; controls hardly do."""
    rng = np.random.default_rng(1)
    beside = [
        one(Provenance("", control.name, control=control.made), 0.9 + 0.05 * rng.random(), n, draws)
        for control in controls_of(controls or {})
    ]
    return one(Provenance("directions", "a -> b", options={"base": "a"}), cosine, n, draws).with_controls(beside)
