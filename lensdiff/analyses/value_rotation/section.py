"""The section of the report."""

from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.results import ResultStore
from lensdiff.views.section import Section, Table, register_section
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

TABLES = {
    "value_rotation": "A row per layer and kind of control: the share of the values' change that one orthogonal map "
    "explains, limits within which one more control lies, neurons that were matched with others, the change's size.",
    "value_rotation_controls": "A row per control and layer: its share.",
}


def value_rotation_section(store: ResultStore) -> list[Widget | Table | str]:
    """Return the curve and the tables of a results directory."""
    parts: list[Widget | Table | str] = []
    if store.has("value_rotation"):
        parts.append(show(store.load_result("value_rotation", ValueRotation)))
    return parts + [Table(name, store.load_table(name), text) for name, text in TABLES.items() if store.has_table(name)]


register_section(
    Section(
        "value_rotation",
        "How much of the values' change is a rotation",
        "The curve is the share of each layer's change that one rotation of the stream explains. Above every grey band "
        "tuning turned the values more than meaningless changes of the same size do; grey are also those that ruin a "
        "model and that a claim leaves out.",
        45,
        ("value_rotation",),
        value_rotation_section,
    )
)
