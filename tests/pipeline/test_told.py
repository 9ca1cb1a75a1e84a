"""What a run tells while it works: what is loaded, verified and there already, and how far its longest units are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lensdiff.cli import main
from lensdiff.pipeline.execute import execute
from lensdiff.results import ResultStore
from tests.pipeline.conftest import Recorder, config_for

CONTROLS = {"kinds": ["spectrum"], "heads": 1, "mlp": 1, "value_rotation": 1}
WEIGHTS_ONLY = ["weights", "heads", "mlp", "value_rotation"]


def told(config: dict[str, object]) -> Recorder:
    recorder = Recorder()
    execute(config, listener=recorder, estimate=False)
    return recorder


@pytest.fixture(scope="module")
def begun(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], Recorder]:
    """A run of what reads weights alone, and what it told."""
    out = tmp_path_factory.mktemp("told") / "out"
    config = config_for(models, out, analyses=WEIGHTS_ONLY, controls=CONTROLS)
    return config, told(config)


def test_a_run_says_what_it_loads_verifies_and_finds(models, begun):
    config, first = begun
    root = Path(str(config["out"]))
    loading = f"loading {models / 'base'} and {models / 'tuned'}"
    assert [line for line in first.said if not line.startswith("memory: ")] == [loading]
    again = told(config)
    assert again.said == [f"verifying the results of {root}", "everything stands already, nothing is left to do"]
    store = ResultStore(root)
    steps = {name for name, state in store.manifest.steps.items() if name != "pair" and state.wanted}
    n = sum(len(state.wanted) for name, state in store.manifest.steps.items() if name in steps)
    (root / "arrays" / "weights.safetensors").unlink()
    third = told(config)
    damaged = f"{root}/arrays/weights is not as the run left it: it is made again"
    resuming = f"resuming: {len(steps) - 1} of {len(steps)} steps stand, with {n - 1} of {n} results"
    assert third.said == [f"verifying the results of {root}", damaged, resuming, loading]


WORKS = {
    "weights": r"comparing weights",
    "heads": r"reading heads of base",
    "a control's heads": r"reading heads of base \+ .*",
    "concepts": r"reading MLPs of tuned",
    "rotation": r"turning controls",
    "value rotation": r"turning tuned",
    "a control": r"making base \+ .*",
}


@pytest.mark.parametrize("pattern", WORKS.values(), ids=WORKS)
def test_what_reads_weights_alone_tells_how_far_it_is(begun, pattern):
    own = [(done, total) for work, done, total in begun[1].works if re.fullmatch(pattern, work)]
    begins = [place for place, (done, _) in enumerate(own) if done == 0]  # both models, or two steps, may do it
    assert begins[0] == 0
    for first, after in zip(begins, [*begins[1:], len(own)], strict=True):
        done, total = zip(*own[first:after], strict=True)
        assert list(done) == list(range(len(done))), "not every layer, weight or control was told"
        assert len(done) > 1
        assert set(total) in ({None}, {done[-1]})


# Ctrl-C, as a terminal sends it, once something within a unit is so far
SCRIPT = """
import os, re, signal, sys
from lensdiff.cli import main
from lensdiff.cli.output import Terminal

class Interrupted(Terminal):
    def within(self, work, done, total):
        super().within(work, done, total)
        if re.search(sys.argv[2], work) and done == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGINT)

import lensdiff.cli.whole
lensdiff.cli.whole.Terminal = Interrupted
sys.exit(main(["run", sys.argv[1]]))
"""


def interrupted(config: Path, work: str, done: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(config), work, str(done)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, cwd=Path(__file__).parents[2], env=environment
    )


def test_ctrl_c_within_a_unit_ends_the_command_and_the_next_goes_on(models, tmp_path, capsys):
    out, config = tmp_path / "out", tmp_path / "run.toml"
    files = {"base": models / "base", "tuned": models / "tuned", "vocabulary": models / "words.tsv", "out": out}
    lines = [f'{key} = "{path}"' for key, path in files.items()]
    config.write_text(
        "\n".join([*lines, 'analyses = ["weights", "heads"]', 'device = "cpu"', "[controls]", "heads = 0"])
    )
    stood: dict[str, list[str]] = {}
    both = {"pair": [""], "weights": [""]}
    for work, done, expected in (("comparing weights", 3, {"pair": [""]}), ("heads of .*tuned", 1, both)):
        ran = interrupted(config, work, done)
        assert ran.returncode == 1
        assert ran.stderr.strip().split("\n")[-1] == "lensdiff: stopped; the same command goes on from here"
        assert "Traceback" not in ran.stderr
        steps = ResultStore(out).manifest.steps
        stood = {name: state.done for name, state in steps.items() if state.done}
        assert {name: stood[name] for name in expected} == expected
    assert stood == both | {"heads": ["base/0,1"]}
    kept = {path: path.stat().st_mtime_ns for path in (out / "arrays").rglob("*.safetensors")}
    capsys.readouterr()
    assert main(["run", str(config)]) == 0
    told = capsys.readouterr().err.split("\n")
    assert told[0] == f"comparing {models / 'base'} with {models / 'tuned'}, results go to {out}"
    assert f"verifying the results of {out}" in told
    assert any(line.startswith("resuming: 1 of ") for line in told), "of the heads one half stands"
    assert {state.state for state in ResultStore(out).manifest.steps.values()} == {"done"}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing of it was done again
