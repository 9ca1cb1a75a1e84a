"""Knock-outs made by hand, without a model."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lensdiff.analyses.knock_out.cuts import CUTS, Condition
from lensdiff.analyses.knock_out.result import KnockOut
from lensdiff.analyses.knock_out.shift import PARTS, KnockOutShift
from lensdiff.results import Provenance
from lensdiff.results.diff import SIDES
from tests.analyses.controls import controls_of

PROMPTS = ("poem", "list", "french")
TOKENS = ("A", " poem", ".\n")
WINDOWS = ((0, 1), (2, 3))
RISE = 1.0  # of the drop from base to tuned, a tenth more with each prompt
SLOPE = -2.0  # of the tuned model's drop; the base's is 0


def knock_out(
    tokens: Sequence[str] = TOKENS,
    *,
    prompt_id: str = "p1",
    prompt: str = "List three.",
    model: str = "a",
    shift: float = 0.0,
) -> KnockOut:
    """One response: its first token loses most, its last one gains; of the second way no draws are to be had."""
    n = len(tokens)
    drop = torch.linspace(2.0, -1.0, n, dtype=torch.float64) + shift
    random = torch.full((2, 2, n), 0.25, dtype=torch.float64)
    random[1] = torch.nan
    conditions = tuple(Condition("response", 0, last, False) for last in (3, 1))
    return KnockOut(
        Provenance("knock_out", model),
        prompt_id=prompt_id,
        prompt=prompt,
        response="".join(tokens),
        response_kind="generated",
        merged=False,
        out_tokens=tuple(tokens),
        n_instruction=2,
        n_others=4,
        conditions=conditions,
        log_prob=torch.linspace(-0.5, -2.0, n, dtype=torch.float64),
        drop=torch.stack([drop, drop / 2]),
        random_drop=random,
    )


def shift(
    prompts: Sequence[str] = PROMPTS,
    *,
    controls: Mapping[str, int] | None = None,
    texts: Sequence[str] = SIDES,
    tokens: Sequence[str] = TOKENS,
    model: str = "a -> b",
) -> KnockOutShift:
    """A pair whose tuned model loses RISE + 0.1 i more of each prompt; controls are the base, give or take.

    Cut behind the instruction everything is twice as much; the second text's numbers are 0.2 above the first's.
    """
    made = controls_of(controls or {})
    names, rng = (*SIDES, *(control.name for control in made)), np.random.default_rng(0)
    rows = [(p, t, m) for p in range(len(prompts)) for t in range(len(texts)) for m in range(len(names))]
    noise = {(p, m): 0.1 * rng.normal() if m > 1 else 0.0 for p in range(len(prompts)) for m in range(len(names))}
    drop = torch.tensor([0.1 * p + 0.2 * t + (RISE + 0.1 * p) * (m == 1) + noise[p, m] for p, t, m in rows]).double()
    slope = torch.tensor([SLOPE * (m == 1) + 0.1 * p + noise[p, m] for p, _, m in rows]).double()
    read, n = torch.tensor([m < 2 for _, _, m in rows]), len(tokens)
    by_cut = torch.tensor([1.0, 2.0]).double()

    def of_cuts(values: torch.Tensor, *, kept: torch.Tensor | None = None) -> torch.Tensor:
        found = values[:, None] * by_cut
        return found if kept is None else found.masked_fill(~kept[:, None], torch.nan)

    places, widths = torch.linspace(0.5, -0.5, PARTS).double(), torch.tensor([0.75, 0.25]).double()
    kept = drop[read]
    return KnockOutShift(
        Provenance("knock_out", model, options={"base": model.split(" -> ")[0]}, controls=made),
        names,
        tuple(texts),
        WINDOWS,
        prompt_id=tuple(prompts[p] for p, _, _ in rows),
        text=tuple(texts[t] for _, t, _ in rows),
        model=torch.tensor([m for _, _, m in rows]),
        n_out=torch.full((len(rows),), n),
        log_prob=torch.full((len(rows),), -1.0).double(),
        drop=of_cuts(drop),
        drop_median=of_cuts(drop / 2),
        slope=of_cuts(slope),
        random_drop=of_cuts(drop / 10, kept=read),
        profile=of_cuts(drop)[:, :, None] - of_cuts(slope)[:, :, None] * places,
        window_drop=of_cuts(drop, kept=read)[:, :, None] * widths,
        window_random=of_cuts(drop / 10, kept=read)[:, :, None] * widths,
        first_token=torch.tensor([0, *(n * read).cumsum(0).tolist()]),
        out_tokens=tuple(tokens) * len(kept),
        token_log_prob=torch.full((n * len(kept),), -1.0).double(),
        token_drop=(of_cuts(kept)[:, :, None] * torch.linspace(2.0, 0.0, n).double()).permute(1, 0, 2).flatten(1),
        token_random=torch.full((len(CUTS), n * len(kept)), 0.25).double(),
        n_left_out=1,
        failures={},
        level=0.95,
    )
