"""The sub-tokens of a word standing alone, as a model's own tokenizer has them.

A word is tokenised as " " + word, without special tokens; a lone leading word-boundary piece ("▁" or "Ġ") is dropped,
since it says where the word begins, not which word it is. A word that nothing is left of, or that holds a piece the
tokenizer does not know or the embedding does not have, maps to no token.

Reference: Wu et al., NAACL 2024, sections 5 and 6; doi 10.18653/v1/2024.naacl-long.130.
"""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from lensdiff.inputs.characters import lone_surrogate
from lensdiff.inputs.spans import shorten
from lensdiff.results import InputError

WORD_BOUNDARIES = ("▁", "Ġ", " ")


_Key = tuple[tuple[str, ...], int, int]
_last: WeakKeyDictionary[Any, tuple[_Key, list[list[int]]]] = WeakKeyDictionary()  # of each tokenizer


def word_pieces(tokenizer: Any, words: Sequence[str], d_vocab: int) -> list[list[int]]:
    """Return each word's token ids; an empty list for a word that maps to no token below `d_vocab`.

    The last list of a tokenizer is kept: a hundred controls share the base's tokenizer and one word list.

    Raises:
        InputError: a word is no text, or holds half a character.
    """
    key = tuple(words), d_vocab, len(tokenizer)
    kept = _last.get(tokenizer)
    if kept is None or kept[0] != key:
        kept = _last[tokenizer] = key, _tokenised(tokenizer, key[0], d_vocab)
    return kept[1]


def _tokenised(tokenizer: Any, words: Sequence[str], d_vocab: int) -> list[list[int]]:
    for word in words:
        if not isinstance(word, str) or lone_surrogate(word) is not None:
            raise InputError(f"{shorten(word)} is no word, expected a text of whole characters")
    pieces: list[list[int]] = tokenizer([" " + word for word in words], add_special_tokens=False)["input_ids"]
    # some tokenizers know a boundary piece by one string, some by the other: look up what exists
    known = tokenizer.get_vocab()
    boundaries = {known[piece] for piece in WORD_BOUNDARIES if piece in known}
    own = [ids[1:] if ids and ids[0] in boundaries else ids for ids in pieces]
    unknown = tokenizer.unk_token_id
    return [[] if any(token == unknown or token >= d_vocab for token in ids) else ids for ids in own]
