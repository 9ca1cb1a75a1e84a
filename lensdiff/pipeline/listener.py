"""How a run tells what it does: the library prints nothing, the caller gives a listener."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Listener(Protocol):
    """What is told while a run works; any of it may be ignored."""

    def say(self, message: str) -> None:
        """One line: an estimate, a prompt that failed, an analysis that could not be done."""

    def begin(self, step: str, units: int, done: int) -> None:
        """A step begins, with so many units of work of which some are done already."""

    def advance(self, step: str, unit: str) -> None:
        """A unit is finished and will not be repeated."""

    def end(self, step: str, seconds: float) -> None:
        """A step is finished; `seconds` is what its units took, over all runs."""


class Silent:
    """Ignores everything."""

    def say(self, message: str) -> None: ...

    def begin(self, step: str, units: int, done: int) -> None: ...

    def advance(self, step: str, unit: str) -> None: ...

    def end(self, step: str, seconds: float) -> None: ...
