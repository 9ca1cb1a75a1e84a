"""Plain texts that have nothing to do with a tuning: of a file, or those that ship."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensdiff.inputs.characters import lone_surrogate
from lensdiff.inputs.spans import shorten
from lensdiff.inputs.tables import read_text
from lensdiff.inputs.vocabulary import DATA
from lensdiff.results import InputError
from lensdiff.results.paths import as_path

FEWEST = 2  # the mean of one text is that text
Texts = Any  # a list of texts, a path, or None for those that ship; anything else is refused in words


def texts_of(given: Texts) -> tuple[str, ...]:
    """Return texts: those of a list as they are, those of a file (a path), or, for None, those that ship.

    Raises:
        InputError: a list of something else, fewer than two texts, one that is empty or holds half a character, or as
            `load_texts`.
    """
    if given is None:
        return shipped_texts()
    if isinstance(given, str | Path):
        return load_texts(given)
    if not isinstance(given, Sequence):
        raise InputError(f"texts={shorten(given)} given, expected a list of texts or the path of a file")
    return _checked(given, "text")


def load_texts(path: str | Path) -> tuple[str, ...]:
    """Read a file of plain text, a passage a line; empty lines are skipped.

    Raises:
        InputError: the file is missing, is not UTF-8, or holds fewer than two texts.
    """
    path = as_path(path, "a file of texts")
    lines = [line.strip() for line in read_text(path).split("\n")]
    return _checked([line for line in lines if line], f"{path}, text")


def shipped_texts() -> tuple[str, ...]:
    """Return 512 example sentences of WordNet 3.0, each about something else."""
    lines = (DATA / "texts.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("# "))


def _checked(given: Sequence[Any], name: str) -> tuple[str, ...]:
    for place, text in enumerate(given):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{name} {place} is {shorten(text)}, expected words")
        if lone_surrogate(text) is not None:
            raise InputError(f"{name} {place} holds half a character ({shorten(text)}), expected whole ones")
    if len(given) < FEWEST:
        raise InputError(f"{len(given)} texts are given, expected at least {FEWEST}: the mean of one is that text")
    return tuple(given)
