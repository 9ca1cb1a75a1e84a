"""Does the units of a run that are not there yet, each once, and records what became of it.

    before the controls   the steps that read no control, one after the other
    controls              control by control, whatever steps read it, so that each is made once; several side by side
                          where the run has several processes (`lensdiff.pipeline.workers`)
    after the controls    the steps that set them beside the pair

On a cluster (`lensdiff.pipeline.cluster`) the units of every step are done side by side.

What only its readers need of a result is removed when they are done; if one of them has to be done again, it is made
again. A unit that fails for its input alone is recorded with the reason, tried again by the next run, and the others go
on; anything else ends the run.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from lensdiff.inputs.spans import shorten
from lensdiff.models.templates import stamped
from lensdiff.pipeline.graph import Graph, Key, unit_state
from lensdiff.pipeline.listener import Listener
from lensdiff.pipeline.worker import Answer, Task, results_of
from lensdiff.pipeline.workers import Chain, Keys, Workers
from lensdiff.results import InputError, Result
from lensdiff.results.manifest import UnitOutcome
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.step import NotPossible, Read, Step, all_kept
from lensdiff.steps.supplies import Supplies
from lensdiff.steps.unit import Unit, name_of

TOLD = 3  # failures of a step that are told one by one
BLOCK = 16  # units that are done at once where one model is held at a time
CONTROLS = "controls"


class Runner:
    """See the module."""

    def __init__(self, graph: Graph, supplies: Supplies, listener: Listener, workers: Workers | None = None):
        self.graph, self.supplies, self.listener, self.workers = graph, supplies, listener, workers
        self.plan, self.store = graph.plan, graph.store
        self._tried: set[Key] = set()
        self._of_prompts = graph.of_prompts()

    # what is to be done
    def stale(self, step: str) -> list[Unit]:
        """Return the units of a step that have to be done, or tried again."""
        graph = self.graph
        return [u for u in graph.units[step] if (step, u) not in self._tried and not graph.is_current(step, u)]

    def left(self) -> list[Key]:
        """Return all units that have to be done as things stand, with those that they read and that were removed."""
        found: dict[Key, None] = {}

        def add(step: str, unit: Unit) -> None:
            if (step, unit) in found:
                return
            for read in self.graph.reads(step, unit):
                if self._is_reduced(read):
                    add(read.step, read.unit)
            found[step, unit] = None

        for step in self.graph.steps:
            for unit in self.stale(step):
                add(step, unit)
        return list(found)

    # doing it
    def run(self) -> None:
        """Do all that is to be done."""
        try:
            later = self.graph.after_controls()
            for step in self.graph.steps:
                if step not in later:
                    self._do_step(step, [unit for unit in self.stale(step) if unit.control is None])
            self._do_controls(later)
            for step in self.graph.steps:
                if step in later:
                    self._do_step(step, [unit for unit in self.stale(step) if unit.control is None])
                    self._reduce()
            self._reduce()
        finally:
            self.supplies.free()

    def _do_step(self, name: str, units: Sequence[Unit]) -> None:
        if not units:
            return
        step, total = self.graph.steps[name], sum(unit.control is None for unit in self.graph.units[name])
        self.listener.begin(step.title, total, total - len(units))
        try:
            if self.workers is not None and self.workers.engine.everything:
                self._do_elsewhere(self.workers, step, units)
            else:
                for block in self._blocks(step, units):
                    self._make_whole(read for unit in block for read in self.graph.reads(name, unit))
                    self._do(step, block, lambda unit: self.listener.advance(step.title, str(unit)))
        finally:
            self.listener.end(step.title, self.store.step(name).seconds)
        self._tell(step.title, [(name, unit) for unit in units])

    def _do_elsewhere(self, workers: Workers, step: Step[Any, Any], units: Sequence[Unit]) -> None:
        """Let the workers do the units of a step side by side, after what was removed of that which they read."""
        removed = self._removed(read for unit in units for read in self.graph.reads(step.name, unit))
        workers.do([self._tasks((key,) for key in removed)], self._take)

        def alone(unit: Unit) -> Iterator[Keys]:
            yield ((step.name, unit),)
            self.listener.advance(step.title, str(unit))

        workers.do((self._tasks(alone(unit)) for unit in units), self._take)

    def _do_controls(self, later: set[str]) -> None:
        """Do every unit that reads a control, control by control; among them those that a later step asks for again."""
        graph = self.graph
        while todo := {(step, u): None for step in graph.steps for u in self.stale(step) if u.control}:
            self._do_by_control(todo)  # one that failed may be another reason for what reads it
        again: dict[Key, None] = {}
        for step in graph.steps:
            if step in later:
                reads = [read for unit in self.stale(step) if not unit.control for read in graph.reads(step, unit)]
                again |= {(r.step, r.unit): None for r in reads if r.unit.control and self._is_reduced(r)}
        if again:
            self._do_by_control(again)

    def _do_by_control(self, todo: Iterable[Key]) -> None:
        place = {name: i for i, name in enumerate(self.graph.steps)}
        by_control: dict[str, list[Key]] = {}
        for name, unit in sorted(todo, key=lambda key: place[key[0]]):
            assert unit.control is not None
            by_control.setdefault(unit.control, []).append((name, unit))
        order = {name: i for i, name in enumerate(self._controls())}
        self.listener.begin(CONTROLS, len(order), len(order) - len(by_control))
        start, controls = time.perf_counter(), sorted(by_control, key=order.__getitem__)
        try:
            if self.workers is None or (len(controls) == 1 and not self.workers.engine.everything):
                for control in controls:
                    for keys in self._chain(control, by_control[control]):
                        self._do(self.graph.steps[keys[0][0]], [unit for _, unit in keys])
            else:
                chains = (self._tasks(self._chain(control, by_control[control])) for control in controls)
                self.workers.do(chains, self._counted(sum(len(by_control[control]) for control in controls)))
        finally:
            self.listener.end(CONTROLS, time.perf_counter() - start)
        self._tell(CONTROLS, [key for control in controls for key in by_control[control]])

    def _chain(self, control: str, keys: Sequence[Key]) -> Iterator[Keys]:
        """Yield a control's units that are done at once, each after what it reads and was removed; tell of its end."""
        for name, group in groupby(keys, key=lambda key: key[0]):
            for block in self._blocks(self.graph.steps[name], [unit for _, unit in group]):
                reads = (read for unit in block for read in self.graph.reads(name, unit))
                yield from ((key,) for key in self._removed(reads))
                yield tuple((name, unit) for unit in block)
        self.listener.advance(CONTROLS, control)

    def _tasks(self, chain: Iterator[Keys]) -> Chain:
        """Yield what another process can do of a chain, and do the rest here."""
        assert self.workers is not None
        for keys in chain:
            name = keys[0][0]
            step, there = self.graph.steps[name], list[Unit]()
            for _, unit in keys:
                here = unit.control is None and not self.workers.engine.everything
                if here or self._refusal(step, unit) is not None:
                    self._do(step, [unit])
                else:
                    there.append(unit)
            if there:
                reads = tuple(self.graph.reads(name, unit) for unit in there)
                files = [(read.step, read.unit.path) for own in reads for read in own]
                task = Task(name, tuple(there), reads, self.store.manifest.of(files))
                yield tuple((name, unit) for unit in there), task

    def _counted(self, total: int) -> Callable[[Keys, Answer], None]:
        """Return what takes the answers of other processes, and tells how many there are."""
        done = 0

        def take(keys: Keys, answer: Answer) -> None:
            nonlocal done
            self._take(keys, answer)
            done += len(keys)
            self.listener.within("results of controls", done, max(done, total))  # more where one is made again

        return take

    def _take(self, keys: Keys, answer: Answer) -> None:
        """Record what another process found."""
        for line in answer.said:
            self.listener.say(line)
        found = (answer.found,) * len(keys) if isinstance(answer.found, InputError) else answer.found
        assert not isinstance(found, Exception)
        for (name, unit), one in zip(keys, found, strict=True):
            self._record(self.graph.steps[name], unit, one, answer.seconds / len(keys))

    def _controls(self) -> list[str]:
        """Return the names of all controls of the run, kind by kind as the config names them."""
        every = (unit.control for units in self.graph.units.values() for unit in units)
        named = dict.fromkeys(name for names in self.plan.controls.values() for name in names)
        return list(named | dict.fromkeys(name for name in every if name is not None))

    def _do(
        self, step: Step[Any, Any], units: Sequence[Unit], tell: Callable[[Unit], object] = lambda unit: None
    ) -> None:
        """Do units at once, one in most steps, and record each, then tell of it."""
        start = time.perf_counter()
        ready, found = [], {}
        for unit in units:
            if (reason := self._refusal(step, unit)) is None:
                ready.append(unit)
            else:
                found[unit] = reason
        if ready:
            found |= dict(zip(ready, self._results(step, ready), strict=True))
        seconds = (time.perf_counter() - start) / len(units)
        for unit in units:
            self._record(step, unit, found[unit], seconds)
            tell(unit)

    def _results(self, step: Step[Any, Any], units: Sequence[Unit]) -> Sequence[Result | InputError]:
        return results_of(step, [self._inputs(step, unit) for unit in units], units, self.plan)

    def _blocks(self, step: Step[Any, Any], units: Sequence[Unit]) -> list[Sequence[Unit]]:
        return blocks(step, units, step.at_once if self.plan.both else BLOCK)

    def _inputs(self, step: Step[Any, Any], unit: Unit) -> Inputs:
        reads = self.graph.reads(step.name, unit)
        return Inputs(step, unit, reads, self.plan, self.supplies, self.store, self.listener.say)

    def _refusal(self, step: Step[Any, Any], unit: Unit) -> InputError | None:
        """Return why a unit cannot even be begun, or None."""
        if "both" in step.needs and not self.plan.both:
            return NotPossible(f"{step.title} needs both models in memory, and one at a time is held")
        try:
            self.store.check_name(name_of(step.name, unit))
        except InputError as error:
            return InputError(f"no result can be kept by this id: {error}")
        for read in self.graph.reads(step.name, unit):
            state = self.graph.state(read.step, read.unit)
            if read.required and (state is None or state.outcome != "done"):
                reason = "it was not done" if state is None else state.reason
                if read.unit.path:
                    reason = f"{self.graph.steps[read.step].title} of {read.unit}: {reason}"
                return NotPossible(reason)  # once that can be had, this unit has another digest
        return None

    def _record(self, step: Step[Any, Any], unit: Unit, found: Result | InputError, seconds: float) -> None:
        digest, before = self.graph.digest(step.name, unit), self.graph.state(step.name, unit)
        self._tried.add((step.name, unit))
        if not isinstance(found, Result) or (before is not None and before.outcome != "done"):
            self.graph.forget_digests()  # what reads this unit is known by whether it could be had
        if isinstance(found, Result):
            if step.name in self._of_prompts and "template" not in found.provenance.options:
                found = stamped(found, self.plan.template)
            state = unit_state(unit, digest, seconds=seconds, reason=_lacking(step, found))
            self.store.save_unit(step.name, unit.path, state, found)
            return
        outcome: UnitOutcome = "impossible" if isinstance(found, NotPossible) else "failed"
        state = unit_state(unit, digest, outcome=outcome, reason=str(found), seconds=seconds)
        self.store.record(step.name, unit.path, state)

    def _tell(self, title: str, units: Sequence[Key]) -> None:
        """Tell what failed, and why a step has nothing."""
        states = [(key, self.graph.state(*key)) for key in units]
        failed = [(unit, state) for (_, unit), state in states if state and state.outcome == "failed"]
        impossible = [state for _, state in states if state and state.outcome == "impossible"]
        for unit, state in failed[:TOLD]:
            where = f" {unit} failed:" if unit.path else ""
            self.listener.say(f"{title}:{where} {state.reason}")
        if len(failed) > TOLD:
            self.listener.say(f"{title}: {len(failed) - TOLD} more failed, see {self.store.root / 'manifest.json'}")
        if impossible and len(impossible) == len(units):
            self.listener.say(f"{title}: not possible, {impossible[0].reason}")

    # results that only their readers need
    def _is_reduced(self, read: Read) -> bool:
        state = self.graph.state(read.step, read.unit)
        return state is not None and state.outcome == "done" and state.kept != "whole"

    def _make_whole(self, reads: Iterable[Read]) -> None:
        """Do again what was removed and is now needed."""
        for name, unit in self._removed(reads):
            self._do(self.graph.steps[name], [unit])

    def _removed(self, reads: Iterable[Read]) -> Iterator[Key]:
        """Yield what was removed and is now needed, each after what it reads; who takes it does it."""
        for read in dict.fromkeys(reads):
            if self._is_reduced(read):
                yield from self._removed(self.graph.reads(read.step, read.unit))
                yield read.step, read.unit

    def _reduce(self) -> None:
        """Remove what only readers need of the results of steps whose readers are all done."""
        for name, step in self.graph.steps.items():
            if step.kept is all_kept or any(self._is_waiting(reader) for reader in self.graph.readers(name)):
                continue
            for unit in self.graph.units[name]:
                self._reduce_unit(step, unit)

    def _is_waiting(self, step: str) -> bool:
        """Return whether a step has something left to do, now or in the next run, which tries again what failed."""
        return bool(self.stale(step)) or any(self._may_come(step, unit) for unit in self.graph.units[step])

    def _may_come(self, step: str, unit: Unit) -> bool:
        state = self.graph.state(step, unit)
        if state is None or state.outcome != "impossible":
            return state is None or state.outcome == "failed"
        return any(self._may_come(read.step, read.unit) for read in self.graph.reads(step, unit) if read.required)

    def _reduce_unit(self, step: Step[Any, Any], unit: Unit) -> None:
        state, kept = self.graph.state(step.name, unit), self.graph.kept(step.name, unit)
        if state is None or state.outcome != "done" or state.kept != "whole" or kept == "whole":
            return
        left = state.model_copy(update={"kept": kept})
        if kept == "nothing":
            self.store.record(step.name, unit.path, left)
            return
        assert step.part is not None, f"step {step.name} keeps a part of {unit}, and says not which"
        whole = self.store.load_files([name_of(step.name, unit)], step.result)
        self.store.save_unit(step.name, unit.path, left, step.part(whole))


def _lacking(step: Step[Any, Any], found: Result) -> str:
    """Return which prompts a result lacks, the first few with the reason; empty where it has all."""
    lacking = {} if step.lacks is None else step.lacks(found)
    told = [f"without prompt {shorten(prompt)}: {reason}" for prompt, reason in list(lacking.items())[:TOLD]]
    return "; ".join([*told, f"without {len(lacking) - TOLD} more"] if len(lacking) > TOLD else told)


def blocks(step: Step[Any, Any], units: Sequence[Unit], size: int) -> list[Sequence[Unit]]:
    """Return units in blocks of at most so many, each of one model or of none."""
    size = size if step.block is not None else 1
    of_models = [list(group) for _, group in groupby(units, key=lambda unit: unit.model)]
    return [group[i : i + size] for group in of_models for i in range(0, len(group), size)]
