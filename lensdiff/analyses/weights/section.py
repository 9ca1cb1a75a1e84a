"""The section of the report."""

from lensdiff.analyses.weights.weight_shift import WeightShift
from lensdiff.results import ResultStore
from lensdiff.views.section import Section, Table, register_section
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

CAPTION = (
    "A row per weight, bias and gain, and per head where it has heads (key-value heads for W_K and W_V): "
    "relative_norm is the change's norm over the base's, effective_rank counts the change's directions, top_share is "
    "the energy of its largest ones; folded_ is the same with the norm's gain multiplied in."
)


def weights_section(store: ResultStore) -> list[Widget | Table | str]:
    """Return the map and the table of a results directory."""
    parts: list[Widget | Table | str] = []
    if store.has("weights"):
        parts.append(show(store.load_result("weights", WeightShift)))
    if store.has_table("weights"):
        parts.append(Table("weights", store.load_table("weights"), CAPTION))
    return parts


register_section(
    Section(
        "weights",
        "How far the weights moved",
        "Each cell is one weight matrix of one layer, or one head of it; a stronger colour means that tuning "
        "moved it more, relative to its size. A change can be large without doing much, and the other way round: the "
        "sections above say what it does.",
        60,
        ("weights",),
        weights_section,
    )
)
