"""A results directory: a manifest, a Parquet table and a safetensors file per result, written so that nothing is lost.

    manifest.json            schema, config, versions, the state of every unit, and a checksum of every file
    journal.jsonl            what happened since the manifest was written; gone when a run has ended
    arrays/<name>.safetensors    results (`Result.save`)
    tables/<name>.parquet        tables

Every file is written under `.partial/`, flushed to the disk and renamed into place, so that a name always holds a whole
file, whenever the program is stopped. In a directory with a manifest a file that the manifest does not know is not
seen, and one whose checksum is not the manifest's is never read. One program writes at a time (`writing`); reading
needs no lock.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from lensdiff.results.errors import InputError, NotThere
from lensdiff.results.files import encode_part, write_parquet
from lensdiff.results.folder import Folder, checksum_of
from lensdiff.results.manifest import Manifest, StepState, TableState, UnitState, name_of
from lensdiff.results.memory import is_lack_of_memory
from lensdiff.results.paths import as_path, first_line, make_folder, unreadable
from lensdiff.results.records import Records, file_event, table_event, unit_event
from lensdiff.results.result import Result

LOCK = ".lock"
SHOWN = 80  # characters of a name that is not there
R = TypeVar("R", bound=Result)


class ResultStore:
    """The files of one results directory; see the module for their layout.

    Attributes:
        root: the directory; it is made when something is written.
    """

    def __init__(self, root: str | Path):
        self.root = as_path(root, "a results directory")
        self._folder = Folder(self.root)
        self._records = Records(self._folder)

    @classmethod
    def known(cls, root: str | Path, manifest: Manifest) -> "ResultStore":
        """Return a directory to be read as a manifest in memory says, whatever is on the disk."""
        store = cls(root)
        store._records.take(manifest)
        return store

    # what is there
    def exists(self) -> bool:
        """Return whether the directory holds a manifest."""
        return self._records.exists()

    @property
    def manifest(self) -> Manifest:
        """What the directory says of itself; an empty manifest where there is none.

        Raises:
            InputError: the manifest is unreadable or has the schema of another version.
        """
        return self._records.manifest

    def has(self, name: str) -> bool:
        """Return whether a result of this name is there, in one file or in all of its parts."""
        return bool(self.parts(name))

    def has_table(self, name: str) -> bool:
        """Return whether a table of this name is there."""
        return name in self.table_names(name)

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the results that begin with `prefix`, numbers within them in numeric order.

        Those that the last run did not ask for are left out.
        """
        return self._records.names("arrays", prefix)

    def parts(self, name: str) -> list[str]:
        """Return the names of the files that hold a result: its own, or those of its groups of layers, in order.

        None where one of the groups that the last run asked for is not there.
        """
        there = self.names(name)
        if name in there:
            return [name]
        parts = self._records.parts(name)
        return parts if set(parts) <= set(there) else []

    def table_names(self, prefix: str = "") -> list[str]:
        """Return the names of the tables that begin with `prefix`, likewise."""
        return self._records.names("tables", prefix)

    # results and tables
    def save_result(self, name: str, result: Result) -> Path:
        """Write a result and return its path.

        Raises:
            OSError: it could not be written (a full disk); what was there before still stands.
        """
        return self._write("arrays", name, lambda path: result.save(path))

    def save_unit(self, step: str, unit: str, state: UnitState, result: Result) -> Path:
        """Write the result of a unit and remember what became of it, both or neither; return its path.

        Raises:
            OSError: as `save_result`.
        """
        of_unit = unit_event(step, unit, state)
        return self._write("arrays", name_of(step, unit), lambda path: result.save(path), of_unit)

    def load_result(self, name: str, cls: type[R]) -> R:
        """Read a result of class `cls`; one that is kept in parts is joined.

        Raises:
            InputError: there is none of this name, or not of all layers, its file is damaged, or it is of another
                class.
        """
        parts = self.parts(name)
        if not parts:
            if asked := self._records.parts(name):
                missing = [part.rpartition("/")[2] for part in asked if not self.has(part)]
                raise NotThere(f"{self.root} has the result {name!r} without layers {', '.join(missing)}")
            raise NotThere(f"{self.root} has no result {name[:SHOWN]!r}{_available(self.names())}")
        return self.load_files(parts, cls)

    def load_files(self, names: Sequence[str], cls: type[R]) -> R:
        """Read the files that hold one result and join them.

        Raises:
            InputError: as `load_result`.
        """
        found = [cls.load(self._checked("arrays", name)) for name in names]
        return found[0] if len(found) == 1 else cls.join(found)

    def save_table(
        self, name: str, frame: pd.DataFrame | Iterable[pd.DataFrame], state: TableState | None = None
    ) -> Path:
        """Write a table as Parquet, given whole or in parts of equal columns, and return its path.

        With `state` what the manifest says of it, both or neither.

        Raises:
            OSError: as `save_result`.
        """
        parts = [frame] if isinstance(frame, pd.DataFrame) else frame
        of_table = None if state is None else table_event(name, state)
        return self._write("tables", name, lambda path: write_parquet(path, parts), of_table)

    def load_table(self, name: str) -> pd.DataFrame:
        """Read a table.

        Raises:
            InputError: there is none of this name, or its file is damaged.
        """
        return self._read_table(name, pd.read_parquet)

    def columns(self, name: str) -> list[str]:
        """Return the names of a table's columns, without reading its rows.

        Raises:
            InputError: as `load_table`.
        """
        return list(self._read_table(name, pq.read_schema).names)

    def publish(self, name: str) -> Path:
        """Give a table a second name at the top of the directory, and return that."""
        return self._folder.replace(
            self._shown(name), lambda path: shutil.copyfile(self._checked("tables", name), path)
        )

    def check_name(self, name: str) -> None:
        """Refuse the name of a result that no file can have.

        Raises:
            InputError: it is too long for a file system.
        """
        self._folder.path("arrays", name)

    def remove(self, name: str) -> None:
        """Remove a result, if it is there."""
        self.forget(f"arrays/{name}")

    def remove_table(self, name: str, state: TableState | None = None) -> None:
        """Remove a table and its second name, likewise; `state` says why there is none."""
        self._records.happened(table_event(name, state) | file_event("tables", name, None))
        self._shown(name).unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file (a report) into the directory and return its path.

        Raises:
            OSError: as `save_result`.
        """
        return self._folder.replace(self.root / name, lambda path: path.write_text(text, encoding="utf-8", newline=""))

    # the manifest
    @contextmanager
    def writing(self) -> Iterator["ResultStore"]:
        """Hold the directory for one run: lock it, and clear what a stopped run left half-written.

        Raises:
            InputError: another run holds the directory, it holds results of another schema, or results and no manifest
                that says what they are.
        """
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root} is a file, expected a directory for results")
        make_folder(self.root)
        lock = FileLock(self.root / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(
                f"another run is writing to {self.root}: wait for it or choose another directory"
            ) from None
        try:
            self._records.begin()
            yield self
        finally:
            self._records.end()
            lock.release()

    def step(self, name: str) -> StepState:
        """Return the state of a step; one that never began is pending."""
        return self._records.step(name)

    def record(self, step: str, unit: str, state: UnitState | None) -> None:
        """Remember what became of a unit, or forget it (None); a result that it has no more goes with that."""
        event = unit_event(step, unit, state)
        if state is None or not state.has_file:
            event |= file_event("arrays", name_of(step, unit), None)
        self._records.happened(event)

    def update(self, **changes: Any) -> None:
        """Change fields of the manifest and write it."""
        self._records.write(**changes)

    def damaged(self) -> list[str]:
        """Return the files ("arrays/NAME") that there ought to be and that are missing, or not as they were written."""
        checksums = self.manifest.checksums.items()
        found = [file for file, checksum in checksums if not self._is_as_written(file, checksum)]
        return found + self._records.without_file()

    def forget(self, file: str) -> None:
        """Remove a file ("arrays/NAME") and what the manifest knows of it."""
        room, _, name = file.partition("/")
        self._records.happened(file_event(room, name, None))

    # files
    def _shown(self, name: str) -> Path:
        return self.root / f"{encode_part(name)}.parquet"

    def _checked(self, room: str, name: str) -> Path:
        path, known = self._folder.path(room, name), self.manifest.checksums.get(f"{room}/{name}")
        if known is not None and checksum_of(path) != known:
            raise InputError(f"{path} is damaged: it is not what the run wrote; run again, which makes it anew")
        return path

    def _is_as_written(self, file: str, checksum: str) -> bool:
        room, _, name = file.partition("/")
        path = self._folder.path(room, name)
        return path.is_file() and checksum_of(path) == checksum

    def _read_table(self, name: str, read: Callable[[Path], Any]) -> Any:
        if not self.has_table(name):
            raise NotThere(f"{self.root} has no table {name[:SHOWN]!r}{_available(self.table_names())}")
        path = self._checked("tables", name)
        try:
            return read(path)
        except (pa.ArrowException, OSError) as error:
            if is_lack_of_memory(error):
                raise
            if isinstance(error, OSError) and error.errno is not None:  # of a damaged file libraries give none
                raise unreadable(path, error) from None
            raise InputError(f"{path} is damaged: {first_line(error)}") from None

    def _write(self, room: str, name: str, write: Callable[[Path], Any], event: dict[str, Any] | None = None) -> Path:
        self._records.check_there()
        path, checksum = self._folder.write(room, name, write)
        self._records.happened((event or {}) | file_event(room, name, checksum))
        return path


def _available(names: Sequence[str]) -> str:
    return f", it has {', '.join(names[:8])}{' and others' if len(names) > 8 else ''}" if names else ", it has none"
