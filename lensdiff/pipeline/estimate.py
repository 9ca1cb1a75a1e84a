"""What a run will take, said before the work begins: memory from the checkpoints' configs, time from two short probes.

    memory    parameters * bytes * (models held + one control)
    time      operations of a step / the machine's measured rate + generated tokens * the time of one

An estimate is an upper bound where a response's length is unknown (it may end before `max_new_tokens`), and good to a
factor of about two; the progress bar's own estimate replaces it once units are done.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.mlp.coherence import DIRECTIONS
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView, view_of
from lensdiff.models.controlling.options import Recipe
from lensdiff.models.costs import control_cost
from lensdiff.models.decoding import greedy
from lensdiff.models.loading.load import as_dtype, default_device, quiet
from lensdiff.models.memory import available_memory
from lensdiff.models.text import encode, generate
from lensdiff.pipeline.both import SIDES
from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.layers import LAYERS_AT_ONCE
from lensdiff.pipeline.listener import Listener
from lensdiff.pipeline.step import Step
from lensdiff.pipeline.workspace import Workspace
from lensdiff.results import InputError

BEYOND_WEIGHTS = 0.3  # of one model, for activations and tables
PROBED_TOKENS = 8
UNIT_SECONDS = 0.05  # to read and write what a unit needs and finds
PAIR_SECONDS = 6e-9  # per candidate pair of a dimension, to look up its cosine and compare
COHERENCE_SECONDS = 2e-4  # per component or random direction, to compare its words
TRAINED_TOKEN = 12  # operations per parameter, with what small matrices lose
CHECK_TOKENS = 1024  # of the base's own samples that a control is run on
TURN_SECONDS = 0.02  # per control and layer, to match its components and measure their angles


# memory
@dataclass(frozen=True)
class Memory:
    """What the models need and what there is, in bytes.

    Attributes:
        parameters: of the larger model; None where that cannot be told before loading.
        both, one: needed to hold both models (and a control), or one at a time.
        free: of the device.
    """

    parameters: int | None
    both: int
    one: int
    free: int


def memory_of(config: RunConfig) -> Memory:
    """Return what memory a run will need, without loading a model."""
    device = torch.device(default_device() if config.device == "auto" else config.device)
    free = available_memory(device)
    sizes = [size for side in SIDES if (size := n_parameters(config.source(side)))]
    if not sizes:
        return Memory(None, 0, 0, free)
    model = max(sizes) * torch.finfo(as_dtype(config.dtype)).bits // 8
    held = 2 + (config.most_controls > 0)
    return Memory(max(sizes), int(model * (held + BEYOND_WEIGHTS)), int(model * (1 + BEYOND_WEIGHTS)), free)


def choose_keep(config: RunConfig, memory: Memory, listener: Listener) -> Literal["both", "one"]:
    """Return how many models to hold, and tell what memory that takes; "auto" holds one where two do not fit."""
    if memory.parameters is None:
        return "one" if config.keep == "one" else "both"
    keep = config.keep if config.keep != "auto" else "both" if memory.both <= memory.free else "one"
    said = f"memory: about {amount(getattr(memory, keep))} of {amount(memory.free)} free"
    if keep == "one" and config.keep == "auto":
        said += f"; both models need {amount(memory.both)}, so one is held at a time and no controls are made"
    listener.say(said)
    return keep


def n_parameters(source: str) -> int | None:
    """Return how many parameters a checkpoint has, without loading it; None where that cannot be told."""
    from transformers import AutoConfig, AutoModelForCausalLM

    path = Path(source)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return path.stat().st_size * 2  # about half a byte a weight: an upper bound for any quantisation
    try:
        with quiet(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source, trust_remote_code=False))
    except (OSError, ValueError, KeyError):  # loading says what is wrong; an adapter is told by its base
        return None
    return sum(parameter.numel() for parameter in model.parameters())


# time
@dataclass(frozen=True)
class Probe:
    """What the estimate knows of the machine and of the work.

    Attributes:
        rate: floating-point operations a second of a matrix product.
        forward: seconds of a forward pass, per token of it; step: seconds of a generated token.
        attribution: seconds of an attribution, per token of the prompt and token of the whole text.
        n_prompt, n_response: mean tokens of a prompt, most tokens of a response.
    """

    view: ModelView
    rate: float
    forward: float
    step: float
    attribution: float
    n_prompt: float
    n_response: int
    n_words: int


def announce(workspace: Workspace, steps: Sequence[Step]) -> None:
    """Tell how long the steps that are not done will take."""
    left = {step.name: units for step in steps if (units := _left(step, workspace))}
    if not left:
        return
    probe = measure(workspace)
    seconds = {
        name: seconds_of(name, len(units), workspace, probe) + UNIT_SECONDS * len(units) for name, units in left.items()
    }
    parts = ", ".join(f"{name} {duration(s)}" for name, s in seconds.items() if s >= 1)
    total = duration(sum(seconds.values()))
    workspace.listener.say(f"time: about {total} or less{f' ({parts})' if parts else ''}")
    if "controls" in left and "distilled" not in workspace.config.controls.kinds:
        most = workspace.config.most_controls
        workspace.listener.say(
            f"controls: {', '.join(workspace.config.controls.kinds)}; {most} of the kind distilled, the base trained "
            f"on its own samples, would take about {duration(most * _distil(probe))} more"
        )


def _distil(probe: Probe) -> float:
    # sampling, and a pass forward and back, of every token of training
    recipe = Recipe()
    return TRAINED_TOKEN * _size(probe.view) * recipe.steps * recipe.batch * recipe.length / probe.rate


def _left(step: Step, workspace: Workspace) -> list[str]:
    state = workspace.store.step(step.name)
    return [unit for unit in step.units(workspace) if unit not in state.done]


def measure(workspace: Workspace) -> Probe:
    """Time a matrix product, a forward pass and a few generated tokens of the base model."""
    view, config = view_of(workspace.pair.base), workspace.config
    lengths = [10]
    needs_prompts = config.prompts_are_read
    if needs_prompts:
        lengths = [length for prompt in workspace.prompts.values() if (length := _length(view, prompt))] or lengths
    mean = sum(lengths) / len(lengths)
    tokens = torch.arange(min(max(2, int(mean)), view.n_ctx - PROBED_TOKENS - 1), device=view.device) % view.d_vocab
    with torch.no_grad():
        forward = _seconds(lambda: view.forward.logits(tokens[None])) / len(tokens)
        step = (
            _seconds(lambda: greedy(view, [tokens.cpu()], max_new_tokens=PROBED_TOKENS, stops=())) / PROBED_TOKENS
            if needs_prompts
            else 0.0
        )
    attribution = _attribution(workspace, view) if config.chosen("attribution") else 0.0
    square = torch.randn(512, 512, device=view.device)
    rate = 2 * 512**3 / _seconds(lambda: square @ square)
    words = len(workspace.vocabulary) if config.chosen("heads", "mlp") else 0
    return Probe(view, rate, forward, step, attribution, mean, config.max_new_tokens, words)


def _attribution(workspace: Workspace, view: ModelView) -> float:
    for prompt in workspace.prompts.values():
        try:
            response = generate(view, prompt, max_new_tokens=PROBED_TOKENS)
            start = time.perf_counter()
            found = attribute(view, prompt, response, deletion_draws=0)
        except InputError:  # its own unit says why
            continue
        n, m = found.scores.shape
        if m:
            return (time.perf_counter() - start) / (n * (n + m))
    return 0.0


def _length(view: ModelView, prompt: Prompt) -> int:
    try:
        return len(encode(view, prompt).ids)
    except InputError:  # its own unit says why
        return 0


def _seconds(work: Callable[[], object]) -> float:
    work()  # the first time allocates
    start = time.perf_counter()
    result = work()
    if isinstance(result, torch.Tensor) and result.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def seconds_of(step: str, units: int, workspace: Workspace, probe: Probe) -> float:
    """Return about how long so many units of a step take."""
    text = probe.n_prompt + probe.n_response
    respond = probe.step * probe.n_response + probe.forward * probe.n_prompt
    scores = probe.attribution * min(probe.n_prompt, 1.6 * probe.n_response) * text
    attend = 4 * text * probe.forward
    config = workspace.config
    sides = len(config.mlp.sides)
    turned = len(workspace.controls("rotation"))
    costs: dict[str, Callable[[], float]] = {  # of a step that is asked for alone: some take a probe of their own
        "responses": lambda: respond,
        "attribution": lambda: scores,
        "attention": lambda: attend,
        "outputs": lambda: 2 * text * probe.forward,
        "instruction_use": lambda: _read_use(workspace, probe),  # two models, and a unit is one of two means
        "controls": lambda: _control(workspace, probe, respond + scores, attend, units),
        "weights": lambda: 10 * _width(probe.view) * _size(probe.view) / probe.rate,
        "heads": lambda: _heads(workspace, probe),
        "concepts": lambda: _components(workspace, probe, _layers_of_a_unit(workspace, config.mlp.layers), named=True),
        "coherence": lambda: _cohere(workspace, probe.view),
        "rotation_controls": lambda: _components(workspace, probe, _layers(workspace, config.mlp.layers), named=False),
        "rotation": lambda: _layers(workspace, config.mlp.layers) * sides * turned * TURN_SECONDS,
        "value_rotation": lambda: _layers(workspace, config.mlp.layers) * _share(probe.view) / probe.rate,
    }
    return units * costs[step]() if step in costs else 0.0


def _read_use(workspace: Workspace, probe: Probe) -> float:
    # every prompt's texts after the prompt, after each donor, and after the prompt without its instruction
    options = workspace.config.instruction_use
    has_reference = any(prompt.reference for prompt in workspace.prompts.values())
    texts = len(set(options.texts) - (set() if has_reference else {"reference"}))
    passes = len(workspace.prompts) * texts * (3 + min(options.draws, len(workspace.prompts) - 1))
    return passes * (probe.n_prompt + min(probe.n_response, options.max_tokens)) * probe.forward


def _control(workspace: Workspace, probe: Probe, attribute: float, attend: float, units: int) -> float:
    """Return the mean seconds of a control: made as a whole model, checked, and read on every prompt as is chosen."""
    config, prompts = workspace.config, len(workspace.prompts) if workspace.config.prompts_are_read else 0
    check = CHECK_TOKENS * probe.forward
    seconds = _make_all(workspace, units)
    if config.chosen("instruction_use"):
        seconds += _read_use(workspace, probe) * len(workspace.controls("prompts"))
    if config.chosen("attention"):
        seconds += prompts * attend * len(workspace.controls("attention"))
    if config.chosen("attribution"):
        seconds += prompts * attribute * len(workspace.controls("attribution"))
    return seconds / units + check


def _make_all(workspace: Workspace, units: int) -> float:
    """Return the seconds that all whole controls take to be made, of each kind alike many."""
    kinds = workspace.config.controls.kinds
    data = {"shuffled": {"data": workspace.tuning_data}} if "shuffled" in kinds else {}
    costs = [control_cost(workspace.pair, kind, **data.get(kind, {})) for kind in kinds]
    return sum(cost.of(max(1, units // len(kinds))) for cost in costs)


def _share(view: ModelView) -> int:
    # the assignment of neurons, and the decomposition of one product
    return 20 * view.d_model**3 + 6 * view.d_mlp**2 * view.d_model + 40 * view.d_mlp**2


def _size(view: ModelView) -> int:
    return sum(parameter.numel() for parameter in view.model.parameters())


def _width(view: ModelView) -> int:
    return view.d_model


def _layers(workspace: Workspace, chosen: list[int] | None) -> int:
    return workspace.n_layers if chosen is None else len(chosen)


def _layers_of_a_unit(workspace: Workspace, chosen: list[int] | None) -> int:
    return min(LAYERS_AT_ONCE, _layers(workspace, chosen))


def _heads(workspace: Workspace, probe: Probe) -> float:
    view, options = probe.view, workspace.config.heads
    per_head = 4 * probe.n_words * view.d_model * view.d_head / probe.rate
    per_head += PAIR_SECONDS * view.d_head * (2 * options.top_k) ** 2
    controls = len(workspace.controls("heads"))
    made = controls / (controls + len(SIDES)) * 2 * _make(view, view.n_heads * view.d_head) / probe.rate  # W_Q and W_K
    return _layers_of_a_unit(workspace, options.layers) * (view.n_heads * per_head + made)


def _components(workspace: Workspace, probe: Probe, layers: int, *, named: bool) -> float:
    # the principal components of that many layers, and either their words or (a control) the weights themselves
    view, options = probe.view, workspace.config.mlp
    operations = 20 * view.d_model**3 + 2 * view.d_model**2 * view.d_mlp
    if named:
        operations += 4 * _n_components(workspace, view) * view.d_model * probe.n_words
    else:
        operations += _make(view, view.d_mlp)
    return layers * len(options.sides) * operations / probe.rate


def _n_components(workspace: Workspace, view: ModelView) -> int:
    return min(workspace.config.mlp.n_components, view.d_model)


def _cohere(workspace: Workspace, view: ModelView) -> float:
    options = workspace.config.mlp
    components = _layers(workspace, options.layers) * len(options.sides) * _n_components(workspace, view)
    return COHERENCE_SECONDS * (components + DIRECTIONS)


def _make(view: ModelView, columns: int) -> int:
    # operations to draw a control's matrix: two orthonormal factors and their product
    return 8 * view.d_model**2 * columns


def amount(size: int | float) -> str:
    """Return a number of bytes as people say it."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{max(1, round(size / 2**20))} MiB"


def duration(seconds: int | float) -> str:
    """Return a time as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
