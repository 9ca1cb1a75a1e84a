"""Words as a model sees them: the sub-tokens of each word, and their mean embedding.

    E_w = mean over the sub-tokens t of w of matrix[t]          matrix: W_E, or W_U transposed

A word is tokenised as `inputs.word_pieces` says; one that maps to no token is excluded and recorded.

Memory: the sub-tokens of `chunk` words are gathered at once, [tokens of a chunk, d_model].
Reference: Wu et al., NAACL 2024, sections 5 and 6; doi 10.18653/v1/2024.naacl-long.130.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.inputs.word_pieces import word_pieces
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import ModelView
from lensdiff.results import InputError

CHUNK = 4096


@runtime_checkable
class HasWords(Protocol):
    """What a word list is to an analysis: `lensdiff.inputs.Vocabulary`, or anything else with `words`."""

    @property
    def words(self) -> tuple[str, ...]: ...


WordList = HasWords | Sequence[str]


@dataclass(frozen=True, eq=False)
class WordTokens:
    """The sub-tokens of the words that map to any, one word after the other: word i has `counts[i]` of `ids`."""

    words: tuple[str, ...]
    ids: Int[Tensor, " token"]
    counts: Int[Tensor, " word"]
    excluded: tuple[str, ...] = ()

    def of(self, index: int) -> list[int]:
        """Return the token ids of one word."""
        start = int(self.counts[:index].sum())
        return self.ids[start : start + int(self.counts[index])].tolist()


def listed(vocabulary: WordList | None) -> WordList:
    """Return a word list, by default the one that a run reads by default: the shipped words."""
    return Vocabulary.default() if vocabulary is None else vocabulary


def vectors_for(view: ModelView, vectors: Any, vocabulary: WordList) -> WordVectors:
    """Return word vectors, by default as a run has them by default: a model's own mean-centred input embeddings.

    Those are named after the model, so that results made with the vectors of two models are not compared.

    Raises:
        InputError: they are something else, or no word of the list maps to a token of the model.
    """
    if vectors is None:
        own = WordVectors.from_model(view, words_of(vocabulary))
        return replace(own, source=own.source.replace("the model", view.info.id))
    if not isinstance(vectors, WordVectors):
        raise InputError(f"expected WordVectors, got {type(vectors).__name__}: WordVectors.from_model makes some")
    return vectors


def words_of(vocabulary: WordList) -> tuple[str, ...]:
    """Return the words of a word list in order.

    Raises:
        InputError: it is a single string, holds something that is no string, or holds no word at all.
    """
    words: Any = getattr(vocabulary, "words", vocabulary)
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise InputError(f"expected a Vocabulary or a sequence of words, got {type(vocabulary).__name__}")
    if not len(words):
        raise InputError("the word list is empty, expected at least one word")
    return tuple(str(word) for word in words)


def word_tokens(view: ModelView, words: WordList) -> WordTokens:
    """Return each word's sub-tokens under the model's own tokenizer, in the order of the list.

    Raises:
        InputError: the model has no tokenizer, or no word of the list maps to a token.
    """
    listed = words_of(words)
    pieces = word_pieces(view.tokenizer, listed, view.d_vocab)
    kept: list[str] = []
    excluded: list[str] = []
    ids: list[int] = []
    counts: list[int] = []
    for word, own in zip(listed, pieces, strict=True):
        if not own:
            excluded.append(word)
            continue
        kept.append(word)
        ids.extend(own)
        counts.append(len(own))
    if not kept:
        raise InputError(
            f"none of the {len(listed)} words maps to a token of {view.info.id}, for example {listed[0]!r}"
        )
    return WordTokens(tuple(kept), torch.tensor(ids), torch.tensor(counts), tuple(excluded))


def word_embeddings(
    matrix: Float[Tensor, "d_vocab d_model"],
    tokens: WordTokens,
    *,
    dtype: torch.dtype = torch.float32,
    chunk: int = CHUNK,
) -> Float[Tensor, "word d_model"]:
    """Return E_w, the mean of each word's rows of W_E (or of W_U transposed), in `dtype` on the matrix's device."""
    means = torch.empty(len(tokens.words), matrix.shape[1], dtype=dtype, device=matrix.device)
    starts = torch.cat([tokens.counts.new_zeros(1), tokens.counts.cumsum(0)])
    for first in range(0, len(tokens.words), chunk):
        counts = tokens.counts[first : first + chunk]
        begin = starts[first : first + len(counts)]
        sums = torch.zeros(len(counts), matrix.shape[1], dtype=dtype, device=matrix.device)
        # a sub-token of each word after the other: index_add_ of all at once adds in no fixed order on a GPU
        for place in range(int(counts.max())):
            longer = (counts > place).nonzero().squeeze(1)
            ids, rows = (x.to(matrix.device) for x in (tokens.ids[begin[longer] + place], longer))
            sums[rows] += matrix[ids].to(dtype)
        means[first : first + len(counts)] = sums / counts[:, None].to(matrix.device)
    return means
