"""What a run has found, or what one unit may read of it: results by their step, unit by unit.

Only what the last run asked for and what is done is seen; a file that is not what was written is refused by name.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import pandas as pd

from lensdiff.results import Result, ResultStore
from lensdiff.results.errors import NotThere
from lensdiff.steps.unit import WHOLE, Unit, name_of

R = TypeVar("R", bound=Result)


class Stored(Sequence[R], Generic[R]):
    """Results on disk as a sequence: each is read when it is asked for and not kept."""

    def __init__(self, store: ResultStore, names: Sequence[Sequence[str]], kind: type[R]):
        self._store, self._kind = store, kind
        self._names = [list(name) for name in names]  # the files of each

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Stored(self._store, self._names[index], self._kind)
        return self._store.load_files(self._names[index], self._kind)


class Found:
    """See the module.

    Attributes:
        store: the results directory.
    """

    def __init__(self, store: ResultStore, reads: Mapping[str, Iterable[Unit]] | None = None):
        self.store = store
        # as a dictionary: in order, and quick to look up
        self._reads = None if reads is None else {step: dict.fromkeys(units) for step, units in reads.items()}
        self._known: dict[str, tuple[Any, int, dict[Unit, None]]] = {}

    # units
    def units(self, step: str) -> list[Unit]:
        """Return the units of a step that are done, in order."""
        return [unit for unit in self._asked(step) if self._outcome(step, unit) == "done"]

    def has(self, step: str, unit: Unit = WHOLE) -> bool:
        """Return whether a unit is done."""
        return unit in self._asked(step) and self._outcome(step, unit) == "done"

    def prompts(self, step: str, *models: str) -> list[str]:
        """Return the ids of the prompts that a step is done of, in every one of the models, in order."""
        done = set(self.units(step))
        ids = dict.fromkeys(unit.prompt for unit in self._asked(step) if unit.prompt is not None)
        return [prompt for prompt in ids if all(Unit(model, prompt) in done for model in models)]

    def models(self, step: str) -> list[str]:
        """Return the models that all asked units of a step are done of, in order."""
        done = set(self.units(step))
        asked = self._asked(step)
        models = dict.fromkeys(unit.model for unit in asked if unit.model is not None)
        whole = [model for model in models if not self._missing(step, model)]
        return [model for model in whole if all(unit in done for unit in asked if unit.model == model)]

    def reason(self, step: str, unit: Unit | None = None) -> str:
        """Return why a unit has no result, or why a whole step has none; empty where nothing is known of it."""
        if unit is None:
            return "" if self.units(step) else self.store.step(step).note
        state = self.store.step(step).units.get(unit.path)
        return "" if state is None else state.reason

    def failures(self, step: str) -> dict[Unit, str]:
        """Return why units of a step failed."""
        return {unit: self.reason(step, unit) for unit in self._asked(step) if self._outcome(step, unit) == "failed"}

    # results
    def one(self, step: str, kind: type[R], unit: Unit = WHOLE) -> R:
        """Read the result of a unit.

        Raises:
            InputError: there is none, with the reason.
        """
        if not self.has(step, unit):
            reason = self.reason(step, unit) or "it was not done"
            raise NotThere(f"there is no result {name_of(step, unit)!r}: {reason}")
        return self.store.load_files([name_of(step, unit)], kind)

    def maybe(self, step: str, kind: type[R], unit: Unit = WHOLE) -> R | None:
        """Read the result of a unit, or return None where there is none."""
        return self.one(step, kind, unit) if self.has(step, unit) else None

    def each(self, step: str, kind: type[R], model: str | None = None) -> Stored[R]:
        """Return the results of a step in order, or those of one model, each read when it is asked for."""
        units = [unit for unit in self.units(step) if model is None or unit.model == model]
        return Stored(self.store, [[name_of(step, unit)] for unit in units], kind)

    def some(self, step: str, kind: type[R], units: Iterable[Unit]) -> Stored[R]:
        """Return the results of some units that are done, each read when it is asked for."""
        return Stored(self.store, [[name_of(step, unit)] for unit in units], kind)

    def of_model(self, step: str, kind: type[R], model: str) -> R:
        """Read what a step found in a model, its groups of layers joined.

        Raises:
            InputError: a group is missing, with the reason.
        """
        return self.store.load_files(self._files(step, model), kind)

    def of_models(self, step: str, kind: type[R], models: Iterable[str]) -> Stored[R]:
        """Return what a step found in models, each joined and read when it is asked for."""
        return Stored(self.store, [self._files(step, model) for model in models], kind)

    def table(self, name: str) -> pd.DataFrame | None:
        """Read a table, or return None where there is none."""
        return self.store.load_table(name) if self.store.has_table(name) else None

    def _files(self, step: str, model: str) -> list[str]:
        units = [unit for unit in self._asked(step) if unit.model == model]
        for unit in units:
            if self._outcome(step, unit) != "done":
                reason = self.reason(step, unit) or "it was not done"
                raise NotThere(f"there is no result {name_of(step, unit)!r}: {reason}")
        if missing := self._missing(step, model):
            raise NotThere(f"there is no result {f'{step}/{missing[0]}'!r}: it was not done")
        if not units:
            raise NotThere(f"there is no result {step!r} of {model}")
        return [name_of(step, unit) for unit in units]

    def _missing(self, step: str, model: str) -> list[str]:
        """Return the names of a model's units that the run asked for and that nothing is known of yet."""
        if self._reads is not None:  # the run does a unit when what it reads was done
            return []
        state = self.store.step(step)
        return [name for name in state.wanted if name not in state.units and name.split("/")[0] == model]

    def _asked(self, step: str) -> dict[Unit, None]:
        if self._reads is not None:
            return self._reads.get(step, {})
        state, known = self.store.step(step), self._known.get(step)
        if known is None or known[0] is not state.wanted or known[1] != len(state.units):
            known = self._known[step] = state.wanted, len(state.units), dict.fromkeys(self._wanted(step))
        return known[2]

    def _wanted(self, step: str) -> Iterator[Unit]:
        state = self.store.step(step)
        for name in state.wanted:
            if name in state.units:
                known = state.units[name]
                yield Unit(known.model, known.prompt, known.layers)

    def _outcome(self, step: str, unit: Unit) -> str:
        state = self.store.step(step).units.get(unit.path)
        return "" if state is None else state.outcome
