"""What the command writes to the terminal: tables to standard output, progress and messages to standard error."""

import logging
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.progress import Task, TaskID

WIDTH = 110  # of a table that goes into a file or a pipe


class RateColumn(TextColumn):
    """Units a second, or seconds a unit where that is the larger number."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: "Task") -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="progress.data.speed")


class CountColumn(MofNCompleteColumn):
    """How many of how many; nothing where that is not known."""

    def render(self, task: "Task") -> Text:
        return Text("") if task.total is None else super().render(task)


class Terminal:
    """Shows a run: messages as lines, steps as bars; nothing where `quiet`, no bars without a terminal."""

    def __init__(self, *, quiet: bool):
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            CountColumn(),
            RateColumn(),
            TimeRemainingColumn(),
        )
        off = quiet or not self.console.is_terminal
        self._bars = Progress(*columns, console=self.console, disable=off, speed_estimate_period=600)
        self._tasks: dict[str, TaskID] = {}
        self._within: tuple[str, TaskID] | None = None

    @contextmanager
    def watching(self) -> Iterator["Terminal"]:
        """Keep the bars on the screen while the context lasts."""
        with self._bars:
            try:
                yield self
            finally:
                self._leave()

    def begins(self, config: Any) -> None:
        """Say what a run is about to do; what follows imports for seconds before it tells anything."""
        self.say(
            f"comparing {config.source('base')} with {config.source('tuned')}, results go to {config.path(config.out)}"
        )

    def say(self, message: str) -> None:
        if not self.quiet:
            self._bars.console.print(printable(message), markup=False)

    def begin(self, step: str, units: int, done: int) -> None:
        self._leave()
        self._tasks[step] = self._bars.add_task(step, total=units, completed=done)

    def advance(self, step: str, unit: str) -> None:
        self._leave()
        self._bars.advance(self._tasks[step])

    def within(self, work: str, done: int, total: int | None) -> None:
        """Show how far something within a unit is, at a bar below the others that goes with the unit."""
        if self._within is None or self._within[0] != work:
            self._leave()
            self._within = work, self._bars.add_task(f"  {printable(work)}", total=total)
        self._bars.update(self._within[1], completed=done, total=total)

    def _leave(self) -> None:
        if self._within is not None:
            self._bars.remove_task(self._within[1])
            self._within = None

    def reach(self, step: str, done: int, total: int) -> None:
        """Show that so many of a step's units are done."""
        if step not in self._tasks:
            self.begin(step, total, 0)
        self._bars.update(self._tasks[step], completed=done)

    def end(self, step: str, seconds: float) -> None:
        self._leave()
        self._bars.stop_task(self._tasks[step])


def printable(text: object) -> str:
    """Return a text with control characters (a token may hold an escape sequence) shown as codes instead of obeyed."""
    return "".join(c if c == "\n" or unicodedata.category(c)[0] != "C" else f"\\x{ord(c):02x}" for c in str(text))


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{printable(self.format(record))}\n")  # what stands there now: a bar may be in its place


@contextmanager
def logs_shown() -> Iterator[None]:
    """Write lensdiff's own warnings to standard error while the context lasts, each once."""
    log, lines = logging.getLogger("lensdiff"), _Lines(logging.WARNING)
    before, log.propagate = log.propagate, False
    log.addHandler(lines)
    try:
        yield
    finally:
        log.removeHandler(lines)
        log.propagate = before


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table to standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None or type(value).__name__ == "NAType":
        return ""
    if isinstance(value, float):
        if value != value:
            return ""
        return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3e}"
    return printable(value).replace("\n", "\\n")


def print_frame(title: str, frame: Any, rows: int = 20) -> None:
    """Print the first rows of a data frame."""
    shown = frame.head(rows)
    more = f", the first {rows} of {len(frame)}" if len(frame) > rows else ""
    values = [
        [value.item() if hasattr(value, "item") else value for value in row] for row in shown.itertuples(index=False)
    ]
    print_table(title + more, [str(name).replace("_", " ") for name in shown.columns], values)


def write(text: str) -> None:
    """Write to standard output as it is."""
    sys.stdout.write(text + "\n")


def write_notice(store: Any) -> None:
    """Write first what a reader must know of the whole pair: that its weights are equal."""
    if notice := store.manifest.pair.get("notice"):
        write(notice)


def complain(message: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(f"lensdiff: {printable(' '.join(message.split()))}\n")
