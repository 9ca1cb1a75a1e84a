"""The section of the report."""

from lensdiff.analyses.annotate.shift import AnnotationShift
from lensdiff.analyses.mlp.coherence import Coherence
from lensdiff.analyses.mlp.concepts import MLPConcepts
from lensdiff.analyses.mlp.rotation import Rotation
from lensdiff.results import Diff, ResultStore
from lensdiff.views.section import Section, Table, register_section
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

CAPTIONS = {
    "rotation": "A row per layer, side and rank: mean and largest principal angle in radians, with the bands of the "
    "controls for the mean.",
    "matched_components": "A row per component of the base: the tuned component it is matched with, the angle in "
    "radians with its bands, shares of the variance, words lost and gained.",
}


def concepts_section(store: ResultStore) -> list[Widget | Table | str]:
    """Return rotation, concepts, coherence, annotations and tables of a results directory."""
    parts: list[Widget | Table | str] = []
    if store.has("rotation"):
        parts.append(show(store.load_result("rotation", Rotation)))
        parts += [Table(name, store.load_table(name), text) for name, text in CAPTIONS.items() if store.has_table(name)]
    if all(store.has(f"concepts/{side}") for side in ("base", "tuned")):
        parts.append(show(Diff(*(store.load_result(f"concepts/{side}", MLPConcepts) for side in ("base", "tuned")))))
    if all(store.has(f"coherence/{side}") for side in ("base", "tuned")):
        parts.append(show(Diff(*(store.load_result(f"coherence/{side}", Coherence) for side in ("base", "tuned")))))
    if store.has("annotation_shift"):
        parts.append(show(store.load_result("annotation_shift", AnnotationShift)))
    if parts and store.has_table("concepts"):
        parts.append("The words of every component are in tables/concepts.parquet of the results directory.")
    return parts


register_section(
    Section(
        "concepts",
        "Which concepts the feed-forward layers hold",
        "The curve says how far the leading components of each layer turned, before the grey bands of meaningless "
        "changes of the same size; whether the layers rotated is asked in the next section. Below, choose a layer and "
        "a component to read its words in the base and in the tuned model.",
        30,
        ("concepts", "rotation_controls", "rotation"),
        concepts_section,
    )
)
