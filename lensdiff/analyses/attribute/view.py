"""The attribution explorer: prompt words coloured by importance for a chosen response token, base beside tuned."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.analyses.attribute import view_curves as view_curves
from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.defaults import TARGET
from lensdiff.results import Diff
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import n_of
from lensdiff.views.numbers import rounded, rounded_all
from lensdiff.views.prompts import how_read, prompt_label, shared_prompts
from lensdiff.views.show import register_diff, register_many, register_view
from lensdiff.views.widget import Role, Widget, packed

LONG = 64  # tokens of a segment that can be folded
SHARE_DIGITS = 6  # of shares, of which a page shows tenths of a per cent
HIGHEST = 10  # tokens that can be shown one after the other


@dataclass(frozen=True)
class SegmentData:
    """Consecutive prompt tokens of one part, so many that they can be folded.

    Attributes:
        part: as in `SideData`.
        start, end: its tokens.
        support: its share of what supports the response, by what is chosen: of the density for the whole response,
            then of the positive scores of each response token; 0 where there are none.
        against: likewise of the negative scores; 0 for the whole response.
    """

    part: str
    start: int
    end: int
    support: list[float]
    against: list[float]


@dataclass(frozen=True)
class SideData:
    """One model's map of a prompt.

    Attributes:
        role: its colour.
        name: the side's heading.
        facts: the line below the heading.
        in_tokens: of the prompt.
        out_tokens: of the response.
        parts: of each prompt token: "instruction", "context", "template" or "".
        scores: [prompt token][response token], each column divided by its largest |score|, as `packed` packs them.
        tops: the largest |score| of each response token; largest: the largest score.
        highest: by what is chosen, as in `SegmentData`, the prompt tokens of the highest positive scores, by rank.
        segments: the long ones.
        density: importance density of each prompt token.
        probabilities: of each response token.
    """

    role: Role
    name: str
    facts: str
    in_tokens: tuple[str, ...]
    out_tokens: tuple[str, ...]
    parts: list[str]
    scores: str
    tops: list[float]
    largest: list[float]
    highest: list[list[int]]
    segments: list[SegmentData]
    density: list[float]
    probabilities: list[float]


@dataclass(frozen=True)
class PromptData:
    """One prompt that can be chosen: its id, which other views of the page ask for, its label, and each model's map."""

    id: str
    label: str
    sides: list[SideData]


@dataclass(frozen=True)
class AttributionData:
    """What the script of the explorer is given: prompts, one of which is chosen."""

    prompts: list[PromptData]


@dataclass(frozen=True)
class Point:
    """One prompt's instruction score in both models."""

    id: str
    base: float
    tuned: float


@dataclass(frozen=True)
class ScoresData:
    """What the script of the scores is given: a point for each prompt."""

    points: list[Point]


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
    prompts = [
        _prompt([("base", _named("base", base), base), ("tuned", _named("tuned", tuned), tuned)])
        for base, tuned in shared_prompts(result)
    ]
    return _widget(prompts, "Attribution: base and tuned")


def _named(side: str, result: Attribution) -> str:
    model = result.provenance.model
    return side if model == side else f"{side}: {model}"


def _widget(prompts: list[PromptData], title: str) -> Widget:
    return Widget("attribution", AttributionData(prompts), title, height=640)


def _prompt(sides: list[tuple[Role, str, Attribution]]) -> PromptData:
    first = sides[0][2]
    return PromptData(first.prompt_id, prompt_label(first.prompt_id, first.prompt), [_side(*side) for side in sides])


def _side(role: Role, name: str, result: Attribution) -> SideData:
    masks = {name: mask for name, mask in result.parts.items() if name != "other"}
    parts = [next((name for name, mask in masks.items() if mask[i]), "") for i in range(len(result.in_tokens))]
    scores, density = result.scores, result.density()
    tops = scores.abs().amax(dim=0) if len(scores) else torch.zeros(0)
    return SideData(
        role,
        name,
        facts(result),
        result.in_tokens,
        result.out_tokens,
        parts,
        scores=packed(scores / tops.clamp(min=torch.finfo(tops.dtype).tiny)),
        tops=rounded_all(tops),
        largest=rounded_all(scores.amax(dim=0) if len(scores) else tops),
        highest=[_highest(column) for column in (density, *scores.T)],
        segments=_segments(parts, density, scores),
        density=rounded_all(density),
        probabilities=rounded_all(result.probabilities),
    )


def _highest(column: Float[Tensor, " in_pos"]) -> list[int]:
    order = column.argsort(descending=True, stable=True)[:HIGHEST]
    return [int(n) for n in order if column[n] > 0]


def _segments(
    parts: Sequence[str], density: Float[Tensor, " in_pos"], scores: Float[Tensor, "in_pos out_pos"]
) -> list[SegmentData]:
    found, start = [], 0
    # sums in double precision, of the scores themselves: those that are packed would not add up
    columns = torch.cat([density[:, None].double(), scores.double()], dim=1)
    positive, negative = columns.clamp(min=0), -columns.clamp(max=0)
    for part, group in groupby(parts):
        end = start + len(list(group))
        if end - start > LONG:
            shares = [rounded_all(_share(values, start, end), SHARE_DIGITS) for values in (positive, negative)]
            found.append(SegmentData(part, start, end, *shares))
        start = end
    return found


def _share(values: Float[Tensor, "in_pos column"], start: int, end: int) -> Float[Tensor, " column"]:
    total = values.sum(dim=0)
    return values[start:end].sum(dim=0) / torch.where(total > 0, total, 1.0)


def facts(result: Attribution) -> str:
    """Return what belongs beside a map in one line: another target than the default, its path, the deletion check."""
    target = result.provenance.options.get("target", TARGET)
    parts = [] if target == TARGET else [f"target {target}"]
    if result.completeness is not None:
        options = result.provenance.options
        parts.append(
            f"integrated from {options['baseline']} over {n_of(options['nodes'], 'node')}, adds up to within "
            f"{result.completeness:.2g} of what the target changes"
        )
    if bool(result.instruction.any()):
        parts.append(
            f"instruction score {result.instruction_score():.3f} over {n_of(int(result.instruction.sum()), 'token')}"
        )
    if result.deletion is not None:
        check = result.deletion
        change = f"{'lowers' if check.effect >= 0 else 'raises'} the mean target by {abs(check.effect):.3g}"
        parts.append(
            f"deleting the {n_of(check.k, 'highest-scored token')} {change}; its effect is above that of "
            f"{check.beaten:.0%} of {n_of(len(check.random), 'random deletion')}"
        )
    return "; ".join([*parts, *how_read(result.response_kind, merged=result.merged, of=result.provenance)])


def scores_widget(scores: pd.DataFrame) -> Widget:
    """Return the instruction score of every prompt in both models, a point each (table `instruction_scores`)."""
    own = (scores.loc[scores["model"] == side] for side in SIDES)
    base, tuned = (dict(zip(side["prompt_id"], side["instruction_score"], strict=True)) for side in own)
    points = [Point(str(name), rounded(base[name]), rounded(tuned[name])) for name in base if name in tuned]
    return Widget("scores", ScoresData(points), "Instruction score, prompt by prompt")
