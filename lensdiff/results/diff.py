"""Two results of one analysis, base beside tuned. Differences are always tuned - base."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pandas as pd

from lensdiff.defaults import SIDES as SIDES
from lensdiff.results.many import Results, model_of, table
from lensdiff.results.printed import printed, shortened, sizes, widget_html
from lensdiff.results.result import Result

TOLD = 2  # lines of each
R = TypeVar("R")


def _frame(result: Any, model: str, first: int | None = None) -> pd.DataFrame:
    frame = table(one.to_df() if first is None else one.top(first) for one in _parts(result))
    if "model" in frame:  # a response's own, whose name the side has
        frame = frame.drop(columns="model")
    frame.insert(0, "model", model)
    return frame


def _parts(result: Any) -> list[Any]:
    many = isinstance(result, Sequence) and not isinstance(result, Results | str)
    return [*result] if many else [result]


def _tables(both: tuple[Any, Any]) -> bool:
    return all(hasattr(one, "top") for result in both for one in _parts(result))


def _first(result: Any) -> Any:
    """Return one result of a side: itself, or the first of a list."""
    return result[0] if isinstance(result, Sequence) and not isinstance(result, str) and result else result


def _kind_of(result: Any) -> str:
    """Return what a side is: a result's class, or how many of which."""
    first = _first(result)
    kind = type(first).__name__
    return kind if first is result else f"{len(result)} {kind}"


def _said(result: Any) -> list[str]:
    """Return what a side says of itself, in lines: what a result found, or of a list the first one."""
    first = _first(result)
    if isinstance(first, Result):
        return first.told() or [sizes(first)]
    return [shortened(repr(first))]


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
        """Return which two models' results they are, and what each says first, under the notice where there is one."""
        both = self.base, self.tuned
        names = " -> ".join(dict.fromkeys(name for name in (model_of(_first(one)) for one in both) if name))
        lines = [f"  {side}: {line}" for side, one in zip(SIDES, both, strict=True) for line in _said(one)[:TOLD]]
        calls = ("top()", "to_df()", "show()", "base", "tuned") if _tables(both) else ("base", "tuned")
        title = f"Diff of {_kind_of(self.tuned)}" + (f": {names}" if names else "")
        return printed(title, lines, calls=calls, notice=self.notice)

    def _repr_html_(self) -> str | None:
        """Return the widget, for a notebook."""
        return widget_html(self)

    def to_df(self) -> pd.DataFrame:
        """Return both tables in one, with a first column `model` ("base" or "tuned")."""
        return pd.concat([_frame(self.base, "base"), _frame(self.tuned, "tuned")], ignore_index=True)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k rows of each model that a reader looks at first, with a first column `model`."""
        return pd.concat([_frame(self.base, "base", k), _frame(self.tuned, "tuned", k)], ignore_index=True)

    def show(self) -> Any:
        """Return both views side by side (an object that a notebook displays)."""
        from lensdiff.views import show  # see Result.show

        return show(self)
