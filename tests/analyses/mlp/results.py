"""Results of concepts made by hand, without a model: two layers, two sides, three components, four words at a pole."""

from dataclasses import replace

import torch

from lensdiff.analyses.mlp.coherence import Coherence
from lensdiff.analyses.mlp.components import Side
from lensdiff.analyses.mlp.concepts import MLPConcepts
from lensdiff.analyses.mlp.rotation import Rotation
from lensdiff.results import Control, ControlModel, Provenance
from lensdiff.stats import FEWEST_FOR_RANK
from tests.views.hostile import HOSTILE

LAYERS, COMPONENTS, WORDS = (0, 3), 3, 4
SIDES: tuple[Side, ...] = ("value", "key")
LIST = (*HOSTILE, *(f"word{i}" for i in range(40)))
ANGLE = 0.5


def concepts(model: str = "a", *, angle: float = 0.0, words: tuple[str, ...] = LIST, sign: float = 1.0) -> MLPConcepts:
    """Components along the axes, the first and the third turned by an angle into the fourth and fifth dimension."""
    rows = torch.eye(COMPONENTS, 6)
    c, s = torch.tensor(angle).cos(), torch.tensor(angle).sin()
    for i in (0, 2):
        rows[i, i], rows[i, i // 2 + 3] = c, s
    shape = (len(LAYERS), len(SIDES), COMPONENTS)
    poles = torch.arange(len(LAYERS) * len(SIDES) * COMPONENTS * 2 * WORDS).reshape(*shape, 2, WORDS) % len(words)
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6], [-0.4, -0.3, -0.2, -0.1]]).expand(*shape, 2, WORDS)
    return MLPConcepts(
        Provenance("mlp_concepts", model, options={"fold_gain": True}),
        LAYERS,
        SIDES,
        words,
        (),
        (sign * rows).expand(*shape, 6).clone(),
        torch.tensor([0.5, 0.3, 0.1], dtype=torch.float64).expand(shape).clone(),
        poles[..., 0, :].int(),
        scores[..., 0, :].clone(),
        poles.int(),
        scores.clone(),
    )


KINDS = {"gradient-noise": 99, "spectrum": 59, "norm": 5}


def rotation(*, controls: dict[str, int] | None = None) -> Rotation:
    """Angles that grow with layer and rank; the bands of layer 0 hold them, those of layer 3 do not.

    Each kind's limits are a tenth lower than the one's before; those with few controls have none.
    """
    shape = (len(LAYERS), len(SIDES))
    angles = torch.full((*shape, 2, 2), torch.nan, dtype=torch.float64)
    angles[..., 0, 0], angles[..., 1, :] = 0.1, 0.2
    angles[1] *= 4
    kinds = KINDS if controls is None else controls
    known = [1 - i / 10 if n >= FEWEST_FOR_RANK else torch.nan for i, n in enumerate(kinds.values())]
    scale = torch.tensor(known, dtype=torch.float64)[:, None, None, None, None]
    band = scale * torch.tensor([0.05, 0.3], dtype=torch.float64)[:, None, None, None].expand(2, *shape, 2)
    matched = torch.tensor([ANGLE, 0.0, ANGLE], dtype=torch.float64).expand(*shape, 3).clone()
    variance = torch.tensor([0.5, 0.3, 0.1], dtype=torch.float64).expand(*shape, 3).clone()
    limits = scale * torch.tensor([0.0, 0.4], dtype=torch.float64)[:, None, None, None].expand(2, *shape, 3)
    none = torch.tensor([-1, -1], dtype=torch.int32).expand(*shape, 3, 2).clone()
    changed = none.clone()
    changed[0, 0, 0] = torch.tensor([0, 1])
    made = tuple(ControlModel(f"{kind} {i}", Control(kind, i)) for kind, n in kinds.items() for i in range(n))
    return Rotation(
        Provenance("rotation", "b", options={"base": "a"}, controls=made),
        LAYERS,
        SIDES,
        (1, 2),
        angles,
        band,
        torch.arange(3).expand(*shape, 3).clone(),
        matched,
        limits,
        variance,
        variance + 0.01,
        LIST,
        changed,
        none,
    )


def coherence(model: str = "a", *, shift: float = 0.0) -> Coherence:
    """Two components of three above the null in layer 0, none in layer 3, where the first has too few words."""
    p = torch.tensor([[[0.01, 0.02, 0.5]] * 2, [[torch.nan, 0.3, 0.4]] * 2], dtype=torch.float64)
    values = torch.tensor([[[0.6, 0.5, 0.1]] * 2, [[torch.nan, 0.2, 0.1]] * 2], dtype=torch.float64)
    options = {"top_words": 15, "reading": "absolute", "n_directions": 20, "vectors": "planted <b>"}
    return Coherence(
        Provenance("coherence", model, options=options),
        LAYERS,
        SIDES,
        values + shift,
        torch.full_like(p, 0.1),
        torch.full((2, 20), 0.25, dtype=torch.float64),
        p,
        p.clone(),
        1.0,
    )


def without_words(result: Rotation) -> Rotation:
    return replace(result, words=(), lost=result.lost[..., :0], gained=result.gained[..., :0])
