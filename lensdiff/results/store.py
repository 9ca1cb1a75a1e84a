"""A results directory: a manifest, a Parquet table and a safetensors file per result, written so that nothing is lost.

    manifest.json            schema, config, versions, what the pair is, and the state of every step
    arrays/<name>.safetensors    results (`Result.save`)
    tables/<name>.parquet        tables

Every file is written under `.partial/`, flushed to the disk and renamed into place, so that a name always holds a whole
file, whenever the program is stopped. A name is a path of parts joined by "/"; characters that a file system may refuse
are percent-encoded. One program writes at a time (`writing`); reading needs no lock.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
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
from lensdiff.results.manifest import SCHEMA, Manifest, StepState, first_difference, without
from lensdiff.results.provenance import package_versions
from lensdiff.results.result import Result

MANIFEST = "manifest.json"
PARTIAL = ".partial"
LOCK = ".lock"
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
        """Return whether a result of this name is there."""
        return self._path("arrays", name).is_file()

    def has_table(self, name: str) -> bool:
        """Return whether a table of this name is there."""
        return self._path("tables", name).is_file()

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the results that begin with `prefix`, numbers within them in numeric order."""
        return self._names("arrays", prefix)

    def table_names(self, prefix: str = "") -> list[str]:
        """Return the names of the tables that begin with `prefix`, likewise."""
        return self._names("tables", prefix)

    # results and tables
    def save_result(self, name: str, result: Result) -> Path:
        """Write a result and return its path.

        Raises:
            OSError: it could not be written (a full disk); what was there before still stands.
        """
        return self._write(self._path("arrays", name), lambda path: result.save(path))

    def load_result(self, name: str, cls: type[R]) -> R:
        """Read a result of class `cls`.

        Raises:
            InputError: there is none of this name, or it is of another class.
        """
        path = self._path("arrays", name)
        if not path.is_file():
            raise InputError(f"{self.root} has no result {name!r}{self._available('arrays')}")
        return cls.load(path)

    def save_table(self, name: str, frame: pd.DataFrame | Iterable[pd.DataFrame]) -> Path:
        """Write a table as Parquet, given whole or in parts of equal columns, and return its path.

        Raises:
            OSError: as `save_result`.
        """
        parts = [frame] if isinstance(frame, pd.DataFrame) else frame
        return self._write(self._path("tables", name), lambda path: write_parquet(path, parts))

    def load_table(self, name: str) -> pd.DataFrame:
        """Read a table.

        Raises:
            InputError: there is none of this name, or its file is damaged.
        """
        path = self._path("tables", name)
        if not path.is_file():
            raise InputError(f"{self.root} has no table {name!r}{self._available('tables')}")
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
        return self._write(self._shown(name), lambda path: shutil.copyfile(self._path("tables", name), path))

    def remove(self, name: str) -> None:
        """Remove a result, if it is there."""
        self._path("arrays", name).unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file (a report) into the directory and return its path.

        Raises:
            OSError: as `save_result`.
        """
        return self._write(self.root / name, lambda path: path.write_text(text, encoding="utf-8", newline=""))

    # the manifest
    @contextmanager
    def writing(
        self, config: dict[str, Any], *, free: tuple[str, ...] = (), replace: bool = False
    ) -> Iterator["ResultStore"]:
        """Hold the directory for one run: lock it, clear what a stopped run left half-written, check the config.

        Args:
            config: JSON values; the manifest keeps them.
            free: the keys, dotted within tables, that may differ from an earlier run's (no number depends on them).
            replace: remove the results of another config instead of refusing them.

        Raises:
            InputError: another run holds the directory, or it has the results of another config or schema.
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
            self._manifest = self._read_manifest()
            self._begin(config, free, replace)
            yield self
        finally:
            lock.release()

    def step(self, name: str) -> StepState:
        """Return the state of a step; one that never began is pending."""
        return self.manifest.steps.get(name, StepState())

    def update_step(self, name: str, **changes: Any) -> StepState:
        """Change fields of a step's state and write the manifest."""
        state = self.step(name).model_copy(update=changes)
        self._write_manifest(self.manifest.model_copy(update={"steps": self.manifest.steps | {name: state}}))
        return state

    def unit_done(self, name: str, unit: str, seconds: float) -> StepState:
        """Record that a unit of a step is finished: from now on it is never repeated."""
        state = self.step(name)
        return self.update_step(name, done=[*state.done, unit], seconds=state.seconds + seconds)

    def describe_pair(self, facts: dict[str, Any]) -> None:
        """Record what the two models are (JSON values)."""
        self._write_manifest(self.manifest.model_copy(update={"pair": facts}))

    def _begin(self, config: dict[str, Any], free: tuple[str, ...], replace: bool) -> None:
        shutil.rmtree(self.root / PARTIAL, ignore_errors=True)
        config = json.loads(json.dumps(config))
        if self.exists():
            there, here = (without(c, free) for c in (self.manifest.config, config))
            difference = first_difference(there, here)
            if difference and replace:
                self._clear()
            elif difference:
                key, old, new = difference
                raise InputError(
                    f"{self.root} holds the results of another config ({key} is {old} there, {new} here): "
                    "choose another directory"
                )
        self._write_manifest(self.manifest.model_copy(update={"config": config, "versions": package_versions()}))

    def _clear(self) -> None:
        for name in self.table_names():
            self._shown(name).unlink(missing_ok=True)
        for room in (self.root / "arrays", self.root / "tables"):
            if room.is_dir():
                shutil.rmtree(room)
        (self.root / MANIFEST).unlink()  # last: what a stopped removal left is still known to be of the old config
        self._manifest = Manifest()

    def _read_manifest(self) -> Manifest:
        path = self.root / MANIFEST
        if not path.is_file():
            return Manifest()
        try:
            stored = json.loads(path.read_bytes())
            schema = stored.get("schema_version")
            if schema != SCHEMA:
                raise InputError(f"{self.root} holds results of schema {schema}, this version reads {SCHEMA}")
            return Manifest.model_validate(stored)
        except (ValidationError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is not a manifest of lensdiff") from error

    def _write_manifest(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.write_text(MANIFEST, manifest.model_dump_json(indent=1))

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

    def _write(self, path: Path, write: Callable[[Path], Any]) -> Path:
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
