"""What a run leaves in a results directory, written by hand: results with their units, and what became of others."""

from typing import Any

from lensdiff.pipeline.graph import paths, unit_state
from lensdiff.results import Result, ResultStore
from lensdiff.steps.unit import Unit, name_of


def put(store: ResultStore, step: str, unit: Unit, result: Result, **state: Any) -> None:
    """Keep the result of a unit that the last run asked for; `state` as of `UnitState`."""
    store.save_result(name_of(step, unit), result)
    record(store, step, unit, **state)


def record(store: ResultStore, step: str, unit: Unit, **state: Any) -> None:
    """Remember what became of a unit that the last run asked for."""
    store.record(step, unit.path, unit_state(unit, "by hand", **state))
    ask(store, step, unit)


def ask(store: ResultStore, step: str, *units: Unit) -> None:
    """Have the last run ask for units, beside those that it asked for."""
    state = store.step(step)
    wanted = list(dict.fromkeys([*state.wanted, *paths(units)]))
    store.update(steps=store.manifest.steps | {step: state.model_copy(update={"wanted": wanted})})
