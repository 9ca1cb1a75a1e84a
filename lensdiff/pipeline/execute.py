"""From a config to every analysis and a results directory.

Stopped at any point, the next run repeats at most the unit it was in (of responses those that were decoded together);
with a changed config, or changed inputs, it repeats what depends on the change and removes what no longer holds. Two
runs on one directory at once: the second refuses.

A response is the same whatever is decoded beside it, but where two tokens are equally likely up to rounding
(`lensdiff.models.decoding`): then it may go on with the other one.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lensdiff.analyses import ANALYSES
from lensdiff.defaults import CHAT
from lensdiff.models.loading.devices import whole_products
from lensdiff.models.progress import unseen
from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.estimate import announce
from lensdiff.pipeline.graph import Graph, paths, tables_of
from lensdiff.pipeline.identity import Identities
from lensdiff.pipeline.listener import Listener, Silent
from lensdiff.pipeline.material import Material
from lensdiff.pipeline.memory import Memory, choose_keep, choose_stream, choose_workers, memory_of
from lensdiff.pipeline.plans import plan_of, supplies_of
from lensdiff.pipeline.prepare import check_tokenizers, prepare
from lensdiff.pipeline.runner import Runner
from lensdiff.pipeline.tables import clear_tables, write_tables
from lensdiff.pipeline.threads import threads_for
from lensdiff.pipeline.toml import check_config, load_config
from lensdiff.pipeline.worker import Start
from lensdiff.pipeline.workers import Workers, processes
from lensdiff.results import ResultStore
from lensdiff.results.manifest import StepState, UnitState
from lensdiff.results.provenance import package_versions
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.columns import write_description
from lensdiff.steps.found import Found
from lensdiff.steps.pair import PAIR, PairFacts
from lensdiff.steps.supplies import Supplies
from lensdiff.steps.unit import SIDES


def execute(
    config: RunConfig | Mapping[str, Any] | str | Path,
    *,
    listener: Listener | None = None,
    command: str = "run",
    estimate: bool = True,
) -> ResultStore:
    """Do every chosen analysis that the results directory does not have yet, and return the directory's store.

    Args:
        config: a config, a mapping with its keys, or the path of a TOML file.
        listener: is told what happens; by default nobody.
        command: what asks for the run.
        estimate: tell the listener before the work how long it will take; that itself takes a few seconds.

    Raises:
        InputError: the config or an input is unusable, or another run is writing to the directory.
        OSError: something could not be written (a full disk); run again to go on.
    """
    config = read_config(config)
    listener = listener or Silent()
    material = prepare(config, command)
    store = ResultStore(config.path(config.out))
    memory = memory_of(config)
    with store.writing(), threads_for(memory.parameters), whole_products(), unseen(listener.within):
        _forget_damaged(store, listener)
        identities = Identities(config)
        is_same = _is_same_pair(material, identities, store)
        begun = store.manifest.pair if is_same else {}
        if _streams(config, begun, memory, listener):
            config = material.config = config.streamed()
        keep = _keep(config, begun, memory, listener)
        both = keep == "both"
        supplies = supplies_of(material, both, listener.say)
        if not is_same:
            supplies.pair.check()  # before anything is changed: the directory of a pair that cannot be read stays
            check_tokenizers(config, supplies.pair)
        if CHAT in config.templates and not (is_same and CHAT in store.manifest.config.get("templates", ())):
            _ = supplies.template  # refused before anything is changed, where there is none
        _begin(config, command, store)
        facts = _describe_pair(material, both, identities, supplies, store, listener)
        held = {"keep": keep, "stream": config.stream is True}
        store.update(pair=held | {"comparable": True, "notice": facts.provenance.notice}
                     | {side: getattr(facts, side) for side in SIDES})  # fmt: skip
        analyses = [*config.chosen, *implied()]
        graph = Graph(analyses, plan_of(material, both, _n_layers(facts), config.chosen), identities, store)
        _clear(material, both, facts, identities, store, graph)
        clear_tables(store, tables_of(ANALYSES), graph)
        runner = Runner(graph, supplies, listener)
        _say_what_stands(graph, runner, listener)
        with closing(_workers(config, runner, facts, memory)) as runner.workers:
            if estimate:
                announce(config, runner, listener)
            runner.run()
        write_tables(store, tables_of(ANALYSES), graph)
        write_description(store, tables_of(ANALYSES))
        store.update(ended=True)
    return store


def _streams(config: RunConfig, begun: Mapping[str, Any], memory: Memory, listener: Listener) -> bool:
    """Return whether weights are streamed: as the directory's run began, where the config leaves it open."""
    if config.stream == "auto" and begun.get("stream") and not any(analysis.runs for analysis in config.chosen):
        return True
    return choose_stream(config, memory, listener)


def _keep(config: RunConfig, begun: Mapping[str, Any], memory: Memory, listener: Listener) -> str:
    """Return how many models are held: as the directory's run began, where the config leaves it open."""
    if config.stream is True:
        return "both"
    if begun.get("keep") and config.keep == "auto" and not begun.get("stream"):
        return str(begun["keep"])
    return choose_keep(config, memory, listener)


def _workers(config: RunConfig, runner: Runner, facts: PairFacts, memory: Memory) -> Workers | None:
    """Return what does the run's units beside its own process, or None where that does all."""
    graph = runner.graph
    # of a hub name the commit that was read: a branch may move until the last process has begun
    revisions = {
        f"{side}_revision": commit for side in SIDES if (commit := getattr(facts, side).get("revision")) is not None
    }
    start = Start(config.model_dump() | revisions, config.path("."), graph.plan, graph.store.root.absolute())
    if config.engine == "ray":
        from lensdiff.pipeline.cluster import actors

        return actors(config.ray, start, memory.parameters) if runner.left() else None
    count = choose_workers(config, memory, runner.listener) if graph.plan.both else 1
    return None if count == 1 else processes(count, start, max(1, torch.get_num_threads() // count))


@contextmanager
def closing(workers: Workers | None) -> Iterator[Workers | None]:
    """Yield what does units beside the run's own process, and end it."""
    try:
        yield workers
    finally:
        if workers is not None:
            workers.close()


def implied() -> list[Analysis[Any]]:
    """Return the analyses that are done with whatever they read."""
    return [analysis for analysis in ANALYSES if analysis.done == "always"]


def read_config(given: RunConfig | Mapping[str, Any] | str | Path) -> RunConfig:
    """Return a config given as such, as a mapping or as a file."""
    if isinstance(given, RunConfig):
        return given
    if isinstance(given, Mapping):
        return check_config(given)
    return load_config(given)


def _n_layers(facts: PairFacts) -> int:
    return int(facts.base["n_layers"])


def _is_same_pair(material: Material, identities: Identities, store: ResultStore) -> bool:
    """Return whether the directory's results are of this pair, as it is now."""
    graph = Graph((), plan_of(material, True, 0, ()), identities, store)
    return all(graph.is_current(PAIR.name, unit) for unit in graph.units[PAIR.name])


def _begin(config: RunConfig, command: str, store: ResultStore) -> None:
    """Say what the run is; what was found before is not seen until it is known to hold still."""
    steps = {name: state.model_copy(update={"wanted": []}) for name, state in store.manifest.steps.items()}
    tables = {name: state.model_copy(update={"wanted": False}) for name, state in store.manifest.tables.items()}
    about = {"config": config.model_dump(mode="json"), "command": command, "versions": package_versions()}
    store.update(steps=steps, tables=tables, ended=False, **about)


def _describe_pair(
    material: Material, both: bool, identities: Identities, supplies: Supplies, store: ResultStore, listener: Listener
) -> PairFacts:
    """Return what the two models are: as the directory has it, if they are the same still.

    Raises:
        InputError: the two cannot be described.
    """
    graph = Graph((), plan_of(material, both, 0, ()), identities, store)
    unit = graph.units[PAIR.name][0]
    if not graph.holds(PAIR.name, unit):
        store.record(PAIR.name, unit.path, None)
    _want(store, PAIR.name, graph)
    Runner(graph, supplies, listener).run()
    return Found(store).one(PAIR.name, PairFacts)


def _want(store: ResultStore, step: str, graph: Graph) -> None:
    steps = dict(store.manifest.steps)
    steps[step] = steps.get(step, StepState()).model_copy(update={"wanted": paths(graph.units[step])})
    store.update(steps=steps)


def _forget_damaged(store: ResultStore, listener: Listener) -> None:
    """Forget results whose files are missing or damaged, so that they are made again."""
    if store.manifest.checksums:
        listener.say(f"verifying the results of {store.root}")
    for file in store.damaged():
        listener.say(f"{store.root / file} is not as the run left it: it is made again")
        room, _, name = file.partition("/")
        if room == "arrays":
            step, _, unit = name.partition("/")
            store.record(step, unit, None)
        else:
            store.forget(file)


def _clear(
    material: Material, both: bool, facts: PairFacts, identities: Identities, store: ResultStore, graph: Graph
) -> None:
    """Set what the run asks for, and remove the results that no longer hold or that it does not ask for.

    What an analysis found that is not chosen now stays for as long as it would be the same.
    """
    everything = Graph(
        ANALYSES, plan_of(material, both, _n_layers(facts), config_analyses()), identities, store
    ) if _others(store, graph) else graph  # fmt: skip
    steps: dict[str, StepState] = {}
    for name in [*everything.steps, *(name for name in store.manifest.steps if name not in everything.steps)]:
        known, asked = store.step(name).units, graph.units.get(name, [])
        others = [unit for unit in everything.units.get(name, ()) if unit not in asked]
        holding = [u.path for u in asked if graph.holds(name, u)] + [
            u.path for u in others if everything.holds(name, u)
        ]
        if name not in everything.steps:
            holding = [unit for unit, own in known.items() if holds(store, own)]
        if wanted := list(dict.fromkeys([*paths(asked), *holding])):
            steps[name] = StepState(wanted=wanted, units={unit: known[unit] for unit in holding})
        for unit in known.keys() - set(holding):
            store.record(name, unit, None)
    store.update(steps=steps)


def _say_what_stands(graph: Graph, runner: Runner, listener: Listener) -> None:
    """Tell how much of the run is there already, where anything is but the description of the pair."""
    units = {name: len(units) for name, units in graph.units.items() if units and name != PAIR.name}
    left = {name: len(runner.stale(name)) for name in units}
    stand, total = sum(units.values()) - sum(left.values()), sum(units.values())
    if not stand:
        return
    if stand == total:
        listener.say("everything stands already, nothing is left to do")
        return
    whole = sum(not n for n in left.values())
    listener.say(f"resuming: {whole} of {len(units)} steps stand, with {stand} of {total} results")


def _others(store: ResultStore, graph: Graph) -> bool:
    return any(name not in graph.steps for name in store.manifest.steps)


def holds(store: ResultStore, state: UnitState) -> bool:
    """Return whether a result that was made apart is still of the results that it was made of."""
    return all(
        (own := store.step(step).units.get(unit)) is not None and own.digest == digest
        for step, units in state.made_of.items()
        for unit, digest in units.items()
    )


def config_analyses() -> Iterable[Analysis[Any]]:
    """Return all analyses that a config may ask for."""
    return [analysis for analysis in ANALYSES if analysis.done == "asked"]
