"""A result of the activation difference made by hand, without a model."""

from typing import Any

import pandas as pd
import torch

from lensdiff.analyses.activation_difference import patchscope as patchscopes
from lensdiff.analyses.activation_difference.control import ControlDifference
from lensdiff.analyses.activation_difference.directions import READINGS
from lensdiff.analyses.activation_difference.effects import DifferenceEffects
from lensdiff.analyses.activation_difference.result import ActivationDifference
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


SCALES, AMOUNTS = (0.5, 10.0), (1.0, 2.0)


def effects(
    *, controls: int = 0, draws: int = 2, model: str = "b -> t", words: tuple[str, ...] = WORDS, chosen: bool = False
) -> DifferenceEffects:
    """Interventions at layer 1: the difference does 10 times what others do, which differ by 0.01 a draw or control."""
    names = [f"control {i}" for i in range(controls)]
    beside = [("tuned mean", 0, 0.5), *((name, 0, 0.1 + 0.01 * i) for i, name in enumerate(names))]
    beside += [("random vector", draw, 0.05 + 0.01 * draw) for draw in range(draws)]
    own = [("difference", 0, 1.0), *beside]
    said = [
        (
            reading,
            side,
            draw,
            scale,
            rank,
            words[rank - 1],
            value * scale / (20.0 * rank),
            0.01,
            value * scale / 10,
            0.02,
        )
        for side, rows in (("tuned", own), ("base", own[:1]))
        for reading, draw, value in rows
        for scale in SCALES
        for rank in (1, 2)
    ]
    patchscope = pd.DataFrame(said, columns=[*patchscopes.COLUMNS])
    steering = pd.DataFrame(
        [("base", "none", 0, 0.0, 0.01, 0.0, 0.7)]
        + [("base", reading, draw, amount, 0.01 + value * amount / 10, value * amount, 0.7 + value * amount)
           for reading, draw, value in own for amount in AMOUNTS],
        columns=["into", "reading", "draw", "scale", "prob", "kl_to_base", "kl_to_tuned"],
    )  # fmt: skip
    rows: list[Any] = []
    for into, sign in (("tuned", 1), ("base", -1)):
        changes = [("none", 0, 0.0), ("other", 0, 2.0), *own]
        changes += [("random difference", draw, 0.02 + 0.01 * draw) for draw in range(draws)]
        rows += [
            (into, name, draw, 5.0 + sign * x, sign * x, sign * x - 0.1, sign * x + 0.1) for name, draw, x in changes
        ]
    causal = pd.DataFrame(rows, columns=["into", "reading", "draw", "cross_entropy", "change", "low", "high"])
    frames = {"patchscope": patchscope, "steering": steering, "causal": causal}
    of_controls = [control(0.1, name).provenance for name in names]
    return DifferenceEffects(
        Provenance("difference_effects", model).beside(of_controls),
        2,
        1,
        4,
        chosen,
        words[:2],
        **{key: value for name, frame in frames.items() for key, value in DifferenceEffects.rows(name, frame).items()},
        level=0.95,
    )
