"""The results directory: round trips, names, the lock, and what is left after a kill, a full disk, a foreign config."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.results import InputError, Provenance, Result, ResultStore, StepState
from lensdiff.results.store import LOCK, MANIFEST, PARTIAL

CONFIG = {"base": "a", "tuned": "b", "options": {"k": 3}}


@dataclass(frozen=True, eq=False)
class Numbers(Result):
    values: Float[Tensor, " n"]

    def to_df(self) -> pd.DataFrame:
        return pd.DataFrame({"value": self.values.numpy()})

    def top(self, k: int = 10) -> pd.DataFrame:
        return self.to_df().nlargest(k, "value")


@dataclass(frozen=True, eq=False)
class Others(Numbers):
    pass


def numbers(*values: float) -> Numbers:
    return Numbers(Provenance("test", "model"), torch.tensor(values))


def files(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} - {LOCK}


def test_results_and_tables_come_back(tmp_path):
    store = ResultStore(tmp_path / "out")
    assert not store.exists()
    assert store.names() == []
    path = store.save_result("attribution/base/1", numbers(1.0, 2.5))
    assert path == tmp_path / "out/arrays/attribution/base/1.safetensors"
    table = store.save_table("scores", pd.DataFrame({"a": [1, 2], "b": ["x", None]}))
    assert table == tmp_path / "out/tables/scores.parquet"
    found = ResultStore(tmp_path / "out").load_result("attribution/base/1", Numbers)
    assert found.values.tolist() == [1.0, 2.5]
    pd.testing.assert_frame_equal(store.load_table("scores"), pd.DataFrame({"a": [1, 2], "b": ["x", None]}))
    assert store.has("attribution/base/1")
    assert not store.has("attribution/base/2")
    assert store.has_table("scores")
    assert not store.has_table("attribution/base/1")
    store.save_result("attribution/base/1", numbers(7.0))
    assert store.load_result("attribution/base/1", Numbers).values.tolist() == [7.0]
    assert files(tmp_path / "out") == {"arrays/attribution/base/1.safetensors", "tables/scores.parquet"}


def test_a_part_without_rows_decides_no_type(tmp_path):
    store = ResultStore(tmp_path)
    empty, whole = pd.DataFrame({"n": [], "token": []}), pd.DataFrame({"n": [3], "token": [":"]})
    store.save_table("parts", iter([empty, whole, empty]))
    assert store.load_table("parts").to_dict("list") == {"n": [3], "token": [":"]}
    store.save_table("nothing", iter([empty, empty]))
    assert list(store.load_table("nothing").columns) == ["n", "token"]


def test_a_damaged_table_and_a_file_in_the_way_are_named(tmp_path):
    store = ResultStore(tmp_path / "out")
    path = store.save_table("t", pd.DataFrame({"a": [1]}))
    path.write_bytes(path.read_bytes()[:20])
    for read in (store.load_table, store.columns):
        with pytest.raises(InputError, match=r"t\.parquet is damaged"):
            read("t")
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="file is a file, expected a directory"),
        ResultStore(tmp_path / "file").writing({}),
    ):
        pass


def test_a_table_without_parts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one part"):
        ResultStore(tmp_path).save_table("none", iter([]))
    assert not ResultStore(tmp_path).has_table("none")


def test_a_removal_that_is_stopped_goes_on(tmp_path, monkeypatch):
    store = ResultStore(tmp_path)
    with store.writing({"command": "heads", "n": 1}):
        store.save_result("old", numbers(1.0))
        store.save_table("shown", pd.DataFrame({"a": [1]}))
        store.publish("shown")
    (tmp_path / "mine.parquet").write_bytes(b"a user's own file")
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), ResultStore(tmp_path).writing({"command": "heads", "n": 2}, replace=True):
        pass
    monkeypatch.undo()
    # what is left is still the old config's, so that another config does not take it over
    with pytest.raises(InputError, match="results of another config"), ResultStore(tmp_path).writing({"n": 3}):
        pass
    with ResultStore(tmp_path).writing({"command": "heads", "n": 2}, replace=True):
        assert ResultStore(tmp_path).names() == []
    assert not (tmp_path / "shown.parquet").exists()
    assert (tmp_path / "mine.parquet").exists()


def test_a_table_in_parts_is_one_table(tmp_path):
    store = ResultStore(tmp_path)
    parts = [pd.DataFrame({"a": [1.0, 2.0], "b": ["x", None]}), pd.DataFrame({"a": [3], "b": [None]})]
    store.save_table("whole", iter(parts))
    found = store.load_table("whole")
    assert found.a.tolist() == [1.0, 2.0, 3.0]
    assert found.b.isna().tolist() == [False, True, True]
    store.save_result("a", numbers(1.0))
    store.remove("a")
    store.remove("a")
    assert not store.has("a")


HOSTILE = [
    "../../up",
    "..",
    ".",
    "",
    "a//b",
    "a\\b:c?*",
    "prompt 10",
    "prompt 9",
    "é\u2028<script>",
    "CON|\n",
    "x.y",
    "%2E",
    "%",
]


def test_every_name_stays_inside_and_comes_back(tmp_path):
    store = ResultStore(tmp_path / "out")
    for i, name in enumerate(HOSTILE):
        path = store.save_result(f"a/{name}", numbers(float(i)))
        assert (tmp_path / "out" / "arrays").resolve() in path.resolve().parents
    assert set(store.names("a/")) == {f"a/{name}" for name in HOSTILE}
    for i, name in enumerate(HOSTILE):
        assert store.load_result(f"a/{name}", Numbers).values.tolist() == [float(i)]
    assert store.names("a/prompt") == ["a/prompt 9", "a/prompt 10"]
    assert store.names("b") == []
    with pytest.raises(InputError, match="longer than the 240 bytes"):
        store.save_result("a/" + "é" * 60, numbers(1.0))


def test_what_is_missing_is_named(tmp_path):
    store = ResultStore(tmp_path)
    with pytest.raises(InputError, match="has no result 'heads/base', it has none"):
        store.load_result("heads/base", Numbers)
    store.save_result("rotation", numbers(1.0))
    with pytest.raises(InputError, match="has no result 'heads/base', it has rotation"):
        store.load_result("heads/base", Numbers)
    with pytest.raises(InputError, match="has no table 'weights', it has none"):
        store.load_table("weights")
    with pytest.raises(InputError, match="holds 'Numbers', expected 'Others'"):
        store.load_result("rotation", Others)


def test_steps_are_kept(tmp_path):
    store = ResultStore(tmp_path)
    with store.writing(CONFIG):
        assert store.step("heads") == StepState()
        store.update_step("heads", state="running", units=2)
        store.unit_done("heads", "base", 1.5)
        store.unit_done("heads", "tuned", 2.0)
        store.update_step("heads", state="done")
        store.describe_pair({"base": "a"})
    again = ResultStore(tmp_path)
    assert again.exists()
    assert again.step("heads") == StepState(state="done", units=2, done=["base", "tuned"], seconds=3.5)
    assert again.manifest.config == CONFIG
    assert again.manifest.pair == {"base": "a"}
    assert "torch" in again.manifest.versions


def test_another_config_is_refused_with_what_differs(tmp_path):
    with ResultStore(tmp_path).writing(CONFIG | {"device": "cpu"}):
        pass
    with (
        pytest.raises(InputError, match=r"another config \(options.k is 3 there, 4 here\)"),
        ResultStore(tmp_path).writing(CONFIG | {"device": "cpu", "options": {"k": 4}}),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"\(device is 'cpu' there, not set here\)"),
        ResultStore(tmp_path).writing(CONFIG),
    ):
        pass
    with ResultStore(tmp_path).writing(CONFIG | {"device": "cuda"}, free=("device",)) as store:
        assert store.manifest.config["device"] == "cuda"


def test_another_config_can_be_replaced_where_that_is_asked_for(tmp_path):
    with ResultStore(tmp_path).writing(CONFIG) as store:
        store.save_result("a/b", numbers(1.0))
        store.save_table("a", pd.DataFrame({"x": [1]}))
        store.update_step("work", state="done")
    (tmp_path / "notes.txt").write_text("mine")
    with ResultStore(tmp_path).writing(CONFIG, replace=True) as store:
        assert store.has("a/b")  # the same config: nothing to replace
    with ResultStore(tmp_path).writing(CONFIG | {"base": "c"}, replace=True) as store:
        assert store.names() == store.table_names() == []
        assert store.step("work") == StepState()
    assert files(tmp_path) == {MANIFEST, "notes.txt"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 99}', "results of schema 99, this version reads 1"),
        ('{"hello": 1}', "results of schema None"),
        ("[]", "is not a manifest"),
        ("{", "is not a manifest"),
        ('{"schema_version": 1, "steps": 3}', "is not a manifest"),
    ],
)
def test_a_foreign_manifest_is_refused(tmp_path, content, message):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(InputError, match=message):
        _ = ResultStore(tmp_path).manifest
    with pytest.raises(InputError, match=message), ResultStore(tmp_path).writing(CONFIG):
        pass
    assert (tmp_path / MANIFEST).read_text() == content


def test_a_second_writer_is_refused_and_a_stale_file_removed(tmp_path):
    (tmp_path / PARTIAL).mkdir()
    (tmp_path / PARTIAL / "half").write_text("hal")
    with ResultStore(tmp_path).writing(CONFIG) as store:
        assert not (tmp_path / PARTIAL / "half").exists()
        with pytest.raises(InputError, match="another run is writing"), ResultStore(tmp_path).writing(CONFIG):
            pass
        store.update_step("a", state="done")
        assert ResultStore(tmp_path).step("a").state == "done"  # reading needs no lock
    with ResultStore(tmp_path).writing(CONFIG):
        pass


@pytest.mark.parametrize("fails", ["write", "flush", "rename"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, fails):
    store = ResultStore(tmp_path)
    store.save_result("a", numbers(1.0))
    store.save_table("a", pd.DataFrame({"x": [1]}))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if fails == "write":
        monkeypatch.setattr("lensdiff.results.result.save_file", full)
        monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    else:
        monkeypatch.setattr(os, {"flush": "fsync", "rename": "replace"}[fails], full)
    with pytest.raises(OSError, match=r"cannot write .*a.safetensors: .*No space left"):
        store.save_result("a", numbers(2.0))
    with pytest.raises(OSError, match=r"cannot write .*a.parquet: .*No space left"):
        store.save_table("a", pd.DataFrame({"x": [2]}))
    monkeypatch.undo()
    assert store.load_result("a", Numbers).values.tolist() == [1.0]
    assert store.load_table("a").x.tolist() == [1]
    assert files(tmp_path) == {"arrays/a.safetensors", "tables/a.parquet"}


WRITER = """
import sys
from tests.results.test_store import CONFIG, numbers
from lensdiff.results import ResultStore

with ResultStore(sys.argv[1]).writing(CONFIG) as store:
    print("started", flush=True)
    store.update_step("work", state="running", units=10**6)
    for i in range(len(store.step("work").done), 10**6):
        store.save_result(f"unit/{i}", numbers(*[float(i)] * 1000))
        store.unit_done("work", str(i), 0.001)
"""


def test_killed_between_units_nothing_is_lost(tmp_path):
    done: list[str] = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            with pytest.raises(InputError, match="another run is writing"), ResultStore(tmp_path).writing(CONFIG):
                pass
            time.sleep(0.5)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        store = ResultStore(tmp_path)
        found = store.step("work").done
        assert len(found) > len(done)  # the second went on where the first was killed
        assert found[: len(done)] == done
        done = found
        assert done == [str(i) for i in range(len(done))]
        for unit in done:
            assert store.load_result(f"unit/{unit}", Numbers).values.tolist() == [float(unit)] * 1000
        assert len(store.names("unit/")) - len(done) in (0, 1)  # at most one unit was written and not yet recorded
    with ResultStore(tmp_path).writing(CONFIG):
        assert not (tmp_path / PARTIAL).exists() or not any((tmp_path / PARTIAL).iterdir())
    assert json.loads((tmp_path / MANIFEST).read_text())["schema_version"] == 1
