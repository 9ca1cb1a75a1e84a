"""A run whose weights are streamed: the numbers of one that holds both models, chosen where these would not fit."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensdiff.pipeline import execute as running
from lensdiff.pipeline.config import COUNTED
from lensdiff.pipeline.execute import execute
from lensdiff.pipeline.memory import Memory
from lensdiff.pipeline.report import Report
from lensdiff.pipeline.toml import check_config
from lensdiff.results import InputError, ResultStore
from tests.pipeline.conftest import Recorder

OF_WEIGHTS = ["weights", "heads", "mlp", "value_rotation"]


def config_for(models: Path, out: Path, **changes: Any) -> dict[str, Any]:
    counts = {analysis.name: 0 for analysis in COUNTED} | dict.fromkeys(("mlp", "value_rotation", "heads"), 1)
    return {
        "base": str(models / "base"),
        "tuned": str(models / "tuned"),
        "out": str(out),
        "device": "cpu",
        "analyses": OF_WEIGHTS,
        "vocabulary": str(models / "words.tsv"),
        "heads": {"top_k": 5},
        "mlp": {"n_components": 4, "ranks": [1, 2], "top_words": 3},
        "controls": {"kinds": ["spectrum", "norm"], **counts},
    } | changes


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    return execute(config_for(models, tmp_path_factory.mktemp("whole"), stream=False))


def test_every_value_is_that_of_whole_models(models: Path, tmp_path: Path, whole: ResultStore):
    listener = Recorder()
    streamed = execute(config_for(models, tmp_path, stream=True), listener=listener)
    assert streamed.manifest.pair["stream"] is True
    assert {state.state for state in streamed.manifest.steps.values() if state.wanted} <= {"done"}
    # whether controls are valid comes of running them on text, and a claim's verdict hangs on it
    names = {name for name in whole.manifest.tables if "validity" not in name and not name.startswith("claim")}
    assert {"weights", "rotation", "concepts"} <= names
    for name in names:
        pd.testing.assert_frame_equal(streamed.load_table(name), whole.load_table(name), rtol=1e-6, atol=1e-6)
    assert "no model was built: nothing that needs a forward pass" in Report(streamed).html()
    assert "no model was built" not in Report(whole).html()
    assert not any("distilled" in said for said in listener.said)


CHOSEN = {
    "does not fit": ({}, 90, True),
    "fits": ({}, 200, False),
    "not asked for": ({"stream": False}, 90, False),
    "one at a time": ({"keep": "one", "controls": dict.fromkeys([a.name for a in COUNTED], 0)}, 90, False),
    "an analysis runs models": ({"analyses": ["weights", "layer_similarity"]}, 90, False),
    "folded": ({"weights": "folded"}, 90, False),
    "controls of gradients alone": ({"controls": {"kinds": ["gradient-noise"]}}, 90, False),
}


@pytest.mark.parametrize("case", CHOSEN)
def test_auto_streams_what_does_not_fit(case: str, models: Path, tmp_path: Path):
    changes, free, expected = CHOSEN[case]
    config = check_config(config_for(models, tmp_path, prompts=str(models / "prompts.jsonl")) | changes)
    listener = Recorder()
    assert running.choose_stream(config, Memory(1000, 100, 60, free), listener) is expected
    assert [("no model is built" in said) for said in listener.said] == [True] * expected
    assert running.choose_stream(config, Memory(None, 0, 0, free), Recorder()) is False


def test_an_adapter_is_not_streamed_by_itself(models: Path, tmp_path: Path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_text("")
    config = check_config(config_for(models, tmp_path, tuned=str(tmp_path / "adapter")))
    assert running.choose_stream(config, Memory(1000, 100, 60, 90), Recorder()) is False


def test_a_run_goes_on_as_it_began(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = config_for(models, tmp_path, analyses=["weights"])
    monkeypatch.setattr(running, "memory_of", lambda config: Memory(1000, 100, 60, 90))
    first = execute(config)
    assert first.manifest.pair["stream"] is True
    monkeypatch.setattr(running, "choose_stream", lambda *_: pytest.fail("chosen again"))
    again = execute(config_for(models, tmp_path, analyses=["weights", "value_rotation"]))
    assert again.manifest.pair["stream"] is True
    assert again.step("value_rotation").state == "done"


REFUSED = {
    "an analysis that runs models": ({"analyses": ["attention"]}, "attention runs it: choose analyses among weights, "),
    "folded": ({"weights": "folded"}, "leave weights = .folded. out"),
    "one": ({"keep": "one", "controls": dict.fromkeys([a.name for a in COUNTED], 0)}, "leave one of them out"),
    "gradients": ({"controls": {"kinds": ["distilled"], "mlp": 1}}, "controls.kinds needs one of spectrum, norm"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_contradicts_a_stream_is_said(case: str, models: Path, tmp_path: Path):
    changes, said = REFUSED[case]
    with pytest.raises(InputError, match=said):
        check_config(config_for(models, tmp_path, prompts=str(models / "prompts.jsonl"), stream=True) | changes)


def test_kinds_that_need_a_model_are_left_out(models: Path, tmp_path: Path):
    controls = {"kinds": ["gradient-noise", "norm", "distilled"]}
    config = check_config(config_for(models, tmp_path, stream=True, controls=controls)).streamed()
    assert config.controls.kinds == ["norm"]
