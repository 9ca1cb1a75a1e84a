"""What was found in a list of prompts, prompt by prompt."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

import pandas as pd

from lensdiff.results.errors import InputError
from lensdiff.results.numbers import n_of

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
        """Return what there is of which prompts, and why there is nothing of others."""
        kinds = ", ".join(dict.fromkeys(type(one).__name__ for one in self)) or "nothing"
        lines = [f"Results of {n_of(len(self), 'prompt')}, {kinds}: {', '.join(self.by_id)}"]
        lines += [f"  without {name!r}: {reason}" for name, reason in list(self.failures.items())[:TOLD]]
        if len(self.failures) > TOLD:
            lines.append(f"  without {len(self.failures) - TOLD} more, see failures")
        return "\n".join(lines)

    def to_df(self) -> pd.DataFrame:
        """Return the tables of all prompts in one, with a column `prompt_id`."""
        return self._table(lambda one: one.to_df())

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k rows of each prompt that a reader looks at first, with a column `prompt_id`.

        Raises:
            InputError: no rows of these come first (responses).
        """
        if without := [type(one).__name__ for one in self if not hasattr(one, "top")]:
            raise InputError(f"no row of a {without[0]} comes first, expected results that have such rows")
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


def table(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return tables one below the other; an empty one where there are none."""
    parts = list(frames)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
