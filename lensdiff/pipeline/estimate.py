"""What a run takes, by step: seconds and bytes on the disk, from what every unit's step says that it costs.

    time      `Step.cost`, measured on this machine (`steps.probe`) on the pair or on stand-ins, and the making of
              controls
    disk      what every unit's step says that its result holds (`Step.size`)
    memory    parameters * bytes * (models held + one control and its making), and what a unit allows itself:
              `pipeline.memory`

It is an upper bound where a response's length is unknown (it may end before `max_new_tokens`), and else good to a
factor of about 1.5; the progress bar's own estimate replaces it once units are done.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from lensdiff.inputs.prompts import Prompt
from lensdiff.models.controlling.options import Recipe
from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.graph import Key
from lensdiff.pipeline.listener import Listener
from lensdiff.pipeline.material import Material
from lensdiff.pipeline.memory import Memory
from lensdiff.pipeline.runner import CONTROLS, Runner
from lensdiff.pipeline.words import amount, duration
from lensdiff.results import InputError
from lensdiff.steps.bench import Bench, Loaded
from lensdiff.steps.plan import Plan
from lensdiff.steps.probe import Probe
from lensdiff.steps.responses import AT_ONCE
from lensdiff.steps.supplies import Supplies
from lensdiff.steps.unit import split_control

UNIT_SECONDS = 0.004  # to write what a unit found, and what became of it
READ_SECONDS = 3e-4  # to read a result of another unit
TRAINED_TOKEN = 12  # operations per parameter, with what small matrices lose
LEAST_SECONDS, LEAST_BYTES = 0.05, 50_000  # of a step that has a row of its own where people read it
START, LOADING, TABLES = "start", "loading", "tables and report"  # what is around the units
UNKNOWN = "A response may end before max_new_tokens, which nobody knows before it is made: the run then takes less."


@dataclass(frozen=True)
class StepEstimate:
    """What is left to do of a step.

    Attributes:
        name, title: of the step.
        units: how many results; of_controls: how many of them are of controls.
        seconds: that all of them take one process; seconds_of_controls: those of controls among these.
        bytes: of the results that stay.
    """

    name: str
    title: str
    units: int = 0
    of_controls: int = 0
    seconds: float = 0.0
    seconds_of_controls: float = 0.0
    bytes: float = 0.0

    def with_unit(self, seconds: float, size: float, *, of_control: bool) -> "StepEstimate":
        """Return the same with one more unit."""
        return StepEstimate(
            self.name,
            self.title,
            self.units + 1,
            self.of_controls + of_control,
            self.seconds + seconds,
            self.seconds_of_controls + of_control * seconds,
            self.bytes + size,
        )


@dataclass(frozen=True)
class Estimate:
    """What is left to do of a run.

    Attributes:
        steps: in their order, those of which something is left.
        controls: how many have to be made or read; making: seconds that making whole models of them takes.
        processes: that do controls side by side; everything: whether they do all other units, too.
        around: seconds of what is no unit's, by what it is: the program's start, loading, tables and the report.
        memory: what the models need and what there is; held: which of them are in memory; peak: bytes of all processes.
        disk: bytes that are free where the results go; None where nobody looked.
    """

    steps: tuple[StepEstimate, ...]
    controls: int = 0
    making: float = 0.0
    processes: int = 1
    everything: bool = False
    around: Mapping[str, float] = field(default_factory=dict)
    memory: Memory | None = None
    held: str = ""
    peak: int = 0
    disk: int | None = None

    @property
    def seconds(self) -> float:
        """From beginning to end."""
        return sum(self.parts().values())

    @property
    def bytes(self) -> float:
        """On the disk, of results; tables and the report come on top."""
        return sum(step.bytes for step in self.steps)

    def parts(self) -> dict[str, float]:
        """Return the seconds by step, controls apart: what is done for them, by so many processes, under one name."""
        found = dict(self.around)
        for step in self.steps:
            if own := step.units - step.of_controls:
                at_once = min(self.processes, own) if self.everything else 1
                found[step.name] = (step.seconds - step.seconds_of_controls) / at_once
        if self.controls:
            of_controls = self.making + sum(step.seconds_of_controls for step in self.steps)
            found[CONTROLS] = of_controls / max(1, min(self.processes, self.controls))
        return found

    def to_df(self) -> pd.DataFrame:
        """Return a row per step: step, title, units, of_controls, seconds, seconds_of_controls, bytes."""
        names = ("name", "title", "units", "of_controls", "seconds", "seconds_of_controls", "bytes")
        rows = [[getattr(step, name) for name in names] for step in self.steps]
        return pd.DataFrame(rows, columns=["step", *names[1:]])

    def shown(self) -> pd.DataFrame:
        """Return a row per step and per what is around them, as people read it: step, units, seconds, MiB."""
        around = [(name, "", seconds, "") for name, seconds in self.around.items() if name != TABLES]
        rows: list[tuple[Any, ...]] = [
            (step.name, step.units, step.seconds, step.bytes / 2**20)
            for step in self.steps
            if step.seconds >= LEAST_SECONDS or step.bytes >= LEAST_BYTES
        ]
        few = [step for step in self.steps if step.seconds < LEAST_SECONDS and step.bytes < LEAST_BYTES]
        if few:
            units, seconds = sum(step.units for step in few), math.fsum(step.seconds for step in few)
            rows.append((f"{len(few)} more", units, seconds, math.fsum(step.bytes for step in few) / 2**20))
        if self.controls:
            rows.append(("making controls", self.controls, self.making, ""))
        last = [(name, "", seconds, "") for name, seconds in self.around.items() if name == TABLES]
        said = [(name, n, f"{s:8.1f}", f"{m:6.1f}" if m != "" else "") for name, n, s, m in [*around, *rows, *last]]
        return pd.DataFrame(said, columns=["step", "units", "seconds", "MiB"])

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values: seconds, bytes, and a list of steps as `to_df` has them."""
        found: dict[str, Any] = {
            "seconds": self.seconds,
            "steps": self.to_df().to_dict(orient="records"),
            "around": dict(self.around),
            "controls": {"count": self.controls, "making_seconds": self.making},
            "processes": self.processes,
            "result_bytes": self.bytes,
            "unknown": UNKNOWN,
        }
        if self.memory is not None:
            of = {"held": self.held, "peak_bytes": self.peak, "free_bytes": self.memory.free}
            found["memory"] = of | {"parameters": self.memory.parameters}
        return found if self.disk is None else found | {"disk": {"free_bytes": self.disk}}

    def __repr__(self) -> str:
        """Return time, memory and disk, and what cannot be known."""
        return "\n".join([*self.told(), UNKNOWN])

    def told(self) -> list[str]:
        """Return time, memory and disk, a line each."""
        side_by_side = f", controls by {self.processes} processes side by side" if self.processes > 1 else ""
        lines = [f"time: about {duration(self.seconds)}{side_by_side}"]
        if self.memory is not None:
            lines.append(f"memory: about {amount(self.peak)} ({self.held}), {amount(self.memory.free)} are free")
        free = "" if self.disk is None else f", {amount(self.disk)} are free"
        return [*lines, f"disk: about {amount(self.bytes)} of results, tables and the report on top{free}"]


def announce(config: RunConfig, runner: Runner, listener: Listener) -> None:
    """Tell how long what is to be done will take."""
    left = runner.left()
    if not left:
        return
    probe = probe_of(config, runner)
    found = estimate_of(left, runner, probe)
    parts = ", ".join(f"{name} {duration(s)}" for name, s in found.parts().items() if s >= 1)
    listener.say(f"time: about {duration(found.seconds)}{f' ({parts})' if parts else ''}")
    if found.controls and "distilled" not in config.controls.kinds and config.stream is not True:
        most = config.most_controls
        listener.say(
            f"controls: {', '.join(config.controls.kinds)}; {most} of the kind distilled, the base trained "
            f"on its own samples, would take about {duration(most * _distil(config, probe))} more"
        )


def probe_of(config: RunConfig, runner: Runner) -> Probe:
    """Return what measures the machine and the pair of a run."""
    supplies = runner.supplies
    return probe_on(Loaded(supplies.pair), config, runner.plan, supplies, supplies.rendered)


def probe_on(
    bench: Bench,
    config: RunConfig,
    plan: Plan,
    material: Material | Supplies,
    rendered: Callable[[Prompt, str], Prompt],
) -> Probe:
    """Return what measures the machine, and a pair or its stand-ins, for a plan.

    Args:
        rendered: renders a prompt, "raw" or "chat".
    """
    prompts = {}
    for name, prompt in plan.prompts.items():
        with suppress(InputError):  # its own unit says why
            prompts[name] = rendered(prompt, plan.template)
    return Probe(
        bench,
        prompts,
        config.max_new_tokens,
        len(material.vocabulary) if config.asks("words") else 0,
        {name: len(controls) for name, controls in plan.controls.items()},
        len(material.texts) if config.asks("texts") else 0,
        plan.checked,
        1 if config.engine == "ray" else AT_ONCE,  # an actor does a unit at a time
    )


def estimate_of(units: Iterable[Key], runner: Runner, probe: Probe) -> Estimate:
    """Return what some units of a run will take; nothing is done, but short measurements."""
    steps, controls = dict[str, StepEstimate](), dict[str, None]()
    for name, unit in units:
        step = runner.graph.steps[name]
        options = runner.plan.options_of(step.options)
        seconds = step.cost(probe, unit, options)
        seconds += UNIT_SECONDS + READ_SECONDS * len(runner.graph.reads(name, unit))
        kept = runner.graph.kept(name, unit)
        size = 0.0 if kept == "nothing" else step.size(probe, unit, options, kept)
        of_control = unit.control is not None
        if unit.control is not None:
            controls[unit.control] = None
        known = steps.get(name, StepEstimate(name, step.title))
        steps[name] = known.with_unit(seconds, size, of_control=of_control)
    workers = runner.workers
    return Estimate(
        tuple(steps.values()),
        len(controls),
        _making(list(controls), runner, probe) if controls else 0.0,
        1 if workers is None else workers.count,
        workers is not None and workers.engine.everything,
    )


def _making(controls: list[str], runner: Runner, probe: Probe) -> float:
    """Return the seconds that controls take to be made as whole models."""
    kinds = [split_control(name)[0] for name in controls if name in runner.plan.checked]
    return math.fsum(
        probe.bench.control(kind, **runner.supplies.options(kind)).of(kinds.count(kind))
        for kind in dict.fromkeys(kinds)
    )


def _distil(config: RunConfig, probe: Probe) -> float:
    # sampling, and a pass forward and back, of every token of training, by the recipe of the config
    recipe = Recipe(**config.controls.of_kind("distilled"))
    return TRAINED_TOKEN * probe.parameters * recipe.steps * recipe.batch * recipe.length / probe.rate
