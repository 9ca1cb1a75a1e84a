"""Which sections the report has, and in which order."""

from lensdiff.pipeline import report as _report  # noqa: F401  it imports every section, which registers itself
from lensdiff.views.section import sections


def test_sections_are_registered_and_ordered():
    names = [section.name for section in sections()]
    assert {"weights", "outputs", "attention", "heads"} <= set(names)
    assert names.index("instruction_use") < names.index("attribution")
    assert names.index("concepts") < names.index("value_rotation")
