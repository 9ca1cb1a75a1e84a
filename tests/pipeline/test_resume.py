"""Stopped anywhere, the next run goes on: at most one unit is done twice, and nothing is lost."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from lensdiff.pipeline import execute as engine
from lensdiff.pipeline.execute import STEPS, execute
from lensdiff.pipeline.report import Report
from lensdiff.results import InputError, ResultStore
from lensdiff.results.store import PARTIAL
from tests.pipeline.conftest import Recorder, config_for

ANALYSES = ["weights", "attribution", "heads", "mlp"]
NONE = dict.fromkeys(("prompts", "attention", "heads", "rotation", "attribution"), 0)
CONTROLS = {**NONE, "kinds": ["spectrum", "norm"], "heads": 2, "rotation": 2}
OF_CONTROLS = ["instruction_use", "attribution", "attention"]


def small(models: Path, out: Path) -> dict:
    return config_for(models, out, analyses=ANALYSES, controls=CONTROLS)


def contents(store: ResultStore) -> dict[str, torch.Tensor]:
    """Every array of every result, by file and name."""
    from safetensors.torch import load_file

    root = store.root / "arrays"
    files = (path for path in root.rglob("*.safetensors") if path.is_file())
    return {f"{path.relative_to(root)} {k}": v for path in files for k, v in load_file(path).items()}


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ResultStore, Recorder]:
    recorder = Recorder()
    return execute(small(models, tmp_path_factory.mktemp("whole") / "out"), listener=recorder), recorder


def check_complete(store: ResultStore, whole: tuple[ResultStore, Recorder]) -> None:
    """Assert that a resumed run has what an uninterrupted one has, to the last bit."""
    expected, found = contents(whole[0]), contents(store)
    assert found.keys() == expected.keys()
    assert all(torch.equal(torch.nan_to_num(found[k]), torch.nan_to_num(expected[k])) for k in expected)
    assert store.table_names() == whole[0].table_names()
    assert {s: v.state for s, v in store.manifest.steps.items()} == dict.fromkeys(whole[0].manifest.steps, "done")
    assert not any((store.root / PARTIAL).iterdir())


def tables(store: ResultStore) -> dict[str, pd.DataFrame]:
    return {name: store.load_table(name) for name in store.table_names()}


class Stop(BaseException):
    """What no code of lensdiff expects."""


def test_stopped_between_any_two_units(models, tmp_path, whole):
    done: list[str] = []
    for _ in range(100):
        count = 0

        def stop_after_three(event: str) -> None:
            nonlocal count
            count += ": " in event
            if count == 3:
                raise Stop

        recorder = Recorder(stop_after_three)
        try:
            store = execute(small(models, tmp_path / "out"), listener=recorder)
        except Stop:
            done += recorder.units()
            continue
        done += recorder.units()
        break
    else:
        pytest.fail("the run never ended")
    assert done == whole[1].units()  # no unit twice, none left out, in the same order
    check_complete(store, whole)


def test_stopped_within_a_unit_repeats_that_one(models, tmp_path, whole, monkeypatch):
    worked: list[str] = []
    stops = {"attribution: tuned/sea", "controls: spectrum-1", "heads: tuned/0,1", "rotation_controls: norm-0"}
    stops |= {"verb_shift: all", "value_rotation: norm-1"}
    stop_in = set(stops)

    def watched(step):
        def work(workspace, unit):
            name = f"{step.name}: {unit}"
            step.work(workspace, unit)  # its results are on disk, but it is not recorded
            worked.append(name)
            if name in stop_in:
                stop_in.remove(name)
                raise Stop

        return replace(step, work=work)

    monkeypatch.setattr(engine, "STEPS", tuple(watched(step) for step in STEPS))
    for _ in stops:
        with pytest.raises(Stop):
            execute(small(models, tmp_path / "out"))
    store = execute(small(models, tmp_path / "out"))
    assert {name for name in worked if worked.count(name) > 1} == stops
    assert max(worked.count(name) for name in worked) == 2
    check_complete(store, whole)


def test_stopped_in_a_control_goes_on_at_the_next_with_the_same_tables(models, tmp_path, monkeypatch):
    counts = {**NONE, "prompts": 2, "attention": 1, "attribution": 1}
    options = {"analyses": OF_CONTROLS, "controls": {"kinds": ["spectrum", "norm"], **counts}}
    options["instruction_use"] = {"draws": 1, "max_tokens": 3}
    uninterrupted = execute(config_for(models, tmp_path / "whole", **options))
    made: list[str] = []

    def watched(step):
        def work(workspace, unit):
            if step.name == "controls":
                made.append(unit)
            step.work(workspace, unit)
            if made == ["spectrum-0", "spectrum-1"]:
                raise Stop  # what it found is on disk, but it is not recorded

        return replace(step, work=work)

    def stop_after_the_first_of_the_second_kind(event: str) -> None:
        if event == "controls: norm-0":
            raise Stop

    monkeypatch.setattr(engine, "STEPS", tuple(watched(step) for step in STEPS))
    recorder = Recorder(stop_after_the_first_of_the_second_kind)
    for _ in range(2):
        with pytest.raises(Stop):
            execute(config_for(models, tmp_path / "out", **options), listener=recorder)
        assert not ResultStore(tmp_path / "out").has("claims")
        assert "The answers are written when the run has ended." in Report(tmp_path / "out").html()
    store = execute(config_for(models, tmp_path / "out", **options), listener=recorder)
    assert made == ["spectrum-0", "spectrum-1", "spectrum-1", "norm-0", "norm-1"]
    expected, found = tables(uninterrupted), tables(store)
    assert {"claims", "claim_controls", "control_validity", "instruction_use", "attention_shift"} <= set(found)
    assert list(found) == list(expected)
    for name in expected:
        pd.testing.assert_frame_equal(found[name], expected[name])
    assert contents(store).keys() == contents(uninterrupted).keys()
    assert "The answers are written when" not in Report(store).html()


def test_stopped_while_a_step_is_finished(models, tmp_path, whole, monkeypatch):
    left = {"attribution", "controls", "heads", "concepts", "rotation", "value_rotation"}

    def watched(step):
        def finish(workspace):
            step.finish(workspace)
            if step.name in left:
                left.remove(step.name)
                raise Stop

        return replace(step, finish=finish)

    monkeypatch.setattr(engine, "STEPS", tuple(watched(step) for step in STEPS))
    recorder = Recorder()
    for _ in range(6):
        with pytest.raises(Stop):
            execute(small(models, tmp_path / "out"), listener=recorder)
    store = execute(small(models, tmp_path / "out"), listener=recorder)
    assert recorder.units() == whole[1].units()
    check_complete(store, whole)


def test_a_full_disk_ends_the_run_and_the_next_goes_on(models, tmp_path, whole, monkeypatch):
    flush, calls = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 60:
            raise OSError(28, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    recorder = Recorder()
    with pytest.raises(OSError, match="No space left on device"):
        execute(small(models, tmp_path / "out"), listener=recorder)
    monkeypatch.undo()
    store = execute(small(models, tmp_path / "out"), listener=recorder)
    assert len(recorder.units()) - len(set(recorder.units())) == 0
    check_complete(store, whole)


SCRIPT = """
import os, signal, sys
from lensdiff.cli import main
from lensdiff.cli.output import Terminal

class Deadly(Terminal):
    left = int(sys.argv[3])

    def advance(self, step, unit):
        super().advance(step, unit)
        Deadly.left -= 1
        if not Deadly.left:
            os.kill(os.getpid(), getattr(signal, sys.argv[2]))

import lensdiff.cli.whole
lensdiff.cli.whole.Terminal = Deadly
sys.exit(main(["run", sys.argv[1]]))
"""


OWN = ["base/sea", "base/fruit", "base/a/b ..", "tuned/sea", "tuned/fruit", "tuned/a/b .."]


@pytest.mark.parametrize(
    ("sent", "after", "expected"),
    [
        ("SIGKILL", 13, {"responses": OWN, "attribution": OWN, "controls": ["norm-0"]}),
        ("SIGINT", 3, {"responses": OWN[:3]}),
    ],
)
def test_a_signal_ends_the_command_and_it_goes_on(models, tmp_path, whole, sent, after, expected):
    lines = [
        f'{key} = "{models / name}"'
        for key, name in (("base", "base"), ("tuned", "tuned"), ("prompts", "prompts.jsonl"))
    ]
    lines += [f'out = "{tmp_path / "out"}"', 'analyses = ["attribution"]', "max_new_tokens = 4", 'device = "cpu"']
    config = tmp_path / "run.toml"
    controls = ["[controls]", 'kinds = ["norm", "spectrum"]', "attribution = 2"]
    config.write_text("\n".join([*lines, "[attribution]", "deletion_draws = 2", *controls]))
    command = [sys.executable, "-c", SCRIPT, str(config), sent, str(after)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert {name: state.done for name, state in ResultStore(tmp_path / "out").manifest.steps.items()} == expected
    if sent == "SIGKILL":
        assert ran.returncode == -signal.SIGKILL
    else:
        assert ran.returncode == 1
        assert ran.stderr.strip().split("\n")[-1] == "lensdiff: stopped; the same command goes on from here"
        assert "Traceback" not in ran.stderr
    from lensdiff.cli import main

    assert main(["run", str(config), "--quiet"]) == 0
    store = ResultStore(tmp_path / "out")
    assert {state.state for state in store.manifest.steps.values()} == {"done"}
    assert (tmp_path / "out" / "report.html").is_file()
    assert store.step("controls").done == ["norm-0", "norm-1"]
    found, same = contents(store), contents(whole[0])
    for name in (name for name in same if name.startswith("attribution")):
        assert torch.equal(found[name], same[name])


def test_two_runs_on_one_directory(models, tmp_path):
    inner: list[InputError] = []

    def run_again(event: str) -> None:
        if not inner:
            with pytest.raises(InputError, match="another run is writing to") as error:
                execute(small(models, tmp_path / "out"))
            inner.append(error.value)

    store = execute(config_for(models, tmp_path / "out", analyses=["weights"]), listener=Recorder(run_again))
    assert len(inner) == 1
    assert store.step("weights").state == "done"


def test_what_may_change_between_runs(models, tmp_path):
    out = tmp_path / "out"
    changes = {"analyses": ["attribution"], "controls": {"kinds": ["norm"], "attribution": 1}}
    store = execute(config_for(models, out, **changes))
    first = store.step("attribution")

    def assert_refused(message: str, **more: object) -> None:
        with pytest.raises(InputError, match=message):
            execute(config_for(models, out, **(changes | more)))

    assert_refused("max_new_tokens is 4 there, 5 here", max_new_tokens=5)
    assert_refused("attribution.target is 'probability' there, 'logit' here", attribution={"target": "logit"})
    assert_refused("seed is 0 there, 1 here", seed=1)
    assert_refused("controls.attribution is 1 there, 2 here", controls={"kinds": ["norm"], "attribution": 2})
    assert_refused(r"controls.kinds is \['norm'\] there, \['spectrum'\] here", controls={"kinds": ["spectrum"]})
    # nothing that is done depends on these, and an analysis more is welcome
    more = {"analyses": ["attribution", "mlp"], "mlp": {"n_components": 4, "ranks": [1]}, "keep": "both"}
    more |= {"controls": {"kinds": ["norm"], "attribution": 1, "rotation": 2}}
    again = execute(config_for(models, out, **more))
    assert again.step("attribution") == first
    assert again.step("rotation").state == "done"
    assert again.step("controls").done == ["norm-0", "norm-1"]  # one more is checked, for the rotation
    assert again.load_table("control_validity")["seed"].tolist() == [0, 1]
    assert_refused("mlp.n_components is 4 there, 8 here", **(more | {"mlp": {"n_components": 8, "ranks": [1]}}))


def test_other_weights_in_the_same_place_are_noticed(models, tmp_path):
    import shutil

    for name in ("base", "tuned"):
        shutil.copytree(models / name, tmp_path / name)
    for name in ("prompts.jsonl", "words.tsv"):
        shutil.copy(models / name, tmp_path / name)
    execute(config_for(tmp_path, tmp_path / "out", analyses=["weights"]))
    shutil.copy(models / "base" / "model.safetensors", tmp_path / "tuned" / "model.safetensors")
    with pytest.raises(InputError, match="tuned file is"):
        execute(config_for(tmp_path, tmp_path / "out", analyses=["weights"]))
