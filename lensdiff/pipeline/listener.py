"""How a run tells what it does: the library prints nothing, the caller gives a listener."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from lensdiff.models.progress import Steps, steps_bar


@runtime_checkable
class Listener(Protocol):
    """What is told while a run works; any of it may be ignored."""

    def say(self, message: str) -> None:
        """One line: an estimate, a prompt that failed, an analysis that could not be done."""

    def begin(self, step: str, units: int, done: int) -> None:
        """A step begins, with so many units of work of which some are done already."""

    def advance(self, step: str, unit: str) -> None:
        """A unit is finished and will not be repeated."""

    def within(self, work: str, done: int, total: int | None) -> None:
        """So far is something that the unit at work does: layers that are read, a control that is made."""

    def end(self, step: str, seconds: float) -> None:
        """A step is finished; `seconds` is what its units took, over all runs."""


class Silent:
    """Ignores everything."""

    def say(self, message: str) -> None: ...

    def begin(self, step: str, units: int, done: int) -> None: ...

    def advance(self, step: str, unit: str) -> None: ...

    def within(self, work: str, done: int, total: int | None) -> None: ...

    def end(self, step: str, seconds: float) -> None: ...


class Watched(Silent):
    """Shows the step and its units at a bar."""

    def __init__(self, steps: Steps):
        self._steps = steps

    def begin(self, step: str, units: int, done: int) -> None:
        self._steps.begin(step, units, done)

    def advance(self, step: str, unit: str) -> None:
        self._steps.advance(1)

    def within(self, work: str, done: int, total: int | None) -> None:
        self._steps.within(work, done, total)


@contextmanager
def watched() -> Iterator[Listener]:
    """Yield a listener that shows a run's steps where somebody sees standard error, else one that ignores all."""
    with steps_bar() as steps:
        yield Silent() if steps is None else Watched(steps)
