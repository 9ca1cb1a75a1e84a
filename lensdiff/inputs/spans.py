"""Spans of a text: where they lie, which tokens they cover, and the widening of annotated phrases to sentences.

A span is a substring (its first hit counts) or a pair of character positions (start, end), counted as Python counts:
code points, end exclusive. A token belongs to a span when its characters overlap the span's; tokens of nothing but
white space at either end of the span do not, since whether they exist depends on the tokenizer and not on the text.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import dropwhile
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

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


def token_mask(
    ranges: Iterable[Range], offsets: Sequence[Range], text: str | bytes, *, pieces: Sequence[str] | None = None
) -> Bool[Tensor, " pos"]:
    """Return which tokens belong to any of the character ranges.

    Tokens that share one character (the bytes of an emoji) all belong. A zero-width token belongs when it lies inside a
    range (a space whose offsets the tokenizer trimmed), so a special token at (0, 0) never does. Tokens of only white
    space at the two ends of a range are dropped.

    Args:
        ranges: character ranges (start, end) of `text`.
        offsets: the characters (start, end) of every token, as a fast tokenizer's `return_offsets_mapping` gives them.
        text: the text that was tokenised; ranges and offsets count its characters (or its bytes, if it is bytes).
        pieces: the tokens as the vocabulary spells them. A tokenizer that puts a word boundary before the text gives
            it the first word's characters; only its spelling (`▁` or `Ġ` alone) then tells that it is no word.
    """
    if pieces is not None and len(pieces) != len(offsets):
        raise ValueError(f"{len(pieces)} pieces for {len(offsets)} offsets")
    mask = torch.zeros(len(offsets), dtype=torch.bool)

    def blank(i: int) -> bool:
        shared = i + 1 < len(offsets) and offsets[i][0] == offsets[i + 1][0]
        return not text[slice(*offsets[i])].strip() or (shared and pieces is not None and pieces[i] in ("▁", "Ġ"))

    for start, end in ranges:
        hit = [i for i, (a, b) in enumerate(offsets) if a < end and start < b]
        hit = list(dropwhile(blank, hit))
        mask[list(dropwhile(blank, reversed(hit)))] = True
    return mask


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
