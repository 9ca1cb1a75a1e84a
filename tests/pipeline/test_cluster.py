"""Units done by the actors of a Ray cluster of two nodes: the same results to the last bit, and each written once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lensdiff.inputs import toy_pair
from lensdiff.pipeline import cluster, door, runner
from lensdiff.pipeline.cluster import Held
from lensdiff.pipeline.config import RayOptions, parse
from lensdiff.pipeline.worker import Answer, Task
from lensdiff.pipeline.workers import Ended, Engine, Ready, Workers
from lensdiff.results import InputError, ResultStore
from lensdiff.results.manifest import Manifest
from lensdiff.steps.unit import Unit
from tests.pipeline.conftest import Recorder
from tests.pipeline.dying import AT, Dying
from tests.pipeline.resuming import assert_same, run, small

pytest.importorskip("ray")
SOME = ["weights", "instruction_use", "outputs"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes with a CPU each, and a head that does nothing."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 80 * 2**20}
    there = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **store})
    for _ in range(2):
        there.add_node(num_cpus=1, **store)
    yield there.address
    ray.shutdown()
    there.shutdown()


@pytest.fixture(scope="module")
def alone(models: Path, tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    """What the run's own process finds."""
    return run(config(models, tmp_path_factory.mktemp("alone") / "out"))


def config(models: Path, out: Path, **changes: Any) -> dict[str, Any]:
    controls = {"instruction_use": 2, "kinds": ["spectrum"]}
    return small(models, out, analyses=SOME) | {"controls": controls} | changes


def on(address: str, **changes: Any) -> dict[str, Any]:
    return {"engine": "ray", "ray": {"address": address, **changes}}


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list["Remembered"]:
    """Every actor that is asked for."""
    found: list[Remembered] = []

    def make(*arguments: Any) -> Remembered:
        found.append(Remembered(*arguments))
        return found[-1]

    monkeypatch.setattr(cluster, "Actor", make)
    return found


class Remembered(cluster.Actor):
    """Knows what it was given, and the process that it is."""

    def __init__(self, *arguments: Any):
        self.given: list[str] = []
        super().__init__(*arguments)

    def send(self, message: Any) -> None:
        self.given += [f"{message.step}/{unit.path}" for unit in message.units]
        super().send(message)

    def kill(self) -> None:
        os.kill(self._ray.get(self._handle.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every result that is written, in order."""
    found: list[str] = []
    save = ResultStore.save_unit

    def remembered(store: ResultStore, step: str, unit: str, state: Any, result: Any) -> Any:
        if state.kept == "whole":
            found.append(f"{step}/{unit}")
        return save(store, step, unit, state, result)

    monkeypatch.setattr(ResultStore, "save_unit", remembered)
    return found


def each_once(names: list[str]) -> bool:
    return len(names) == len(set(names)) > 0


def test_two_nodes_find_what_one_process_finds(models, tmp_path, alone, address, begun, written, monkeypatch):
    here: list[str] = []
    do = runner.results_of
    monkeypatch.setattr(runner, "results_of", lambda step, *rest: here.append(step.name) or do(step, *rest))
    recorder = Recorder()
    store = run(config(models, tmp_path / "out", **on(address)), recorder)
    assert_same(store, alone)
    assert here == ["pair"]  # which is described where the run begins
    assert len(begun) == 2
    assert all(actor.given for actor in begun)
    assert each_once(written)
    assert each_once(recorder.units())
    written.clear()
    run(config(models, tmp_path / "out", **on(address)))
    assert written == []
    assert len(begun) == 2  # and no actor is begun for nothing


def test_one_that_is_killed_costs_its_unit_alone(models, tmp_path, alone, address, begun, written):
    def kill(event: str) -> None:
        if event.startswith("controls: ") and not killed:
            killed.append(begun[0])
            begun[0].kill()

    killed: list[Remembered] = []
    store = run(config(models, tmp_path / "out", **on(address)), Recorder(kill))
    assert_same(store, alone)
    assert len(begun) == 3  # another one took its place
    assert each_once(written)
    given = [name for actor in begun for name in actor.given]
    twice = {name for name in given if given.count(name) > 1}
    assert len(given) <= len(set(given)) + 1
    assert twice <= {killed[0].given[-1]}


def test_a_unit_that_ends_every_actor_fails_and_the_others_are_done(
    models, tmp_path, alone, address, begun, monkeypatch
):
    unit = "instruction_use_control/spectrum-1"
    monkeypatch.chdir(tmp_path)
    Path(AT).write_text(unit)
    monkeypatch.setattr(cluster, "Held", Dying)
    store = run(config(models, tmp_path / "out", **on(address)))
    assert [name for actor in begun for name in actor.given].count(unit) == cluster.ATTEMPTS
    failures = store.step("instruction_use_control").failures
    assert list(failures) == ["spectrum-1"]
    assert "each of the 3 workers that it was given to was ended" in failures["spectrum-1"]
    assert store.step("instruction_use_control").done == ["spectrum-0"]
    monkeypatch.setattr(cluster, "Held", Held)
    assert_same(run(config(models, tmp_path / "out", **on(address))), alone)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_a_stopped_run_leaves_no_process_and_the_next_goes_on(models, tmp_path, alone, address, written, stop):
    """With a cluster of its own, by the command."""
    values = config(models, tmp_path / "out")
    (tmp_path / "run.toml").write_text(toml(values))
    mark = f"LENSDIFF_TEST_MARK={tmp_path}"
    command = [sys.executable, "-m", "lensdiff", "run", str(tmp_path / "run.toml"), "--engine", "ray", "-q"]
    begun = subprocess.Popen(
        command, env=dict([*os.environ.items(), mark.split("=", 1)]), stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: begun.poll() is not None or len(done(tmp_path / "out")) > 3)
    begun.send_signal(stop)
    _, said = begun.communicate(timeout=400)
    before = done(tmp_path / "out")
    assert 3 < len(before) < len(done(alone.root))
    if stop == signal.SIGINT:
        assert begun.returncode == 1
        assert said.strip().endswith("stopped; the same command goes on from here")
    wait_for(lambda: not marked(mark))
    store = run(values | on(address))
    assert_same(store, alone)
    assert each_once(written)
    assert not before & set(written)


def toml(values: dict[str, Any], table: str = "") -> str:
    plain = "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items() if not isinstance(v, dict))
    tables = [f"[{table}{k}]\n{toml(v)}" for k, v in values.items() if isinstance(v, dict)]
    return plain + "".join(tables)


def done(root: Path) -> set[str]:
    """The units that a directory knows as done, and whose results lie there."""
    store = ResultStore(root)
    steps = store.manifest.steps.items() if store.exists() else ()
    return {f"{step}/{name}" for step, state in steps for name, unit in state.units.items() if unit.has_file}


def marked(mark: str) -> list[int]:
    """The processes that were begun with a variable."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def wait_for(true: Callable[[], bool], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


# what is refused
def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    values = {"base": str(toy_pair.BASE), "tuned": str(toy_pair.TUNED), "analyses": ["weights"], "engine": "ray"}
    monkeypatch.setattr(door, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package ray: pip install 'lensdiff\[ray\]'$"):
        door.check(parse(values | {"out": str(tmp_path)}))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs the package ray: pip install 'lensdiff\[ray\]'$"):
        cluster.join(RayOptions())


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    def init(**given: Any) -> None:
        assert "include_dashboard" not in given  # of a cluster that is there
        raise ConnectionError("Could not find any running Ray instance\nat all")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(
        InputError, match=r"^no Ray cluster answers at far:6379: Could not find any running Ray instance$"
    ):
        cluster.join(RayOptions(address="far:6379"))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 8),
        ({"cpus_per_actor": 3.0}, 2),
        ({"gpus_per_actor": 1.0}, 2),
        ({"gpus_per_actor": 0.5}, 4),
        ({"actors": 3}, 3),
    ],
)
def test_there_are_as_many_as_there_is_room_for(options, count):
    assert cluster._count(RayOptions(**options), {"CPU": 8.0, "GPU": 2.0}) == count


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpus_per_actor": 3.0}, r"^an actor asks for 3 GPU \(ray.gpus_per_actor\), the cluster has 2$"),
        ({"cpus_per_actor": 9.5}, r"^an actor asks for 9.5 CPU \(ray.cpus_per_actor\), the cluster has 8$"),
    ],
)
def test_an_actor_that_has_no_room_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        cluster._count(RayOptions(**options), {"CPU": 8.0, "GPU": 2.0})


def test_a_node_without_the_folder_or_of_another_version_is_refused(tmp_path):
    code = cluster.code_identity()
    assert "no folder" in Held(b"", str(tmp_path / "none"), code, None).ready()
    assert "other versions" in Held(b"", str(tmp_path), [*code, "another"], None).ready()
    assert Held(b"", str(Path.cwd()), code, None).ready() == ""


# what is done where places end
class Scripted:
    """Ends at the tasks that it is told, before it has begun where told so, and answers the others."""

    def __init__(self, answers: Any, ends: set[str], begins: bool = True):
        self._answers, self._ends = answers, ends
        answers.put((self, Ready() if begins else Ended("no room")))

    def send(self, message: Any) -> None:
        ends = message.step in self._ends
        self._answers.put((self, Ended("ended") if ends else Answer(InputError(message.step), (), 0.0)))

    def failed(self) -> bool:
        return False

    def end(self) -> None: ...


def chain(*steps: str) -> Any:
    return iter([(((step, Unit()),), Task(step, (Unit(),), ((),), Manifest())) for step in steps])


def test_the_chain_goes_on_after_a_unit_that_ends_every_place():
    found: list[tuple[str, str]] = []
    engine = Engine(2, lambda answers: Scripted(answers, {"b"}), attempts=2)
    several = Workers(engine)
    several.do([chain("a", "b", "c"), chain("d")], lambda keys, answer: found.append((keys[0][0], str(answer.found))))
    assert sorted(step for step, _ in found) == ["a", "b", "c", "d"]
    assert "each of the 2 workers" in dict(found)["b"]
    assert dict(found)["c"] == "c"


def test_places_that_never_begin_are_not_begun_for_ever():
    several = Workers(Engine(2, lambda answers: Scripted(answers, set(), begins=False), attempts=2))
    with pytest.raises(InputError, match=r"^no worker can be begun: no room$"):
        several.do([chain("a")], lambda keys, answer: None)


def test_nobody_waits_for_ever_for_a_place():
    class Silent(Scripted):
        def __init__(self, answers: Any): ...

    several = Workers(Engine(1, Silent, attempts=2, patience=0.01))
    with pytest.raises(InputError, match=r"^no worker could begin within 0 s"):
        several.do([chain("a")], lambda keys, answer: None)
