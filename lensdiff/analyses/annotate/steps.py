"""The tables of annotations; `lensdiff annotate` makes them, no run does."""

from typing import Any

from lensdiff.analyses.annotate import AnnotateOptions
from lensdiff.analyses.annotate.annotations import Annotations
from lensdiff.analyses.annotate.shift import AnnotationShift, annotation_shift
from lensdiff.results import ResultStore
from lensdiff.results.manifest import StepState, UnitState
from lensdiff.steps.found import Found
from lensdiff.steps.step import Step
from lensdiff.steps.tables import TableDoc, of_both
from lensdiff.steps.unit import SIDES, Unit

ANNOTATIONS, SHIFT = "annotations", "annotation_shift"
MADE_OF = "concepts"


def keep(store: ResultStore, side: str, annotations: Annotations) -> None:
    """Keep the annotations of a model's concepts."""
    _keep(store, ANNOTATIONS, Unit(side), annotations)


def finish(store: ResultStore) -> AnnotationShift:
    """Compare both models' annotations, keep the comparison, and write the tables."""
    found = Found(store)
    shift = annotation_shift(*(found.one(ANNOTATIONS, Annotations, Unit(side)) for side in SIDES))
    _keep(store, SHIFT, Unit(), shift)
    store.save_table(ANNOTATIONS, of_both(ANNOTATIONS, Annotations)(found, AnnotateOptions()))
    store.save_table(SHIFT, shift.to_df())
    store.save_table("annotation_groups", shift.groups_df())
    return shift


def _keep(store: ResultStore, step: str, unit: Unit, result: Any) -> None:
    """Keep a result that no run makes, for as long as the concepts that it is of are there."""
    concepts = store.step(MADE_OF)
    made_of = {MADE_OF: {name: concepts.units[name].digest for name in concepts.done}}
    store.save_result(f"{step}/{unit.path}" if unit.path else step, result)
    store.record(step, unit.path, UnitState(digest="", model=unit.model, made_of=made_of))
    steps = dict(store.manifest.steps)
    steps[step] = StepState(wanted=list(steps[step].units), units=steps[step].units)
    store.update(steps=steps)


STEPS: tuple[Step[Any, Any], ...] = ()
TABLES: tuple[TableDoc[Any], ...] = (
    TableDoc(
        "annotations",
        "a component and a seed of the annotating model",
        {
            "seed": "of the annotating model",
            "status": "explained, unexplained, or why there is no annotation",
            "description": "the concept in words",
            "tasks": "tasks it serves, joined by a semicolon",
            "level": "its linguistic level; empty: none was said",
            "reason": "why there is no annotation",
        },
        of=(ANNOTATIONS,),
    ),
    TableDoc(
        "annotation_shift",
        "a side and a label",
        {
            "label": "the label whose share among explainable components is compared",
            "kind": "explainable, task, task group or level",
            "base_mean": "share in the base, mean over seeds",
            "base_std": "its standard deviation over seeds",
            "tuned_mean": "share in the tuned model, mean over seeds",
            "tuned_std": "its standard deviation over seeds",
            "difference": "tuned - base, seeds pooled",
            "low": "limits of the difference, components resampled",
            "high": "as low",
            "p": "Welch over components",
            "p_adjusted": "adjusted over the labels",
            "equivalence_p": "two one-sided tests that the share did not change",
            "equivalence_p_adjusted": "adjusted over the labels",
            "paper_p": "the paper's test: Welch over seeds, which are no samples",
            "verdict": "in words",
        },
        of=(SHIFT,),
    ),
    TableDoc(
        "annotation_groups",
        "a side, a group of layers and a label",
        {
            "group": "its first and last layer",
            "label": "the label",
            "kind": "explainable, task, task group or level",
            "base_share": "share in the base",
            "base_low": "limits of base_share",
            "base_high": "as base_low",
            "tuned_share": "share in the tuned model",
            "tuned_low": "limits of tuned_share",
            "tuned_high": "as tuned_low",
            "difference": "tuned - base",
            "low": "limits of the difference",
            "high": "as low",
        },
        of=(SHIFT,),
    ),
)
