"""Two models' responses to the same prompts, compared as they were said: where they part, how they begin and end.

    parting      the first place at which two responses differ, an end token counted as a token: 0 where they differ
                 from the first token on, and where one of them is empty
    beginning    the longest run of first words that at least half of a model's responses share

Pure counting: no model is run, and nothing is a test.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

END = "the end"  # of a response that was said to its end, by a token that nobody knows
LONGEST_BEGINNING = 12  # words


@dataclass(frozen=True)
class Said:
    """What one model said to one prompt.

    Attributes:
        text: as it reads.
        tokens: it as texts, empty where only the text is known.
        end: the end token after it; "" where it was cut off, None where nobody knows.
    """

    text: str
    tokens: tuple[str, ...] = ()
    end: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said, or nothing but white space."""
        return not self.text.strip()

    @property
    def pieces(self) -> tuple[str, ...]:
        """Its tokens, or its words with the space before each; then its end token, where it was said."""
        own = self.tokens or tuple(re.findall(r"\s*\S+", self.text))
        return (*own, self.end) if self.end else own


@dataclass(frozen=True)
class Parting:
    """Where two responses part.

    Attributes:
        place: of the first token that differs, from 0.
        base, tuned: what either says there; None where it was cut off before.
    """

    place: int
    base: str | None
    tuned: str | None


def parting(base: Said, tuned: Said) -> Parting | None:
    """Return where two responses part; None where they are the same, as far as both go."""
    for place, (one, other) in enumerate(zip_longest(base.pieces, tuned.pieces)):
        if one != other:
            return Parting(place, one, other)
    return None


def words(text: str) -> tuple[str, ...]:
    """Return a text's words, each with what is written at it."""
    return tuple(text.split())


def begins(text: str, beginning: Sequence[str]) -> bool:
    """Return whether a text begins with these words."""
    return words(text)[: len(beginning)] == tuple(beginning)


def shared_beginning(texts: Sequence[str], *, share: float = 0.5) -> tuple[str, ...]:
    """Return the longest run of first words that at least `share` of the texts have, and at least two; or ().

    Of two runs of one length the more frequent counts, of two as frequent the first.
    """
    least, found = max(2, share * len(texts)), ()
    for n in range(1, LONGEST_BEGINNING + 1):
        counts = Counter(words(text)[:n] for text in texts if len(words(text)) >= n)
        if not counts:
            break
        run, count = counts.most_common(1)[0]
        if count < least:
            break
        found = run
    return found
