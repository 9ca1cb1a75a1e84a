"""What tests of resuming share: a run of everything at its very smallest, what was worked on, and what is there."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors import safe_open

from lensdiff.analyses import ANALYSES
from lensdiff.pipeline import graph as graphs
from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.execute import execute, implied
from lensdiff.pipeline.graph import Graph
from lensdiff.pipeline.identity import Identities
from lensdiff.pipeline.material import Material
from lensdiff.pipeline.plans import plan_of
from lensdiff.pipeline.toml import check_config
from lensdiff.results import InputError, ResultStore
from lensdiff.results.folder import PARTIAL
from lensdiff.steps.step import Step
from lensdiff.steps.unit import Unit, name_of
from tests.pipeline.conftest import Recorder, config_for

EVERY = [analysis.name for analysis in ANALYSES if analysis.done == "asked"]
COUNTED = [analysis.name for analysis in ANALYSES if analysis.controls is not None]
COUNTS = dict.fromkeys(COUNTED, 1) | {"heads": 3}
CONTROLS: dict[str, Any] = {"kinds": ["spectrum"], **COUNTS}
SMALL: dict[str, Any] = {
    "analyses": EVERY,
    "max_prompts": 2,
    "max_new_tokens": 3,
    "controls": CONTROLS,
    "attribute": {"deletion_draws": 1, "curve_draws": 1, "curve_tokens": 3},
    "instruction_use": {"draws": 1, "max_tokens": 3},
    "knock_out": {"draws": 1, "max_tokens": 3},
    "dose": {"amounts": [], "parts": ["layer 1"], "part_amounts": [], "max_tokens": 3},
    "first_divergence": {"max_tokens": 3, "draws": 2},
    "residual_stream": {"max_tokens": 3},
    "layer_similarity": {"max_tokens": 3},
    "directions": {"permutations": 29, "draws": 2, "max_tokens": 3},
    "activation_difference": {"max_texts": 8, "positions": 2, "effect_texts": 3, "draws": 1},
    "patch": {"max_prompts": 2, "max_tokens": 3},
    "heads": {"top_k": 10, "layers_per_group": 1},
    "mlp": {"n_components": 4, "ranks": [1, 2], "top_words": 3},
}


class Stop(BaseException):
    """What no code of lensdiff expects: the program ends here."""


def small(models: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A config of everything at its smallest; a change of a table changes its own keys alone."""
    tables = {key: SMALL[key] | value for key, value in changes.items() if isinstance(SMALL.get(key), dict)}
    return config_for(models, out, **(SMALL | changes | tables))


def run(config: dict[str, Any], listener: Recorder | None = None) -> ResultStore:
    return execute(config, listener=listener, estimate=False)


def copied(store: ResultStore, out: Path) -> Path:
    """A copy of a finished directory."""
    return Path(shutil.copytree(store.root, out))


class Watch:
    """Remembers every unit that is worked on, as "step/unit", and can act before and after one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.worked: list[str] = []
        self.before: Callable[[str], None] = lambda name: None
        self.after: Callable[[str], None] = lambda name: None
        self._steps: dict[str, Step[Any, Any]] = {}
        steps_of = graphs.steps_of
        monkeypatch.setattr(graphs, "steps_of", lambda analyses: [self._watched(step) for step in steps_of(analyses)])

    def take(self) -> list[str]:
        """Return what was worked on since the last time."""
        found, self.worked = self.worked, []
        return found

    def _watched(self, step: Step[Any, Any]) -> Step[Any, Any]:
        def begin(unit: Unit) -> str:
            name = name_of(step.name, unit)
            self.worked.append(name)
            self.before(name)
            return name

        def work(inputs: Any, unit: Unit, options: Any) -> Any:
            name = begin(unit)
            found = step.work(inputs, unit, options)
            self.after(name)
            return found

        def block(inputs: Any, units: Sequence[Unit], options: Any) -> Any:
            assert step.block is not None
            found: dict[Unit, Any] = {}
            for unit in units:
                try:
                    begin(unit)
                except InputError as error:
                    found[unit] = error
            left = {unit: own for own, unit in zip(inputs, units, strict=True) if unit not in found}
            found |= dict(zip(left, step.block(list(left.values()), list(left), options), strict=True))
            for unit in left:
                self.after(name_of(step.name, unit))
            return [found[unit] for unit in units]

        return replace(step, work=work, block=None if step.block is None else block)


# what a directory holds
def digests(store: ResultStore) -> dict[str, str]:
    """The digest of every unit that a run asked for."""
    steps = store.manifest.steps.items()
    return {
        f"{step}/{unit}" if unit else step: state.units[unit].digest
        for step, state in steps
        for unit in state.wanted
        if unit in state.units
    }


def seen(store: ResultStore) -> dict[str, str]:
    """The digest of every result and table that is seen."""
    tables = {f"tables/{name}": store.manifest.tables[name].digest for name in store.table_names()}
    return tables | {name: digest for name, digest in digests(store).items() if name in store.names()}


def arrays(root: Path) -> dict[str, Any]:
    """Every array and value of every file of results, whoever knows of it."""
    found: dict[str, Any] = {}
    for path in sorted((root / "arrays").rglob("*.safetensors")):
        name = str(path.relative_to(root / "arrays"))
        with safe_open(path, framework="pt") as stored:
            found[name] = stored.metadata()
            found |= {f"{name} {key}": stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (no mapping)
    return found


def files(root: Path) -> dict[str, bytes]:
    """The bytes of every result and table."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.*")) if p.parent != root}


def assert_same(store: ResultStore, fresh: ResultStore) -> None:
    """Assert that a directory is what a fresh one is: states, tables and results, to the last bit, and nothing else."""
    store, fresh = ResultStore(store.root), ResultStore(fresh.root)
    states = [
        {
            name: (state.wanted, {unit: own.model_copy(update={"seconds": 0.0}) for unit, own in state.units.items()})
            for name, state in each.manifest.steps.items()
        }
        for each in (store, fresh)
    ]
    assert states[0] == states[1]
    assert store.manifest.tables == fresh.manifest.tables
    assert store.names() == fresh.names()
    assert store.table_names() == fresh.table_names()
    for name in fresh.table_names():
        pd.testing.assert_frame_equal(store.load_table(name), fresh.load_table(name))
    found, expected = arrays(store.root), arrays(fresh.root)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(torch.nan_to_num(found[name]), torch.nan_to_num(value)), name
        else:
            assert found[name] == value, name
    assert store.damaged() == []
    assert not any((store.root / PARTIAL).iterdir())
    assert store.manifest.ended


# what a run would do
def graph_of(config: RunConfig, store: ResultStore, n_layers: int = 2) -> Graph:
    """The units of a run with a config, and what is known of them in a directory."""
    plan = plan_of(Material(config), True, n_layers, config.chosen)
    return Graph([*config.chosen, *implied()], plan, Identities(config), store)


def stale(config: dict[str, Any], store: ResultStore) -> set[str]:
    """The names of the units that a run with a config would do or try again."""
    graph = graph_of(check_config(config), store)
    units = ((step, unit) for step in graph.steps for unit in graph.units[step])
    return {name_of(step, unit) for step, unit in units if not graph.is_current(step, unit)}


def matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """The names that a pattern stands for: "step", "step:controls", "step:MODEL" or "step:PROMPT"."""
    found = set()
    for pattern in patterns:
        step, _, which = pattern.partition(":")
        units = [name for name in names if name == step or name.startswith(f"{step}/")]
        chosen = [name for name in units if not which or _is_of(name.split("/")[1:], which)]
        assert chosen, f"{pattern} stands for nothing"
        found |= set(chosen)
    return found


def _is_of(parts: list[str], which: str) -> bool:
    return parts[0] not in ("base", "tuned") if which == "controls" else which in (parts[0], "/".join(parts[1:]))


def prompts_file(path: Path, *prompts: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return str(path)
