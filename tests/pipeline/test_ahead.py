"""What a run would take, before anything is loaded: the run's own units, priced, from headers alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import lensdiff
from lensdiff.pipeline import ahead
from lensdiff.pipeline.estimate import LOADING, START, TABLES, UNKNOWN, Estimate
from lensdiff.pipeline.execute import execute
from lensdiff.pipeline.memory import PROGRAM, memory_of
from lensdiff.pipeline.runner import CONTROLS
from lensdiff.pipeline.toml import check_config
from lensdiff.results import InputError
from lensdiff.steps.probe import Passing, Probe
from tests.models.test_stated import without_weights
from tests.pipeline.conftest import config_for

FEW = {"analyses": ["outputs", "attention"]}


def planned(models: Path, tmp_path: Path, **changes: Any) -> Estimate:
    return lensdiff.plan(config_for(models, tmp_path / "out", **changes))


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pass take 1 s and 2 s a token, and a generated token 3 s, whatever is decoded beside it."""
    for name, value in {"passing": Passing(1.0, 2.0), "step": 3.0, "n_prompt": 10.0}.items():
        monkeypatch.setattr(Probe, name, value)
    monkeypatch.setattr(Probe, "_step", lambda probe, at_once: 3.0)
    monkeypatch.setattr(ahead, "STARTED", 0.0)


def units(found: Estimate) -> dict[str, int]:
    return {step.name: step.units for step in found.steps}


def test_the_units_are_those_that_the_run_does(models, tmp_path):
    found = planned(models, tmp_path, **FEW)
    assert not (tmp_path / "out").exists(), "a plan writes nothing"
    store = execute(config_for(models, tmp_path / "out", **FEW), estimate=False)
    assert units(found) == {name: len(step.units) for name, step in store.manifest.steps.items()}
    held = sum(path.stat().st_size for path in (store.root / "arrays").rglob("*.safetensors"))
    assert held / 3 < found.bytes < 3 * held
    # of an empty directory: what stands there now is not looked for
    assert units(planned(models, tmp_path, **FEW)) == units(found)
    assert list(found.around) == [START, LOADING, TABLES]
    assert found.seconds == pytest.approx(sum(found.parts().values()))
    assert {START, CONTROLS, "outputs"} <= set(found.parts())


def test_no_weight_is_read(models, tmp_path):
    whole = planned(models, tmp_path)
    for side in ("base", "tuned"):
        shutil.copytree(models / side, tmp_path / side)
        without_weights(tmp_path / side / "model.safetensors")
    cut = planned(models, tmp_path, base=str(tmp_path / "base"), tuned=str(tmp_path / "tuned"))
    assert units(cut) == units(whole)
    assert (cut.bytes, cut.peak, cut.controls) == (whole.bytes, whole.peak, whole.controls)
    assert cut.seconds == pytest.approx(whole.seconds, rel=5), "the same work, timed twice"
    assert {step.name for step in cut.steps if step.seconds > 0.01} > {"responses", "attribution", "knock_out_pair"}


def test_seconds_grow_as_the_steps_cost(models, tmp_path, priced):
    def of(step: str, **changes: Any) -> float:
        found = planned(models, tmp_path, **FEW | changes)
        return next(one.seconds for one in found.steps if one.name == step)

    # of both models and 3 prompts: 4 tokens of 3 s after a pass of 10
    assert of("responses") == pytest.approx(6 * (4 * 3 + 1 + 10 * 2), rel=0.01)
    assert of("responses", max_new_tokens=14) - of("responses") == pytest.approx(6 * 10 * 3)
    assert of("responses", max_prompts=1) == pytest.approx(of("responses") / 3)
    assert of("outputs") == pytest.approx(3 * 2 * (1 + 14 * 2), rel=0.01)


def test_more_controls_take_more(models, tmp_path, priced):
    few, many = (planned(models, tmp_path, **FEW, controls={"kinds": ["spectrum"], "attention": n}) for n in (2, 6))
    assert (few.controls, many.controls) == (2, 6)
    at = {step.name: step.seconds for step in few.steps}, {step.name: step.seconds for step in many.steps}
    assert at[1]["control_attention"] == pytest.approx(3 * at[0]["control_attention"], rel=0.01)
    assert many.making > few.making > 0
    side_by_side = planned(models, tmp_path, **FEW, controls={"kinds": ["spectrum"], "attention": 6}, workers=3)
    assert side_by_side.processes == 3
    own = side_by_side.making + sum(step.seconds_of_controls for step in side_by_side.steps)
    assert side_by_side.parts()[CONTROLS] == pytest.approx(own / 3)
    assert side_by_side.peak > many.peak


def test_memory_is_that_of_the_models_held(models, tmp_path):
    config = check_config(config_for(models, tmp_path / "out", **FEW))
    found, memory = planned(models, tmp_path, **FEW), memory_of(config)
    assert found.memory is not None
    assert found.memory.parameters == memory.parameters
    assert (found.held, found.peak) == ("both models", PROGRAM + memory.both)
    one = planned(models, tmp_path, **FEW, keep="one", controls={"attention": 0})
    assert (one.held, one.peak, one.controls) == ("one model at a time", PROGRAM + memory.one, 0)
    streamed = planned(models, tmp_path, analyses=["weights"], stream=True)
    assert (streamed.held, streamed.around[LOADING]) == ("a layer at a time", 0.0)
    assert found.disk is not None
    assert found.disk > 0


def test_it_is_one_object_that_is_printed_and_written(models, tmp_path):
    found = planned(models, tmp_path, **FEW)
    said = json.loads(json.dumps(found.to_dict()))
    assert said["seconds"] == pytest.approx(found.seconds)
    assert [step["step"] for step in said["steps"]] == [step.name for step in found.steps]
    assert said["memory"]["peak_bytes"] == found.peak
    assert said["disk"]["free_bytes"] == found.disk
    lines = repr(found).split("\n")
    assert [line.split(":")[0] for line in lines[:3]] == ["time", "memory", "disk"]
    assert lines[3] == said["unknown"] == UNKNOWN
    shown = found.shown()
    assert list(shown.columns) == ["step", "units", "seconds", "MiB"]
    assert [*shown["step"]][:2] == [START, LOADING]
    assert [*shown["step"]][-2:] == ["making controls", TABLES]
    assert sum(float(value) for value in shown["seconds"]) == pytest.approx(found.seconds, abs=0.05 * len(shown))


def test_what_cannot_be_run_cannot_be_planned(models, tmp_path):
    for side in ("base", "tuned"):
        shutil.copytree(models / side, tmp_path / side)
    given = {"base": str(tmp_path / "base"), "tuned": str(tmp_path / "tuned")}
    with pytest.raises(InputError, match="has no chat template, expected one that has"):
        planned(models, tmp_path, **given, templates=["chat"], **FEW)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).unlink()
    with pytest.raises(InputError, match="no tokenizer of base was found, and what is asked for reads text"):
        planned(models, tmp_path, **given, **FEW)
    assert units(planned(models, tmp_path, **given, analyses=["weights"]))["weights"] == 1
    (tmp_path / "tuned" / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(InputError, match=r"the header of .*model\.safetensors cannot be read"):
        planned(models, tmp_path, **given, analyses=["weights"])


def test_threads_and_products_are_left_as_they_were(models, tmp_path):
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    planned(models, tmp_path, analyses=["weights"])
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before
