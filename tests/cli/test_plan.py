"""`lensdiff plan`: a table, or JSON; what is wrong is one sentence and exit code 2."""

import json
from pathlib import Path
from typing import Any

import pytest

from lensdiff.pipeline.estimate import UNKNOWN
from tests.cli.conftest import assert_refused

CONFIG: dict[str, Any] = {"device": "cpu", "max_new_tokens": 4, "analyses": ["outputs", "weights"]}


def config_file(folder: Path, **values: Any) -> Path:
    """Write a config beside what it names."""
    path = folder / "run.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in (CONFIG | {"out": "results"} | values).items()]
    path.write_text("\n".join(lines))
    return path


def of_pair(models: Path) -> dict[str, str]:
    return {name: str(models / name) for name in ("base", "tuned")} | {"prompts": str(models / "prompts.jsonl")}


def test_a_plan_is_a_table_and_three_lines(lensdiff, models, tmp_path):
    path = config_file(tmp_path, **of_pair(models))
    ran = lensdiff("plan", path)
    assert ran.code == 0, ran
    for name in ("start", "loading", "responses", "tables and report", "seconds", "MiB"):
        assert name in ran.out
    lines = ran.out.strip().split("\n")
    assert [line.split(":")[0] for line in lines[-4:-1]] == ["time", "memory", "disk"]
    assert lines[-1] == UNKNOWN
    assert not (tmp_path / "results").exists()
    (tmp_path / "results").mkdir()
    assert "what it holds of this run already is not done again" in lensdiff("plan", path).out


def test_json_has_every_step(lensdiff, models, tmp_path):
    path = config_file(tmp_path, **of_pair(models))
    ran = lensdiff("plan", path, "--json", "--workers", 2)
    assert ran.code == 0, ran
    found = json.loads(ran.out)
    assert {step["step"]: step["units"] for step in found["steps"]}["responses"] == 6
    assert found["processes"] == 2
    assert found["seconds"] > 0
    assert found["memory"]["peak_bytes"] > 0


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "base": ({"base": "./gone"}, "no model folder at"),
    "tuned": ({"tuned": "./gone.gguf"}, "no GGUF file at"),
    "prompts": ({"prompts": "gone.jsonl"}, "gone.jsonl"),
    "no prompts": ({"prompts": None}, "outputs needs prompts"),
    "a hub name": ({"tuned": "nobody/has-this-model"}, "nobody/has-this-model"),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_missing_is_named_and_nothing_is_printed(lensdiff, models, tmp_path, changes, said):
    values = {key: value for key, value in (of_pair(models) | changes).items() if value is not None}
    ran = lensdiff("plan", config_file(tmp_path, **values))
    assert_refused(ran, said)
    assert ran.out == ""


def test_a_config_that_is_not_there_is_named(lensdiff, tmp_path):
    assert_refused(lensdiff("plan", tmp_path / "gone.toml"), "no config file at")
