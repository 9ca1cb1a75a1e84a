"""The section of the report, and what the command prints."""

import pandas as pd

from lensdiff.analyses.attention.patterns import AttentionPatterns
from lensdiff.analyses.attention.shift import AttentionShift
from lensdiff.results import Diff
from lensdiff.steps.found import Found
from lensdiff.steps.headline import Headline, beside_band, most_shifted
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

TOP_ROWS = 12
PROMPTS = 4  # whose patterns a report draws
SHIFT_CAPTION = (
    "A row per head: js_distance between base and tuned (0 to 1), with and without the first key, and the band in "
    "which one more control lies; each share's base, tuned, difference, its interval over prompts, control band and p."
)
ATTENTION_CAPTION = "A row per model, prompt and head: the shares of the response's attention, and its entropy in bits."


def attention_section(found: Found) -> list[Widget | Table | str]:
    """Return the map of heads, the attention of a few prompts, and the tables of a results directory."""
    parts: list[Widget | Table | str] = []
    if shift := found.maybe("attention_shift", AttentionShift):
        parts.append(show(shift))
    pairs = []
    for prompt in found.prompts("attention", *SIDES):
        pair = [found.one("attention", AttentionPatterns, Unit(side, prompt)) for side in SIDES]
        if all(side.patterns.numel() for side in pair):
            pairs.append(pair)
        if len(pairs) == PROMPTS:
            break
    if pairs:
        parts.append(show(Diff([base for base, _ in pairs], [tuned for _, tuned in pairs])))
    captions = {"attention_shift": SHIFT_CAPTION, "attention": ATTENTION_CAPTION}
    return [*parts, *tables(found, captions)]


def summary(found: Found) -> pd.DataFrame:
    """Return the heads whose attention moved most, with the controls' band, and what the response looked at."""
    columns = ["layer", "head_index", "js_distance", "js_distance_control_low", "js_distance_control_high"]
    columns += [f"instruction_share_{name}" for name in (*SIDES, "p_adjusted")]
    return found.one("attention_shift", AttentionShift).ranked(TOP_ROWS).filter(items=columns)


def headlines(found: Found) -> list[Headline]:
    """Return the heads whose attention moved most on the same text."""
    shift = found.maybe("attention_shift", AttentionShift)
    if shift is None:
        return []
    limits = ("js_distance_control_low", "js_distance_control_high")
    rows = most_shifted(shift.top(len(shift.to_df())), "js_distance", limits=limits, side="above")
    counts = shift.provenance.control_counts
    return [
        Headline(
            "heads",
            f"Layer {row.layer}, head {row.head_index} looks elsewhere on the same text: its attention moved by "
            f"{row.js_distance:.3g} (0 to 1)",
            row.js_distance,
            control=beside_band(getattr(row, limits[0]), getattr(row, limits[1]), counts),
            beyond=beyond,
        )
        for row, beyond in rows
    ]


SUMMARIES = {"Attention: heads that moved most": summary}


SECTION = Section(
    "Where the heads look",
    "Each cell of the map is a head; the stronger its colour, the further tuning moved its attention on the same "
    "text, and a filled corner means further (or less) than the meaningless changes beside it did. Below, base and "
    "tuned side by side, the most changed heads first: rows are the tokens that look, columns what they look at.",
    25,
    attention_section,
)
