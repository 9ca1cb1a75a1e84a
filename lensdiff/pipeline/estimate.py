"""What a run will take, said before the work begins: memory from the configs of checkpoints, time from measurements.

    memory    parameters * bytes * (models held + one control)
    time      what every unit's step says that it costs, as measured on this machine (`steps.probe`), and the making of
              controls
    disk      what every unit's step says that its result holds

It is an upper bound where a response's length is unknown (it may end before `max_new_tokens`), and else good to a
factor of about 1.5; the progress bar's own estimate replaces it once units are done.
"""

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch

from lensdiff.models.controlling.options import Recipe
from lensdiff.models.costs import control_cost
from lensdiff.models.loading.devices import default_device
from lensdiff.models.loading.load import as_dtype, quiet
from lensdiff.models.loading.stated import check_folder
from lensdiff.models.loading.stumbles import LOADING_ERRORS
from lensdiff.models.memory import available_memory
from lensdiff.models.streaming.stored import can_be_streamed
from lensdiff.pipeline.config import STREAMED_KINDS, RunConfig
from lensdiff.pipeline.graph import Key
from lensdiff.pipeline.listener import Listener
from lensdiff.pipeline.runner import CONTROLS, Runner
from lensdiff.results import InputError
from lensdiff.results.memory import is_lack_of_memory
from lensdiff.steps.probe import Probe
from lensdiff.steps.unit import SIDES, split_control

BEYOND_WEIGHTS = 0.3  # of one model, for activations and tables
PROGRAM = 500 * 2**20  # bytes of a process with torch, transformers and transformer-lens in it
UNIT_SECONDS = 0.004  # to write what a unit found, and what became of it
READ_SECONDS = 3e-4  # to read a result of another unit
TRAINED_TOKEN = 12  # operations per parameter, with what small matrices lose


# memory
@dataclass(frozen=True)
class Memory:
    """What the models need and what there is, in bytes.

    Attributes:
        parameters: of the larger model; None where that cannot be told before loading.
        both, one: needed to hold both models (and a control), or one at a time.
        worker: that one more process needs, which holds both and a control.
        free: of the device.
    """

    parameters: int | None
    both: int
    one: int
    free: int
    worker: int = 0


def memory_of(config: RunConfig) -> Memory:
    """Return what memory a run will need, without loading a model."""
    device = torch.device(default_device() if config.device == "auto" else config.device)
    free = available_memory(device)
    sizes = [size for side in SIDES if (size := n_parameters(config.source(side)))]
    if not sizes:
        return Memory(None, 0, 0, free)
    model = max(sizes) * torch.finfo(as_dtype(config.dtype)).bits // 8
    held = 2 + (config.most_controls > 0)
    both, one = int(model * (held + BEYOND_WEIGHTS)), int(model * (1 + BEYOND_WEIGHTS))
    return Memory(max(sizes), both, one, free, worker=both + PROGRAM)


def choose_keep(config: RunConfig, memory: Memory, listener: Listener) -> Literal["both", "one"]:
    """Return how many models to hold, and tell what memory that takes; "auto" holds one where two do not fit."""
    if memory.parameters is None:
        return "one" if config.keep == "one" else "both"
    fits = memory.both <= memory.free or config.engine == "ray"  # how much a node has is not known here
    keep = config.keep if config.keep != "auto" else "both" if fits else "one"
    said = f"memory: about {amount(getattr(memory, keep))} of {amount(memory.free)} free"
    if keep == "one" and config.keep == "auto":
        said += f"; both models need {amount(memory.both)}, so one is held at a time and no controls are made"
    listener.say(said)
    return keep


def choose_stream(config: RunConfig, memory: Memory, listener: Listener) -> bool:
    """Return whether weights are streamed, and tell; "auto" streams what two models in memory would be too large for.

    That is done where all that is asked for is of weights alone and both checkpoints can be read so.
    """
    if config.stream != "auto":
        return bool(config.stream)
    fit = memory.parameters is None or memory.both <= memory.free
    if fit or config.keep != "auto" or config.weights != "raw" or any(analysis.runs for analysis in config.chosen):
        return False
    if not all(can_be_streamed(config.source(side)) for side in SIDES):
        return False
    if config.most_controls and not set(config.controls.kinds) & set(STREAMED_KINDS):
        return False
    listener.say(
        f"memory: both models need {amount(memory.both)} of {amount(memory.free)} free, so weights are read layer by "
        "layer and no model is built (stream)"
    )
    return True


def choose_workers(config: RunConfig, memory: Memory, listener: Listener) -> int:
    """Return how many processes do controls: as many as asked for, if memory holds them, beside the run's own."""
    if config.workers == 1 or memory.parameters is None:
        return config.workers
    fit = (memory.free - memory.both) // memory.worker
    count = config.workers if fit >= config.workers else max(1, fit)
    if count < config.workers:
        listener.say(
            f"memory: {config.workers} workers need {amount(memory.worker)} each, so "
            f"{f'{count} are used' if count > 1 else 'none is used'}"
        )
    return count


def n_parameters(source: str) -> int | None:
    """Return how many parameters a checkpoint has, without loading it; None where that cannot be told.

    Raises:
        InputError: the config of a folder cannot be meant; nothing is built of it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    path = Path(source)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return path.stat().st_size * 2  # about half a byte a weight: an upper bound for any quantisation
    _check_folder(path)
    try:
        with quiet(), torch.device("meta"):
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except LOADING_ERRORS as error:  # loading says what is wrong; an adapter is told by its base
        if is_lack_of_memory(error):
            raise
        return None
    return sum(parameter.numel() for parameter in model.parameters())


def n_layers(source: str, revision: str | None) -> int | None:
    """Return how many layers a checkpoint has, by its config alone; None where that cannot be told before loading.

    Raises:
        InputError: as `n_parameters`.
    """
    from transformers import AutoConfig

    _check_folder(Path(source))
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
            found = config.get_text_config().num_hidden_layers
    except Exception as error:  # loading says what is wrong, in its own words
        of_a_hub = not Path(source).exists()  # the kinds differ between versions of huggingface_hub
        if is_lack_of_memory(error) or not (of_a_hub or isinstance(error, LOADING_ERRORS)):
            raise
        return None
    return found if isinstance(found, int) and found > 0 else None


def _check_folder(path: Path) -> None:
    if (path / "config.json").is_file():  # an adapter has none
        check_folder(path, whole=True)


# time and disk
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
    """

    steps: tuple[StepEstimate, ...]
    controls: int = 0
    making: float = 0.0
    processes: int = 1
    everything: bool = False

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
        found = {}
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
            f"on its own samples, would take about {duration(most * _distil(probe))} more"
        )


def probe_of(config: RunConfig, runner: Runner) -> Probe:
    """Return what measures the machine and the pair of a run."""
    n_words = len(runner.supplies.vocabulary) if config.asks("words") else 0
    prompts = {}
    for name, prompt in runner.plan.prompts.items():
        with suppress(InputError):  # its own unit says why
            prompts[name] = runner.supplies.rendered(prompt, runner.plan.template)
    return Probe(
        runner.supplies.pair,
        prompts,
        config.max_new_tokens,
        n_words,
        {name: len(controls) for name, controls in runner.plan.controls.items()},
        len(runner.supplies.texts) if config.asks("texts") else 0,
        runner.plan.checked,
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
        _making(list(controls), runner) if controls else 0.0,
        1 if workers is None else workers.count,
        workers is not None and workers.engine.everything,
    )


def _making(controls: list[str], runner: Runner) -> float:
    """Return the seconds that controls take to be made as whole models."""
    kinds = [split_control(name)[0] for name in controls if name in runner.plan.checked]
    data = {"data": runner.supplies.data} if "shuffled" in kinds else {}
    pair = runner.supplies.pair
    return math.fsum(
        control_cost(pair, kind, **(data if kind == "shuffled" else {})).of(kinds.count(kind))
        for kind in dict.fromkeys(kinds)
    )


def _distil(probe: Probe) -> float:
    # sampling, and a pass forward and back, of every token of training
    recipe = Recipe()
    return TRAINED_TOKEN * probe.parameters * recipe.steps * recipe.batch * recipe.length / probe.rate


def amount(size: int | float) -> str:
    """Return a number of bytes as people say it."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{max(1, round(size / 2**20))} MiB"


def duration(seconds: int | float) -> str:
    """Return a time as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
