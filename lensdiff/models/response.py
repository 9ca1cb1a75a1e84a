"""What a model said."""

from dataclasses import dataclass, field

import pandas as pd

from lensdiff.results.numbers import n_of
from lensdiff.results.printed import shortened

SHOWN, NAME = 40, 40  # characters of the text, and of the model's name, where it is printed


@dataclass(frozen=True, repr=False)
class Response:
    """A continuation as it was generated: its token ids and their text.

    Attributes:
        text: the text; token_ids: what was generated, as ids.
        model: the name of the model that said it.
        tokenizer: the digest of the tokenizer whose ids they are (`digest_of`), or "" where nobody knows.
        end: the end token that the model said after them, as the vocabulary spells it; "" where the response was cut
            off, by its limit or by the context's end, and None where nobody knows. Two responses of the same ids are
            equal however they end.
    """

    text: str
    token_ids: tuple[int, ...]
    model: str = ""
    tokenizer: str = ""
    end: str | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        """Return how the text begins, how many tokens it has, and who said it."""
        said = f", model={shortened(self.model, NAME)!r}" if self.model else ""
        return f"Response({shortened(self.text, SHOWN)!r}, {n_of(len(self.token_ids), 'token')}{said})"

    def to_df(self) -> pd.DataFrame:
        """Return one row: text, n_tokens, model."""
        return pd.DataFrame({"text": [self.text], "n_tokens": [len(self.token_ids)], "model": [self.model]})

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the only row.

        Args:
            k: no matter: there is one row.
        """
        return self.to_df()
