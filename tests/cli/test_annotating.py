"""`lensdiff annotate` against a server of the tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensdiff.analyses.annotate.annotations import Annotations
from lensdiff.analyses.annotate.steps import TABLES
from lensdiff.results import ResultStore
from lensdiff.steps.columns import meaning
from tests.chat_server import answer, chat_server
from tests.cli.conftest import Command, assert_refused

pytest.importorskip("openai", reason="the extra annotate is not installed")


@pytest.fixture
def server() -> Iterator[tuple[Any, str]]:
    with chat_server() as running:
        yield running


@pytest.fixture
def directory(lensdiff: Command, models: Path, tmp_path: Path) -> Path:
    options = (
        "--vocabulary",
        models / "words.tsv",
        "--components",
        3,
        "--ranks",
        "1",
        "--controls",
        0,
        "--layers",
        "0",
    )
    out = tmp_path / "out"
    assert lensdiff("mlp", models / "base", models / "tuned", *options, "--out", out, "--quiet").code == 0
    return out


def test_both_models_are_annotated_and_nothing_is_asked_twice(lensdiff: Command, server, directory: Path):
    running, url = server
    arguments = ("annotate", directory, "--model", "m", "--base-url", url, "--seeds", 2, "--components", 2)
    ran = lensdiff(*arguments)
    assert ran.code == 0, ran.err
    assert "explained" in ran.out
    frame = pd.read_parquet(directory / "annotations.parquet")
    assert len(frame) == 2 * 2 * 2
    assert set(frame.model) == {"base", "tuned"}
    found = ResultStore(directory).load_result("annotations/tuned", Annotations)
    assert found.provenance.options["seeds"] == [0, 1]
    described = (directory / "tables" / "README.md").read_text()
    for table in TABLES:
        columns = ResultStore(directory).columns(table.name)
        assert [column for column in columns if not meaning(table, column)] == []
        assert set(table.columns) <= set(columns)
        assert f"## {table.name}.parquet" in described
    asked = len(running.requests)
    assert asked > 0
    assert lensdiff(*arguments).code == 0
    assert len(running.requests) == asked


KEY = "sk-0123456789-of-the-tests"


def test_the_key_is_in_no_file_of_the_directory_and_in_nothing_that_is_printed(
    lensdiff: Command, server, directory: Path, monkeypatch
):
    running, url = server
    monkeypatch.setenv("LENSDIFF_TEST_KEY", KEY)
    arguments = ("annotate", directory, "--model", "m", "--base-url", url, "--seeds", 1, "--components", 1)
    printed, codes = "", []
    for script in (
        lambda body, n: (400, f"wrong header: {running.keys[-1]}"),
        lambda body, n: f"your key is {KEY}",
        lambda body, n: (401, f"wrong header: {running.keys[-1]}"),
        lambda body, n: {"refusal": f"not for {KEY}"},  # which is an answer, and kept
    ):
        running.script = script
        ran = lensdiff(*arguments, "--api-key-variable", "LENSDIFF_TEST_KEY")
        printed += ran.out + ran.err
        codes.append(ran.code)
    assert codes == [0, 0, 1, 0]
    assert running.keys[-1] == f"Bearer {KEY}"
    assert "[key]" in printed
    assert lensdiff("report", directory).code == 0
    assert KEY not in printed
    assert "[key]" in "".join(pd.read_parquet(directory / "annotations.parquet").reason)
    for path in directory.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("said", ["[" * 100_000, "\ud83d", '{"explainable": true, "description": "\\ud83d"}'])
def test_an_answer_that_cannot_be_read_ends_no_run_and_is_not_kept(lensdiff: Command, server, directory: Path, said):
    running, url = server
    arguments = ("annotate", directory, "--model", "m", "--base-url", url, "--seeds", 1, "--components", 1)
    running.script = lambda body, n: said
    ran = lensdiff(*arguments)
    assert ran.code == 0, ran.err
    assert set(pd.read_parquet(directory / "annotations.parquet").status) == {"malformed"}
    assert not list((directory / "annotation-answers").rglob("*.json"))
    running.script = lambda body, n: answer(body)
    assert lensdiff(*arguments).code == 0
    assert set(pd.read_parquet(directory / "annotations.parquet").status) == {"explained"}


def test_what_cannot_be_annotated_is_refused(lensdiff: Command, server, directory: Path, tmp_path: Path):
    _, url = server
    assert_refused(
        lensdiff("annotate", tmp_path / "none", "--model", "m", "--base-url", url), "is no results directory"
    )
    with ResultStore(tmp_path / "other").writing():
        pass
    assert_refused(
        lensdiff("annotate", tmp_path / "other", "--model", "m", "--base-url", url),
        "there is no result 'concepts' of base",
    )
    ran = lensdiff("annotate", directory, "--model", "m", "--base-url", url, "--layers", "1")
    assert_refused(ran, "layers=[1] given, expected at least one of 0")
