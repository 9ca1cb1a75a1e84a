"""Word lists with frequencies: read from a file, shipped as a default, case variants merged.

A word whose lower-case, upper-case or capitalised form came before it in the list is merged into that form: its
frequency is added there and its own place is given up. "Python" after "python" becomes "python"; "PyTorch" stays unless
"pytorch", "PYTORCH" or "Pytorch" came before. A form from which there is no way back is another word: "ß" is written
"SS" in upper case, whose lower case is "ss", so "straße" does not go into "STRASSE".

Words of a file are composed (NFC): an accented letter is one letter, whether the file spells it as one or as two.

Reference: Wu et al., NAACL 2024, section 5 (the word list of the heads' pairs); doi 10.18653/v1/2024.naacl-long.130.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lensdiff.inputs.characters import composed, lone_surrogate
from lensdiff.inputs.tables import read_text
from lensdiff.results import InputError
from lensdiff.results.numbers import n_of
from lensdiff.results.paths import as_path
from lensdiff.results.printed import printed

SHOWN = 8  # words that are printed
DATA = files("lensdiff.inputs") / "data"
DEFAULT_SOURCE = "lensdiff default: words of WordNet 3.0 by their tagged frequency"


def merge_case(words: Sequence[str], frequencies: Sequence[float]) -> tuple[tuple[str, ...], list[float]]:
    """Return the words, in order of their first form, with the frequencies of later case variants added."""
    merged: dict[str, float] = {}
    for word, frequency in zip(words, frequencies, strict=True):
        forms = (form for form in (word, word.lower(), word.upper(), word.capitalize()) if form in merged)
        form = next((form for form in forms if form == word or form.lower() == word.lower()), word)
        merged[form] = merged.get(form, 0.0) + frequency
    return tuple(merged), list(merged.values())


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Distinct words, the most frequent first, with their frequencies (counts or shares).

    The order matters: the first words of the list are the background against which a word's cosines are judged.

    Attributes:
        words, frequencies: the list.
        source: where it comes from, as results tell it.

    Raises:
        InputError: there is no word, one is empty, holds half a character or comes twice, or the frequencies are not
            one number >= 0 per word.
    """

    words: tuple[str, ...]
    frequencies: Float[np.ndarray, " word"]
    source: str = "given words"

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        object.__setattr__(self, "frequencies", np.asarray(self.frequencies, dtype=np.float64))
        if not self.words:
            raise InputError("a vocabulary needs at least one word, given none")
        if self.frequencies.shape != (len(self.words),):
            raise InputError(f"{len(self.words)} words need as many frequencies, given shape {self.frequencies.shape}")
        if not (np.isfinite(self.frequencies).all() and (self.frequencies >= 0).all()):
            raise InputError("every frequency must be a finite number of at least 0")
        seen: set[str] = set()
        for word in self.words:
            if not word.strip():
                raise InputError(f"{word!r} is no word: expected something beside white space")
            if lone_surrogate(word) is not None:
                raise InputError(f"the word {word!r} holds half a character, expected whole ones")
            if word in seen:
                raise InputError(f"the word {word!r} comes twice, expected distinct words (merge_case adds them up)")
            seen.add(word)

    def __repr__(self) -> str:
        """Return how many words there are, from where, and the first ones."""
        first = ", ".join(self.words[:SHOWN])
        title = f"Vocabulary of {n_of(len(self.words), 'word')}: {self.source}"
        return printed(title, [f"  {first}, ..." if len(self.words) > SHOWN else f"  {first}"], calls=("words",))

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def of(cls, words: Iterable[str]) -> "Vocabulary":
        """Return a vocabulary of words whose frequencies are unknown (all 1), as they are."""
        listed = tuple(words)
        return cls(listed, np.ones(len(listed)))

    @classmethod
    def read(cls, path: str | Path, *, merge: bool = True) -> "Vocabulary":
        """Read lines `word<TAB>frequency`, in order; empty lines, and comments (# without a tab), are skipped.

        Args:
            path: of the file.
            merge: merge case variants and repeated words as the module describes; False keeps every line apart.

        Returns:
            The list; its `source` names the file.

        Raises:
            InputError: the file is missing or empty, or a line is no word with a frequency (named by its number).
        """
        path = as_path(path, "a word list")
        return cls._parse(read_text(path), str(path), path.name, merge)

    @classmethod
    def default(cls) -> "Vocabulary":
        """Return the shipped list: lower-case single words of WordNet 3.0, those tagged most often in its texts first.

        A word's frequency is the number of its tagged occurrences, all senses and parts of speech together. Function
        words (the, of, and) are not in WordNet and so not in the list.
        """
        return cls._parse((DATA / "words.tsv").read_text(encoding="utf-8"), "words.tsv", DEFAULT_SOURCE, merge=False)

    @classmethod
    def _parse(cls, text: str, place: str, source: str, merge: bool) -> "Vocabulary":
        words: list[str] = []
        frequencies: list[float] = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip() or (line.startswith("#") and "\t" not in line):
                continue
            word, tab, frequency = line.removesuffix("\r").rpartition("\t")
            try:
                value = float(frequency)
            except ValueError:
                value = float("nan")
            if not (tab and word.strip() and np.isfinite(value) and value >= 0):
                raise InputError(f"{place}, line {number}: expected word<TAB>frequency, got {line[:40]!r}")
            words.append(composed(word))
            frequencies.append(value)
        if not words:
            raise InputError(f"{place} holds no words")
        kept, values = merge_case(words, frequencies) if merge else (tuple(words), frequencies)
        return cls(kept, np.array(values), source=source)
