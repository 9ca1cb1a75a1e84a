"""What was found in a list of prompts, prompt by prompt."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

import pandas as pd

from lensdiff.results.numbers import n_of
from lensdiff.results.printed import printed, widget_html

R = TypeVar("R")
TOLD = 3  # failures that are told one by one


@dataclass(frozen=True, eq=False)
class Results(Sequence[R]):
    """The results of a list of prompts, in the prompts' order, and why others have none.

    Attributes:
        by_id: each prompt's result, by the prompt's id (its place in the list, where it has none).
        failures: why a prompt has no result.
    """

    by_id: Mapping[str, R]
    failures: Mapping[str, str] = field(default_factory=dict)

    @overload
    def __getitem__(self, place: int) -> R: ...
    @overload
    def __getitem__(self, place: slice) -> list[R]: ...
    def __getitem__(self, place: int | slice) -> R | list[R]:
        return list(self.by_id.values())[place]

    def __len__(self) -> int:
        return len(self.by_id)

    def __repr__(self) -> str:
        """Return what there is of which prompts, of which model, and why there is nothing of others."""
        kinds = ", ".join(dict.fromkeys(type(one).__name__ for one in self)) or "nothing"
        models = ", ".join(dict.fromkeys(name for name in map(model_of, self) if name))
        lines = [f"  prompts: {', '.join(self.by_id)}"] if self.by_id else []
        lines += [f"  without {name!r}: {reason}" for name, reason in list(self.failures.items())[:TOLD]]
        if len(self.failures) > TOLD:
            lines.append(f"  without {len(self.failures) - TOLD} more, see failures")
        title = f"Results of {n_of(len(self), 'prompt')}, {kinds}" + (f": {models}" if models else "")
        return printed(title, lines, calls=("top()", "to_df()", "show()", "by_id"))

    def _repr_html_(self) -> str | None:
        """Return the widget, for a notebook."""
        return widget_html(self)

    def to_df(self) -> pd.DataFrame:
        """Return the tables of all prompts in one, with a column `prompt_id`."""
        return self._table(lambda one: one.to_df())

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k rows of each prompt that a reader looks at first, with a column `prompt_id`."""
        return self._table(lambda one: one.top(k))

    def show(self) -> Any:
        """Return the inline view of all prompts, one chosen at a time (an object that a notebook displays)."""
        from lensdiff.views import show  # see Result.show

        return show(self)

    def _table(self, frame_of: Callable[[Any], pd.DataFrame]) -> pd.DataFrame:
        frames = {name: frame_of(one) for name, one in self.by_id.items()}
        for name, frame in frames.items():
            if "prompt_id" not in frame:
                frame.insert(0, "prompt_id", name)
        return table(frames.values())


def model_of(one: Any) -> str:
    """Return the model that a result or a response is of; "" where it does not say."""
    origin = getattr(one, "provenance", None)
    return getattr(one, "model", "") if origin is None else origin.model


def table(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return tables one below the other; an empty one where there are none."""
    parts = list(frames)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
