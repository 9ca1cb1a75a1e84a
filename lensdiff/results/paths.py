"""Paths that a user gives: refused in words where no file can be there, or no folder made."""

import errno
import os
from pathlib import Path

from lensdiff.results.errors import InputError

LONGEST = 4096  # bytes of a path, and
LONGEST_PART = 255  # of a name in it: more than that no file system in use takes
SHOWN = 60  # characters of a path that cannot be
# what says that a folder cannot be made at a path, whatever is done about space or the disk
UNUSABLE = (
    *(errno.EEXIST, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EISDIR, errno.ENOENT, errno.EINVAL),
)


def as_path(given: str | Path, what: str) -> Path:
    """Return a path that a user gave, with `~` expanded.

    Args:
        what: it is the path of, for errors: "a model", "a file of prompts".

    Raises:
        InputError: it is no path, empty, longer than a file system takes, or holds a character that none takes.
    """
    if not isinstance(given, str | Path):
        raise InputError(f"{what} is given as a name or a path, got {type(given).__name__}")
    text = str(given)
    if not text.strip():
        raise InputError(f"{what} has the empty name {text!r}, expected a name or a path")
    try:
        parts = [len(os.fsencode(part)) for part in Path(text).parts]
    except UnicodeEncodeError:
        raise InputError(f"{what} has the name {_short(text)}, in which a character is half") from None
    if "\0" in text:
        raise InputError(f"{what} has the name {_short(text)}, in which a character is none of a file's name")
    if sum(parts) + len(parts) > LONGEST or max(parts, default=0) > LONGEST_PART:
        raise InputError(
            f"{what} has the name {_short(text)} of {len(text)} characters, expected at most {LONGEST_PART} bytes "
            "between two slashes"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"{what} is at {_short(text)}, and nobody of that name has a home here") from None


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where there is none.

    Raises:
        InputError: something else is there or above it, or the place is not one to write to.
        OSError: it could not be made otherwise (a full disk).
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(path, "a folder", error) from error


def put_text(path: Path, text: str) -> Path:
    """Write a text file that a user asked for, and the folders above it, and return its path.

    Raises:
        InputError: a folder is there, something above it is none, or the place is not one to write to.
        OSError: it could not be written otherwise (a full disk).
    """
    make_folder(path.parent)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _refused(path, "a file", error) from error
    return path


def _refused(path: Path, what: str, error: OSError) -> OSError | InputError:
    if error.errno not in UNUSABLE:
        return error
    return InputError(f"{what} cannot be made at {path}: {(error.strerror or str(error)).lower()}")


def unreadable(path: Path, error: OSError) -> InputError | OSError:
    """Return what says that a file is there and cannot be read, which is no damage; a lack of memory stays itself."""
    if error.errno == errno.ENOMEM:
        return error
    return InputError(f"{path} cannot be read: {error.strerror or first_line(error)}")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
