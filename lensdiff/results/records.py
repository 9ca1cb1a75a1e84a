"""The manifest of a results directory and its journal: what happened to which unit and file, and what is seen of it."""

import json
import re
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from lensdiff.results.errors import InputError
from lensdiff.results.files import numeric_order
from lensdiff.results.folder import ENDINGS, Folder
from lensdiff.results.journal import Journal, apply, checked
from lensdiff.results.manifest import SCHEMA, Manifest, StepState, TableState, UnitState, file_of, name_of
from lensdiff.results.paths import unreadable
from lensdiff.results.provenance import package_versions

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
LAYERS = re.compile(r"\d+(,\d+)*")  # the name of a part of a result: the layers that it is of


class Records:
    """See the module. Nothing is written to the disk but between `begin` and `end`, and by `write`."""

    def __init__(self, folder: Folder):
        self._folder, self._path = folder, folder.root / MANIFEST
        self._manifest: Manifest | None = None
        self._journal = Journal(folder.root / JOURNAL)
        self._kept_in: tuple[int, int] | None = None  # the directory that what happens is kept in

    def exists(self) -> bool:
        """Return whether the directory holds a manifest."""
        return self._path.is_file()

    @property
    def manifest(self) -> Manifest:
        """As it was written, with what happened since.

        Raises:
            InputError: it is unreadable or has the schema of another version.
        """
        if self._manifest is None:
            self._manifest = self._read()
        return self._manifest

    def take(self, manifest: Manifest) -> None:
        """Take what a manifest in memory says for what the directory's own would."""
        self._manifest = manifest

    def step(self, name: str) -> StepState:
        """Return the state of a step; one that never began is pending."""
        return self.manifest.steps.get(name, StepState())

    # a run
    def begin(self) -> None:
        """Begin to keep what happens, and remove the files that nobody knows of.

        Raises:
            InputError: there are results and no manifest that says what they are, or it cannot be read.
        """
        is_new, self._manifest = not self.exists(), self._read()
        if is_new and (loose := [room for room in ENDINGS if self._folder.names(room)]):
            raise InputError(
                f"{self._folder.root} holds {loose[0]} but no {MANIFEST} that says what they are: choose another "
                "directory"
            )
        self._folder.clear_partial()
        for room in ENDINGS:  # written and not yet recorded, or recorded as gone and not yet removed
            for name in self._folder.names(room):
                if f"{room}/{name}" not in self.manifest.checksums:
                    self._folder.path(room, name).unlink()
        self.write(versions=package_versions() if is_new else self.manifest.versions)
        self._kept_in = self._directory()

    def end(self) -> None:
        """Keep nothing any more."""
        self._kept_in = None

    def check_there(self) -> None:
        """Refuse to go on in a directory that is not the one any more in which a run began.

        Raises:
            InputError: it was removed, emptied, or another lies in its place.
        """
        if self._kept_in is not None and not (self.exists() and self._directory() == self._kept_in):
            raise InputError(
                f"{self._folder.root} was removed, emptied or replaced while a run wrote to it: the run ended, "
                "run again"
            )

    def _directory(self) -> tuple[int, int] | None:
        try:
            found = self._folder.root.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def happened(self, event: dict[str, Any]) -> None:
        """Remember an event (see `lensdiff.results.journal`); a file that is gone is removed after that."""
        self.check_there()
        apply(self.manifest, checked(event))
        if self._kept_in is not None:
            self._journal.add(**event)
        if event.get("checksum", "") is None:
            room, _, name = event["file"].partition("/")
            with suppress(InputError):  # no file has such a name
                self._folder.path(room, name).unlink(missing_ok=True)

    def write(self, **changes: Any) -> None:
        """Change fields of the manifest and write it."""
        self.check_there()
        self._manifest = self.manifest.model_copy(update=changes)
        text = self._manifest.model_dump_json(indent=1)
        self._folder.replace(self._path, lambda path: path.write_text(text, encoding="utf-8", newline=""))
        self._journal.clear()

    # what is seen
    def names(self, room: str, prefix: str) -> list[str]:
        """Return the names of the files of a room that begin with `prefix`: those that the manifest knows of, where
        there is one, and that are of the last run."""
        if not self.exists():
            return self._folder.names(room, prefix)
        hidden = self._hidden(room)
        known = (file.partition("/") for file in self.manifest.checksums)
        names = (name for place, _, name in known if place == room and name.startswith(prefix))
        return sorted((name for name in names if name not in hidden), key=numeric_order)

    def parts(self, name: str) -> list[str]:
        """Return the names of the groups of layers of a result that the last run asked for; none of another result."""
        step, _, rest = name.partition("/")
        start, state = f"{rest}/" if rest else "", self.step(step)
        asked = [unit for unit in state.wanted if unit.startswith(start) and LAYERS.fullmatch(unit[len(start) :])]
        # a number may be a prompt's, too
        in_groups = any(unit in state.units and state.units[unit].layers is not None for unit in asked)
        return [name_of(step, unit) for unit in asked] if in_groups else []

    def without_file(self) -> list[str]:
        """Return the files ("arrays/NAME") that units ought to have and that the manifest does not know of."""
        files = (
            file_of(step, unit)
            for step, state in self.manifest.steps.items()
            for unit, own in state.units.items()
            if own.has_file
        )
        return [file for file in files if file not in self.manifest.checksums]

    def _hidden(self, room: str) -> set[str]:
        """Return the names of tables or of units' results that the last run did not ask for."""
        if room == "tables":
            return {name for name, table in self.manifest.tables.items() if not table.wanted}
        return {
            name_of(step, unit)
            for step, state in self.manifest.steps.items()
            for unit in state.units.keys() - set(state.wanted)
        }

    def _read(self) -> Manifest:
        if not self.exists():
            return Manifest()
        try:
            text = self._path.read_bytes()
        except OSError as error:
            raise unreadable(self._path, error) from error
        try:
            stored = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self._path} is not a manifest of lensdiff") from error
        if not isinstance(stored, dict):
            raise InputError(f"{self._path} is not a manifest of lensdiff")
        if (schema := stored.get("schema_version")) != SCHEMA:
            raise InputError(f"{self._folder.root} holds results of schema {schema!r:.40}, this version reads {SCHEMA}")
        try:
            manifest = Manifest.model_validate(stored)
        except (ValidationError, RecursionError) as error:
            raise InputError(f"{self._path} is not a manifest of lensdiff") from error
        return self._journal.replay(manifest)


def unit_event(step: str, unit: str, state: UnitState | None) -> dict[str, Any]:
    """Return the event that something became of a unit, or that it is forgotten."""
    return {"step": step, "unit": unit, "state": None if state is None else state.model_dump(mode="json")}


def table_event(name: str, state: TableState | None) -> dict[str, Any]:
    """Return the event that a table was looked at, or that it is forgotten."""
    return {"table": name, "state": None if state is None else state.model_dump(mode="json")}


def file_event(room: str, name: str, checksum: str | None) -> dict[str, Any]:
    """Return the event that a file was written, or that it is gone."""
    return {"file": f"{room}/{name}", "checksum": checksum}
