"""Files of JSON values, one a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lensdiff.inputs.tables import read_text
from lensdiff.results import InputError


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of a file's lines; empty ones are skipped.

    Raises:
        InputError: there is no such file, it is not UTF-8, or a line is no JSON (named by its number).
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})") from None
        except RecursionError:
            raise InputError(f"{path}, line {number}: not JSON that can be read (nested too deeply)") from None
        yield number, record
