"""Words and tokens as a reader sees them."""

from dataclasses import dataclass, field

_SIGNS = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "␍"})


def visible(text: str) -> str:
    """Return a text with a sign for every line break and tab; the page's script does the same to tokens."""
    return text.translate(_SIGNS)


def clipped(text: str, length: int) -> str:
    """Return a text of at most so many characters, the last one an ellipsis where it was longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


@dataclass(frozen=True)
class WordIndex:
    """The words that a widget mentions, each once: elsewhere its data have their numbers.

    Attributes:
        numbers: of each word, in the order in which they were first mentioned.
    """

    numbers: dict[str, int] = field(default_factory=dict)

    def __call__(self, word: str) -> int:
        """Return a word's number, a new one at its first mention."""
        return self.numbers.setdefault(word, len(self.numbers))

    def words(self) -> list[str]:
        """Return all words, by their numbers."""
        return list(self.numbers)
