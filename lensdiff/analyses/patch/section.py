"""The section of the report, and what the command prints."""

from typing import Any

import pandas as pd

from lensdiff.analyses.patch.result import Patched, name
from lensdiff.analyses.patch.set_result import SetPatch
from lensdiff.steps.found import Found
from lensdiff.steps.headline import Headline, beside_band, most_shifted
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

TOP_ROWS = 12
UNIT = " nats per token"
TABLES = {
    "patch": "A row per prompt, component, positions and direction: effect is patched - clean, nats per token; share "
    "is its part of donor - clean. Effects of single parts do not add up to the whole.",
    "patch_set": "A row per prompt and direction: the heads whose instruction verbs rose most, patched all together.",
}


def patch_section(found: Found) -> list[Widget | Table | str]:
    """Return the maps, the set of heads and the tables of a results directory."""
    shown = [found.maybe("patch", Patched), found.maybe("patch_set", SetPatch)]
    return [*(show(result) for result in shown if result is not None), *tables(found, TABLES)]


def summary(found: Found) -> pd.DataFrame:
    """Return the rows with the largest effects, mean over prompts."""
    result = found.maybe("patch", Patched)
    if result is None:
        return pd.DataFrame()
    frame: Any = result.ranked(TOP_ROWS).dropna(subset="effect")
    frame.insert(0, "patched", [name(row) for row in frame.itertuples()])
    columns = ["patched", "into", "n", "effect", "low", "high", "share", "other_effect", "control_low", "control_high"]
    return frame[columns]


def of_set(found: Found) -> pd.DataFrame:
    """Return what the heads whose verbs rose most do together, mean over prompts."""
    result = found.maybe("patch_set", SetPatch)
    return pd.DataFrame() if result is None else result.means()


def controls_beside(found: Found) -> dict[str, list[str]]:
    """Return the kinds of the controls that stand beside the effects."""
    result = found.maybe("patch", Patched)
    return {} if result is None else {"patches": list(result.provenance.control_kinds)}


def headlines(found: Found) -> list[Headline]:
    """Return the heads and MLPs that, put into the base, change most how likely the tuned model's response is."""
    result = found.maybe("patch", Patched)
    if result is None:
        return []
    frame: Any = result.top(result.n_rows).dropna(subset="effect")
    told = []
    for kind, component in (("heads", "head"), ("layers", "mlp")):
        some = frame[(frame.component == component) & (frame["into"] == "base")]
        told += [_put(row, beyond, kind, result) for row, beyond in most_shifted(some, "effect")]
    return told


def _put(row: Any, beyond: bool | None, kind: Any, result: Patched) -> Headline:
    what = name(row).capitalize() if row.component == "head" else f"The MLP of layer {row.layer}"
    where = "taken from the tuned model into the base, makes the tuned model's response"
    likelier = "likelier" if row.effect > 0 else "less likely"
    text = f"{what}, {where} {likelier}: {row.effect:+.3g}{UNIT}"
    control = beside_band(row.control_low, row.control_high, result.provenance.control_counts, UNIT)
    return Headline(kind, text, row.effect, UNIT, control, beyond)


SUMMARIES = {
    "Patches: the largest effects, nats per token (they do not add up)": summary,
    "Heads whose instruction verbs rose most, patched together": of_set,
}


SECTION = Section(
    "What happens when parts are exchanged",
    "A cell is one head, MLP or stream of one model put into the other while both read the tuned model's response: "
    "orange where that becomes likelier, blue where it becomes less likely. A filled corner marks an effect beyond "
    "what control models' activations do in the same place.",
    28,
    patch_section,
)
