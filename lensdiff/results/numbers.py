"""Numbers that a user gives, counts and seeds: one check for every function, so that a wrong one is refused alike."""

import math
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

from lensdiff.defaults import LARGEST_SEED, MOST
from lensdiff.results.errors import InputError

DIGITS = 20  # of a whole number that are shown; Python refuses to spell one of thousands


def check_count(name: str, value: Any, *, least: int = 1, most: int = MOST) -> None:
    """Refuse what is no whole number between two others.

    Args:
        name: of the option.

    Raises:
        InputError: it is none, too small, or so large that no memory would hold what it asks for.
    """
    number = _whole(value)
    if number is None:
        raise InputError(f"{name}={shown(value)} given, expected a whole number of at least {least}")
    if number < least:
        raise InputError(f"{name}={shown(value)} given, expected at least {least}")
    if number > most:
        raise InputError(f"{name}={shown(value)} given, expected at most {most:,}")


def check_counts(*, least: int = 1, **counts: Any) -> None:
    """Refuse the first of several options, given by name, that is no count; see `check_count`."""
    for name, value in counts.items():
        check_count(name, value, least=least)


def check_seed(value: Any, name: str = "seed") -> None:
    """Refuse a seed that a generator of random numbers cannot take.

    Raises:
        InputError: it is no whole number from 0 to 2^63 - 1.
    """
    number = _whole(value)
    if number is None or not 0 <= number <= LARGEST_SEED:
        raise InputError(f"{name}={shown(value)} given, expected a whole number from 0 to 2^63 - 1")


def check_numbers(name: str, given: Any) -> list[float]:
    """Return the finite numbers of a list, each there once.

    Raises:
        InputError: none is given, one twice, or one that is no finite number.
    """
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, str | Mapping) else []
    fine = all(isinstance(x, float | int) and not isinstance(x, bool) and math.isfinite(x) for x in found)
    if not found or not fine or len(set(found)) < len(found):
        raise InputError(f"{name}={shown(given)} given, expected at least one finite number, each once")
    return [float(x) for x in found]


def shown(value: Any) -> str:
    """Return a value as an error shows it: a whole number of very many digits by how long it is."""
    number = _whole(value)
    if number is not None and abs(number) >= 10**DIGITS:
        return f"a whole number of {number.bit_length()} bits"
    return repr(value)


def n_of(n: int, noun: str) -> str:
    """Return how many there are of what `noun` names, as people say it: `1 prompt`, `2 prompts`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
