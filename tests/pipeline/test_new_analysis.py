"""Adding an analysis is one folder and one line: what follows of them, shown with one that lensdiff does not ship.

It lies in `added/`, and joins the list in a process of its own.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from safetensors.torch import load_file

from lensdiff.analyses import ANALYSES
from lensdiff.pipeline.report import Report
from lensdiff.results import ResultStore
from lensdiff.steps.analysis import Analysis
from tests.conftest import ROOT

ADDED = Path(__file__).parent / "added"
STUB = ROOT / "lensdiff" / "__init__.pyi"
OPTIONS = ("--parts", "embed,unembed", "--controls", "2", "--kinds", "spectrum", "--device", "cpu")


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Session(NamedTuple):
    """What commands did, one after the other, and copies of the results directory after some of them."""

    folder: Path
    ran: dict[str, Ran]


def commands(given: dict[str, list[str]]) -> dict[str, Ran]:
    """Do commands of a lensdiff that has the added analysis."""
    path = os.pathsep.join([str(ADDED), str(ROOT)])
    done = subprocess.run(
        [sys.executable, ADDED / "commands.py"],
        input=json.dumps(list(given.values())),
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "110"},
    )
    assert done.returncode == 0, done.stderr
    return {name: Ran(*ran) for name, ran in zip(given, json.loads(done.stdout), strict=True)}


@pytest.fixture(scope="module")
def session(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("added")
    pair, out = [str(models / "base"), str(models / "tuned")], ["--out", str(folder / "out")]
    (folder / "run.toml").write_text(
        f'base = "{pair[0]}"\ntuned = "{pair[1]}"\nout = "run"\ndevice = "cpu"\n'
        'analyses = ["weights", "embedding_norms"]\n'
        '[embedding_norms]\npower = 3\nparts = ["embed", "unembed"]\n'
        '[controls]\nkinds = ["norm"]\nembedding_norms = 1\n'
    )
    wrong = (folder / "run.toml").read_text().replace("power = 3", "power = 0")
    (folder / "wrong.toml").write_text(wrong)
    run = {
        "help": ["--help"],
        "its help": ["embedding-norms", "--help"],
        "init": ["init", str(folder / "new.toml")],
        "command": ["embedding-norms", *pair, *out, *OPTIONS, "--power", "3"],
        "again": ["embedding-norms", *pair, "--out", str(folder / "again"), *OPTIONS, "--power", "3"],
        "changed": [
            "embedding-norms",
            *pair,
            "--out",
            str(folder / "changed"),
            *OPTIONS,
            "--power",
            "1",
            "--scales",
            "0.5,1",
        ],
        "wrong": ["run", str(folder / "wrong.toml")],
        "run": ["run", str(folder / "run.toml")],
    }
    first = commands(dict(list(run.items())[:4]))
    for name in ("again", "changed"):
        shutil.copytree(folder / "out", folder / name)
    return Session(folder, first | commands(dict(list(run.items())[4:])))


def norms_of(model: Path, power: int) -> list[float]:
    """The norms of embed and unembed, from the checkpoint's file."""
    weights = load_file(model / "model.safetensors")
    matrices = (weights["model.embed_tokens.weight"], weights["lm_head.weight"])
    return [float((m.abs() ** power).sum(dim=1).pow(1 / power).mean()) for m in matrices]


def test_its_command_prints_its_table_and_writes_parquet_and_a_page(session: Session, models: Path):
    ran, out = session.ran["command"], session.folder / "out"
    assert ran.code == 0, ran.err
    assert "Norms of embeddings" in ran.out
    frame = pd.read_parquet(out / "embedding_norms.parquet")
    assert list(dict.fromkeys(frame.model)) == ["base", "tuned", "spectrum-0", "spectrum-1"]
    for side in ("base", "tuned"):
        own = frame[frame.model == side]
        assert own.part.tolist() == ["embed", "unembed"]
        assert own.norm.tolist() == pytest.approx(norms_of(models / side, 3), rel=1e-5)
        assert all(f"{norm:.4f}" in ran.out for norm in own.norm)
    page = (out / "embedding-norms.html").read_text()
    assert 'data-view="embedding_norms"' in page
    assert "LensDiff.views.embedding_norms = (root, data) =>" in page
    assert ran.out.rstrip().split("\n")[-2:] == [
        str(out / "embedding_norms.parquet"),
        str(out / "embedding-norms.html"),
    ]


def test_its_help_is_that_of_its_options(session: Session):
    assert re.search(r"embedding-norms +How long the embeddings are\.", session.ran["help"].out)
    shown = " ".join(session.ran["its help"].out.split())
    for said in ("Exponent of the norm. [default: 2; x>=1]", "--parts", "Joined by commas. [default: embed]"):
        assert said in shown
    assert "--controls" in shown
    assert "--prompt" not in shown


def test_the_estimate_names_it(session: Session):
    # two models' two matrices of 100 seconds each, and two controls likewise
    assert "time: about 13 min (norms_of_a_model 7 min, controls 7 min)" in session.ran["command"].err


def test_a_second_run_does_nothing(session: Session):
    before, after = (ResultStore(session.folder / name).manifest for name in ("out", "again"))
    assert session.ran["again"].code == 0
    assert "time:" not in session.ran["again"].err
    assert after.steps == before.steps
    assert after.checksums == before.checksums


def test_a_changed_option_does_it_again(session: Session, models: Path):
    before, after = (ResultStore(session.folder / name).manifest for name in ("out", "changed"))
    assert session.ran["changed"].code == 0
    for step in ("norms_of_a_model", "embedding_norms"):
        digests = [{unit.digest for unit in m.steps[step].units.values()} for m in (before, after)]
        assert digests[0].isdisjoint(digests[1])
    assert after.steps["pair"] == before.steps["pair"]
    frame = pd.read_parquet(session.folder / "changed" / "embedding_norms.parquet")
    assert frame.norm.tolist()[:2] == pytest.approx([1.5 * norm for norm in norms_of(models / "base", 1)], rel=1e-5)


def test_its_keys_are_those_of_a_config(session: Session):
    ran = session.ran["wrong"]
    assert ran.code == 2
    assert "line 7: embedding_norms.power is 0, expected greater than or equal to 1" in ran.err
    example = (session.folder / "new.toml").read_text()
    assert re.search(r"#   embedding_norms +how long the embeddings are\n", example)
    for line in (
        "# How long the embeddings are.\n[embedding_norms]\n# power = 2 ",
        '# parts = ["embed"] ',
        "# first = 50 ",
        "# embedding_norms = 1 ",
    ):
        assert line in example
    assert "embedding_norms" in tomllib.loads(example)


def test_a_run_has_its_section_its_controls_and_its_table_described(session: Session, models: Path):
    ran, out = session.ran["run"], session.folder / "run"
    assert ran.code == 0, ran.err
    store = ResultStore(out)
    assert {"weights", "norms_of_a_model", "embedding_norms"} <= set(store.manifest.steps)
    page = (out / "report.html").read_text()
    assert "How long the embeddings are" in page
    assert 'data-view="embedding_norms"' in page
    assert "1 norm for norms" in page
    base, tuned = (norms_of(models / side, 3)[0] for side in ("base", "tuned"))
    line = f"The norm of embed went from {base:.3g} to {tuned:.3g}"
    assert f'<a href="#embedding_norms">{line}</a>; <span class="ld-control">no control</span>' in page
    assert f"  – {line}; no control" in ran.out
    described = (out / "tables" / "README.md").read_text()
    for line in ("## embedding_norms.parquet", "A row is a model and a matrix.", "- `norm`: mean norm of its rows"):
        assert line in described
    frame = store.load_table("embedding_norms")
    assert dict.fromkeys(frame.model) == dict.fromkeys(["base", "tuned", "norm-0"])
    assert frame.norm.tolist()[2:4] == pytest.approx(norms_of(models / "tuned", 3), rel=1e-5)


def test_a_lensdiff_without_it_still_reads_the_directory(session: Session):
    page = Report(session.folder / "run").html()
    assert "How far the weights moved" in page
    assert "How long the embeddings are" not in page


# the README's table
def functions_of(analysis: Analysis[Any]) -> list[str]:
    """The public functions of an analysis, as the stub of the package lists them."""
    found = []
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ImportFrom) and f".{node.module}.".startswith(f".analyses.{analysis.name}."):
            found += [alias.name for alias in node.names if alias.name.islower()]
    return found


def readme_table(analyses: Iterable[Analysis[Any]]) -> list[str]:
    """The rows of the README's table: what each analysis asks, its command, its functions, what stands beside it."""
    rows = ["| question | command | functions | beside it |", "|---|---|---|---|"]
    for analysis in analyses:
        command = "in every report" if analysis.done == "always" else f"`{analysis.name.replace('_', '-')}`"
        functions = ", ".join(f"`{name}`" for name in functions_of(analysis))
        rows.append(f"| {analysis.question} | {command} | {functions} | {analysis.beside} |")
    return rows


def test_the_readme_lists_every_analysis():
    text = (ROOT / "README.md").read_text()
    table = "\n".join(readme_table(ANALYSES))
    assert table in text, f"README.md has to hold this table:\n{table}"


def test_every_analysis_says_what_stands_beside_it_and_has_public_functions():
    for analysis in ANALYSES:
        assert analysis.beside
        assert not analysis.question.endswith(".")
        assert bool(functions_of(analysis)) == (analysis.done != "always")
