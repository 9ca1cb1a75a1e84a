"""Files that are written whole or not at all, their names, and tables in parts."""

import os
import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, unquote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(path: Path, parts: Iterable[pd.DataFrame]) -> None:
    """Write a table that comes in parts of equal columns, without holding more than one.

    Raises:
        ValueError: no part was given.
    """
    with ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        empty: pd.DataFrame | None = None
        for part in parts:
            if writer is None and part.empty:
                empty = part if empty is None else empty
                continue  # the types of its columns are not known: a part with rows decides
            if writer is None:
                table = pa.Table.from_pandas(part, preserve_index=False)
                writer = stack.enter_context(pq.ParquetWriter(path, table.schema))
            else:
                table = pa.Table.from_pandas(part, schema=writer.schema, preserve_index=False)
            writer.write_table(table)
        if writer is None:
            if empty is None:
                raise ValueError("a table needs at least one part, for its columns")
            pq.write_table(pa.Table.from_pandas(empty, preserve_index=False), path)


def encode_part(part: str) -> str:
    """Return a part of a name as a file name: no separator, no "..", never empty."""
    if part in (".", ".."):
        return part.replace(".", "%2E")
    return quote(part, safe=" ,;=+@()[]&'!~") or "%"


def decode_part(part: str) -> str:
    """Return the part of a name that `encode_part` made a file name of."""
    return "" if part == "%" else unquote(part)


def numeric_order(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts names with the numbers in them in numeric order."""
    return [(0, int(p), "") if p.isdecimal() and p.isascii() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def flush(path: Path) -> None:
    """Wait until a file, or a directory's list of files, is on the disk."""
    if path.is_dir() and os.name == "nt":  # a directory cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
