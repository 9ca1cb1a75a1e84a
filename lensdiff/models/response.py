"""What a model said."""

from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Response:
    """A continuation as it was generated: its token ids and their text.

    Attributes:
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

    def to_df(self) -> pd.DataFrame:
        """Return one row: text, n_tokens, model."""
        return pd.DataFrame({"text": [self.text], "n_tokens": [len(self.token_ids)], "model": [self.model]})
