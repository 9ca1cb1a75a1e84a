"""The report's section about heads: overlap of word pairs, verbs, OV words, and their tables."""

from lensdiff.analyses.heads.ov_reading import OVReading
from lensdiff.analyses.heads.pair_overlap import PairOverlap
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.results import Diff, ResultStore
from lensdiff.views.section import Section, Table, register_section
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

SIDES = ("base", "tuned")
CAPTIONS = {
    "pair_overlap": "A row per head: Jaccard of its word pairs in base and tuned model with the band of the control "
    "models, distinct pairs in either model, gained and lost.",
    "verb_shift": "A row per verb and group of layers: heads in which its count rose and fell, share = rose / (rose + "
    "fell), and its counts over the group's heads.",
    "ov_reading": "A row per word: layer, head, component with its singular value and share of W_OV, side (read or "
    "write), pole, rank and score (cosine).",
}


def head_section(store: ResultStore) -> list[Widget | Table | str]:
    """Return what changed in the heads' word pairs, verbs and OV words."""
    parts: list[Widget | Table | str] = []
    if store.has("pair_overlap"):
        parts.append(show(store.load_result("pair_overlap", PairOverlap)))
        parts += _table(store, "pair_overlap")
    if store.has("verb_shift"):
        parts.append(show(store.load_result("verb_shift", VerbShift)))
        parts += _table(store, "verb_shift")
    if all(store.has(f"ov_reading/{side}") for side in SIDES):
        parts.append(show(Diff(*(store.load_result(f"ov_reading/{side}", OVReading) for side in SIDES))))
        parts += _table(store, "ov_reading")
    if parts and store.has_table("heads"):
        parts.append("The best word pairs of every dimension are in tables/heads.parquet of the results directory.")
    return parts


def _table(store: ResultStore, name: str) -> list[Table]:
    return [Table(name, store.load_table(name), CAPTIONS[name])] if store.has_table(name) else []


register_section(
    Section(
        "heads",
        "Which words each head relates",
        "Choose a head: its word pairs that tuning added or removed, and below what it reads and writes, stand beside "
        "the grid. A difference counts where it is larger than that of control models; the verbs' table asks the "
        "paper's question, whether heads took up pairs with instruction verbs.",
        20,
        ("heads", "verb_shift", "pair_overlap", "ov_reading"),
        head_section,
    )
)
