"""The tab-separated tables that the paper's authors released: one record a line, with escapes of their own.

`/n` stands for a newline, `/t` for a tab, `""` for a double quote; a single double quote means itself, so the csv
module's quoting does not apply. A text that held a literal `/n` or `/t` cannot be told from an escaped one.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lensdiff.results import InputError
from lensdiff.results.paths import as_path


def unescape(field: str) -> str:
    """Return a field's text: `/n` newline, `/t` tab, doubled double quotes single."""
    return field.replace("/n", "\n").replace("/t", "\t").replace('""', '"')


def read_text(path: Path) -> str:
    """Return a file's text (UTF-8, with or without byte-order mark), its newlines as they are.

    Raises:
        InputError: there is no such file, or it is not UTF-8.
    """
    if not as_path(path, "a file").is_file():
        raise InputError(f"no file at {path}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, {column: raw field}) of the named columns of a tab-separated file with a header line.

    Raises:
        InputError: a column is missing from the header, or a line has another number of fields than the header.
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    header = lines[0].split("\t")
    if missing := [name for name in columns if name not in header]:
        raise InputError(f"{path}, line 1: no column {missing[0]!r}, expected a header with {', '.join(columns)}")
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        fields = line.split("\t")
        if len(fields) != len(header):
            raise InputError(f"{path}, line {number}: {len(fields)} fields, expected the header's {len(header)}")
        row = dict(zip(header, fields, strict=True))
        yield number, {name: row[name] for name in columns}


def split_spans(field: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the (instruction, context) spans of an annotation `instruction &&& context`, spans joined by `|||`."""
    instruction, _, context = unescape(field).partition("&&&")

    def parts(joined: str) -> tuple[str, ...]:
        return tuple(part for part in joined.split("|||") if part.strip())

    return parts(instruction), parts(context)


class ReleasedWords(NamedTuple):
    """One line of a released word table: a dimension of a head, or a component of a feed-forward layer."""

    model: str
    size: str
    layer: int
    type: str
    head_index: int
    dim: int | None
    rank: int
    score: float
    entries: tuple[str, ...]

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return the entries `key=query` as (key, query) words; one with two `=` is ambiguous and left out."""
        return tuple((key, query) for key, query in (e.split("=") for e in self.entries if e.count("=") == 1))


CONCEPT_COLUMNS = ("Model", "Size", "Layer", "Type", "Head", "Rank", "Score", "TopK")
PAIR_COLUMNS = ("Model", "Size", "Layer", "Type", "Head", "Dim", "Rank", "Score", "TopK")


def _joined_lines(paths: Iterable[Path]) -> Iterator[bytes]:
    """Yield the lines of files that continue each other, also where one ends within a line."""
    rest = b""
    for path in paths:
        with path.open("rb") as file:
            for line in file:
                rest += line
                if rest.endswith(b"\n"):
                    yield rest
                    rest = b""
    if rest:
        yield rest


def read_words(paths: Sequence[Path], columns: Sequence[str]) -> Iterator[ReleasedWords]:
    """Yield the lines of a word table that lies in one file or in pieces that continue each other.

    Raises:
        InputError: a line has another number of fields than `columns`, or no number where one belongs.
    """
    header = "\t".join(columns)
    for number, line in enumerate(_joined_lines(paths), start=1):
        text = line.decode("utf-8", errors="replace").rstrip("\r\n")
        if not text or text == header:  # a run that was continued wrote its header again
            continue
        fields = text.split("\t")
        place = f"{paths[0]}{' and its next pieces' if len(paths) > 1 else ''}, line {number}"
        if len(fields) != len(columns):
            raise InputError(f"{place}: {len(fields)} fields, expected {', '.join(columns)}")
        row = dict(zip(columns, fields, strict=True))
        entries = tuple(entry for entry in row["TopK"].split("|||") if entry)
        try:
            layer, head, rank, score = int(row["Layer"]), int(row["Head"]), int(row["Rank"]), float(row["Score"])
            dim = int(row["Dim"]) if "Dim" in row else None
        except ValueError as error:
            raise InputError(f"{place}: {error}") from None
        yield ReleasedWords(row["Model"], row["Size"], layer, row["Type"], head, dim, rank, score, entries)
