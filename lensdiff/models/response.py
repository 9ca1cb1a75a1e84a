"""What a model said."""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Response:
    """A continuation as it was generated: its token ids and their text.

    Attributes:
        model: the name of the model that said it.
        tokenizer: the digest of the tokenizer whose ids they are (`digest_of`), or "" where nobody knows.
    """

    text: str
    token_ids: tuple[int, ...]
    model: str = ""
    tokenizer: str = ""

    def to_df(self) -> pd.DataFrame:
        """Return one row: text, n_tokens, model."""
        return pd.DataFrame({"text": [self.text], "n_tokens": [len(self.token_ids)], "model": [self.model]})
