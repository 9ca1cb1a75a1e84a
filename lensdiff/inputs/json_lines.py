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
        if line.strip():
            yield number, parsed(line, f"{path}, line {number}")


def parsed(text: str, place: str) -> Any:
    """Return the value of a JSON text.

    Args:
        place: where it stands, for errors.

    Raises:
        InputError: it is no JSON, nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        row = f"line {error.lineno}, " if "\n" in text else ""
        raise InputError(f"{place}: not JSON ({error.msg} at {row}column {error.colno})") from None
    except RecursionError:
        raise InputError(f"{place}: not JSON that can be read (nested too deeply)") from None
    except ValueError:
        raise InputError(f"{place}: not JSON that can be read (a number of thousands of digits)") from None
