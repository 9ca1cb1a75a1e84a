"""The JSON object in what a chat model says: alone, in a fence, after a reasoning block, or with prose around it.

Reasoning is what stands before the last closing tag (`</think>`, `[/THINK]` and the like; some chat templates open the
block themselves, so that an answer only closes it). In the rest, an object counts if it has the keys that were asked
for; two such objects that differ are no answer, since nothing says which one is meant.
"""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

_NAMES = "(?:think|thinking|thoughts?|reasoning|reflection)"
_OPENS = re.compile(rf"<{_NAMES}>|\[THINK\]|◁think▷")
_CLOSES = re.compile(rf"</{_NAMES}>|\[/THINK\]|◁/think▷")
_BRACES = re.compile(r"\{(?=[ \t\r\n]*[\"}])")  # those of prose and formulas begin no object
MISSES = 1000  # braces that begin no object after all: each costs as much as what stands before it
_DECODER = json.JSONDecoder()


def object_in(text: str, keys: Collection[str]) -> dict[str, Any]:
    """Return the one object with these keys, and perhaps others, that a text holds.

    Raises:
        ValueError: there is none, there are several that differ, or the text is too deep or too confused to be read.
    """
    try:
        return _object_in(text, keys)
    except RecursionError:
        raise ValueError("nested too deeply to be read") from None


def _object_in(text: str, keys: Collection[str]) -> dict[str, Any]:
    try:
        whole = json.loads(text)
    except ValueError as error:
        return _within(text, keys, error)
    if not isinstance(whole, dict) or not set(keys) <= set(whole):
        raise ValueError(f"expected an object with {', '.join(keys)}")
    return whole


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
