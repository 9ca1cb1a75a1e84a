"""Attributions and instruction scores made by hand, without a model."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.curves import DeletionCurve
from lensdiff.results import Provenance
from lensdiff.results.diff import SIDES

PROMPT = ("Write", " a", " poem", " about", " the", " sea")
RESPONSE = ("Blue", " waves", ".")


def attribution(
    prompt: Sequence[str] = PROMPT,
    response: Sequence[str] = RESPONSE,
    *,
    scores: torch.Tensor | None = None,
    instruction: int = 3,
    context: int = 1,
    model: str = "tiny",
    prompt_id: str = "p1",
    seed: int = 0,
) -> Attribution:
    """A map whose first tokens are the instruction and whose last are the context; random scores unless given."""
    n, m = len(prompt), len(response)
    starts = [0]
    for token in prompt:
        starts.append(starts[-1] + len(token))
    position = torch.arange(n)
    if scores is None:
        scores = torch.randn(n, m, generator=torch.Generator().manual_seed(seed)) * 0.1
    return Attribution(
        Provenance("attribute", model),
        prompt_id=prompt_id,
        prompt="".join(prompt),
        response="".join(response),
        in_tokens=tuple(prompt),
        out_tokens=tuple(response),
        in_offsets=tuple(itertools.pairwise(starts)),
        response_kind="text",
        merged=False,
        method="forward",
        deletion=None,
        scores=scores,
        targets=torch.full((m,), 0.5),
        probabilities=torch.full((m,), 0.5),
        instruction=position < instruction,
        context=position >= n - context,
    )


def planted(tuned: int, seed: int, given: dict[str, Any], **names: Any) -> Attribution:
    """A map in which the tuned model's first three tokens, the instruction, matter most, and the base's others."""
    n, m = (len(given.get(part, default)) for part, default in (("prompt", PROMPT), ("response", RESPONSE)))
    scores = torch.rand(n, m, generator=torch.Generator().manual_seed(2 * seed + tuned)) * 0.1
    scores[slice(None, 3) if tuned else slice(3, None)] += 0.3
    return attribution(**given, **names, scores=scores)


def instruction_scores(prompts: list[str], *, effect: float = 0.3, controls: int = 3, seed: int = 0) -> pd.DataFrame:
    """The table of that name, with a planted mean difference."""
    rng = np.random.default_rng(seed)
    base = rng.normal(1.0, 0.2, len(prompts))
    runs = {("base", "", pd.NA): base, ("tuned", "", pd.NA): base + effect + rng.normal(0, 0.1, len(prompts))}
    runs |= {("control", "spectrum", i): base + rng.normal(0, 0.1, len(prompts)) for i in range(controls)}
    rows = [
        {
            "prompt_id": prompt,
            "model": model,
            "kind": kind,
            "seed": number,
            "instruction_score": value,
            "n_in": 6,
            "n_out": 3,
        }
        for (model, kind, number), values in runs.items()
        for prompt, value in zip(prompts, values, strict=True)
    ]
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def curves(prompts: Sequence[str] = ("poem", "list"), *, draws: int = 19, model: str = "a -> b") -> DeletionCurve:
    """Four tokens, removed two by two: without them the base loses 1 nat and the tuned model 2.

    By the tuned model's map all of it is lost at the first two; by the other maps the tuned model loses half there. Of
    random orders the first has lost nothing there, the last everything. An insertion is the same, put in.
    """
    n, orders = len(prompts), (*SIDES, "difference")
    base = torch.tensor([-3.0, -4.0, -4.0], dtype=torch.float64)
    early = torch.tensor([-3.0, -5.0, -5.0], dtype=torch.float64)
    even = torch.tensor([-3.0, -4.0, -5.0], dtype=torch.float64)
    deleted = torch.stack([torch.stack([base, early if order == "tuned" else even]) for order in orders])
    won = torch.tensor([-4.0, -3.0, -3.0], dtype=torch.float64)
    inserted = torch.stack([
        torch.stack([won, torch.tensor([-5.0, -3.0 if order == "tuned" else -4.0, -3.0], dtype=torch.float64)])
        for order in orders
    ])  # fmt: skip
    random = torch.stack([
        torch.tensor([[-3.0, -3.0 - share, -4.0], [-3.0, -3.0 - 2 * share, -5.0]], dtype=torch.float64)
        for share in (torch.linspace(0, 1, draws) if draws > 1 else torch.zeros(draws)).tolist()
    ]) if draws else torch.zeros(0, 2, 3, dtype=torch.float64)  # fmt: skip
    return DeletionCurve(
        Provenance("deletion_curve", model, options={"base": model.split(" -> ")[0]}),
        SIDES,
        orders,
        tuple(prompts),
        n_in=torch.full((n,), 4),
        removed=torch.tensor([[0, 2, 4]] * n),
        deleted=deleted.expand(n, *deleted.shape).clone(),
        inserted=inserted.expand(n, *inserted.shape).clone(),
        random_deleted=random.expand(n, *random.shape).clone(),
        failures={},
        level=0.95,
    )
