"""A config file becomes a `RunConfig`; what is wrong in it is named with its line."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from lensdiff.pipeline.config import RunConfig, WholeConfig, parse
from lensdiff.results.errors import InputError
from lensdiff.results.numbers import shown
from lensdiff.results.paths import as_path

_EXPECTED = {
    "string_type": "a text in quotes",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "string_unicode": "whole characters, it holds half a one",
    "string_too_short": "a text that is not empty",
    "too_short": "a list that is not empty",
    "distinct": "distinct layers",
    "finite_number": "a finite number",
}


def load_config(path: str | Path) -> RunConfig:
    """Read and check a config file.

    Raises:
        InputError: the file is missing or no TOML, a key is unknown or missing, a value is of another type or out of
            range, or choices contradict each other; with the line.
    """
    path = as_path(path, "a config file")
    if not path.is_file():
        raise InputError(f"no config file at {path}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        values = tomllib.loads(text)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{path} is not TOML that can be read (nested too deeply)") from None
    except ValueError:
        raise InputError(f"{path} is not TOML that can be read (a number of thousands of digits)") from None
    return check_config(values, str(path), text).at(path.parent)


def check_config(values: Mapping[str, Any], place: str = "config", text: str | None = None) -> RunConfig:
    """Return the config that a mapping describes; `text`, if given, is where line numbers come from.

    Raises:
        InputError: as `load_config`.
    """
    try:
        return parse(values)
    except ValidationError as error:
        found = sorted((_fault(dict(e), text) for e in error.errors(include_url=False)), key=lambda fault: fault[0])
        first, *rest = [f"line {line}: {what}" if line else what for line, what in found]
        more = f" (and {len(rest)} more: {'; '.join(rest)})" if rest else ""
        raise InputError(f"{place}{', ' if found[0][0] else ': '}{first}{more}") from None


def line_of(text: str, keys: tuple[str | int, ...]) -> int | None:
    """Return the line (from 1) on which the value at a path of keys begins, or None where the text does not have it."""
    lines = text.split("\n")
    before = 0
    for number in range(1, len(lines) + 1):
        try:
            values: Any = tomllib.loads("\n".join(lines[:number]))
        except tomllib.TOMLDecodeError:  # within a value of several lines
            continue
        if _has(values, keys):
            return before + 1
        before = number
    return None


def _has(values: Any, keys: tuple[str | int, ...]) -> bool:
    for key in keys:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _fault(error: dict[str, Any], text: str | None) -> tuple[int, str]:
    """Return the line, 0 where it is on none, and what is wrong there."""
    kind, keys = error["type"], tuple(error["loc"])
    if kind == "contradiction":
        keys = (*keys, *error["ctx"]["key"].split("."))  # of the table whose choices contradict each other
        return _where(text, keys), error["ctx"]["message"]
    name = _dotted(keys)
    if kind == "missing":
        return 0, f"{name} is missing, a config needs it"
    if kind == "extra_forbidden":
        return _where(text, keys), f"unknown key {_shown(name)}, available: {', '.join(_available(keys[:-1]))}"
    given = error["input"]
    if kind == "expected":
        expected = error["msg"]  # names keep their case
    elif kind == "literal_error":
        expected = f"one of {error['ctx']['expected']}"
    elif kind in ("model_type", "model_attributes_type", "dict_type"):
        expected = "a table of keys"
    else:
        expected = _EXPECTED.get(kind) or error["msg"].removeprefix("Input should be ").lower()
    return _where(text, keys), f"{name} is {_shown(given)}, expected {expected}"


def _where(text: str | None, keys: tuple[str | int, ...]) -> int:
    while text is not None and keys:
        if line := line_of(text, keys):
            return line
        keys = keys[:-1]  # a default contradicts what is written: the table it belongs to, or no line at all
    return 0


def _dotted(keys: tuple[str | int, ...]) -> str:
    name = ""
    for key in keys:
        name += f"[{key}]" if isinstance(key, int) else f".{key}" if name else key
    return name


def _available(keys: tuple[str | int, ...]) -> list[str]:
    section: Any = WholeConfig
    for key in keys:
        if isinstance(key, int):
            continue
        section = next(_tables(section.model_fields[key].annotation))
    return list(section.model_fields)


def _tables(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the kinds of tables that a value may be, or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _tables(inner)


def _shown(value: Any) -> str:
    spelled = shown(value)
    return spelled if len(spelled) <= 40 else spelled[:40] + "..."
