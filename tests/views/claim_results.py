"""Instruction use and value rotation made by hand, without a model."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lensdiff.analyses.instruction_use.result import SIDES, InstructionUse
from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.results import Control, ControlModel, Provenance

PROMPTS = ("poem", "list", "french", "repeat")
RISE = 2.0  # of the use from base to tuned, a tenth more with each prompt


def controls_of(numbers: Mapping[str, int]) -> tuple[ControlModel, ...]:
    """As many controls of each kind."""
    kinds = [kind for kind, n in numbers.items() for _ in range(n)]
    return tuple(ControlModel(f"a + {kind} change (seed {i})", Control(kind, i)) for i, kind in enumerate(kinds))


def instruction_use(
    prompts: Sequence[str] = PROMPTS,
    *,
    controls: Mapping[str, int] | None = None,
    texts: Sequence[str] = SIDES,
    model: str = "a -> b",
    by: str = "swap",
) -> InstructionUse:
    """A pair whose tuned model uses every instruction RISE + 0.1 i more; controls are the base, give or take."""
    made = controls_of(controls or {})
    names = [*SIDES, *(control.name for control in made)]
    rng = np.random.default_rng(0)
    rows = []
    for i, prompt in enumerate(prompts):
        for k, text in enumerate(texts):
            for m in range(len(names)):
                use = 0.5 + 0.2 * k + 0.05 * i + (RISE + 0.1 * i if m == 1 else 0.3 * rng.normal() if m > 1 else 0.0)
                rows.append((prompt, text, m, -1.0, -1.0 - use))
    prompt_id, text, number, log_prob, without = zip(*rows, strict=True)
    return InstructionUse(
        Provenance("instruction_use", model, options={"base": model.split(" -> ")[0]}, controls=made),
        by,
        tuple(names),
        tuple(texts),
        prompt_id=prompt_id,
        text=text,
        model=torch.tensor(number),
        n_out=torch.full((len(rows),), 8),
        n_draws=torch.full((len(rows),), 8),
        log_prob=torch.tensor(log_prob, dtype=torch.float64),
        log_prob_without=torch.tensor(without, dtype=torch.float64),
        n_left_out=3,
        failures={},
        level=0.95,
    )


def value_rotation(
    n_layers: int = 6, *, controls: Mapping[str, int] | None = None, model: str = "a -> b", changed: bool = False
) -> ValueRotation:
    """Shares that fall from 0.6 to 0.3 with the layer; those of controls are near 0.2."""
    made = controls_of(controls or {})
    shares = 0.2 + 0.02 * torch.randn(len(made), n_layers, generator=torch.Generator().manual_seed(0)).double()
    return ValueRotation(
        Provenance("value_rotation", model, options={"base": model.split(" -> ")[0]}, controls=made),
        layers=tuple(range(n_layers)),
        shares=torch.linspace(0.6, 0.3, n_layers, dtype=torch.float64),
        change=torch.full((n_layers,), 0.1, dtype=torch.float64),
        neurons_moved=torch.tensor([3 if changed else 0] * n_layers),
        basis_changed=changed,
        control_shares=shares,
        level=0.95,
    )
