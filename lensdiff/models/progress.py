"""Progress on standard error of what takes longer than two seconds: a bar in a terminal, or in a notebook.

told        where standard error is a terminal, or in a notebook; `show_progress` and a function's own `progress`
            say otherwise
heard       in a run, whose listener tells of it (`unseen`)
one bar     what is done within another bar's work is told at that bar's end
"""

import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

Advance = Callable[[int], None]
Hear = Callable[[str, int, int | None], None]  # what is done, how many steps of it are, and of how many
T = TypeVar("T")
PATIENCE = 2.0  # seconds before anything is shown
EVERY = 1.0  # seconds between two looks at the clock
_UNCOUNTED = "{desc} [{elapsed}{postfix}]"


class _Shown:
    """What is shown in this process, and whether anything is.

    Attributes:
        wanted: by the user; None where that depends on where standard error leads.
        unseen: how many runs are at work, which tell of themselves.
        hear: is told what a bar would have shown, where a run is at work.
        bars: that are open; the first one is on the screen.
    """

    wanted: bool | None = None
    unseen = 0
    hear: Hear | None = None
    bars: list["_Bar"]

    def __init__(self) -> None:
        self.bars = []

    def is_on(self, progress: bool | None) -> bool:
        if progress is not None:
            return progress
        if self.unseen:
            return False
        return is_watched() if self.wanted is None else self.wanted


_shown = _Shown()


def show_progress(shown: bool | None = None) -> None:
    """Show the progress of whatever takes longer than two seconds, or do not.

    Args:
        shown: None for the default: on a terminal and in a notebook.
    """
    _shown.wanted = shown


@contextmanager
def unseen(hear: Hear | None = None) -> Iterator[None]:
    """Show nothing while the context lasts, but what a call asks for itself.

    Args:
        hear: is told of every step of what would have been shown; by default nobody.
    """
    before, _shown.hear = _shown.hear, hear
    _shown.unseen += 1
    try:
        yield
    finally:
        _shown.unseen -= 1
        _shown.hear = before


def is_watched() -> bool:
    """Return whether somebody sees standard error: a terminal's, or a notebook's."""
    stream = sys.stderr
    return _is_notebook() or (stream is not None and stream.isatty())


def _is_notebook() -> bool:
    return "ipykernel.zmqshell" in sys.modules


@contextmanager
def bar(title: str, total: int | None = None, *, progress: bool | None = None) -> Iterator[Advance]:
    """Show a bar while the context lasts, once it has lasted some time, and yield what moves it on.

    Args:
        title: what is done.
        total: of how many steps; None for an unknown number: then the time is shown.
        progress: show it at once, or never; None as the module says.
    """
    if not _shown.is_on(progress):
        if progress is None and _shown.hear is not None:
            yield _counting(partial(_shown.hear, title), total)
            return
        with unseen():  # what is done within it neither
            yield lambda n: None
        return
    if _shown.bars:
        yield _shown.bars[0].within(title, total)
        return
    found = _Bar(title, total, 0.0 if progress else PATIENCE)
    _shown.bars.append(found)
    try:
        yield found.advance
    finally:
        _shown.bars.remove(found)
        found.close()


def _counting(hear: Callable[[int, int | None], None], total: int | None) -> Advance:
    """Return what moves something on that is told to a listener: at once, and with every step."""
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        hear(done, total)

    advance(0)
    return advance


def tracked(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Yield items one by one under a bar; its total is their number, where that is known."""
    number = len(items) if total is None and isinstance(items, Collection) else total
    with bar(title, number) as advance:
        for item in items:
            yield item
            advance(1)


class Steps:
    """A bar for a run: the step that is at work, and how many units of all steps so far are done."""

    def __init__(self, shown: "_Bar"):
        self._shown, self._total, self._done = shown, 0, 0

    def begin(self, step: str, units: int, done: int) -> None:
        """Show a step, with so many units of which some are done."""
        self._total += units
        self._shown.rename(step, self._total)
        self.advance(done)

    def advance(self, n: int) -> None:
        """Show that so many more units are done."""
        self._done += n
        self._shown.advance(n, within="")

    def within(self, work: str, done: int, total: int | None) -> None:
        """Show how far something within a unit is."""
        self._shown.tell(work, done, total)


@contextmanager
def steps_bar() -> Iterator[Steps | None]:
    """Open the bar of a run; None where nothing is shown."""
    if not _shown.is_on(None) or _shown.bars:
        yield None
        return
    found = _Bar("lensdiff", 0, PATIENCE)
    _shown.bars.append(found)
    try:
        yield Steps(found)
    finally:
        _shown.bars.remove(found)
        found.close()


class _Bar:
    """A bar of tqdm's that a thread keeps moving, so that also one long step shows that it is at work."""

    def __init__(self, title: str, total: int | None, patience: float):
        self._bar, self._lock, self._done = _tqdm(title, total, patience), threading.Lock(), threading.Event()
        self._patience = patience
        self.advance(0)
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._thread.start()

    def advance(self, n: int, within: str | None = None) -> None:
        """Move it on; `within` is what stands at its end from now on."""
        with self._lock:
            if within is not None:
                self._bar.set_postfix_str(within, refresh=False)
            self._bar.update(n)

    def rename(self, title: str, total: int) -> None:
        """Show another title and another total."""
        with self._lock:
            self._bar.total = total
            self._bar.set_description_str(title, refresh=False)
            self._bar.update(0)

    def within(self, title: str, total: int | None) -> Advance:
        """Return what tells at the bar's end how far something within its work is."""
        return _counting(partial(self.tell, title), total)

    def tell(self, title: str, done: int, total: int | None) -> None:
        """Tell at the bar's end how far something within its work is."""
        self.advance(0, within=title if total is None else f"{title} {done}/{total}")

    def _tick(self) -> None:
        wait = self._patience + 0.05
        while not self._done.wait(wait):
            self.advance(0)
            wait = EVERY

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self._bar.close()


def _tqdm(title: str, total: int | None, patience: float) -> Any:
    how: dict[str, Any] = {"desc": title, "total": total, "delay": patience, "leave": False}
    how |= {"miniters": 0, "mininterval": 0.1, "bar_format": _UNCOUNTED if total is None else None}
    if _is_notebook():
        from lensdiff.models.notebook_bar import NotebookBar

        return NotebookBar(**how)
    from tqdm.std import tqdm

    return tqdm(**how, file=sys.stderr, dynamic_ncols=True)
