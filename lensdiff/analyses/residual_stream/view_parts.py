"""What each head and MLP adds to a token's logit: a map of layer and part, and the table of those that moved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lensdiff.analyses.residual_stream.direct import DirectLogitAttribution
from lensdiff.analyses.residual_stream.parts_shift import PartsShift
from lensdiff.analyses.residual_stream.split import Part
from lensdiff.results import Diff
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known, known_all
from lensdiff.views.prompts import how_rendered, prompt_label, shared_prompts
from lensdiff.views.show import register_diff, register_many, register_view
from lensdiff.views.small_table import Cell, SmallTable, cells
from lensdiff.views.widget import Widget

TOP = 15
OUTSIDE = ("embed", "pos_embed", "bias")  # of the layers
Values = list[float | None]


@dataclass(frozen=True)
class PartRow:
    """One part: where it is (layer and head are None outside of layers and heads), and a number per measure.

    `marked`: it lies beyond the controls' band; `moved`: the prompts say so, too. None where nothing tells.
    """

    part: str
    layer: int | None
    head: int | None
    values: Values
    band: Values
    marked: bool | None
    moved: bool | None


@dataclass(frozen=True)
class PartsData:
    """What the script of the map is given.

    Attributes:
        facts: paragraphs above.
        n_layers, n_heads: of the map.
        measures: names of the numbers that each part has, one of which is chosen.
        groups: what is chosen first, a prompt for example, and its parts.
        table: of the parts that moved most; None for a single model.
    """

    facts: list[str]
    n_layers: int
    n_heads: int
    measures: list[str]
    groups: list["GroupData"]
    table: SmallTable | None


@dataclass(frozen=True)
class GroupData:
    """Parts that one map shows: under which name it is chosen, a line on it, and its parts."""

    label: str
    note: str
    rows: list[PartRow]


@register_view
def show_parts_shift(result: PartsShift) -> Widget:
    """Return the map of a pair beside its controls."""
    frame: Any = result.frame
    top: Any = _named(result.ranked(TOP))
    rows = [
        PartRow(
            *part,
            known_all([row["difference"], row["base"], row["tuned"]]),
            known_all([row["control_low"], row["control_high"]]),
            _yes(row["beyond"]),
            _yes(row["moved"]),
        )
        for part, row in zip(result.parts, frame.to_dict("records"), strict=True)
    ]
    columns = [
        "part",
        "base",
        "tuned",
        "difference",
        "low",
        "high",
        "control_low",
        "control_high",
        "p_adjusted",
        "moved",
    ]
    table = top[columns].rename(columns=lambda name: name.replace("_", " "))
    data = PartsData(
        facts=_facts(result),
        n_layers=result.n_layers,
        n_heads=result.n_heads,
        measures=["tuned − base", "base", "tuned"],
        groups=[GroupData("", "", rows)],
        table=SmallTable(
            "The parts that moved most, those that did beyond the controls first; logits", list(table), _cells(table)
        ),
    )
    title = f"Direct logit attribution: {result.provenance.model}"
    return Widget("logit_parts", data, title, height=820, fallback=table_html(top[columns], "Parts that moved most"))


@register_view
def show_attribution(result: DirectLogitAttribution) -> Widget:
    """Return the map of one model and prompt, means over the response."""
    return _of_prompts([[result]])


@register_many(DirectLogitAttribution)
def _(results: Sequence[DirectLogitAttribution]) -> Widget:
    return _of_prompts([[one] for one in results])


@register_diff(DirectLogitAttribution)
def _(result: Diff) -> Widget:
    return _of_prompts([list(pair) for pair in shared_prompts(result)])


def _of_prompts(prompts: list[list[DirectLogitAttribution]]) -> Widget:
    """Return the map of one model, or of a pair without controls, a prompt at a time."""
    parts = [Part(*part) for part in prompts[0][0].parts]
    groups = []
    for sides in prompts:
        means = [one.contributions.mean(dim=1).tolist() for one in sides]
        values = zip(*means, strict=True) if len(sides) == 1 else ((t - b, b, t) for b, t in zip(*means, strict=True))
        rows = [PartRow(*part, known_all(list(v)), [], None, None) for part, v in zip(parts, values, strict=True)]
        one = sides[-1]
        against = "of the response's tokens" + (", each less that of another token" if one.against else "")
        models = SIDES if len(sides) == 2 else [one.provenance.model]
        logits = (f"{model} {float(side.logit.mean()):.3g}" for model, side in zip(models, sides, strict=True))
        note = f"logit {against}: {', '.join(logits)}"
        groups.append(
            GroupData(prompt_label(one.prompt_id, one.prompt), f"{note}; {how_rendered(one.provenance)}", rows)
        )
    data = PartsData(
        facts=["What each part adds to the logit, mean over the response's tokens."],
        n_layers=1 + max(part.layer for part in parts if part.layer is not None),
        n_heads=1 + max(part.head for part in parts if part.head is not None),
        measures=["contribution"] if len(prompts[0]) == 1 else ["tuned − base", "base", "tuned"],
        groups=groups,
        table=None,
    )
    names = " -> ".join(one.provenance.model for one in prompts[0])
    fallback = "".join(
        table_html(_named(one.top(TOP)), f"{one.prompt_id} {one.provenance.model}: largest parts".strip())
        for sides in prompts
        for one in sides
    )
    return Widget("logit_parts", data, f"Direct logit attribution: {names}", height=640, fallback=fallback)


def _facts(result: PartsShift) -> list[str]:
    base, tuned = result.logit[:2].mean(dim=1).tolist()
    facts = [
        f"{n_of(len(result.prompt_id), 'prompt')}, each by the mean over its response, which all models read; "
        f"{how_rendered(result.provenance)}. Logit of the response's token less that of the token which the base finds "
        f"most probable beside it, before a soft cap: base {base:.3g}, tuned {tuned:.3g}.",
    ]
    test, beside = result.whole(), result.beside()
    if test is not None:
        facts.append(f"That logit, tuned − base over prompts: {test}.")
    if beside is not None:
        facts.append(f"Beside controls, mean over prompts of the model − base: {beside}.")
    moved: Any = result.frame["moved"]
    if moved.notna().all():
        facts.append(f"{int(moved.sum())} of {n_of(len(moved), 'part')} moved beyond the controls and over prompts.")
    facts.append("Direct effects alone: the parts add up to the logit, and large ones may cancel.")
    return facts


def _named(frame: Any) -> Any:
    """Return a table with one column that names the part."""
    names = [
        str(Part(part, _number(layer), _number(head)))
        for part, layer, head in frame[["part", "layer", "head_index"]].itertuples(index=False)
    ]
    return frame.drop(columns=["layer", "head_index"]).assign(part=names)


def _cells(frame: pd.DataFrame) -> list[list[Cell]]:
    return [
        [
            ("yes" if cell else "no") if isinstance(cell, bool) else known(cell) if isinstance(cell, float) else cell
            for cell in row
        ]
        for row in cells(frame)
    ]


def _number(value: Any) -> int | None:
    return None if value is None or value is pd.NA else int(value)


def _yes(value: Any) -> bool | None:
    return None if value is None or value is pd.NA else bool(value)
