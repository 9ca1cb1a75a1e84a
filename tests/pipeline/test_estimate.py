"""What a run says before it works, the threads it takes, and what `lensdiff.run` returns."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

import lensdiff
from lensdiff.models import view_of
from lensdiff.models.controlling.options import Recipe
from lensdiff.models.costs import ControlCost
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
from lensdiff.pipeline.report import Report
from lensdiff.pipeline.threads import SMALL, threads_for
from lensdiff.pipeline.workspace import Workspace
from lensdiff.results import ResultStore
from tests.pipeline.conftest import Recorder, config_for

COUNTED_FOR = {
    "prompts": "instruction_use",
    "attention": "attention",
    "heads": "heads",
    "rotation": "mlp",
    "attribution": "attribution",
}


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
    # a control is held beside the two models where a chosen analysis asks for one
    for name, analysis in COUNTED_FOR.items():
        for n, others, held in ((1, 0, 3.3), (0, 1, 2.3)):
            controls = dict.fromkeys(COUNTED_FOR, others) | {name: n}
            given = config_for(models, tmp_path, dtype=dtype, analyses=[analysis], controls=controls)
            assert memory_of(read_config(given)).both == int(held * 1000 * size)
    monkeypatch.setattr(estimate, "n_parameters", lambda source: None)
    assert memory_of(read_config(config_for(models, tmp_path))).parameters is None


def test_how_many_models_are_held(models, tmp_path):
    def chosen(keep: str, memory: Memory) -> tuple[str, list[str]]:
        recorder = Recorder()
        none = dict.fromkeys(COUNTED_FOR, 0)
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
    for step in ("weights", "concepts", "rotation_controls", "value_rotation"):
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


def test_instruction_use_and_controls_are_estimated(models, tmp_path, monkeypatch):
    def workspace_of(**changes: object) -> Workspace:
        config = read_config(config_for(models, tmp_path, **changes))
        return Workspace(config, ResultStore(tmp_path), Recorder(), "both")

    monkeypatch.setattr(estimate, "control_cost", lambda pair, kind: ControlCost(10.0, 2.0 if kind == "norm" else 1.0))
    counts = {"prompts": 3, "attention": 2, "heads": 3, "rotation": 3, "attribution": 2}
    controls = {"kinds": ["spectrum", "norm"], **counts}
    workspace = workspace_of(instruction_use={"max_tokens": 2}, controls=controls)
    simple = replace(estimate.measure(workspace), forward=3.0, step=5.0, n_prompt=10.0, n_response=4, attribution=0.1)
    # one model, by both means: 3 prompts, 2 texts; after the prompt twice, after each of 2 donors, after the rest of it
    use = 3 * 2 * (2 + 2 + 1) * (10 + 2) * 3
    assert seconds_of("instruction_use", 2, workspace, simple) == 2 * use
    drawn = workspace_of(instruction_use={"draws": 1, "max_tokens": 2})
    assert seconds_of("instruction_use", 1, drawn, simple) == use * 4 / 5
    # two kinds of 3 controls, all of them read for their use, 2 for attention; 2 of the first are attributed, too
    make, check = 2 * 10 + 3 * 1 + 3 * 2, 6 * 1024 * 3.0
    attend, attribute = 4 * 14 * 3.0, 4 * 5.0 + 10 * 3.0 + 0.1 * 6.4 * 14
    everything = make + check + 6 * use + 4 * 3 * attend + 2 * 3 * attribute
    assert seconds_of("controls", 6, workspace, simple) == pytest.approx(everything)
    weights = workspace_of(analyses=["heads"])
    assert seconds_of("controls", 6, weights, simple) == pytest.approx(make + check)


@pytest.mark.parametrize(("kinds", "said"), [(["spectrum", "norm"], True), (["distilled"], False)])
def test_what_distilled_controls_would_take_is_said_where_they_are_not_made(models, tmp_path, monkeypatch, kinds, said):
    monkeypatch.setattr(estimate, "control_cost", lambda pair, kind: ControlCost(1.0, 1.0))
    probed: list[Probe] = []
    measure = estimate.measure

    def with_simple_numbers(workspace: Workspace) -> Probe:
        probed.append(replace(measure(workspace), rate=1e7))
        return probed[0]

    monkeypatch.setattr(estimate, "measure", with_simple_numbers)
    controls = {"kinds": kinds, "prompts": 50, "attention": 50, "heads": 2, "rotation": 50, "attribution": 50}
    config = read_config(config_for(models, tmp_path, analyses=["heads"], controls=controls))
    recorder = Recorder()
    workspace = Workspace(config, ResultStore(tmp_path), recorder, "both")
    estimate.announce(workspace, [step for step in STEPS if config.chosen(*step.analyses)])
    recipe = Recipe()
    parameters = sum(parameter.numel() for parameter in view_of(workspace.pair.base).model.parameters())
    took = estimate.duration(2 * 12 * parameters * recipe.steps * recipe.batch * recipe.length / 1e7)
    expected = (
        f"controls: spectrum, norm; 2 of the kind distilled, the base trained on its own samples, would take "
        f"about {took} more"
    )
    assert recorder.said[1:] == [expected] * said


def test_what_controls_cost_is_measured_once_and_only_where_they_are_made(models, tmp_path, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(estimate, "control_cost", lambda pair, kind: asked.append(kind) or ControlCost(1.0, 1.0))
    for keep, counts, expected in (("both", 2, ["spectrum"]), ("one", 0, [])):
        controls = {"kinds": ["spectrum"], **dict.fromkeys(COUNTED_FOR, counts)}
        config = read_config(config_for(models, tmp_path, keep=keep, controls=controls, analyses=["heads"]))
        recorder = Recorder()
        workspace = Workspace(config, ResultStore(tmp_path), recorder, keep)
        estimate.announce(workspace, [step for step in STEPS if config.chosen(*step.analyses)])
        assert recorder.said[0].startswith("time: about ")
        assert asked == expected
        asked.clear()


def test_no_step_that_takes_long_is_left_out(models, tmp_path):
    config = read_config(config_for(models, tmp_path))
    workspace = Workspace(config, ResultStore(tmp_path), Recorder(), "both")
    probe = estimate.measure(workspace)
    free = {step.name for step in STEPS if step.units(workspace) and not seconds_of(step.name, 1, workspace, probe)}
    shifts = {"instruction_use_controls", "attention_shift", "verb_shift", "pair_overlap", "ov_reading"}
    assert free == {"instruction_scores", *shifts}


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
