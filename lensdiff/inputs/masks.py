"""Which tokens spans of a text cover.

A token belongs to a span when its characters overlap the span's; tokens of nothing but white space at either end of the
span do not, since whether they exist depends on the tokenizer and not on the text.
"""

from collections.abc import Iterable, Sequence
from itertools import dropwhile

import torch
from jaxtyping import Bool
from torch import Tensor

from lensdiff.inputs.spans import Range


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
