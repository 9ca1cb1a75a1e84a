"""What a run says before it works, the threads it takes, and what `lensdiff.run` returns."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

import lensdiff
from lensdiff.pipeline import estimate
from lensdiff.pipeline.estimate import (
    TURN_SECONDS,
    Memory,
    Probe,
    amount,
    choose_keep,
    duration,
    memory_of,
    n_parameters,
    seconds_of,
)
from lensdiff.pipeline.execute import STEPS, read_config
from lensdiff.pipeline.threads import SMALL, threads_for
from lensdiff.pipeline.workspace import Workspace
from lensdiff.results import ResultStore
from lensdiff.views.report import Report
from tests.pipeline.conftest import Recorder, config_for


def test_parameters_are_counted_without_loading(models, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(models / "base")
    assert n_parameters(str(models / "base")) == model.num_parameters()
    assert n_parameters(str(tmp_path)) is None
    quantised = tmp_path / "model.gguf"
    quantised.write_bytes(bytes(1000))
    assert n_parameters(str(quantised)) == 2000


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float64", 8)])
def test_memory_is_that_of_the_models_held(models, tmp_path, monkeypatch, dtype, size):
    monkeypatch.setattr(estimate, "n_parameters", lambda source: 1000)
    found = memory_of(read_config(config_for(models, tmp_path, dtype=dtype)))
    assert (found.parameters, found.both, found.one) == (1000, int(3.3 * 1000 * size), int(1.3 * 1000 * size))
    without = memory_of(read_config(config_for(models, tmp_path, dtype=dtype, analyses=["heads"])))
    assert without.both == int(2.3 * 1000 * size)
    monkeypatch.setattr(estimate, "n_parameters", lambda source: None)
    assert memory_of(read_config(config_for(models, tmp_path))).parameters is None


def test_how_many_models_are_held(models, tmp_path):
    def chosen(keep: str, memory: Memory) -> tuple[str, list[str]]:
        recorder = Recorder()
        none = dict.fromkeys(("prompts", "attention", "heads", "rotation", "attribution"), 0)
        config = read_config(config_for(models, tmp_path, keep=keep, controls=none))
        return choose_keep(config, memory, recorder), recorder.said

    fits = Memory(1000, 100, 60, 200)
    tight = replace(fits, free=90)
    assert chosen("auto", fits) == ("both", ["memory: about 1 MiB of 1 MiB free"])
    assert chosen("auto", tight)[0] == "one"
    assert chosen("both", tight)[0] == "both"
    assert chosen("one", fits) == ("one", ["memory: about 1 MiB of 1 MiB free"])
    unknown = replace(fits, parameters=None)
    assert [chosen(keep, unknown) for keep in ("auto", "both", "one")] == [("both", []), ("both", []), ("one", [])]


def test_what_is_left_is_estimated(models, tmp_path):
    config = read_config(config_for(models, tmp_path))
    workspace = Workspace(config, ResultStore(tmp_path), Recorder(), "both")
    probe = estimate.measure(workspace)
    assert probe.rate > 1e8
    assert min(probe.forward, probe.step, probe.attribution) > 0
    assert 5 < probe.n_prompt < 40
    assert probe.n_response == 4
    # by hand: 3 seconds a token of the response, 2 of the prompt
    simple = replace(probe, forward=2.0, step=3.0, n_prompt=10.0, n_response=5, attribution=0.1)
    assert seconds_of("responses", 2, workspace, simple) == 2 * (5 * 3 + 10 * 2)
    assert seconds_of("attribution", 1, workspace, simple) == pytest.approx(0.1 * min(10, 1.6 * 5) * 15)
    assert seconds_of("instruction_scores", 1, workspace, simple) == 0
    twice = replace(probe, rate=2 * probe.rate)
    for step in ("weights", "concepts", "rotation_controls"):
        assert seconds_of(step, 1, workspace, twice) == pytest.approx(seconds_of(step, 1, workspace, probe) / 2)
    assert isinstance(probe, Probe)


def test_controls_of_the_concepts_are_estimated(models, tmp_path):
    config = read_config(config_for(models, tmp_path))
    workspace = Workspace(config, ResultStore(tmp_path), Recorder(), "both")
    probe, layers, sides = estimate.measure(workspace), workspace.n_layers, len(config.mlp.sides)
    controls = len(workspace.controls("rotation"))
    assert controls > 0
    assert seconds_of("rotation", 1, workspace, probe) == pytest.approx(layers * sides * controls * TURN_SECONDS)
    assert seconds_of("rotation_controls", controls, workspace, probe) > 0
    # a unit of concepts is as many layers as are read at once, all of this model's
    wordless = replace(probe, n_words=0)
    assert seconds_of("concepts", 1, workspace, wordless) < seconds_of("rotation_controls", 1, workspace, wordless)
    assert seconds_of("coherence", 2, workspace, probe) == 2 * seconds_of("coherence", 1, workspace, probe) > 0


def test_no_step_that_takes_long_is_left_out(models, tmp_path):
    config = read_config(config_for(models, tmp_path))
    workspace = Workspace(config, ResultStore(tmp_path), Recorder(), "both")
    probe = estimate.measure(workspace)
    free = {step.name for step in STEPS if step.units(workspace) and not seconds_of(step.name, 1, workspace, probe)}
    assert free == {"instruction_scores", "attention_shift", "verb_shift", "pair_overlap", "ov_reading"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "1 s"), (0.2, "1 s"), (89, "89 s"), (91, "2 min"), (3600, "60 min"), (7200, "2.0 h")]
)
def test_times_are_said_as_people_do(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(5, "1 MiB"), (2**20 * 512, "512 MiB"), (2**30 * 1.5, "1.5 GiB")])
def test_sizes_are_said_as_people_do(size, text):
    assert amount(size) == text


def fail(_: object) -> None:
    raise ZeroDivisionError


def test_small_models_take_one_thread_and_give_it_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(SMALL):
            assert torch.get_num_threads() == 2
        with threads_for(None):
            assert torch.get_num_threads() == 2
        inside: list[int] = []
        with pytest.raises(ZeroDivisionError), threads_for(SMALL - 1):
            fail(inside.append(torch.get_num_threads()))
        assert inside == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_run_returns_the_report_that_it_wrote(models, tmp_path):
    recorder = Recorder()
    config = config_for(models, tmp_path / "out", analyses=["weights"])
    report = lensdiff.run(config, listener=recorder)
    assert isinstance(report, Report)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "How far the weights moved" in page
    assert recorder.events[-1] == "end weights"
    file = tmp_path / "run.toml"
    lines = [f'{key} = "{models / key}"' for key in ("base", "tuned")]
    file.write_text("\n".join([*lines, 'out = "second"', 'analyses = ["weights"]', 'device = "cpu"']))
    assert lensdiff.run(file).store.root == Path(tmp_path / "second")
