"""A results directory: a manifest, a Parquet table and a safetensors file per result, written so that nothing is lost.

    manifest.json            schema, config, versions, the state of every unit, and a checksum of every file
    journal.jsonl            what happened since the manifest was written; gone when a run has ended
    arrays/<name>.safetensors    results (`Result.save`)
    tables/<name>.parquet        tables

Every file is written under `.partial/`, flushed to the disk and renamed into place, so that a name always holds a whole
file, whenever the program is stopped; a file whose checksum is not the manifest's is never read. A name is a path of
parts joined by "/"; characters that a file system may refuse are percent-encoded. One program writes at a time
(`writing`); reading needs no lock.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import ValidationError
from safetensors import SafetensorError

from lensdiff.results.errors import InputError
from lensdiff.results.files import decode_part, encode_part, flush, numeric_order, write_parquet
from lensdiff.results.journal import Journal, apply
from lensdiff.results.manifest import SCHEMA, Manifest, StepState, UnitState
from lensdiff.results.provenance import package_versions
from lensdiff.results.result import Result

MANIFEST = "manifest.json"
PARTIAL = ".partial"
LOCK = ".lock"
JOURNAL = "journal.jsonl"
LAYERS = re.compile(r"\d+(,\d+)*")  # the name of a part of a result: the layers that it is of
ENDINGS = {"arrays": ".safetensors", "tables": ".parquet"}
LONGEST_PART = 240  # bytes of a file's name without its ending; file systems allow 255
R = TypeVar("R", bound=Result)


class ResultStore:
    """The files of one results directory; see the module for their layout.

    Attributes:
        root: the directory; it is made when something is written.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._manifest: Manifest | None = None
        self._journal = Journal(self.root / JOURNAL)
        self._is_writing = False

    # what is there
    def exists(self) -> bool:
        """Return whether the directory holds a manifest."""
        return (self.root / MANIFEST).is_file()

    @property
    def manifest(self) -> Manifest:
        """What the directory says of itself; an empty manifest where there is none.

        Raises:
            InputError: the manifest is unreadable or has the schema of another version.
        """
        if self._manifest is None:
            self._manifest = self._read_manifest()
        return self._manifest

    def has(self, name: str) -> bool:
        """Return whether a result of this name is there, in one file or in parts."""
        return bool(self.parts(name))

    def has_table(self, name: str) -> bool:
        """Return whether a table of this name is there."""
        return self._path("tables", name).is_file()

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the results that begin with `prefix`, numbers within them in numeric order.

        Those that the last run did not ask for are left out.
        """
        hidden = self._hidden()
        return [name for name in self._names("arrays", prefix) if name not in hidden]

    def parts(self, name: str) -> list[str]:
        """Return the names of the files that hold a result: its own, or those of its groups of layers."""
        if self._path("arrays", name).is_file():
            return [] if name in self._hidden() else [name]
        return [part for part in self.names(f"{name}/") if LAYERS.fullmatch(part.removeprefix(f"{name}/"))]

    def table_names(self, prefix: str = "") -> list[str]:
        """Return the names of the tables that begin with `prefix`, likewise."""
        return self._names("tables", prefix)

    # results and tables
    def save_result(self, name: str, result: Result) -> Path:
        """Write a result and return its path.

        Raises:
            OSError: it could not be written (a full disk); what was there before still stands.
        """
        return self._write("arrays", name, lambda path: result.save(path))

    def load_result(self, name: str, cls: type[R]) -> R:
        """Read a result of class `cls`; one that is kept in parts is joined.

        Raises:
            InputError: there is none of this name, its file is damaged, or it is of another class.
        """
        parts = self.parts(name)
        if not parts:
            raise InputError(f"{self.root} has no result {name!r}{self._available('arrays')}")
        return self.load_files(parts, cls)

    def load_files(self, names: Sequence[str], cls: type[R]) -> R:
        """Read the files that hold one result and join them.

        Raises:
            InputError: as `load_result`.
        """
        found = [cls.load(self._checked("arrays", name)) for name in names]
        return found[0] if len(found) == 1 else cls.join(found)

    def save_table(self, name: str, frame: pd.DataFrame | Iterable[pd.DataFrame]) -> Path:
        """Write a table as Parquet, given whole or in parts of equal columns, and return its path.

        Raises:
            OSError: as `save_result`.
        """
        parts = [frame] if isinstance(frame, pd.DataFrame) else frame
        return self._write("tables", name, lambda path: write_parquet(path, parts))

    def load_table(self, name: str) -> pd.DataFrame:
        """Read a table.

        Raises:
            InputError: there is none of this name, or its file is damaged.
        """
        if not self._path("tables", name).is_file():
            raise InputError(f"{self.root} has no table {name!r}{self._available('tables')}")
        path = self._checked("tables", name)
        try:
            return pd.read_parquet(path)
        except pa.ArrowInvalid as error:
            raise InputError(f"{path} is damaged: {error}") from None

    def columns(self, name: str) -> list[str]:
        """Return the names of a table's columns, without reading its rows."""
        path = self._path("tables", name)
        try:
            return list(pq.read_schema(path).names)
        except pa.ArrowInvalid as error:
            raise InputError(f"{path} is damaged: {error}") from None

    def publish(self, name: str) -> Path:
        """Give a table a second name at the top of the directory, and return that."""
        return self._replace(self._shown(name), lambda path: shutil.copyfile(self._checked("tables", name), path))

    def remove(self, name: str) -> None:
        """Remove a result, if it is there: first from the manifest, so that a stop in between shows nothing."""
        self._forget("arrays", name)

    def remove_table(self, name: str) -> None:
        """Remove a table and its second name, likewise."""
        self._forget("tables", name)
        self._shown(name).unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file (a report) into the directory and return its path.

        Raises:
            OSError: as `save_result`.
        """
        return self._replace(self.root / name, lambda path: path.write_text(text, encoding="utf-8", newline=""))

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
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(
                f"another run is writing to {self.root}: wait for it or choose another directory"
            ) from None
        try:
            self._begin()
            self._is_writing = True
            yield self
        finally:
            self._is_writing = False
            lock.release()

    def step(self, name: str) -> StepState:
        """Return the state of a step; one that never began is pending."""
        return self.manifest.steps.get(name, StepState())

    def record(self, step: str, unit: str, state: UnitState | None) -> None:
        """Remember what became of a unit, or forget it (None)."""
        event = {"step": step, "unit": unit, "state": None if state is None else state.model_dump(mode="json")}
        self._happened(event)

    def update(self, **changes: Any) -> None:
        """Change fields of the manifest and write it."""
        self._write_manifest(self.manifest.model_copy(update=changes))

    def damaged(self) -> list[str]:
        """Return the files ("arrays/NAME") of the manifest that are missing or not as they were written."""
        found = []
        for name, checksum in self.manifest.checksums.items():
            path = self._path(*_split(name))
            if not path.is_file() or checksum_of(path) != checksum:
                found.append(name)
        return found

    def forget(self, file: str) -> None:
        """Remove a file ("arrays/NAME") and what the manifest knows of it."""
        self._forget(*_split(file))

    def _begin(self) -> None:
        shutil.rmtree(self.root / PARTIAL, ignore_errors=True)
        self._manifest = self._read_manifest()
        if not self.exists() and (loose := [room for room in ENDINGS if self._names(room, "")]):
            raise InputError(
                f"{self.root} holds {loose[0]} but no manifest.json that says what they are: choose another directory"
            )
        for room in ENDINGS:  # what was written and not yet recorded, or recorded as gone and not yet removed
            for name in self._names(room, ""):
                if f"{room}/{name}" not in self.manifest.checksums:
                    self._path(room, name).unlink()
        self._write_manifest(self.manifest.model_copy(update={"versions": package_versions()}))

    def _happened(self, event: dict[str, Any]) -> None:
        apply(self.manifest, event)
        if self._is_writing:
            self._journal.add(**event)

    def _read_manifest(self) -> Manifest:
        path = self.root / MANIFEST
        if not path.is_file():
            return Manifest()
        try:
            stored = json.loads(path.read_bytes())
            schema = stored.get("schema_version")
            if schema != SCHEMA:
                raise InputError(f"{self.root} holds results of schema {schema}, this version reads {SCHEMA}")
            return self._journal.replay(Manifest.model_validate(stored))
        except (ValidationError, ValueError, AttributeError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is not a manifest of lensdiff") from error

    def _write_manifest(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.write_text(MANIFEST, manifest.model_dump_json(indent=1))
        self._journal.clear()

    def _hidden(self) -> set[str]:
        """Return the names of results that are there and that the last run did not ask for."""
        steps = self.manifest.steps.items()
        return {f"{step}/{unit}" for step, state in steps for unit in state.units.keys() - set(state.wanted)}

    # files
    def _shown(self, name: str) -> Path:
        return self.root / f"{encode_part(name)}.parquet"

    def _path(self, room: str, name: str) -> Path:
        parts = [encode_part(part) for part in name.split("/")]
        if too_long := [part for part in parts if len(part.encode()) > LONGEST_PART]:
            raise InputError(f"the name {too_long[0][:40]}... is longer than the {LONGEST_PART} bytes of a file's name")
        return self.root.joinpath(room, *parts[:-1], parts[-1] + ENDINGS[room])

    def _names(self, room: str, prefix: str) -> list[str]:
        folder = self.root / room
        files = (
            path.relative_to(folder).with_suffix("") for path in folder.rglob(f"*{ENDINGS[room]}") if path.is_file()
        )
        found = ("/".join(decode_part(part) for part in path.parts) for path in files)
        return sorted((name for name in found if name.startswith(prefix)), key=numeric_order)

    def _available(self, room: str) -> str:
        names = self._names(room, "")
        return f", it has {', '.join(names[:8])}{' and others' if len(names) > 8 else ''}" if names else ", it has none"

    def _checked(self, room: str, name: str) -> Path:
        path, known = self._path(room, name), self.manifest.checksums.get(f"{room}/{name}")
        if known is not None and checksum_of(path) != known:
            raise InputError(f"{path} is damaged: it is not what the run wrote; run again, which makes it anew")
        return path

    def _forget(self, room: str, name: str) -> None:
        self._happened({"file": f"{room}/{name}", "checksum": None})
        self._path(room, name).unlink(missing_ok=True)

    def _write(self, room: str, name: str, write: Callable[[Path], Any]) -> Path:
        path = self._path(room, name)
        found: list[str] = []

        def and_sum(temporary: Path) -> None:
            write(temporary)
            found.append(checksum_of(temporary))

        self._replace(path, and_sum)
        self._happened({"file": f"{room}/{name}", "checksum": found[0]})
        return path

    def _replace(self, path: Path, write: Callable[[Path], Any]) -> Path:
        partial = self.root / PARTIAL
        partial.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=partial)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            flush(temporary)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.chmod(0o644)  # a temporary file is its owner's alone
            os.replace(temporary, path)
            flush(path.parent)
        except (OSError, SafetensorError) as error:
            raise OSError(f"cannot write {path}: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return path


def checksum_of(path: Path) -> str:
    """Return the checksum by which a file of the directory is known again.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _split(file: str) -> tuple[str, str]:
    room, _, name = file.partition("/")
    return room, name
