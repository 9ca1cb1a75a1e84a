"""Controls done by several processes: the same results to the last bit, and nothing lost where one of them ends."""

import logging
import pickle
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lensdiff.inputs import toy_pair
from lensdiff.models import text
from lensdiff.pipeline import worker as child
from lensdiff.pipeline import workers
from lensdiff.pipeline.config import parse
from lensdiff.pipeline.estimate import estimate_of
from lensdiff.pipeline.material import Material
from lensdiff.pipeline.memory import Memory, choose_workers
from lensdiff.pipeline.plans import plan_of
from lensdiff.pipeline.runner import CONTROLS
from lensdiff.pipeline.worker import Answer, Start, Task, Worker, send, sendable, serve
from lensdiff.pipeline.workers import Process, Ready, processes
from lensdiff.results import InputError, ResultStore
from lensdiff.results.manifest import Manifest, StepState, UnitState
from lensdiff.steps.responses import SaidResponse
from lensdiff.steps.unit import Unit
from tests.pipeline.conftest import Recorder
from tests.pipeline.resuming import Stop, assert_same, run, small
from tests.pipeline.test_estimate import known, runner_of


@pytest.fixture(scope="module")
def alone(models: Path, tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    """A run of one process."""
    return run(small(models, tmp_path_factory.mktemp("alone") / "out"))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """Every process that is begun."""
    found: list[Process] = []

    class Remembered(Process):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments)
            found.append(self)

    monkeypatch.setattr(workers, "Process", Remembered)
    return found


def ended(process: Process) -> bool:
    return process._process.poll() is not None


def test_two_find_what_one_finds(models, tmp_path, alone, begun):
    recorder = Recorder()
    store = run(small(models, tmp_path / "out", workers=2), recorder)
    assert len(begun) == 2
    assert all(ended(process) for process in begun)
    assert store.manifest.config["workers"] == 2
    assert_same(store, alone)
    controls = [event for event in recorder.units() if event.startswith("controls: ")]
    assert len(controls) == len(set(controls)) == len({unit.split("/")[0] for unit in of_controls(alone)})


def of_controls(store: ResultStore) -> list[str]:
    """The names of all units of controls, each beginning with its control's."""
    units = (unit for state in store.manifest.steps.values() for unit in state.units.items())
    return [name for name, unit in units if Unit(unit.model).control is not None]


def test_one_that_is_killed_ends_the_run_and_the_next_goes_on(models, tmp_path, alone, begun):
    def kill(event: str) -> None:
        if event.startswith("controls: ") and not ended(begun[0]):
            begun[0]._process.kill()

    config = small(models, tmp_path / "out", workers=2)
    with pytest.raises(InputError, match=r"was ended from outside while it did .*with fewer workers than 2"):
        run(config, Recorder(kill))
    assert all(ended(process) for process in begun)
    before = set(of_controls(ResultStore(tmp_path / "out")))
    assert 0 < len(before) < len(of_controls(alone))
    assert_same(run(config | {"workers": 1}), alone)


def test_a_stopped_run_leaves_no_process(models, tmp_path, begun):
    def stop(event: str) -> None:
        if event.startswith("controls: "):
            raise Stop

    with pytest.raises(Stop):
        run(small(models, tmp_path / "out", workers=2), Recorder(stop))
    assert len(begun) == 2
    assert all(ended(process) for process in begun)


# one process
def start(tmp_path: Path, **changes: Any) -> Start:
    values = {"base": str(toy_pair.BASE), "tuned": str(toy_pair.TUNED), "device": "cpu"}
    config = parse(values | {"analyses": ["weights"], "out": str(tmp_path)} | changes)
    return Start(config.model_dump(), tmp_path, plan_of(Material(config), True, 4, config.chosen), tmp_path)


def test_it_answers_until_there_is_nothing_more_to_do(tmp_path):
    with open(tmp_path / "told", "w+b") as told, open(tmp_path / "answers", "w+b") as answers:
        for message in (
            start(tmp_path),
            Task("weights", (Unit(),), ((),), Manifest()),
            Task("none", (Unit(),), ((),), Manifest()),
        ):
            send(message, told)
        told.seek(0)
        serve(told, answers)
        answers.seek(0)
        first, second = pickle.load(answers), pickle.load(answers)
        assert answers.read() == b""
    assert [type(found).__name__ for found in first.found] == ["WeightShift"]
    assert first.seconds > 0
    assert isinstance(second.found, KeyError)  # raised again where the run is


def test_units_of_one_task_are_done_at_once(tmp_path, monkeypatch):
    decode, together = text.greedy_to_the_end, []

    def counted(view: Any, rows: Any, **options: Any) -> Any:
        together.append(len(rows))
        return decode(view, rows, **options)

    monkeypatch.setattr(text, "greedy_to_the_end", counted)
    given = [{"id": name, "text": f"Say {name}."} for name in ("one", "two")]
    begun = start(tmp_path, analyses=["outputs"], prompt=given, max_new_tokens=2)
    units = tuple(Unit("base", name) for name in ("one", "two"))
    found = Worker(begun).answer(Task("responses", units, ((), ()), Manifest())).found
    assert together == [2]
    assert isinstance(found, tuple)
    assert [one.prompt_id for one in found if isinstance(one, SaidResponse)] == ["one", "two"]


@pytest.mark.parametrize("error", [InputError("no"), MemoryError("none left"), AssertionError("a fault")])
def test_what_a_unit_raises_is_its_answer(tmp_path, monkeypatch, error):
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(child, "result_of", fail)
    found = Worker(start(tmp_path)).answer(Task("weights", (Unit(),), ((),), Manifest())).found
    assert (type(found), str(found)) == (type(error), str(error))


@pytest.mark.parametrize(
    ("error", "is_of_the_unit"),
    [
        (InputError("no"), True),
        (RuntimeError("a score is not finite"), True),
        (torch.OutOfMemoryError("none left"), False),
        (MemoryError("none left"), False),
        (AssertionError("a fault"), False),
    ],
)
def test_what_is_for_a_units_input_alone(models, tmp_path, error, is_of_the_unit):
    def fail(*arguments: Any) -> None:
        raise error

    _, runner = runner_of(models, tmp_path)
    step, unit = replace(runner.graph.steps["weights"], work=fail), Unit()
    if is_of_the_unit:
        found = child.result_of(step, runner._inputs(step, unit), unit, runner.plan)
        assert (type(found), str(found)) == (InputError, str(error))
    else:
        with pytest.raises(type(error)):
            child.result_of(step, runner._inputs(step, unit), unit, runner.plan)


class Peculiar(Exception):
    def __init__(self, one: str, other: str):
        super().__init__(f"{one} and {other}")


def test_an_error_of_any_class_can_be_sent():
    assert isinstance(sendable(InputError("no")), InputError)
    found = sendable(Peculiar("one", "other"))
    assert type(found) is RuntimeError
    assert str(found) == "Peculiar: one and other"


@pytest.mark.parametrize("error", [KeyError("k"), Peculiar("one", "other"), OSError(2, "none")])
def test_where_an_error_came_from_is_sent_with_it(tmp_path, monkeypatch, error):
    def place_of_the_fault(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(child, "result_of", place_of_the_fault)
    found = Worker(start(tmp_path)).answer(Task("weights", (Unit(),), ((),), Manifest())).found
    sent = pickle.loads(pickle.dumps(found))
    assert isinstance(sent, Exception)
    shown = "".join(traceback.format_exception(sent))
    assert "in place_of_the_fault" in shown
    assert str(error) in shown


def test_what_is_logged_is_said_but_for_what_the_run_has_said_itself(tmp_path, monkeypatch, capsys):
    def log(*arguments: Any) -> None:
        logging.getLogger("lensdiff.models.loading.load").warning("%s: a note", "base")
        logging.getLogger("lensdiff.models.controlling.store").warning("a control cannot be kept in %s", "x")
        raise InputError("no")

    monkeypatch.setattr(child, "result_of", log)
    handlers = list(logging.getLogger("lensdiff").handlers)
    assert Worker(start(tmp_path)).answer(Task("weights", (Unit(),), ((),), Manifest())).said == (
        "a control cannot be kept in x",
    )
    assert logging.getLogger("lensdiff").handlers == handlers
    assert capsys.readouterr().err == ""


def test_one_that_ends_by_itself_is_not_said_to_be_ended_from_outside(tmp_path, capfd):
    begun, task = start(tmp_path), Task("weights", (Unit("spectrum-0"),), ((),), Manifest())
    several = processes(1, replace(begun, config={**begun.config, "colour": 1}), 1)
    try:
        with pytest.raises(RuntimeError, match=r"^a process of the run failed, see above$"):
            several.do([iter([((("weights", task.units[0]),), task)])], lambda keys, answer: None)
    finally:
        several.close()
    assert "colour" in capfd.readouterr().err


def test_another_error_than_the_inputs_is_raised_again(monkeypatch, tmp_path):
    class Fails(Process):
        def __init__(self, start: Start, threads: int, answers: Any):
            self._answers = answers
            answers.put((self, Ready()))

        def send(self, message: object) -> None:
            self._answers.put((self, Answer(MemoryError("none left"), (), 0.0)))

        def end(self) -> None: ...

    monkeypatch.setattr(workers, "Process", Fails)
    task = Task("weights", (Unit("spectrum-0"),), ((),), Manifest())
    with pytest.raises(MemoryError, match="none left"):
        processes(1, start(tmp_path), 1).do([iter([((("weights", task.units[0]),), task)])], lambda keys, answer: None)


# what a process is told
def test_a_task_has_what_the_manifest_says_of_its_reads_alone():
    state = UnitState(digest="d")
    manifest = Manifest(
        config={"base": "b"},
        steps={
            "responses": StepState(wanted=["base/1"], units={"base/1": state, "base/2": state}),
            "pair": StepState(),
        },
        checksums={"arrays/responses/base/1": "x", "arrays/responses/base/2": "y", "tables/weights": "z"},
    )
    found = manifest.of([("responses", "base/1"), ("none", "")])
    assert found.steps == {"responses": StepState(units={"base/1": state})}
    assert found.checksums == {"arrays/responses/base/1": "x"}
    assert found.config == {}


def test_a_directory_can_be_read_as_told(tmp_path):
    told = Manifest(steps={"responses": StepState(units={"base/1": UnitState(digest="d")})})
    assert ResultStore.known(tmp_path, told).step("responses") == told.steps["responses"]
    assert ResultStore(tmp_path).step("responses") == StepState()


# how many there are
@pytest.mark.parametrize(
    ("asked", "free", "count", "said"),
    [
        (1, 0, 1, []),
        (3, 1000, 3, []),
        (3, 500, 2, ["memory: 3 workers need 1 MiB each, so 2 are used"]),
        (3, 300, 1, ["memory: 3 workers need 1 MiB each, so none is used"]),
        (3, 0, 1, ["memory: 3 workers need 1 MiB each, so none is used"]),
    ],
)
def test_there_are_as_many_as_memory_holds(models, tmp_path, asked, free, count, said):
    config, _ = runner_of(models, tmp_path, workers=asked)
    recorder = Recorder()
    assert choose_workers(config, Memory(10, both=100, one=60, free=free, worker=200), recorder) == count
    assert recorder.said == said


def test_where_the_size_is_unknown_there_are_as_many_as_asked_for(models, tmp_path):
    config, _ = runner_of(models, tmp_path, workers=7)
    assert choose_workers(config, Memory(None, 0, 0, 0), Recorder()) == 7


def test_side_by_side_takes_a_share_of_the_time(models, tmp_path):
    config, runner = runner_of(models, tmp_path)
    from lensdiff.pipeline.estimate import probe_of

    probe = known(probe_of(config, runner), n_response=4)
    alone = estimate_of(runner.left(), runner, probe).parts()[CONTROLS]
    runner.workers = processes(2, start(tmp_path), 1)
    assert estimate_of(runner.left(), runner, probe).parts()[CONTROLS] == pytest.approx(alone / 2, rel=0.2)
