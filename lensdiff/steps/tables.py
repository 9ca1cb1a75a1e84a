"""A table of the results directory: what a row is, what its columns mean, and how it is made of results.

Layers, heads, dimensions, components and positions count from 0, ranks from 1; differences are tuned - base; `..._low`
and `..._high` are limits.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pandas as pd

from lensdiff.results import Control, Result
from lensdiff.steps.found import Found
from lensdiff.steps.options import Options
from lensdiff.steps.unit import SIDES

O = TypeVar("O", bound=Options)  # noqa: E741 (options)
R = TypeVar("R", bound=Result)


@dataclass(frozen=True, eq=False)
class TableDoc(Generic[O]):
    """See the module.

    Attributes:
        name: of the table; row: what a row is.
        columns: what the columns mean that are its own, without the suffixes that many have (`SUFFIXES`); those that
            many tables have are in `COLUMNS`.
        of: the steps whose results it is made of.
        build: makes it, in parts of equal columns; none for a table that `lensdiff run` does not write.
        options: the class of the options that `build` is given; keys: those that the table depends on.
    """

    name: str
    row: str
    columns: Mapping[str, str] = field(default_factory=dict)
    of: tuple[str, ...] = ()
    build: Callable[[Found, O], Iterable[pd.DataFrame]] | None = None
    options: type[O] | None = None
    keys: tuple[str, ...] = ()


def model_columns(side: str, control: Control | None) -> dict[str, object]:
    """Return the columns of a table that say which model a row is of: base or tuned, or a control."""
    if control is None:
        return {"model": side, "kind": "", "seed": pd.NA}
    return {"model": "control", "kind": control.kind, "seed": control.seed}


def of_both(
    step: str, kind: type[R], table: Callable[[R], pd.DataFrame] | None = None
) -> Callable[[Found, Any], Iterable[pd.DataFrame]]:
    """Return a `build` with the rows of both models' results, the model as the first column."""

    def build(found: Found, options: Any) -> Iterable[pd.DataFrame]:
        for side in SIDES:
            if side in found.models(step):
                result = found.of_model(step, kind, side)
                frame = table(result) if table else result.to_df()
                frame.insert(0, "model", side)
                yield frame

    return build


def of_prompts(step: str, kind: type[R]) -> Callable[[Found, Any], Iterable[pd.DataFrame]]:
    """Return a `build` with the rows of every prompt, first the base's and then the tuned model's."""

    def build(found: Found, options: Any) -> Iterable[pd.DataFrame]:
        for side in SIDES:
            for result in found.each(step, kind, side):
                frame = result.to_df()
                frame.insert(0, "model", side)
                yield frame

    return build


def of_one(step: str, kind: type[R], table: Callable[[R], pd.DataFrame] | None = None) -> Any:
    """Return a `build` with the rows of a step's only result."""

    def build(found: Found, options: Any) -> Iterable[pd.DataFrame]:
        result = found.maybe(step, kind)
        if result is not None:
            yield table(result) if table else result.to_df()

    return build
