"""The section of the report, where a directory was annotated."""

from lensdiff.analyses.annotate.shift import AnnotationShift
from lensdiff.steps.found import Found
from lensdiff.views.section import Section, Table
from lensdiff.views.show import show
from lensdiff.views.widget import Widget


def annotations_section(found: Found) -> list[Widget | Table | str]:
    """Return how the shares of labels differ between the models."""
    shift = found.maybe("annotation_shift", AnnotationShift)
    return [] if shift is None else [show(shift)]


SECTION = Section(
    "What the concepts mean",
    "A chat model said in words what each component of the feed-forward layers holds. The table compares which tasks "
    "and linguistic levels it named in the base and in the tuned model; choose one to see its share by layers.",
    31,
    annotations_section,
)
