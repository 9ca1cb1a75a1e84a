"""Spans of a text: where they lie, and the widening of annotated phrases to sentences.

A span is a substring (its first hit counts) or a pair of character positions (start, end), counted as Python counts:
code points, end exclusive.
"""

import re
from collections.abc import Iterable
from typing import Any

from lensdiff.results import InputError

Span = str | tuple[int, int]
Range = tuple[int, int]

_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+")
_INPUT_MARK = "Input:"


def no_tokenizer(of: str) -> InputError:
    """Return the error of a model that is to read text and has nothing to read it by."""
    return InputError(f"{of} has no tokenizer: give one to load_model(..., tokenizer=...)")


def shorten(value: object, width: int = 60) -> str:
    """Return `repr(value)`, cut in the middle to at most `width` characters."""
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists
        shown = f"a {type(value).__name__} too long to be shown"
    return shown if len(shown) <= width else f"{shown[: width - 23]}...{shown[-20:]}"


def as_span(value: Any) -> Span:
    """Return a substring as it is, and a list or tuple of two whole numbers as a pair (start, end).

    Raises:
        InputError: the value is neither.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and [type(end) for end in value] == [int, int]:
        return value[0], value[1]
    raise InputError(f"the span {shorten(value)} is neither a substring nor a pair (start, end)")


def locate(span: Span, text: str) -> Range:
    """Return the characters (start, end) of one span in the text.

    Raises:
        InputError: the span is empty, is no substring of the text, or is no range inside it.
    """
    if isinstance(span, str):
        if not span.strip():
            raise InputError(f"the span {shorten(span)} is empty, expected words of the text {shorten(text)}")
        start = text.find(span)
        if start < 0:
            raise InputError(f"the span {shorten(span)} is not in the text {shorten(text)}")
        return start, start + len(span)
    start, end = span
    if not 0 <= start < end <= len(text):
        raise InputError(f"the span {shorten(span)} is no range (start, end) within the text's {len(text)} characters")
    if not text[start:end].strip():
        raise InputError(f"the span {shorten(span)} holds only white space of the text {shorten(text)}")
    return start, end


def sentences(text: str) -> list[str]:
    """Return the sentences of a text: its lines, cut after `.`, `!`, `?` or `:` before white space."""
    parts = (part.strip() for line in text.split("\n") for part in _SENTENCE_END.split(line))
    return [part for part in parts if part]


def widen_to_sentences(spans: Iterable[str], text: str) -> tuple[str, ...]:
    """Return the text's sentences that the annotated spans touch, each once, in the spans' order.

    The spans are cut into sentences too; each piece becomes the first sentence of the text that contains it, without a
    leading `Input:`. A piece that no sentence contains is left out.
    """
    whole = sentences(text)
    found: dict[str, None] = {}  # a set that keeps its order
    for piece in (piece for span in spans for piece in sentences(span)):
        sentence = next((s for s in whole if piece in s), "")
        if sentence := sentence.removeprefix(_INPUT_MARK).strip():
            found[sentence] = None
    return tuple(found)
