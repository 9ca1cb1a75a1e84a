"""A result of the activation difference made by hand, without a model."""

import torch

from lensdiff.analyses.activation_difference.result import READINGS, ActivationDifference, ControlDifference
from lensdiff.results import Provenance
from tests.analyses.controls import controls_of

WORDS = ("sea", " moon", "\n", "<b>", "&")
LAYERS, POSITIONS, D_MODEL = (0, 1, 2), 2, 4


def _places(shift: int) -> torch.Tensor:
    """Which word stands where: [sign layer position k]."""
    return ((torch.arange(2 * 3 * 2 * 3) + shift) % len(WORDS)).reshape(2, 3, 2, 3)


def control(share: float, name: str = "c") -> ControlDifference:
    """A control whose share is the same at all places."""
    difference = torch.zeros(3, POSITIONS, D_MODEL, dtype=torch.float64)
    difference[..., 0] = share
    logits = torch.tensor([3.0, 2.0, 1.0]).expand(2, 3, 2, 3).clone()
    made = controls_of({"spectrum": 1})[0].made
    return ControlDifference(
        Provenance("control_difference", name, control=made),
        LAYERS,
        torch.tensor([9, 8]),
        difference,
        torch.ones(3, POSITIONS, dtype=torch.float64),
        WORDS,
        _places(2),
        _places(2) + 10,
        logits,
    )


def difference(*, model: str = "b -> t", differs: bool = True, controls: int = 0) -> ActivationDifference:
    """Nothing differs at layer 0; at layer 1 half of the difference is constant, at layer 2 all of it."""
    share = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64) * differs
    size = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64) * differs
    d = torch.zeros(3, POSITIONS, D_MODEL, dtype=torch.float64)
    d[..., 0] = share[:, None]
    logits = torch.tensor([3.0, 2.0, 1.0]).expand(3, 2, 3, 2, 3).clone()
    alone = ActivationDifference(
        Provenance("activation_difference", model),
        2,
        LAYERS,
        9,
        torch.tensor([9, 8]),
        d,
        size[:, None].expand(3, POSITIONS).clone(),
        torch.ones(3, POSITIONS, D_MODEL, dtype=torch.float64),
        torch.full((2, 3, POSITIONS), 2.0, dtype=torch.float64),
        READINGS,
        WORDS,
        torch.stack([_places(i) for i in range(3)]),
        torch.stack([_places(i) + 10 for i in range(3)]),
        logits,
        torch.zeros(0, 3, POSITIONS, D_MODEL, dtype=torch.float64),
        torch.zeros(0, 3, POSITIONS, dtype=torch.float64),
        0.95,
    )
    return alone.with_controls(control(0.1 + 0.01 * i, f"control {i}") for i in range(controls))
