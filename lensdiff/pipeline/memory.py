"""What memory a run needs, by the configs of its checkpoints, and what follows: how many models are held, and where."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from lensdiff.models.controlling.options import TRAINED
from lensdiff.models.loading.devices import default_device
from lensdiff.models.loading.headers import count_parameters
from lensdiff.models.loading.load import as_dtype, quiet
from lensdiff.models.loading.sources import is_adapter
from lensdiff.models.loading.stated import check_folder
from lensdiff.models.loading.stumbles import LOADING_ERRORS
from lensdiff.models.memory import available_memory
from lensdiff.models.streaming.stored import can_be_streamed
from lensdiff.pipeline.config import STREAMED_KINDS, RunConfig
from lensdiff.pipeline.listener import Listener
from lensdiff.pipeline.words import amount
from lensdiff.results.memory import is_lack_of_memory
from lensdiff.steps.unit import SIDES

BEYOND_WEIGHTS = 0.3  # of one model, for activations and tables
# what a unit allows itself beside the models at most (sums of `layer_similarity`, a batch of gradients, logits), which
# it does not need where a model is small: then so many models
UNIT_BYTES, UNIT_MODELS = 2**30, 2
# of one model, while a control is made: what matrices read and their gradients, in half precision; a copy with its
# gradients, and where it is trained whole its change with two moments
GRADIENTS, FACTORS, TRAINING = 1.1, 2, 5
PROGRAM = 900 * 2**20  # bytes of a process with torch, transformers and transformer-lens in it


@dataclass(frozen=True)
class Memory:
    """What the models need and what there is, in bytes.

    Attributes:
        parameters: of the larger model; None where that cannot be told before loading.
        both, one: needed to hold both models (and a control, and to make it), or one at a time, with what units need.
        worker: that one more process needs, which holds both and a control.
        free: of the device.
    """

    parameters: int | None
    both: int
    one: int
    free: int
    worker: int = 0


def memory_of(config: RunConfig, parameters: int | None = None) -> Memory:
    """Return what memory a run will need, without loading a model.

    Args:
        parameters: of the larger model, where they are known.
    """
    device = torch.device(default_device() if config.device == "auto" else config.device)
    free = available_memory(device)
    sizes = (
        [size for side in SIDES if (size := n_parameters(config.source(side)))] if parameters is None else [parameters]
    )
    if not sizes:
        return Memory(None, 0, 0, free)
    model = max(sizes) * torch.finfo(as_dtype(config.dtype)).bits // 8
    held = 2 + (1 + _making(config) if config.most_controls else 0)
    unit = min(UNIT_BYTES, UNIT_MODELS * model)
    both, one = int(model * (held + BEYOND_WEIGHTS)) + unit, int(model * (1 + BEYOND_WEIGHTS)) + unit
    return Memory(max(sizes), both, one, free, worker=both + PROGRAM)


def _making(config: RunConfig) -> float:
    """Return what the making of a control takes beside the models and itself, in models, of the dearest kind."""
    is_low = config.controls.rank is not None or is_adapter(config.source("tuned"))
    of_kinds = {"gradient-noise": GRADIENTS} | dict.fromkeys(TRAINED, FACTORS if is_low else TRAINING)
    return max(float(of_kinds.get(kind, 0.0)) for kind in config.controls.kinds)


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
    from transformers import AutoConfig

    path = Path(source)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return path.stat().st_size * 2  # about half a byte a weight: an upper bound for any quantisation
    _check_folder(path)
    try:
        with quiet():
            return count_parameters(AutoConfig.from_pretrained(source, trust_remote_code=False), source)
    except LOADING_ERRORS as error:  # loading says what is wrong; an adapter is told by its base
        if is_lack_of_memory(error):
            raise
        return None


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
