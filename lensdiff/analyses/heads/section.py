"""The report's section about heads: overlap of word pairs, verbs, OV words, and their tables."""

import pandas as pd

from lensdiff.analyses.heads.ov_reading import OVReading
from lensdiff.analyses.heads.pair_overlap import PairOverlap
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.results import Diff
from lensdiff.steps.found import Found
from lensdiff.steps.headline import Headline, band_of, beside_band, beside_envelope, is_beyond, most_shifted
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

TOP_ROWS = 12
CAPTIONS = {
    "pair_overlap": "A row per head: Jaccard of its word pairs in base and tuned model with the band of the control "
    "models, distinct pairs in either model, gained and lost.",
    "verb_shift": "A row per verb and group of layers: heads in which its count rose and fell, share = rose / (rose + "
    "fell), and its counts over the group's heads.",
    "ov_reading": "A row per word: layer, head, component with its singular value and share of W_OV, side (read or "
    "write), pole, rank and score (cosine).",
}


def head_section(found: Found) -> list[Widget | Table | str]:
    """Return what changed in the heads' word pairs, verbs and OV words."""
    parts: list[Widget | Table | str] = []
    if overlap := found.maybe("pair_overlap", PairOverlap):
        parts += [show(overlap), *_table(found, "pair_overlap")]
    if verbs := found.maybe("verb_shift", VerbShift):
        parts += [show(verbs), *_table(found, "verb_shift")]
    if all(found.has("ov_reading", Unit(side)) for side in SIDES):
        parts.append(show(Diff(*(found.one("ov_reading", OVReading, Unit(side)) for side in SIDES))))
        parts += _table(found, "ov_reading")
    if parts and found.table("heads") is not None:
        parts.append("The best word pairs of every dimension are in tables/heads.parquet of the results directory.")
    return parts


def _table(found: Found, name: str) -> list[Table]:
    return tables(found, {name: CAPTIONS[name]})


def overlap_summary(found: Found) -> pd.DataFrame:
    """Return the heads whose word pairs changed most."""
    return found.one("pair_overlap", PairOverlap).top(TOP_ROWS)


def verbs_summary(found: Found) -> pd.DataFrame:
    """Return the shift of instruction verbs by group of layers, as sentences."""
    frame = found.one("verb_shift", VerbShift).summary()
    frame["test"] = frame["test"].where(frame["test"].notna(), frame["note"])  # why there is none
    return frame.filter(items=["group", "coverage", "paper_test", "test"])


def controls_beside(found: Found) -> dict[str, list[str]]:
    """Return the kinds of the controls that stand beside the heads."""
    verbs = found.maybe("verb_shift", VerbShift)
    return {} if verbs is None else {"heads": list(verbs.provenance.control_kinds)}


def headlines(found: Found) -> list[Headline]:
    """Return the heads whose word pairs changed most, and what instruction verbs did in all heads."""
    overlap, verbs = found.maybe("pair_overlap", PairOverlap), found.maybe("verb_shift", VerbShift)
    told = [] if overlap is None else _pairs(overlap)
    if verbs is None or (effect := verbs.effects()[0]) is None:
        return told
    rose, beside = verbs.top(1).verb.tolist(), verbs.beside()
    most = f", “{rose[0]}” most" if rose and effect > 0 else ""
    way = "rose" if effect > 0 else "fell"
    text = f"Instruction verbs {way} in the heads' word pairs by {effect:+.3g} heads beyond verbs like them{most}"
    beyond = is_beyond(effect, *band_of(beside))
    return [*told, Headline("words", text, effect, control=beside_envelope(beside), beyond=beyond)]


def _pairs(overlap: PairOverlap) -> list[Headline]:
    limits = ("jaccard_control_low", "jaccard_control_high")
    rows = most_shifted(overlap.top(len(overlap.to_df())), "jaccard", limits=limits, side="below")
    counts = overlap.provenance.control_counts
    return [
        Headline(
            "heads",
            f"Layer {row.layer}, head {row.head_index} relates other words: {row.jaccard:.3g} of its word pairs are in "
            "both models",
            row.jaccard,
            control=beside_band(getattr(row, limits[0]), getattr(row, limits[1]), counts),
            beyond=beyond,
        )
        for row, beyond in rows
    ]


SUMMARIES = {"Heads whose word pairs changed most": overlap_summary, "Instruction verbs": verbs_summary}


SECTION = Section(
    "Which words each head relates",
    "Choose a head: its word pairs that tuning added or removed, and below what it reads and writes, stand beside "
    "the grid. A difference counts where it is larger than that of control models; the verbs' table asks the "
    "paper's question, whether heads took up pairs with instruction verbs.",
    20,
    head_section,
)
