"""Results of layer similarity made by hand, without a model."""

from collections.abc import Mapping

import numpy as np
import torch

from lensdiff.analyses.layer_similarity.result import MEASURES, LayerSimilarity
from lensdiff.results import Provenance
from tests.analyses.controls import controls_of

GROUPS, N_LAYERS, D_MODEL = ("all", "instruction"), 2, 2
COUNTS = ((6, 2), (10, 3), (4, 1))  # of each prompt and group


def one(provenance: Provenance, size: float, n: int = len(COUNTS)) -> LayerSimilarity:
    """One model whose streams change by `size` at layer 1 and twice that behind it, more with each prompt."""
    counts = torch.tensor(COUNTS[:n])
    own = size * torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    prompts = own * (1 + 0.1 * torch.arange(n, dtype=torch.float64))[:, None, None]
    relative = prompts.expand(n, 2, 3).clone()
    whole = (relative * counts[:, :, None]).sum(dim=0) / counts.sum(dim=0)[:, None]
    arrays = {"relative_change": whole, "cosine": 1 - whole, "cka": 1 - whole / 2, "mean_shift_share": whole / 4}
    return LayerSimilarity(
        provenance,
        tuple(f"p{i + 1}" for i in range(n)),
        GROUPS,
        N_LAYERS,
        D_MODEL,
        (0, 1, 2),
        counts,
        **{name: arrays[name][None] for name in MEASURES},
        prompt_relative_change=relative,
        prompt_cosine=1 - relative,
        failures={},
        level=0.95,
    )


def similarity(controls: Mapping[str, int] | None = None, size: float = 0.2, n: int = len(COUNTS)) -> LayerSimilarity:
    """A tuned model that changes by `size`; controls by a twentieth, give or take."""
    rng = np.random.default_rng(0)
    beside = [
        one(Provenance("", control.name, control=control.made), 0.05 * (1 + 0.1 * rng.random()), n)
        for control in controls_of(controls or {})
    ]
    alone = one(Provenance("layer_similarity", "a -> b", options={"base": "a", "first": False}), size, n)
    return alone.with_controls(beside)
