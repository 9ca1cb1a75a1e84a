"""Words that a component lost and gained: the top words of a component of the base against those of its match.

A word that both have is kept, whatever its rank. Words are compared as strings, so the two models may have different
word lists.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


class WordChanges(NamedTuple):
    """Words, and for each component the indices of those it lost and gained, best first, then -1."""

    words: tuple[str, ...]
    lost: Int[Tensor, "layer side component lost"]
    gained: Int[Tensor, "layer side component gained"]


def word_changes(base: Any, tuned: Any, match: Int[Tensor, "layer side component"]) -> WordChanges:
    """Return the words lost and gained by each component of the base; none where a result has no words."""
    if not (hasattr(base, "index") and hasattr(tuned, "index")):
        none = torch.zeros((*match.shape, 0), dtype=torch.int32)
        return WordChanges((), none, none.clone())
    place = {word: i for i, word in enumerate(dict.fromkeys((*base.words, *tuned.words)))}
    top = min(base.index.shape[3], tuned.index.shape[3])
    mine, theirs = (
        np.array([place[word] for word in result.words])[result.index[..., :top].numpy()] for result in (base, tuned)
    )
    theirs = np.take_along_axis(theirs, match.numpy()[..., None], axis=2)
    return WordChanges(tuple(place), _only(mine, theirs), _only(theirs, mine))


def _only(
    words: Int[np.ndarray, "layer side component word"], others: Int[np.ndarray, "layer side component word"]
) -> Int[Tensor, "layer side component word"]:
    rows = []
    for row, other in zip(words.reshape(-1, words.shape[-1]), others.reshape(-1, words.shape[-1]), strict=True):
        left = row[~np.isin(row, other)]
        rows.append(np.pad(left, (0, len(row) - len(left)), constant_values=-1))
    return torch.from_numpy(np.stack(rows).astype(np.int32)).unflatten(0, words.shape[:-1])
