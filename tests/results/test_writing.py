"""Who may write to a results directory, and what is left there after a kill or a full disk."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from lensdiff.results import InputError, ResultStore
from lensdiff.results.folder import PARTIAL
from tests.results.small import ask, done, files, numbers, values

MANIFEST = "manifest.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 99}', "results of schema 99, this version reads 2"),
        ('{"schema_version": 1, "config": {}, "steps": {}}', "results of schema 1, this version reads 2"),
        ('{"hello": 1}', "results of schema None, this version reads 2"),
        ("[]", "is not a manifest"),
        ("{", "is not a manifest"),
        ("\xff", "is not a manifest"),
        ('{"schema_version": 2, "steps": 3}', "is not a manifest"),
        ('{"schema_version": 2, "more": 3}', "is not a manifest"),
    ],
)
def test_a_foreign_manifest_is_refused(tmp_path, content, message):
    (tmp_path / MANIFEST).write_text(content, encoding="latin-1")
    (tmp_path / PARTIAL).mkdir()
    (tmp_path / PARTIAL / "half").write_text("hal")
    with pytest.raises(InputError, match=message):
        _ = ResultStore(tmp_path).manifest
    with pytest.raises(InputError, match=message), ResultStore(tmp_path).writing():
        pass
    assert files(tmp_path) == {MANIFEST, f"{PARTIAL}/half"}
    assert (tmp_path / MANIFEST).read_text(encoding="latin-1") == content


@pytest.mark.parametrize("room", ["arrays", "tables"])
def test_results_without_a_manifest_are_refused(tmp_path, room):
    store = ResultStore(tmp_path)
    path = store.save_result("a", numbers(1.0)) if room == "arrays" else store.save_table("a", pd.DataFrame({"x": [1]}))
    message = rf"{tmp_path} holds {room} but no manifest\.json that says what they are: choose another directory"
    with pytest.raises(InputError, match=message), ResultStore(tmp_path).writing():
        pass
    assert path.exists()
    assert not (tmp_path / MANIFEST).exists()


def test_a_users_own_files_are_no_results(tmp_path):
    (tmp_path / "mine.parquet").write_bytes(b"mine")
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "notes.txt").write_text("mine")
    for _ in range(2):
        with ResultStore(tmp_path).writing() as store:
            assert store.names() == store.table_names() == []
    assert files(tmp_path) == {MANIFEST, "mine.parquet", "arrays/notes.txt"}


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="file is a file, expected a directory"),
        ResultStore(tmp_path / "file").writing(),
    ):
        pass


def test_a_second_writer_is_refused_and_a_half_written_file_removed(tmp_path):
    (tmp_path / PARTIAL).mkdir()
    (tmp_path / PARTIAL / "half").write_text("hal")
    with ResultStore(tmp_path).writing() as store:
        assert not (tmp_path / PARTIAL / "half").exists()
        with pytest.raises(InputError, match="another run is writing"), ResultStore(tmp_path).writing():
            pass
        store.record("a", "x", done())
        assert list(ResultStore(tmp_path).step("a").units) == ["x"]  # reading needs no lock
    with ResultStore(tmp_path).writing():
        pass


def test_versions_are_those_of_the_run_and_not_of_who_writes_last(tmp_path, monkeypatch):
    with ResultStore(tmp_path).writing() as store:
        before = store.manifest.versions
    monkeypatch.setattr("lensdiff.results.records.package_versions", lambda: {"torch": "99"})
    with ResultStore(tmp_path).writing() as store:
        assert store.manifest.versions == before


@pytest.mark.parametrize("fails", ["write", "flush", "rename"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, fails):
    with ResultStore(tmp_path).writing() as store:
        store.save_unit("a", "", done(), numbers(1.0))
        store.save_table("a", pd.DataFrame({"x": [1]}))
        ask(store, "a", "")
        before = (tmp_path / MANIFEST).read_bytes()

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        if fails == "write":
            monkeypatch.setattr("lensdiff.results.result.save_file", full)
            monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
        else:
            monkeypatch.setattr(os, {"flush": "fsync", "rename": "replace"}[fails], full)
        with pytest.raises(OSError, match=r"cannot write .*a.safetensors: .*No space left"):
            store.save_unit("a", "", done(), numbers(2.0))
        with pytest.raises(OSError, match=r"cannot write .*a.parquet: .*No space left"):
            store.save_table("a", pd.DataFrame({"x": [2]}))
        if fails != "write":
            with pytest.raises(OSError, match=r"cannot write .*manifest.json: .*No space left"):
                store.update(ended=True)
        monkeypatch.undo()
    seen = ResultStore(tmp_path)
    assert values(seen, "a") == [1.0]
    assert seen.load_table("a").x.tolist() == [1]
    assert files(tmp_path) == {"arrays/a.safetensors", "tables/a.parquet", MANIFEST}
    assert (tmp_path / MANIFEST).read_bytes() == before


def test_a_disk_that_is_full_for_the_journal_loses_the_last_unit_alone(tmp_path, monkeypatch):
    with ResultStore(tmp_path).writing() as store:
        ask(store, "a", "x", "y")
        store.save_unit("a", "x", done(), numbers(1.0))

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("lensdiff.results.journal.Journal.add", full)
        with pytest.raises(OSError, match="No space left"):
            store.save_unit("a", "y", done(), numbers(2.0))
        monkeypatch.undo()
    assert ResultStore(tmp_path).step("a").done == ["x"]
    with ResultStore(tmp_path).writing() as store:
        assert store.names() == ["a/x"]
        assert store.damaged() == []


WRITER = """
import sys
from tests.results.small import ask, done, numbers
from lensdiff.results import ResultStore

with ResultStore(sys.argv[1]).writing() as store:
    ask(store, "work", *map(str, range(10**4)))
    print("started", flush=True)
    for i in range(len(store.step("work").done), 10**4):
        store.save_unit("work", str(i), done(), numbers(*[float(i)] * 1000))
"""


def test_killed_between_units_nothing_is_lost(tmp_path):
    found: list[str] = []
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
            with pytest.raises(InputError, match="another run is writing"), ResultStore(tmp_path).writing():
                pass
            time.sleep(0.5)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        store = ResultStore(tmp_path)
        before, found = found, store.step("work").done
        assert len(found) > len(before)  # the second went on where the first was killed
        assert found == [str(i) for i in range(len(found))]
        assert store.names() == [f"work/{i}" for i in found]
        assert store.damaged() == []
        for unit in found:
            assert values(store, f"work/{unit}") == [float(unit)] * 1000
        written = [name for name in files(tmp_path) if name.startswith("arrays")]
        assert len(written) - len(found) in (0, 1)  # at most one unit was written and not yet recorded
    with ResultStore(tmp_path).writing() as store:
        assert not (tmp_path / PARTIAL).exists() or not any((tmp_path / PARTIAL).iterdir())
        assert store.step("work").done == found
    assert json.loads((tmp_path / MANIFEST).read_text())["schema_version"] == 2
