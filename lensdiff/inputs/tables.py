"""The tab-separated tables that the paper's authors released: one record a line, with escapes of their own.

`/n` stands for a newline, `/t` for a tab, `""` for a double quote; a single double quote means itself, so the csv
module's quoting does not apply. A text that held a literal `/n` or `/t` cannot be told from an escaped one.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lensdiff.results import InputError


def unescape(field: str) -> str:
    """Return a field's text: `/n` newline, `/t` tab, doubled double quotes single."""
    return field.replace("/n", "\n").replace("/t", "\t").replace('""', '"')


def read_text(path: Path) -> str:
    """Return a file's text (UTF-8, with or without byte-order mark), its newlines as they are.

    Raises:
        InputError: there is no such file, or it is not UTF-8.
    """
    if not path.is_file():
        raise InputError(f"no file at {path}")
    try:
        return path.read_bytes().decode("utf-8-sig")
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
