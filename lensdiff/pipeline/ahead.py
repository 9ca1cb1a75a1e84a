"""What a run would take, before anything is loaded: `lensdiff plan`, and `lensdiff.plan` in Python.

Read are the config and what it names, and of the models config, tokenizer and the headers of their files.
The machine is timed on matrix products and on random stand-ins of a few layers. The whole run is meant: what a results
directory holds already is known by the content of the checkpoints, which is not read here.
"""

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from lensdiff.defaults import CHAT
from lensdiff.inputs.prompts import Prompt
from lensdiff.models.loading.devices import default_device, whole_products
from lensdiff.models.loading.headers import Header, read_header
from lensdiff.models.loading.load import as_dtype
from lensdiff.models.progress import unseen
from lensdiff.models.templates import ChatTemplate
from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.estimate import LOADING, START, TABLES, Estimate, estimate_of, probe_on
from lensdiff.pipeline.execute import implied, read_config
from lensdiff.pipeline.graph import Graph
from lensdiff.pipeline.identity import Identities
from lensdiff.pipeline.listener import Silent
from lensdiff.pipeline.material import Material
from lensdiff.pipeline.memory import PROGRAM, Memory, choose_keep, choose_stream, choose_workers, memory_of
from lensdiff.pipeline.plans import plan_of, supplies_of
from lensdiff.pipeline.prepare import prepare
from lensdiff.pipeline.runner import Runner
from lensdiff.pipeline.threads import threads_for
from lensdiff.results import InputError, ResultStore
from lensdiff.steps.bench import StandIn

STARTED = 5.7  # seconds until torch, transformers and transformer-lens are imported
WRITTEN, WRITTEN_UNIT = 2.5, 0.003  # seconds of tables and the report, and of every result in them beside that
HELD = {"both": "both models", "one": "one model at a time", "streamed": "a layer at a time"}


def plan(config: RunConfig | Mapping[str, Any] | str | Path) -> Estimate:
    """Return time, memory and disk of a run by step, without reading a weight of its models.

    Args:
        config: a config, a mapping with its keys, or the path of a TOML file.

    Returns:
        `Estimate` (`to_df()`, `to_dict()`, `seconds`, `bytes`, `memory`), of the whole run from an empty directory; an
        upper bound where a response may end before `max_new_tokens`.

    Raises:
        InputError: the config or an input is unusable, a checkpoint is nowhere or has no header that can be read, or
            a hub name cannot be reached.
    """
    config = read_config(config)
    material = prepare(config)
    headers = _headers(config)
    memory = memory_of(config, max(header.n_parameters for header in headers))
    silent = Silent()
    if choose_stream(config, memory, silent):
        config = material.config = config.streamed()
    held = "streamed" if config.stream is True else choose_keep(config, memory, silent)
    bench = StandIn(
        *headers,
        as_dtype(config.dtype),
        default_device() if config.device == "auto" else config.device,
        weights=config.weights,
        wrapper=config.wrapper,
    )
    with ExitStack() as around:
        for context in (threads_for(memory.parameters), whole_products(), unseen()):
            around.enter_context(context)
        found = _whole_run(config, material, bench, held)
    workers = config.ray.actors or 1 if config.engine == "ray" else choose_workers(config, memory, silent)
    return replace(
        found,
        processes=workers,
        everything=config.engine == "ray",
        memory=memory,
        held=HELD[held],
        peak=_peak(bench, memory, held, workers if workers > 1 else 0),
        disk=_free(config.path(config.out)),
    )


def _headers(config: RunConfig) -> tuple[Header, Header]:
    base = read_header(config.source("base"), revision=config.revision("base"))
    return base, read_header(config.source("tuned"), revision=config.revision("tuned"), base=base)


def _whole_run(config: RunConfig, material: Material, bench: StandIn, held: str) -> Estimate:
    """Return what all units of a run take, and what is around them."""
    both = held != "one"
    plan = plan_of(material, both, bench.sizes.n_layers, config.chosen)
    # of an empty directory: nothing is looked for in it
    graph = Graph([*config.chosen, *implied()], plan, Identities(config), ResultStore(config.path(config.out)))
    runner = Runner(graph, supplies_of(material, both), Silent())
    template = _template(config, bench)

    def rendered(prompt: Prompt, rendering: str) -> Prompt:
        return template.render(prompt) if template is not None and rendering == CHAT else prompt

    if config.asks("prompts") or config.asks("words") or config.asks("texts"):
        _ = bench.tokenizer, bench.own_tokenizer  # refused here, where there is none
    units = [(name, unit) for name in graph.steps for unit in graph.units[name]]
    found = estimate_of(units, runner, probe_on(bench, config, plan, material, rendered))
    loading = 0.0 if held == "streamed" else bench.loading
    around = {START: STARTED, LOADING: loading, TABLES: WRITTEN + WRITTEN_UNIT * len(units)}
    return replace(found, around=around)


def _template(config: RunConfig, bench: StandIn) -> ChatTemplate | None:
    if CHAT not in config.templates:
        return None
    tokenizer = bench.own_tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"the tokenizer of {bench.tuned.id!r} has no chat template, expected one that has, or templates = ['raw']"
        )
    return ChatTemplate(tokenizer, bench.tuned.id)


def _peak(bench: StandIn, memory: Memory, held: str, workers: int) -> int:
    """Return the bytes of all processes of a run at their largest."""
    if held == "streamed":  # the embeddings or a layer of both models, and what is made of them
        return PROGRAM + 4 * bench.dtype.itemsize * bench.largest
    return PROGRAM + (memory.one if held == "one" else memory.both) + workers * memory.worker


def _free(folder: Path) -> int:
    """Return the free bytes of the disk on which a folder is, or will be."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    return shutil.disk_usage(there).free
