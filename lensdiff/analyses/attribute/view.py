"""The attribution explorer: prompt words coloured by importance for a chosen response token, base beside tuned."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.results import Diff
from lensdiff.views.show import register_diff, register_many, register_view
from lensdiff.views.widget import Widget, packed

LABEL_LENGTH = 90
SIDES = ("base", "tuned")


@register_view
def show_attribution(result: Attribution) -> Widget:
    """Return the explorer of one map."""
    return show_prompts([result])


@register_many(Attribution)
def show_prompts(results: Sequence[Attribution]) -> Widget:
    """Return the explorer of one model's maps, a prompt chosen at a time."""
    prompts = [_prompt([("model", result.provenance.model, result)]) for result in results]
    return _widget(prompts, f"Attribution: {results[0].provenance.model}")


@register_diff(Attribution)
def show_attributions(result: Diff) -> Widget:
    """Return the explorer of both models' maps, of one prompt or of those prompts that both lists have."""
    base, tuned = (_by_prompt(side) for side in (result.base, result.tuned))
    names = [name for name in base if name in tuned]
    prompts = [
        _prompt([("base", "base", base[name]), ("tuned", "tuned", tuned[name])], with_model=True) for name in names
    ]
    return _widget(prompts, "Attribution: base and tuned")


def _by_prompt(side: Attribution | Sequence[Attribution]) -> dict[str, Attribution]:
    results = [side] if isinstance(side, Attribution) else side
    return {result.prompt_id or str(number): result for number, result in enumerate(results)}


def _widget(prompts: list[dict[str, Any]], title: str) -> Widget:
    return Widget("attribution", {"prompts": prompts}, title, circuitsvis=True, height=620)


def _prompt(sides: list[tuple[str, str, Attribution]], *, with_model: bool = False) -> dict[str, Any]:
    first = sides[0][2]
    text = " ".join(first.prompt.split())
    label = f"{first.prompt_id}: {text}" if first.prompt_id else text
    return {
        "id": first.prompt_id,
        "label": label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…",
        "sides": [
            _side(
                role,
                name if not with_model or result.provenance.model == name else f"{name}: {result.provenance.model}",
                result,
            )
            for role, name, result in sides
        ],
    }


def _side(role: str, name: str, result: Attribution) -> dict[str, Any]:
    parts = [
        "instruction" if i else "context" if c else ""
        for i, c in zip(result.instruction.tolist(), result.context.tolist(), strict=True)
    ]
    tops = result.scores.abs().amax(dim=0) if len(result.scores) else torch.zeros(0)
    return {
        "role": role,
        "name": name,
        "facts": facts(result),
        "in_tokens": list(result.in_tokens),
        "out_tokens": list(result.out_tokens),
        "parts": parts,
        "scores": packed(result.scores / tops.clamp(min=torch.finfo(tops.dtype).tiny)),
        "tops": _short(tops),
        "density": _short(result.density()),
        "probabilities": _short(result.probabilities),
    }


def _short(values: Tensor) -> list[float]:
    return [float(f"{v:.4g}") for v in values.tolist()]


def facts(result: Attribution) -> str:
    """Return what belongs beside a map in one line: the instruction's score and the deletion check."""
    parts = []
    if bool(result.instruction.any()):
        parts.append(f"instruction score {result.instruction_score():.3f} over {int(result.instruction.sum())} tokens")
    if result.deletion is not None:
        check = result.deletion
        change = f"{'lowers' if check.effect >= 0 else 'raises'} the mean target by {abs(check.effect):.3g}"
        parts.append(
            f"deleting the {check.k} highest-scored tokens {change}; its effect is above that of {check.beaten:.0%} of "
            f"{len(check.random)} random deletions"
        )
    if result.merged:
        parts.append("the tokenizer merged prompt and response at their boundary")
    parts.append(f"response {'as generated' if result.response_kind == 'generated' else 'given as text'}")
    parts.append("raw prompt, no chat template")
    return "; ".join(parts)


def scores_widget(scores: pd.DataFrame) -> Widget:
    """Return the instruction score of every prompt in both models, a point each (table `instruction_scores`)."""
    sides = {side: scores[scores["model"] == side].set_index("prompt_id")["instruction_score"] for side in SIDES}
    shared = sides["base"].index.intersection(sides["tuned"].index)
    points = [{"id": str(name)} | {side: float(f"{sides[side][name]:.4g}") for side in SIDES} for name in shared]
    return Widget("scores", {"points": points}, "Instruction score, prompt by prompt")
