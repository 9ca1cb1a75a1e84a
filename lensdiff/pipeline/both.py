"""One table of what was found in the base and in the tuned model."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import pandas as pd

from lensdiff.results import Result, ResultStore

SIDES = ("base", "tuned")
R = TypeVar("R", bound=Result)


def save_of_both(
    store: ResultStore, name: str, kind: type[R], table: Callable[[R], pd.DataFrame] | None = None
) -> None:
    """Save the table NAME: the rows of both models' results `NAME/MODEL`, the model as the first column."""

    def parts() -> Iterator[pd.DataFrame]:
        for side in SIDES:
            result = store.load_result(f"{name}/{side}", kind)
            frame = table(result) if table else result.to_df()
            frame.insert(0, "model", side)
            yield frame

    store.save_table(name, parts())
