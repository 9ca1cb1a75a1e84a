"""Maps of what patches do, both directions beside each other; and a set of heads beside random sets and controls."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lensdiff.analyses.patch.result import NOT_ADDED, Patched, name
from lensdiff.analyses.patch.set_result import RANDOM, SetPatch
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known, rounded, rounded_all
from lensdiff.views.show import register_view
from lensdiff.views.small_table import SmallTable
from lensdiff.views.widget import Widget

TOP = 12
DIRECTIONS = {
    "base": "The tuned model's activation in the base: does it bring the response?",
    "tuned": "The base's activation in the tuned model: does the response need it?",
}
GROUP_NAMES = {"all": "all positions", "prompt": "rest of the prompt"}
LOG_PROB = "nats per token"

Cell = list[float | bool | None]  # effect, share, the controls' low and high, whether it is an estimate


@dataclass(frozen=True)
class DirectionData:
    """One direction of a grid.

    Attributes:
        name: what is asked by it.
        totals: of each choice of prompts, the difference that a whole exchange makes; None where it is not known.
        cells: [choice of prompts][layer][column], None where there is nothing.
    """

    name: str
    totals: list[float | None]
    cells: list[list[list[Cell | None]]]


@dataclass(frozen=True)
class GridData:
    """One map: layers down.

    Attributes:
        title: what is patched.
        layers: names of the rows.
        columns: names of the columns.
        scales: the name of each column's scale of colours; columns of one name share it, in both directions.
        directions: that were patched.
    """

    title: str
    layers: list[str]
    columns: list[str]
    scales: list[str]
    directions: list[DirectionData]


@dataclass(frozen=True)
class PatchData:
    """What the script of the maps is given.

    Attributes:
        facts: paragraphs above.
        unit: of effects.
        prompts: choices: the mean over all, and each.
        grids: maps, one below the other.
        note: what may not be done with the numbers.
        top: rows with the largest effects.
    """

    facts: list[str]
    unit: str
    prompts: list[str]
    grids: list[GridData]
    note: str
    top: SmallTable


@register_view
def show_patched(result: Patched) -> Widget:
    """Return the maps of heads and MLPs, and of the residual stream by groups of positions."""
    frames = _frames(result)
    parts = [at for c, at in zip(result.component, result.at, strict=True) if c != "resid"]
    grids = [_grid(result, frames, at) for at in dict.fromkeys(parts)]
    grids += [_stream(result, frames)] if "resid" in result.component else []
    n = len(result.prompt_id)
    top = _top(result)
    data = PatchData(
        facts=_facts(result),
        unit=LOG_PROB if result.metric == "log_prob" else "",
        prompts=[*([f"mean of {n} prompts"] if n > 1 else []), *result.prompt_id],
        grids=grids,
        note=NOT_ADDED,
        top=SmallTable.of(top, "The largest effects, mean over prompts"),
    )
    title = f"Patches: {result.provenance.model}"
    return Widget("patch", data, title, height=900, fallback=table_html(top, "The largest effects of patches"))


def _frames(result: Patched) -> list[Any]:
    """Return a table for each choice of prompts, with the total as `whole`: the mean over all, then each of several."""
    means = result.means()
    frames: list[Any] = [means.assign(whole=means["total"])]
    if len(result.prompt_id) > 1:
        each = result.to_df()
        each = each.assign(whole=each["donor"] - each["clean"])
        frames += [each[each["prompt_id"] == prompt] for prompt in result.prompt_id]
    return frames


def _grid(result: Patched, frames: Sequence[Any], at: str) -> GridData:
    """Return the map of heads, with a column for attention outputs and MLPs."""
    there = {c for c, own in zip(result.component, result.at, strict=True) if own == at}
    rows = {
        (c, h) for c, h, own in zip(result.component, result.head_index.tolist(), result.at, strict=True) if own == at
    }
    heads = sorted(head for component, head in rows if component == "head")
    columns = [("head", head) for head in heads]
    columns += [(component, -1) for component in ("attention", "mlp") if component in there]
    shown = {"head": "heads", "attention": "attention", "mlp": "MLP"}
    names = [str(head) if component == "head" else shown[component] for component, head in columns]
    what = [shown["head"]] * bool(heads) + ["attention"] * ("attention" in there) + ["MLPs"] * ("mlp" in there)
    own = [frame[(frame["at"] == at) & (frame["component"] != "resid")] for frame in frames]
    keys = [_keys(frame, "head_index") for frame in own]
    parts = ", ".join(what)
    title = f"{parts[0].upper()}{parts[1:]}: {_group(at)}"
    return _filled(result, own, keys, title, columns, names, [shown[component] for component, _ in columns])


def _stream(result: Patched, frames: Sequence[Any]) -> GridData:
    """Return the map of the residual stream by groups of positions."""
    ats = list(dict.fromkeys(at for c, at in zip(result.component, result.at, strict=True) if c == "resid"))
    own = [frame[frame["component"] == "resid"] for frame in frames]
    keys = [_keys(frame, "at") for frame in own]
    columns, names = [("resid", at) for at in ats], [_group(at) for at in ats]
    title = "Residual stream that enters a layer, by groups of positions"
    return _filled(result, own, keys, title, columns, names, ["stream"] * len(ats))


def _keys(frame: Any, by: str) -> list[tuple[str, int, str, Any]]:
    second = frame[by].fillna(-1) if by == "head_index" else frame[by]
    columns = (frame["into"], frame["layer"], frame["component"], second)
    return [(into, int(layer), component, x) for into, layer, component, x in zip(*columns, strict=True)]


def _filled(
    result: Patched,
    frames: Sequence[Any],
    keys: Sequence[list[tuple[str, int, str, Any]]],
    title: str,
    columns: Sequence[tuple[str, Any]],
    names: list[str],
    scales: list[str],
) -> GridData:
    layers = sorted({layer for own in keys for _, layer, _, _ in own})
    directions = []
    for into in dict.fromkeys(result.into):
        cells, totals = [], []
        for frame, own in zip(frames, keys, strict=True):
            found = dict(zip(own, frame.itertuples(index=False), strict=True))
            cells.append([[_cell(found.get((into, layer, *column))) for column in columns] for layer in layers])
            whole = frame.loc[frame["into"] == into, "whole"].dropna()
            totals.append(known(float(whole.median())) if len(whole) else None)
        directions.append(DirectionData(DIRECTIONS[into], totals, cells))
    return GridData(title, [f"layer {layer}" for layer in layers], names, scales, directions)


def _cell(row: Any) -> Cell | None:
    """Return what is shown of a row; its estimate where it was not run."""
    if row is None or (np.isnan(row.effect) and np.isnan(row.estimate)):
        return None
    if np.isnan(row.effect):
        return [rounded(row.estimate, 3), None, None, None, True]
    return [rounded(row.effect, 3), *(known(x, 3) for x in (row.share, row.control_low, row.control_high)), False]


def _group(at: str) -> str:
    return GROUP_NAMES.get(at, at if not at[0].isdigit() else f"positions {at}")


def _top(result: Patched) -> pd.DataFrame:
    found: Any = result.ranked(TOP).dropna(subset="effect")
    frame = pd.DataFrame({"into": found["into"], "patched": [name(row) for row in found.itertuples()]})
    columns = {"effect": "effect", "low": "low", "high": "high", "share": "share of the total"}
    columns |= {"other_effect": "another head", "control_low": "controls from", "control_high": "to"}
    if result.estimated:
        columns |= {"estimate": "estimate"}
    return frame.join(found[list(columns)].rename(columns=columns).astype(float))


def _facts(result: Patched) -> list[str]:
    unit = "nats per token" if result.metric == "log_prob" else "in the metric's unit"
    what = "mean log-probability of the response" if result.metric == "log_prob" else result.metric
    n = len(result.provenance.controls)
    counts = ", ".join(f"{k} {kind}" for kind, k in result.provenance.control_counts.items())
    beside = (
        f"Beside each effect into the base, {n_of(n, 'control model')} ({counts})." if n else "No controls were made."
    )
    facts = [
        f"Effect: {what} with the patch, less that without, {unit}. Both models read the same text; "
        f"{n_of(len(result.prompt_id), 'prompt')}. {beside}"
    ]
    if result.estimated:
        agreement: Any = result.agreement()
        told = "; ".join(
            f"into {row.into}: {n_of(row.n, 'run')}, correlation {row.correlation:.2g}, "
            f"largest error {row.largest_error:.2g}"
            for row in agreement.itertuples()
        )
        facts.append(
            f"Rows were ranked by an estimate (gradient times difference) and the first ones run: {told}. "
            "A cell in italics is an estimate."
        )
    return facts


# a set of heads
@dataclass(frozen=True)
class LaneData:
    """One line of dots.

    Attributes:
        name: of what they are.
        values: effects.
    """

    name: str
    values: list[float]


@dataclass(frozen=True)
class SetData:
    """One direction of a set.

    Attributes:
        name: what is asked by it.
        effect: of the set.
        total: of an exchange of everything.
        lanes: dots to compare with.
        told: the effect beside them in a sentence.
    """

    name: str
    effect: float
    total: float | None
    lanes: list[LaneData]
    told: str


@dataclass(frozen=True)
class PatchSetData:
    """What the script of the set is given.

    Attributes:
        facts: paragraphs above.
        directions: both.
    """

    facts: list[str]
    directions: list[SetData]


@register_view
def show_set(result: SetPatch) -> Widget:
    """Return the set's effect in both directions, before random sets and controls."""
    means, found = result.means(), []
    title = f"Heads patched together: {result.provenance.model}"
    if not result.heads:
        return Widget("patch_set", PatchSetData(["In no head did the instruction verbs' count rise."], []), title)
    clean = result.clean.mean(dim=0).tolist()
    for side, into in enumerate(SIDES):
        effect, beside = result.effects(into)
        total = known(clean[1 - side] - clean[side])
        lanes = [LaneData(kind if kind == RANDOM else f"{kind} controls", rounded_all(x)) for kind, x in beside.items()]
        found.append(SetData(DIRECTIONS[into], rounded(effect), total, lanes, f"{result.beside(into)}."))
    listed = ", ".join(f"layer {layer} head {head}" for layer, head in result.heads)
    facts = [
        f"The {n_of(len(result.heads), 'head')} in which instruction verbs rose most ({listed}), exchanged all "
        "together; mean log-probability of the tuned model's response with the patch, less that without, nats per "
        f"token, over {n_of(len(result.prompt_id), 'prompt')}. Random heads are as many others, of the same layers "
        "where there are enough."
    ]
    fallback = table_html(means, "Heads whose instruction verbs rose most, patched together")
    return Widget("patch_set", PatchSetData(facts, found), title, height=480, fallback=fallback)
