"""Instruction use made by hand, without a model."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.results import Provenance
from lensdiff.results.diff import SIDES
from tests.analyses.controls import controls_of

PROMPTS = ("poem", "list", "french", "repeat")
RISE = 2.0  # of the use from base to tuned, a tenth more with each prompt


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
