"""What a file, or a folder's model files, are known again by: a hash of every byte.

Hashing takes about a second a gigabyte. So a large file is hashed once: its digest is kept in the user's cache beside
the state that the file was in (size, times, inode), and believed as long as the file is in that state. The time of the
last change of the inode counts as well as the time of the last change of the bytes, which programs set back.
"""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from lensdiff.inputs.cache_folder import cache_folder
from lensdiff.results import InputError

# a tokenizer's chat template is a .jinja file; notes and pictures beside a model change nothing of it
MODEL_FILES = (".safetensors", ".bin", ".gguf", ".json", ".model", ".txt", ".jinja")
KEPT = "fingerprints-1.json"  # hashed or written in another way, digests need a file of another name
LARGE = 2**20  # bytes; a smaller file is read faster than its digest is looked up
SETTLED = 2.0  # seconds; the coarsest times of a file system: within them a file changes and looks the same
MOST = 4096  # digests that are kept, the newest ones
PATIENCE = 10.0  # seconds to wait for another process that writes the file of digests

Entry = list[Any]  # the state of a file, and its digest
_log = logging.getLogger(__name__)


def fingerprint(path: Path) -> str | None:
    """Return a hash of a file's bytes, or of the names and bytes of a folder's model files; None if there are none.

    Symbolic links count as what they lead to; folders within a folder do not count.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        if path.is_file():
            return _digest(path)
        if not path.is_dir():
            return None
        names = sorted(item.name for item in path.iterdir() if item.suffix.lower() in MODEL_FILES and item.is_file())
        found = _hash()
        for name in names:
            found.update(os.fsencode(name) + b"\0" + _digest(path / name).encode())
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    return found.hexdigest() if names else None


def _digest(file: Path) -> str:
    place = os.path.realpath(file)
    state = _state(os.stat(place))
    if state[0] >= LARGE:
        entry = _kept().get(place)
        if entry is not None and entry[:-1] == state:
            return entry[-1]
    now = time.time()
    with open(place, "rb") as opened:
        before = os.fstat(opened.fileno())
        digest = hashlib.file_digest(opened, _hash).hexdigest()
        same = _state(os.fstat(opened.fileno())) == _state(before)
    if before.st_size >= LARGE and same and max(before.st_mtime, before.st_ctime) < now - SETTLED:
        _keep(place, [*_state(before), digest])
    return digest


def _hash() -> Any:
    return hashlib.blake2b(digest_size=16)


def _state(found: os.stat_result) -> Entry:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _kept() -> dict[str, Entry]:
    """Return the entries by path, the newest last; none where the file of them is not as it was written."""
    try:
        check, _, text = (cache_folder() / KEPT).read_text(encoding="ascii").partition("\n")
    except (OSError, ValueError, RuntimeError):  # no file, no ASCII, no home
        return {}
    return json.loads(text) if check == _check(text) else {}


def _keep(place: str, entry: Entry) -> None:
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{KEPT}.lock", timeout=PATIENCE):
            entries = _kept()
            entries.pop(place, None)
            entries[place] = entry
            text = json.dumps(dict(list(entries.items())[-MOST:]))
            _write(folder / KEPT, f"{_check(text)}\n{text}")
    except (OSError, RuntimeError) as error:  # read-only, full, locked for long, without locks, no home
        _log.info("the digest of %s cannot be kept, and is made again: %s", place, error)


def _check(text: str) -> str:
    found = _hash()
    found.update(text.encode())
    return found.hexdigest()


def _write(path: Path, text: str) -> None:
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with open(handle, "w", encoding="ascii") as opened:
            opened.write(text)
        os.replace(beside, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
