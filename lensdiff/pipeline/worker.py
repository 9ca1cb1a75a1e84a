"""One of several processes of a run: does units as they are sent, on models of its own, and writes no file.

It reads from standard input what the run is about (`Start`) and then tasks, and answers each on standard output; when
there is nothing more to read, it ends.
"""

import logging
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from lensdiff.analyses import ANALYSES
from lensdiff.models.progress import unseen
from lensdiff.pipeline.config import RunConfig, parse
from lensdiff.pipeline.graph import steps_of
from lensdiff.pipeline.material import Material
from lensdiff.pipeline.plans import supplies_of
from lensdiff.results import InputError, Result, ResultStore
from lensdiff.results.manifest import Manifest
from lensdiff.results.memory import is_of_one_alone
from lensdiff.steps.inputs import Inputs, chosen
from lensdiff.steps.plan import Plan
from lensdiff.steps.step import Read, Step
from lensdiff.steps.supplies import Supplies
from lensdiff.steps.unit import Unit


@dataclass(frozen=True)
class Start:
    """What a process has to know before its first task.

    Attributes:
        config: the values of the config; folder: that its paths are meant from.
        plan: of the run; root: the results directory.
    """

    config: Mapping[str, Any]
    folder: Path
    plan: Plan
    root: Path


@dataclass(frozen=True)
class Task:
    """Units of a step that are done at once, the results that each reads, and what the manifest says of those."""

    step: str
    units: tuple[Unit, ...]
    reads: tuple[tuple[Read, ...], ...]
    known: Manifest


@dataclass(frozen=True)
class Answer:
    """What became of a task.

    Attributes:
        found: of each unit the result, or why it has none; or one error: that of all units where it is for their input,
            and one of any other kind ends the run.
        said: the lines that the user is told.
        seconds: that it took, the making of a control included.
    """

    found: tuple[Result | InputError, ...] | Exception
    said: tuple[str, ...]
    seconds: float


class Worker:
    """Does tasks; the pair and a control are in memory as long as it lives."""

    def __init__(self, start: Start):
        config: RunConfig = parse(start.config).at(start.folder)
        self._plan, self._root = start.plan, start.root
        self._steps = {step.name: step for step in steps_of(ANALYSES)}
        self._material = Material(config)

    @cached_property
    def _supplies(self) -> Supplies:
        return supplies_of(self._material, self._plan.both)

    def answer(self, task: Task) -> Answer:
        """Do a task."""
        begun, said = time.perf_counter(), list[str]()
        try:
            with _heard(said.append):
                step, store = self._steps[task.step], ResultStore.known(self._root, task.known)
                inputs = [
                    Inputs(step, unit, reads, self._plan, self._supplies, store, said.append)
                    for unit, reads in zip(task.units, task.reads, strict=True)
                ]
                found: tuple[Result | InputError, ...] | Exception = results_of(step, inputs, task.units, self._plan)
        except Exception as error:  # the run's own process raises it again, where it came from would be lost
            error.add_note(traceback.format_exc())
            found = sendable(error)
        return Answer(found, tuple(said), time.perf_counter() - begun)


class _Listening(logging.Handler):
    def __init__(self, say: Callable[[str], None]):
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("lensdiff.models.loading."):  # the run's own process has loaded and said it
            self._say(record.getMessage())


@contextmanager
def _heard(say: Callable[[str], None]) -> Iterator[None]:
    """Say what is logged while the context lasts: the run's own process shows it."""
    log, listening = logging.getLogger("lensdiff"), _Listening(say)
    log.addHandler(listening)
    try:
        yield
    finally:
        log.removeHandler(listening)


def results_of(
    step: Step[Any, Any], inputs: Sequence[Inputs], units: Sequence[Unit], plan: Plan
) -> tuple[Result | InputError, ...]:
    """Return what the work of units of one model finds, or why it finds nothing: at once where their step can."""
    if step.block is not None and not (plan.both and step.at_once == 1):
        try:
            return tuple(step.block(inputs, units, chosen(step, plan.options_of(step.options))))
        except (InputError, RuntimeError) as error:  # of one of them: which one?
            if not (isinstance(error, InputError) or is_of_one_alone(error)):
                raise
    return tuple(result_of(step, own, unit, plan) for own, unit in zip(inputs, units, strict=True))


def result_of(step: Step[Any, Any], inputs: Inputs, unit: Unit, plan: Plan) -> Result | InputError:
    """Return what a unit's work finds, or why it finds nothing; any other error ends the run."""
    try:
        return step.work(inputs, unit, chosen(step, plan.options_of(step.options)))
    except InputError as error:
        return error
    except RuntimeError as error:
        if not is_of_one_alone(error):
            raise
        return InputError(str(error))


def sendable(error: Exception) -> Exception:
    """Return an error that another process can be given: itself, or its text where its class does not allow that."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its constructor wants
        other = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            other.add_note(note)
        return other
    return error


def send(message: object, stream: IO[bytes]) -> None:
    """Write an object to a process of the same run."""
    pickle.dump(message, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def serve(tasks: IO[bytes], answers: IO[bytes]) -> None:
    """Answer tasks until there are none."""
    try:
        worker = Worker(pickle.load(tasks))
        while True:
            send(worker.answer(pickle.load(tasks)), answers)
    except (EOFError, BrokenPipeError):  # the run has ended, or was ended
        return


def main() -> None:
    """Serve the process that began this one."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    with unseen():
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
