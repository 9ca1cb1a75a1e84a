"""Static word vectors: from arrays, GloVe and word2vec text files, sentence-transformers, or a model's own embeddings.

They say which words occur in one local context: two words are related where the cosine of their vectors is high. A word
without a vector has no cosine with any word; `lookup` returns zeros for it and says so. A word is the same word in
Unicode's composed and decomposed spelling (NFC and NFD).

Memory: a file is read line by line, and only the words asked for are kept (GloVe 840B has 2.2 million).
Reference: Wu et al., NAACL 2024, section 5; Pennington et al., EMNLP 2014 (GloVe).
"""

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from lensdiff.inputs.characters import composed
from lensdiff.inputs.spans import no_tokenizer
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.inputs.word_pieces import word_pieces
from lensdiff.results import InputError
from lensdiff.results.numbers import n_of
from lensdiff.results.paths import as_path
from lensdiff.results.printed import printed

GLOVE = "average_word_embeddings_glove.840B.300d"  # the paper's
_NUMBER = re.compile(r"[0-9]{1,9}")  # of words or of values, in word2vec's header
LOOK_AHEAD = 16  # lines that settle a file's number of dimensions: a word may itself contain spaces


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Distinct words and one vector each.

    Attributes:
        words: the words; vectors: a row each.
        source: where they come from, as results tell it.

    Raises:
        InputError: the array is not one finite row per word, or a word comes twice.
    """

    words: tuple[str, ...]
    vectors: Float[np.ndarray, "word dim"]
    source: str = "given vectors"

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        object.__setattr__(self, "vectors", np.asarray(self.vectors, dtype=np.float32))
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.words) or not self.vectors.size:
            raise InputError(f"{len(self.words)} words need as many vectors, given shape {self.vectors.shape}")
        bad = np.flatnonzero(~np.isfinite(self.vectors).all(axis=1))
        if len(bad):
            raise InputError(f"the vector of {self.words[bad[0]]!r} holds a value that is not finite")
        if len(self._index) < len(self.words):
            repeated = next(word for i, word in enumerate(self.words) if self._index[composed(word)] != i)
            raise InputError(f"the word {repeated!r} has two vectors, expected one")

    def __repr__(self) -> str:
        """Return how many words have a vector, of how many dimensions, and from where."""
        title = f"WordVectors of {n_of(len(self.words), 'word')}, {n_of(self.vectors.shape[1], 'dimension')}"
        return printed(title, [f"  {self.source}"], calls=("lookup(words)",))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {composed(word): i for i, word in enumerate(self.words)}

    def lookup(self, words: Sequence[str]) -> tuple[Float[np.ndarray, "word dim"], Bool[np.ndarray, " word"]]:
        """Return each word's vector, else that of its lower-case form, else zeros; and which words have one."""
        index = self._index
        own = (composed(word) for word in words)
        rows = np.array([index.get(word, index.get(composed(word.lower()), -1)) for word in own], dtype=np.int64)
        found = rows >= 0
        return np.where(found[:, None], self.vectors[rows], np.float32(0)), found

    @classmethod
    def read(cls, path: str | Path, *, words: Iterable[str] | None = None) -> "WordVectors":
        """Read GloVe or word2vec text, plain or gzip (`.gz`): lines `word value value ...`, word2vec's header or none.

        Between them are spaces, or a tab after the word and spaces or tabs after that. A word that comes again, also in
        its other spelling (NFC or NFD), keeps its first vector; a word may contain spaces. A byte-order mark is no part
        of the first word.

        Args:
            path: of the file.
            words: keep only these words and their lower-case forms; None keeps all.

        Returns:
            The vectors; their `source` names the file.

        Raises:
            InputError: the file is missing, not text, holds none of the words, or a line has another number of values.
        """
        path = as_path(path, "a file of word vectors")
        if not path.is_file():
            raise InputError(f"no file at {path}")
        wanted = None if words is None else {composed(form) for word in words for form in (word, word.lower())}
        kept: dict[str, Float[np.ndarray, " dim"]] = {}
        try:
            for number, word, values in _lines(path):
                if word in kept or (wanted is not None and word not in wanted):
                    continue
                try:
                    kept[word] = np.array(values, dtype=np.float32)
                except ValueError:
                    raise InputError(f"{path}, line {number}: the vector of {word!r} holds no number") from None
        except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise InputError(f"{path} is no GloVe or word2vec text ({error})") from None
        if not kept:
            raise InputError(f"{path} holds {'no vectors' if wanted is None else 'a vector of none of the words'}")
        return cls(tuple(kept), np.stack(list(kept.values())), source=path.name)

    @classmethod
    def from_sentence_transformers(cls, words: Iterable[str], name: str = GLOVE) -> "WordVectors":
        """Return the vectors that a sentence-transformers model of word embeddings gives to each word alone.

        Words that the model maps to zeros have no vector.

        Args:
            words: whose vectors are wanted.
            name: of the model.

        Raises:
            InputError: sentence-transformers is not installed, there is no such model, or it has a vector of none of
                the words.
        """
        try:
            from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports] (an extra)
        except ImportError as error:
            raise InputError(f"{name} needs sentence-transformers: pip install 'lensdiff[glove]'") from error
        listed = tuple(words)
        try:
            model = SentenceTransformer(name, device="cpu")
        except OSError as error:
            raise InputError(f"{name} cannot be loaded by sentence-transformers ({error})") from error
        if not listed:
            raise InputError(f"vectors of {name} need at least one word, given none")
        vectors = np.asarray(model.encode([composed(word) for word in listed], show_progress_bar=False))
        found = np.abs(vectors).sum(axis=1) > 0
        if not found.any():
            raise InputError(f"{name} has a vector of none of the {len(listed)} words")
        kept = tuple(word for word, has in zip(listed, found, strict=True) if has)
        return cls(kept, vectors[found], source=name)

    @classmethod
    def from_model(cls, model: Any, words: Iterable[str] | None = None) -> "WordVectors":
        """Return the words' mean sub-token input embeddings, less their mean over the words.

            v_w = E_w - mean over words of E_w        E_w = mean over the sub-tokens t of " " + w of W_E[t]

        For when no other vectors are at hand: such cosines come from the model itself, not from independent text. Words
        that map to no token are left out.

        Args:
            model: a model or the view of one, of which the tokenizer and W_E are read.
            words: the words, by default those of the default vocabulary.

        Raises:
            InputError: the model has no tokenizer, or no word maps to a token.
        """
        listed = Vocabulary.default().words if words is None else tuple(words)
        tokenizer = model.tokenizer
        if tokenizer is None:
            raise no_tokenizer("the model")
        matrix = getattr(model, "weights", model).W_E.detach()
        pieces = word_pieces(tokenizer, listed, len(matrix))
        kept = [ids for ids in pieces if ids]
        if not kept:
            raise InputError(f"none of the {len(listed)} words maps to a token of the model")
        counts = torch.tensor([len(ids) for ids in kept])
        used, place = torch.tensor(list(chain.from_iterable(kept))).unique(return_inverse=True)
        rows = matrix[used.to(matrix.device)].float().cpu()  # those in use alone: a copy of all can be large
        means = torch.nn.functional.embedding_bag(place, rows, counts.cumsum(0) - counts, mode="mean").double()
        centred = (means - means.mean(dim=0)).float().numpy()
        named = tuple(word for word, ids in zip(listed, pieces, strict=True) if ids)
        return cls(named, centred, source="mean-centred input embeddings of the model")


def _lines(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (line number, composed word, values) of a file of vectors."""
    opened = gzip.open if path.suffix == ".gz" else open
    with closing(opened(path, "rt", encoding="utf-8-sig", newline="\n")) as f:  # a word may hold a carriage return
        lines = ((n, line.rstrip()) for n, line in enumerate(f, start=1))
        lines = ((n, line) for n, line in lines if line)
        first = list(islice(lines, LOOK_AHEAD))
        header = first[0][1].replace("\t", " ").split(" ") if first else []
        sized = len(header) == 2 and all(_NUMBER.fullmatch(field) for field in header)
        first = first[1:] if sized else first
        # a word may itself contain spaces: only a tab, where every line has one, says where it ends
        tabbed = bool(first) and all("\t" in line for _, line in first)
        counted = Counter(_count(line, tabbed) for _, line in first).most_common(1)
        size = int(header[1]) if sized else counted[0][0] if counted else 0
        for number, line in chain(first, lines):
            word, *values = _after_tab(line) if tabbed else line.rsplit(" ", size)
            if size < 1 or len(values) != size or not word:
                raise InputError(f"{path}, line {number}: expected a word and {max(size, 1)} values")
            yield number, composed(word), values


def _after_tab(line: str) -> list[str]:
    word, tab, values = line.partition("\t")
    return [word, *values.replace("\t", " ").split(" ")] if tab else [word]


def _count(line: str, tabbed: bool) -> int:
    return len(_after_tab(line)) - 1 if tabbed else line.count(" ")
