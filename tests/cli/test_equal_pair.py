"""A pair whose weights are all equal: the first line of whatever a command writes says so."""

import json
import shutil
from pathlib import Path

import pytest

from lensdiff.results import ResultStore
from tests.cli.conftest import Command
from tests.cli.test_single import COMMANDS, FAST, with_files
from tests.pipeline.conftest import config_for

ZERO = "base and tuned have equal weights: every difference below is zero by construction"
ATTRIBUTE = ("--prompt", "Repeat the word: moon", "--max-new-tokens", 2, "--deletion-draws", 0, "--controls", 2)


@pytest.fixture(scope="session")
def twins(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    copy = tmp_path_factory.mktemp("copy") / "tuned"
    return models / "base", shutil.copytree(models / "base", copy)


def first_text(page: str) -> str:
    """The first text of a page's body, outside of the navigation."""
    return page.split('<header id="pair">' if "<header" in page else "<body>")[1]


@pytest.mark.parametrize("command", ["attribute", *COMMANDS])
def test_every_command_says_it_first(lensdiff: Command, models: Path, twins, tmp_path, command):
    options = ATTRIBUTE if command == "attribute" else COMMANDS[command][0]
    ran = lensdiff(command, *twins, "--out", tmp_path / "out", *with_files(command, options, models), *FAST)
    assert ran.code == 0, ran.err
    assert ran.out.split("\n")[0] == ZERO
    assert ResultStore(tmp_path / "out").manifest.pair["notice"] == ZERO
    page = (tmp_path / "out" / f"{command}.html").read_text()
    assert page.index(ZERO) < page.index("<h2>")


def test_a_run_and_its_report_say_it_first(lensdiff: Command, models: Path, twins, tmp_path):
    config = config_for(models, tmp_path / "out", analyses=["weights", "outputs"], tuned=str(twins[1]))
    config["controls"] = {"instruction_use": 0, "knock_out": 0, "heads": 0, "mlp": 0}
    lines = [f"{key} = {json.dumps(value)}" for key, value in config.items() if not isinstance(value, dict)]
    tables = [f"[{key}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in value.items())
              for key, value in config.items() if isinstance(value, dict)]  # fmt: skip
    (tmp_path / "run.toml").write_text("\n".join([*lines, *tables]))
    ran = lensdiff("run", tmp_path / "run.toml", "--quiet")
    assert ran.code == 0, ran.err
    assert ran.out.split("\n")[0] == ZERO
    again = lensdiff("report", tmp_path / "out")
    assert again.out.split("\n")[0] == ZERO
    page = (tmp_path / "out" / "report.html").read_text()
    assert first_text(page).lstrip().startswith(f'<p class="ld-warning">{ZERO}</p>')
    assert page.count(ZERO) == 1
    assert "Beside their weights they do not differ." in page
    shown = ResultStore(tmp_path / "out").load_table("differences")
    assert shown.iloc[0].tolist() == ["equal weights", "all", "all", ZERO]
    outputs = ResultStore(tmp_path / "out").load_table("outputs")
    assert outputs["kl"].abs().max() == 0


def test_a_pair_that_differs_says_nothing(lensdiff: Command, models: Path, tmp_path):
    ran = lensdiff("weights", models / "base", models / "tuned", "--out", tmp_path / "out", *FAST)
    assert "equal weights" not in ran.out
    assert ResultStore(tmp_path / "out").manifest.pair["notice"] == ""
    assert "equal weights" not in (tmp_path / "out" / "weights.html").read_text()
    assert "equal weights" not in lensdiff("report", tmp_path / "out").out
