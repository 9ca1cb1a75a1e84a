"""The files of a results directory: each is written whole or not at all, and known again by a checksum.

A name is a path of parts joined by "/"; characters that a file system may refuse are percent-encoded.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lensdiff.results.errors import InputError
from lensdiff.results.files import decode_part, encode_part, flush, numeric_order
from lensdiff.results.manifest import ROOMS
from lensdiff.results.paths import unreadable

PARTIAL = ".partial"
ENDINGS: dict[str, str] = dict(zip(ROOMS, (".safetensors", ".parquet"), strict=True))
LONGEST_PART = 240  # bytes of a file's name without its ending; file systems allow 255
LONGEST_NAME = 1000  # of all parts together; systems allow a path 4096, or 1024


class Folder:
    """The files below one directory; those with a name lie in two rooms, arrays and tables."""

    def __init__(self, root: Path):
        self.root = root

    def path(self, room: str, name: str) -> Path:
        """Return where a file of this name lies.

        Raises:
            InputError: the name is too long for a file system.
        """
        *folders, last = [encode_part(part) for part in name.split("/")]
        if too_long := [part for part in (*folders, last) if len(part) > LONGEST_PART]:  # all ASCII
            raise InputError(f"the name {too_long[0][:40]}... is longer than the {LONGEST_PART} bytes of a file's name")
        if sum(map(len, folders)) + len(folders) + len(last) > LONGEST_NAME:
            raise InputError(f"the name ...{name[-40:]} is longer than the {LONGEST_NAME} bytes of a file's path")
        ending = ENDINGS[room]
        # a folder must not have the name of a file
        folders = [f"{f.removesuffix(ending)}%2E{ending[1:]}" if f.endswith(ending) else f for f in folders]
        return self.root.joinpath(room, *folders, last + ending)

    def names(self, room: str, prefix: str = "") -> list[str]:
        """Return the names of the files of a room that begin with `prefix`, numbers in them in numeric order."""
        folder = self.root / room
        files = (
            path.relative_to(folder).with_suffix("") for path in folder.rglob(f"*{ENDINGS[room]}") if path.is_file()
        )
        found = ("/".join(decode_part(part) for part in path.parts) for path in files)
        return sorted((name for name in found if name.startswith(prefix)), key=numeric_order)

    def write(self, room: str, name: str, write: Callable[[Path], Any]) -> tuple[Path, str]:
        """Write a file of a room, and return its path and its checksum.

        Raises:
            OSError: as `replace`.
        """
        found: list[str] = []

        def and_sum(temporary: Path) -> None:
            write(temporary)
            found.append(checksum_of(temporary))

        return self.replace(self.path(room, name), and_sum), found[0]

    def replace(self, path: Path, write: Callable[[Path], Any]) -> Path:
        """Put what `write` writes in the place of a file.

        Raises:
            OSError: it could not be written (a full disk); what was there before still stands.
        """
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

    def clear_partial(self) -> None:
        """Remove what a stopped program left half-written."""
        shutil.rmtree(self.root / PARTIAL, ignore_errors=True)


def checksum_of(path: Path) -> str:
    """Return the checksum by which a file of the directory is known again.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise unreadable(path, error) from None
