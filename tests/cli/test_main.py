"""The command as a whole: help without torch, exit codes, --debug, init, published."""

import json
import logging
import os
import shutil
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

import lensdiff.cli as cli
from lensdiff.cli import output
from lensdiff.pipeline.toml import load_config
from lensdiff.results import InputError
from tests.cli.conftest import Command, assert_refused
from tests.conftest import PAPER

COMMANDS = [command.callback.__name__.replace("_", "-") for command in cli.app.registered_commands if command.callback]


@pytest.mark.parametrize("arguments", [["--help"], ["heads", "--help"], ["init", "new.toml"]], ids=" ".join)
def test_help_and_init_import_nothing_large(tmp_path: Path, arguments):
    code = (
        f"import sys; from lensdiff.cli import main; main({arguments})\n"
        "large = {'torch', 'transformers', 'transformer_lens', 'pandas', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {large}' if large else 0)"
    )
    run = partial(subprocess.run, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    ran = run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert ran.returncode == 0, ran.stderr
    assert all(name in ran.stdout for name in COMMANDS) or arguments != ["--help"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(lensdiff: Command, command):
    ran = lensdiff(command, "--help")
    assert ran.code == 0
    assert "Usage: lensdiff" in ran.out


def test_version_and_module(lensdiff: Command):
    assert lensdiff("--version").out == f"lensdiff {version('lensdiff')}\n"
    ran = subprocess.run([sys.executable, "-m", "lensdiff", "--version"], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, f"lensdiff {version('lensdiff')}\n")


def test_without_a_command_and_with_a_wrong_one(lensdiff: Command):
    assert lensdiff().code == 2
    ran = lensdiff("atribute")
    assert ran.code == 2
    assert "No such command" in ran.err


def noted(error: Exception) -> Exception:
    """An error as another process of a run sends it."""
    error.add_note("Traceback (most recent call last): there")
    return error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("no such thing"), 2, "lensdiff: no such thing"),
        (OSError(28, "No space left on device"), 1, "lensdiff: [Errno 28] No space left on device"),
        (ZeroDivisionError("oh\nno"), 1, "lensdiff: ZeroDivisionError: oh (--debug shows where)"),
        (KeyboardInterrupt(), 1, "lensdiff: stopped; the same command goes on from here"),
        (noted(KeyError("here")), 1, "lensdiff: KeyError: 'here' (--debug shows where)"),
        (InputError("token \x1b[31m"), 2, "lensdiff: token \\x1b[31m"),
    ],
)
def test_exit_codes_and_one_sentence(monkeypatch, capsys, error, code, message):
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert cli.main(["run"]) == code
    assert capsys.readouterr().err.strip() == message


def test_debug_shows_the_traceback(monkeypatch):
    def fail(args: list[str], **_: object) -> None:
        assert args == ["report", "x"]
        raise InputError("no such thing")

    monkeypatch.setattr(cli, "app", fail)
    for arguments in (["report", "x", "--debug"], ["--debug", "report", "x"]):
        with pytest.raises(InputError):
            cli.main(arguments)


def test_init_writes_a_config_that_loads(lensdiff: Command, tmp_path: Path):
    path = tmp_path / "new" / "lensdiff.toml"
    ran = lensdiff("init", path)
    assert (ran.code, ran.out.strip()) == (0, str(path))
    assert load_config(path).tuned == "HuggingFaceTB/SmolLM2-135M-Instruct"
    path.write_text("mine")
    ran = lensdiff("init", path)
    assert ran.code == 2
    assert "is there already" in ran.err
    assert path.read_text() == "mine"
    assert lensdiff("init", path, "--force").code == 0
    assert path.read_text() != "mine"


def test_published_tables_as_json_equal_the_method(lensdiff: Command):
    if not PAPER.is_dir():
        pytest.skip("the authors' released files are not beside the project")
    ran = lensdiff("published", PAPER, "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    first, second = found["table1"]["LIMA"], found["table2"]["LIMA"]
    rounded = [round(first[g][k], 4) for g in ("followed", "unfollowed") for k in ("mean", "std")]
    assert rounded == [1.6173, 0.4715, 1.2799, 0.4416]
    assert (first["followed"]["n"], first["unfollowed"]["n"], f"{first['p']:.3e}") == (249, 50, "3.644e-06")
    rounded = [round(second[g][k], 4) for g in ("base", "tuned") for k in ("mean", "std")]
    assert rounded == [1.2683, 0.4310, 1.5579, 0.4851]
    assert (second["n"], f"{second['p']:.3e}") == (300, "2.526e-14")
    ran = lensdiff("published", PAPER)
    assert all(number in ran.out for number in ("1.6173", "1.2799", "3.644e-06", "1.2683", "1.5579", "2.526e-14"))


def test_published_robustness(lensdiff: Command):
    if not PAPER.is_dir():
        pytest.skip("the authors' released files are not beside the project")
    ran = lensdiff("published", PAPER, "--json", "--robustness")
    rows = {row["variant"]: row for row in json.loads(ran.out)["robustness"]}
    assert f"{rows['b = 0']['p']:.0e}" == "3e-03"
    assert rows["no max-normalisation"]["difference"] < 0
    ran = lensdiff("published", PAPER, "--robustness")
    assert "no max-normalisation" in ran.out


def test_published_needs_the_authors_files(lensdiff: Command, tmp_path: Path):
    assert_refused(lensdiff("published", tmp_path), str(tmp_path))
    assert_refused(lensdiff("report", tmp_path), "is no results directory of lensdiff")


def test_control_characters_are_shown_not_obeyed(capsys):
    output.print_table("title", ["a"], [["\x1b[2J[red]x[/red]\n\u202e"], [float("nan")], [0.12345], [1e-9]])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[2J[red]x[/red]\\n\\x202e" in out
    assert "0.1235" in out
    assert "1.000e-09" in out


def test_a_warning_is_shown_once_and_not_obeyed(monkeypatch, capsys):
    log = logging.getLogger("lensdiff")

    def warn(**_: object) -> None:
        logging.getLogger("lensdiff.models.loading.load").warning("%s: %s", "it", "x\x1b[31mred.y")
        logging.getLogger("lensdiff.inputs").info("nothing to see")

    others = logging.StreamHandler(sys.stderr)  # as of a library that sets logging up
    logging.getLogger().addHandler(others)
    monkeypatch.setattr(cli, "app", warn)
    before = log.propagate, list(log.handlers)
    try:
        assert cli.main(["run"]) == 0
    finally:
        logging.getLogger().removeHandler(others)
    assert capsys.readouterr().err == "it: x\\x1b[31mred.y\n"
    assert (log.propagate, log.handlers) == before


def test_what_a_checkpoint_is_said_to_bring_is_not_obeyed(lensdiff: Command, models: Path, tmp_path: Path):
    base = shutil.copytree(models / "base", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "x\x1b[31mred.y"}}))
    ran = lensdiff("weights", base, models / "tuned", "--out", tmp_path / "out", "--quiet")
    assert ran.code == 0
    assert ran.err.count("\\x1b[31mred.y") == 1
    assert "\x1b" not in ran.err + ran.out


def test_bars_are_for_terminals(monkeypatch):
    for terminal, quiet, shown in ((True, False, True), (True, True, False), (False, False, False)):
        monkeypatch.setattr(Console, "is_terminal", property(lambda self, value=terminal: value))
        assert output.Terminal(quiet=quiet)._bars.disable is not shown


def test_what_is_within_a_unit_has_a_bar_that_goes_with_it():
    terminal = output.Terminal(quiet=False)

    def shown() -> list[tuple[str, float, float | None]]:
        return [(task.description, task.completed, task.total) for task in terminal._bars.tasks]

    with terminal.watching():
        terminal.within("loading \x1b[31m", 0, None)  # before any step
        assert shown() == [("  loading \\x1b[31m", 0, None)]
        assert output.CountColumn().render(terminal._bars.tasks[0]).plain == ""
        terminal.begin("weights", 2, 0)
        terminal.within("layers", 1, 3)
        terminal.within("layers", 2, 3)
        assert shown() == [("weights", 0, 2), ("  layers", 2, 3)]
        assert output.CountColumn().render(terminal._bars.tasks[1]).plain == "2/3"
        terminal.within("making a control", 0, 5)
        assert shown()[1:] == [("  making a control", 0, 5)]
        terminal.advance("weights", "base")
        assert shown() == [("weights", 1, 2)]
        terminal.within("layers", 0, 3)
    assert shown() == [("weights", 1, 2)], "a run that was stopped leaves none"


def test_a_closed_pipe_is_no_error(models):
    code = "import sys; from lensdiff.cli import main; sys.exit(main(['--help']))"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as out:
        ran = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True, timeout=60)
    assert "Traceback" not in ran.stderr
