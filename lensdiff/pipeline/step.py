"""A step of a run: units of work that are never repeated once finished, and how they are done."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from lensdiff.pipeline.config import Analysis
from lensdiff.pipeline.workspace import Workspace
from lensdiff.results import InputError

TOLD = 3  # failures of a step that are told one by one
ALWAYS = ("base", "tuned", "base_revision", "tuned_revision", "device", "dtype", "weights", "wrapper")


class NotPossible(InputError):
    """This pair or these prompts do not allow the step; the run goes on without it."""


def nothing(workspace: Workspace) -> None:
    """Finish a step that has nothing to finish."""


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        name: its key in the manifest; title: what the progress bar calls it.
        analyses: the step is done if any of these is chosen.
        units: the names of its units for this run; none where the step is not wanted (no controls).
        work: does one unit; its results are on disk when it returns.
        finish: makes of all units what needs them all; may be repeated, so it does no harm twice.
        keys: the keys of the config on which its numbers depend, beside those of the models (`ALWAYS`).
        of_prompts: a unit is a prompt, of which one may fail while the others go on.
        after: the steps whose results it reads.
    """

    name: str
    title: str
    analyses: tuple[Analysis, ...]
    units: Callable[[Workspace], list[str]]
    work: Callable[[Workspace, str], None]
    finish: Callable[[Workspace], None] = nothing
    keys: tuple[str, ...] = ()
    of_prompts: bool = False
    after: tuple[str, ...] = ()


def run_step(step: Step, workspace: Workspace) -> None:
    """Do what is left of a step, and record it.

    A unit that fails for its input alone is recorded with the reason; anything else ends the run.
    """
    store, listener = workspace.store, workspace.listener
    units = step.units(workspace)
    state = store.step(step.name)
    if not units or (state.state in ("done", "skipped") and set(units) <= set(state.done)):
        return
    store.update_step(step.name, state="running", units=len(units), note="")
    listener.begin(step.title, len(units), len(set(units) & set(state.done)))
    try:
        for unit in units:
            if unit not in store.step(step.name).done:
                _do(step, workspace, unit)
                listener.advance(step.title, unit)
        finish_step(step, workspace, units)
    except InputError as error:
        skipped = isinstance(error, NotPossible)
        store.update_step(step.name, state="skipped" if skipped else "failed", note=str(error))
        if skipped:
            store.update_step(step.name, done=units)
        listener.say(f"{step.title}: {'not possible, ' if skipped else ''}{error}")
    finally:
        listener.end(step.title, store.step(step.name).seconds)


def _do(step: Step, workspace: Workspace, unit: str) -> None:
    store = workspace.store
    start = time.perf_counter()
    try:
        step.work(workspace, unit)
    except (InputError, RuntimeError) as error:
        # out of memory is a RuntimeError too, of a class of its own
        if not step.of_prompts or (not isinstance(error, InputError) and type(error) is not RuntimeError):
            raise
        store.update_step(step.name, failures=store.step(step.name).failures | {unit: str(error)})
    store.unit_done(step.name, unit, time.perf_counter() - start)


def finish_step(step: Step, workspace: Workspace, units: list[str]) -> None:
    """Finish a step whose units are done.

    Raises:
        InputError: every unit failed, with the first reason.
    """
    store = workspace.store
    failures = store.step(step.name).failures
    for unit, reason in list(failures.items())[:TOLD]:
        workspace.listener.say(f"{step.title}: {unit} failed: {reason}")
    if len(failures) > TOLD:
        workspace.listener.say(f"{step.title}: {len(failures) - TOLD} more failed, see {store.root / 'manifest.json'}")
    if failures and set(units) <= set(failures):
        raise InputError(failures[units[0]])
    start = time.perf_counter()
    step.finish(workspace)
    store.update_step(step.name, state="done", seconds=store.step(step.name).seconds + time.perf_counter() - start)
