"""The JSON object in what a chat model says: alone, in a fence, after a reasoning block, or with prose around it.

Reasoning is what stands before the last closing tag (`</think>`, `[/THINK]` and the like; some chat templates open the
block themselves, so that an answer only closes it). In the rest, an object counts if it has the keys that were asked
for; two such objects that differ are no answer, since nothing says which one is meant. Nor is one with a key twice, or
with a number that is not finite.
"""

import json
import math
import re
from collections.abc import Collection, Iterator
from typing import Any

_NAMES = "(?:think|thinking|thoughts?|reasoning|reflection)"
_OPENS = re.compile(rf"<{_NAMES}>|\[THINK\]|◁think▷")
_CLOSES = re.compile(rf"</{_NAMES}>|\[/THINK\]|◁/think▷")
_BRACES = re.compile(r"\{(?=[ \t\r\n]*[\"}])")  # those of prose and formulas begin no object
MISSES = 1000  # braces that begin no object after all: each costs as much as what stands before it


class _Twice(dict[str, Any]):
    """An object that has a key more than once."""


def _of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Twice(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_of_pairs)


def object_in(text: str, keys: Collection[str]) -> dict[str, Any]:
    """Return the one object with these keys, and perhaps others, that a text holds.

    Raises:
        ValueError: there is none, there are several that differ, it has a key twice or a number that is not
            finite, or the text is too deep or too confused to be read.
    """
    try:
        return _object_in(text, keys)
    except RecursionError:
        raise ValueError("nested too deeply to be read") from None


def _object_in(text: str, keys: Collection[str]) -> dict[str, Any]:
    try:
        whole = json.loads(text, object_pairs_hook=_of_pairs)
    except ValueError as error:
        return _within(text, keys, error)
    if not isinstance(whole, dict) or not set(keys) <= set(whole):
        raise ValueError(f"expected an object with {', '.join(keys)}")
    _check(whole)
    return whole


def _check(found: Any) -> None:
    if isinstance(found, _Twice):
        raise ValueError(f"an object with a key twice, among {', '.join(found)}")
    if isinstance(found, float) and not math.isfinite(found):
        raise ValueError(f"{found} is no number of JSON")
    for inner in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        _check(inner)


def _within(text: str, keys: Collection[str], error: ValueError) -> dict[str, Any]:
    closed = [tag.end() for tag in _CLOSES.finditer(text)]
    rest = text[closed[-1] :] if closed else text
    opened = _OPENS.search(rest)
    end = opened.start() if opened else len(rest)
    objects = [found for start, found in _objects(rest) if start < end]
    answers = [found for found in objects if set(keys) <= set(found)]
    if not answers:
        if opened:
            raise ValueError("the reasoning has no end")
        raise ValueError(f"expected an object with {', '.join(keys)}") if objects else error
    for found in answers:
        _check(found)
    if any(found != answers[0] for found in answers):
        raise ValueError(f"{len(answers)} answers that differ, expected one")
    return answers[0]


def _objects(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield where each outermost JSON object of a text begins, and the object."""
    end, failed = 0, 0
    for brace in _BRACES.finditer(text):
        if brace.start() < end:  # within an object
            continue
        try:
            found, end = _DECODER.raw_decode(text, brace.start())
        except ValueError:
            failed += 1
            if failed > MISSES:
                raise ValueError(f"more than {MISSES} braces that begin no object") from None
        else:
            yield brace.start(), found
