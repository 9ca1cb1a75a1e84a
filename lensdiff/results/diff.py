"""Two results of one analysis, base beside tuned. Differences are always tuned - base."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pandas as pd

from lensdiff.defaults import SIDES as SIDES
from lensdiff.results.many import Results, table

R = TypeVar("R")


def _frame(result: Any, model: str) -> pd.DataFrame:
    many = isinstance(result, Sequence) and not isinstance(result, Results)
    parts: list[Any] = [*result] if many else [result]
    frame = table(one.to_df() for one in parts)
    frame.insert(0, "model", model)
    return frame


@dataclass(frozen=True, eq=False)
class Diff(Generic[R]):
    """The same analysis, with the same arguments, of the base model and of the tuned one.

    What changed between the two is a named function of both results (`verb_shift`, `rotation`, ...), not a method here.

    Attributes:
        notice: what a reader must know first: that the weights of the pair are equal, where they are.
    """

    base: R
    tuned: R
    notice: str = field(default="", kw_only=True)

    def __repr__(self) -> str:
        """Return both results, under the notice where there is one."""
        lines = [self.notice, f"base: {self.base!r}", f"tuned: {self.tuned!r}"]
        return "\n".join(lines if self.notice else lines[1:])

    def to_df(self) -> pd.DataFrame:
        """Return both tables in one, with a first column `model` ("base" or "tuned")."""
        return pd.concat([_frame(self.base, "base"), _frame(self.tuned, "tuned")], ignore_index=True)

    def show(self) -> Any:
        """Return both views side by side (an object that a notebook displays)."""
        from lensdiff.views import show  # see Result.show

        return show(self)
