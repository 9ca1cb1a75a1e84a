"""`lensdiff series`: a table, a page, and what is not measured again."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from lensdiff.analyses.series.measure import Along
from lensdiff.results import ResultStore
from tests.cli.conftest import Command, assert_refused

FAST = ("--quiet", "--device", "cpu")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that are measured, in order."""
    found: list[str] = []
    point = Along.point

    def remembered(along: Along, step: int, texts: object = None):
        found.append(along.names[step])
        return point(along, step, texts)

    monkeypatch.setattr(Along, "point", remembered)
    return found


def test_one_more_checkpoint_costs_one_more_run(models: Path, tmp_path: Path, lensdiff: Command, measured: list[str]):
    first = (str(models / "base"), str(models / "tuned"))
    asked = ("--measure", "instruction_use.use", "--prompts", models / "prompts.jsonl", "--out", tmp_path / "out")
    asked = (*asked, "--draws", 1, "--max-new-tokens", 4, *FAST)
    ran = lensdiff("series", *first, *asked)
    assert ran.code == 0, ran.err
    assert "instruction_use.use, by step" in ran.out
    assert ran.out.splitlines()[-2:] == [str(tmp_path / "out" / name) for name in ("series.parquet", "series.html")]
    assert measured == ["base", "tuned"]
    before = pd.read_parquet(tmp_path / "out" / "series.parquet")
    assert list(before["model"]) == ["base", "tuned"]
    shutil.copytree(models / "tuned", tmp_path / "later")
    measured.clear()
    ran = lensdiff("series", *first, tmp_path / "later", *asked)
    assert ran.code == 0, ran.err
    assert measured == ["later"]
    after = pd.read_parquet(tmp_path / "out" / "series.parquet")
    pd.testing.assert_frame_equal(after.head(2), before)
    assert after["value"][2] == after["value"][1]  # the same weights
    store = ResultStore(tmp_path / "out")
    assert store.manifest.ended
    assert store.damaged() == []
    assert store.step("series").done == [f"{name}/instruction_use.use" for name in ("base", "tuned", "later")]
    assert "LensDiff.views.series" in (tmp_path / "out" / "series.html").read_text()
    # another option, a damaged file, and a changed model are measured again
    measured.clear()
    lensdiff("series", *first, *asked[:-5], "--draws", 2, *asked[-3:], "--max-new-tokens", 4)
    assert measured == ["base", "tuned"]
    measured.clear()
    path = next((tmp_path / "out" / "arrays").rglob("*tuned*/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    lensdiff("series", *first, *asked[:-5], "--draws", 2, *asked[-3:], "--max-new-tokens", 4)
    assert measured == ["tuned"]


def test_what_is_unusable_is_refused(models: Path, tmp_path: Path, lensdiff: Command, measured: list[str]):
    base, tuned, out = models / "base", models / "tuned", ("--out", tmp_path / "out")
    assert_refused(lensdiff("series", base, "--measure", "weights.cosine", *out, *FAST), "at least 2 models, given 1")
    assert_refused(lensdiff("series", base, tuned, "--measure", "none", *out, *FAST), "expected one or a name among")
    assert_refused(lensdiff("series", base, tuned, "--measure", "outputs.js", *out, *FAST), "reads prompts")
    nowhere = lensdiff("series", base, tmp_path / "none", "--measure", "weights.cosine", *out, *FAST)
    assert_refused(nowhere, "none")
    ResultStore(tmp_path / "out").update(command="run")
    assert_refused(
        lensdiff("series", base, tuned, "--measure", "weights.cosine", *out, *FAST), "holds results of lensdiff run"
    )
    assert measured == []
