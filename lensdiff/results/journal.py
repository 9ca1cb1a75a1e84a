"""What happened since the manifest was written, a line per event: a finished unit costs one line and no rewrite.

A line that was cut off by the end of the program is the last one, and is dropped.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from lensdiff.results.errors import InputError
from lensdiff.results.manifest import FileName, Manifest, StepState, TableState, UnitState
from lensdiff.results.paths import unreadable

V = TypeVar("V")


class _OfUnit(BaseModel):
    step: str
    unit: str
    state: UnitState | None

    def change(self, manifest: Manifest) -> None:
        _put(manifest.steps.setdefault(self.step, StepState()).units, self.unit, self.state)


class _OfTable(BaseModel):
    table: str
    state: TableState | None

    def change(self, manifest: Manifest) -> None:
        _put(manifest.tables, self.table, self.state)


class _OfFile(BaseModel):
    file: FileName
    checksum: str | None

    def change(self, manifest: Manifest) -> None:
        _put(manifest.checksums, self.file, self.checksum)


def _put(known: dict[str, V], name: str, value: V | None) -> None:
    if value is None:
        known.pop(name, None)
    else:
        known[name] = value


Part = _OfUnit | _OfTable | _OfFile  # what an event says: of a unit or a table, and of its file
EVENTS: dict[str, type[Part]] = {"unit": _OfUnit, "table": _OfTable, "file": _OfFile}


class Journal:
    """The events of a results directory that its manifest does not have yet."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, **event: Any) -> None:
        """Append an event and wait until it is on the disk."""
        with self.path.open("ab") as opened:
            opened.write(json.dumps(event).encode("utf-8") + b"\n")
            opened.flush()
            os.fsync(opened.fileno())

    def clear(self) -> None:
        """Forget the events: the manifest has them now."""
        self.path.unlink(missing_ok=True)

    def replay(self, manifest: Manifest) -> Manifest:
        """Return a manifest with the events in it.

        Raises:
            InputError: it cannot be read, or a line before the last is none that was written here.
        """
        if not self.path.is_file():
            return manifest
        found = manifest.model_copy(deep=True)
        try:
            *whole, _ = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise unreadable(self.path, error) from error
        for number, line in enumerate(whole, start=1):
            try:
                event = checked(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{self.path}, line {number} is damaged, expected an event of a run") from error
            apply(found, event)
        return found


def checked(event: Any) -> list[Part]:
    """Return what an event says, given as a line holds it.

    Raises:
        ValueError: it says nothing, lacks something, or holds what is none of it.
    """
    if not isinstance(event, dict):
        raise ValueError("it is no table of keys")
    found = [kind.model_validate(event) for about, kind in EVENTS.items() if about in event]
    if not found:
        raise ValueError(f"it is of none of {', '.join(EVENTS)}")
    return found


def apply(manifest: Manifest, event: Iterable[Part]) -> None:
    """Change a manifest by an event: the state of a unit or table, a file's checksum, or that one of them is gone."""
    for part in event:
        part.change(manifest)
