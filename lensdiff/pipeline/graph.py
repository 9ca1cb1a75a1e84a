"""The units of a run, what each reads, and the digest that each is known by."""

from collections.abc import Iterable, Sequence
from typing import Any

from lensdiff.pipeline.identity import Identities, code_identity, digest
from lensdiff.results import ResultStore
from lensdiff.results.manifest import Kept, UnitState
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.pair import DIFFERENCES, PAIR
from lensdiff.steps.plan import Plan
from lensdiff.steps.step import Read, Step
from lensdiff.steps.tables import TableDoc
from lensdiff.steps.unit import Unit, name_of

Key = tuple[str, Unit]
KEPT: tuple[Kept, ...] = ("nothing", "part", "whole")  # from the least


class Graph:
    """The steps of some analyses and their units: those that the steps name, and those that these read.

    Attributes:
        steps: by name, in an order in which each comes after what it reads.
        units: of each step, in order.
    """

    def __init__(self, analyses: Iterable[Analysis[Any]], plan: Plan, identities: Identities, store: ResultStore):
        self.plan, self.store, self._identities = plan, store, identities
        self.steps: dict[str, Step[Any, Any]] = {step.name: step for step in steps_of(analyses)}
        self.units: dict[str, list[Unit]] = {}
        self._reads: dict[Key, tuple[Read, ...]] = {}
        self._digests: dict[Key, str] = {}
        self._code = code_identity()
        asked: dict[str, dict[Unit, None]] = {name: {} for name in self.steps}
        for name, step in reversed(self.steps.items()):
            own = dict.fromkeys(step.units(plan, plan.options_of(step.options)))
            self.units[name] = list(own | asked[name])
            for unit in self.units[name]:
                for read in self._read(step, unit):
                    # a result that is only there if its own analysis was chosen is read as far as it is
                    if read.step in asked:
                        asked[read.step][read.unit] = None
        self._readers = self._read_by()
        self._check_order()

    def reads(self, step: str, unit: Unit) -> tuple[Read, ...]:
        """Return what a unit reads, of steps that are done in this run."""
        return self._reads[step, unit]

    def readers(self, step: str) -> list[str]:
        """Return the names of the steps that read a step."""
        return self._readers.get(step, [])

    def of_prompts(self) -> set[str]:
        """Return the names of the steps whose results are of prompts: that need some, or read such results."""
        found: set[str] = set()
        for name, step in self.steps.items():
            reads = {read.step for unit in self.units[name] for read in self.reads(name, unit)}
            if step.needs & {"prompt", "prompts"} or reads & found:
                found.add(name)
        return found

    def state(self, step: str, unit: Unit) -> UnitState | None:
        """Return what became of a unit, or None where it was never done."""
        return self.store.step(step).units.get(unit.path)

    def digest(self, step: str, unit: Unit) -> str:
        """Return the digest that a unit has now: of its options, its needs, and what it reads as far as that is known.

        A result that was read counts by its own digest; one that could not be had, by the reason.
        """
        key = step, unit
        if key not in self._digests:
            self._digests[key] = self._digest(self.steps[step], unit)
        return self._digests[key]

    def forget_digests(self) -> None:
        """Work the digests out anew: what is read has changed."""
        self._digests.clear()

    def holds(self, step: str, unit: Unit) -> bool:
        """Return whether what became of a unit, be it a failure, is of all that it depends on as that is now."""
        state = self.state(step, unit)
        return state is not None and state.digest == self.digest(step, unit)

    def is_current(self, step: str, unit: Unit) -> bool:
        """Return whether a unit is done, or known to be impossible, and there is nothing to do of it again."""
        state = self.state(step, unit)
        if state is None or state.outcome == "failed" or not self.holds(step, unit):
            return False
        # of a result that was cut down, more may be asked for than there is left
        return state.outcome == "impossible" or KEPT.index(state.kept) >= KEPT.index(self.kept(step, unit))

    def kept(self, step: str, unit: Unit) -> Kept:
        """Return how much of a unit's result is to stay once its readers are done."""
        found = self.steps[step]
        return found.kept(self.plan, unit, self.plan.options_of(found.options))

    def after_controls(self) -> set[str]:
        """Return the names of the steps of which some unit reads a control's result and is none of a control itself."""
        found: set[str] = set()
        for name in self.steps:
            own = [unit for unit in self.units[name] if unit.control is None]
            read = (read for unit in own for read in self.reads(name, unit))
            if any(read.unit.control is not None or read.step in found for read in read):
                found.add(name)
        return found

    def _read(self, step: Step[Any, Any], unit: Unit) -> tuple[Read, ...]:
        key = step.name, unit
        if key not in self._reads:
            reads = step.reads(self.plan, unit, self.plan.options_of(step.options))
            self._reads[key] = tuple(read for read in reads if read.step in self.steps)
        return self._reads[key]

    def _digest(self, step: Step[Any, Any], unit: Unit) -> str:
        options = self.plan.options_of(step.options)
        values = {key: getattr(options, key) for key in step.keys}
        needs = {need: self._identities.of(need, self.plan, unit) for need in sorted(step.needs)}
        reads = [(name_of(read.step, read.unit), self._known(read)) for read in self._reads[step.name, unit]]
        return digest([self._code, step.name, unit.path, values, needs, reads])

    def _known(self, read: Read) -> str:
        state, current = self.state(read.step, read.unit), self.digest(read.step, read.unit)
        if state is not None and state.outcome != "done" and state.digest == current:
            return f"{state.outcome}: {state.reason}"
        return current

    def _read_by(self) -> dict[str, list[str]]:
        found: dict[str, dict[str, None]] = {}
        for (name, _), reads in self._reads.items():
            for read in reads:
                found.setdefault(read.step, {})[name] = None
        return {step: list(names) for step, names in found.items()}

    def _check_order(self) -> None:
        places = {name: i for i, name in enumerate(self.steps)}
        for (name, _), reads in self._reads.items():
            late = [read.step for read in reads if places[read.step] >= places[name]]
            assert not late, f"step {name} reads {late[0]}, which comes after it"


def steps_of(analyses: Iterable[Analysis[Any]]) -> list[Step[Any, Any]]:
    """Return the steps of analyses, those that several share once; all that read nothing but the pair come first."""
    found: dict[str, Step[Any, Any]] = {PAIR.name: PAIR}
    for analysis in analyses:
        for step in analysis.steps:
            assert found.setdefault(step.name, step) is step, f"there are two steps of the name {step.name}"
    return list(found.values())


def tables_of(analyses: Iterable[Analysis[Any]]) -> list[TableDoc[Any]]:
    """Return the tables of analyses, those that several share once."""
    found: dict[str, TableDoc[Any]] = {DIFFERENCES.name: DIFFERENCES}
    for analysis in analyses:
        for table in analysis.tables:
            assert found.setdefault(table.name, table) is table, f"there are two tables of the name {table.name}"
    return list(found.values())


def unit_state(unit: Unit, digest: str, **fields: Any) -> UnitState:
    """Return the state of a unit."""
    return UnitState(digest=digest, model=unit.model, prompt=unit.prompt, layers=unit.layers, **fields)


def paths(units: Sequence[Unit]) -> list[str]:
    """Return the names of units within their step."""
    return [unit.path for unit in units]
