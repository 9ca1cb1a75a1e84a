"""What happened since the manifest was written is in the journal, up to the moment that the program was stopped."""

import errno
import json
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest

from lensdiff.results import InputError, ResultStore
from lensdiff.results import folder as folder_module
from lensdiff.results.errors import NotThere
from lensdiff.results.journal import Journal
from lensdiff.results.manifest import Manifest, TableState
from tests.results.small import Numbers, ask, done, files, numbers, values

MANIFEST, JOURNAL = "manifest.json", "journal.jsonl"


class Stop(BaseException):
    """The program ends here."""


def test_the_journal_is_the_manifest_that_it_stands_for(tmp_path):
    random.seed(0)
    with ResultStore(tmp_path).writing() as store:
        for number in range(60):
            step, unit = random.choice("ab"), random.choice(["", "x", "y/1"])
            state = done(digest=str(number), outcome=random.choice(["done", "failed"]), layers=(1, 2))
            random.choice(
                [
                    lambda s=step, u=unit, n=number: store.save_unit(s, u, done(digest=str(n)), numbers(float(n))),
                    lambda s=step, u=unit, w=state: store.record(s, u, w),
                    lambda s=step, u=unit: store.record(s, u, None),
                    lambda n=number: store.save_table(f"t{n % 3}", pd.DataFrame({"n": [n]})),
                    lambda n=number: store.save_table(f"t{n % 3}", pd.DataFrame({"n": [n]}), TableState(digest=str(n))),
                    lambda n=number: store.remove_table(f"t{n % 3}", TableState(digest=str(n), note="nothing")),
                    lambda n=number: store.remove_table(f"t{n % 3}"),
                ]
            )()
            assert ResultStore(tmp_path).manifest == store.manifest
        expected = store.manifest
        assert len((tmp_path / JOURNAL).read_text().splitlines()) == 60
        store.update(ended=True)  # writes the manifest
        assert not (tmp_path / JOURNAL).exists()
    assert ResultStore(tmp_path).manifest == expected.model_copy(update={"ended": True})
    found = {name.rpartition(".")[0] for name in files(tmp_path) if name.startswith(("arrays", "tables"))}
    assert found == set(expected.checksums)


def test_replaying_twice_is_replaying_once(tmp_path):
    """Stopped after the manifest was written and before the journal was cleared, the next run has both."""
    with ResultStore(tmp_path).writing() as store:
        ask(store, "a", "x")
        store.save_unit("a", "x", done(digest="1"), numbers(1.0))
        store.record("a", "y", done(digest="2"))
        store.record("a", "y", None)
        store.remove("a/x")
        store.save_unit("a", "x", done(digest="3"), numbers(3.0))
        journal = (tmp_path / JOURNAL).read_bytes()
        store.update()
        expected = store.manifest
    (tmp_path / JOURNAL).write_bytes(journal)
    assert ResultStore(tmp_path).manifest == expected
    with ResultStore(tmp_path).writing() as store:
        assert not (tmp_path / JOURNAL).exists()
        assert store.manifest == expected
        assert values(store, "a/x") == [3.0]


@pytest.mark.parametrize("left", [0, 1, 20, -1])
def test_a_torn_last_line_is_dropped(tmp_path, left):
    with ResultStore(tmp_path).writing() as store:
        ask(store, "a", "x", "y", "z")
        store.save_unit("a", "x", done(), numbers(1.0))
        before = (tmp_path / JOURNAL).read_bytes()
        store.save_unit("a", "y", done(), numbers(2.0))
        line = (tmp_path / JOURNAL).read_bytes()[len(before) :]
    (tmp_path / JOURNAL).write_bytes(before + line[:left])
    assert list(ResultStore(tmp_path).step("a").units) == ["x"]
    with ResultStore(tmp_path).writing() as store:
        assert store.names() == ["a/x"]
        assert files(tmp_path) == {MANIFEST, "arrays/a/x.safetensors"}  # the file of the torn line went, too
        store.save_unit("a", "z", done(), numbers(3.0))
    assert list(ResultStore(tmp_path).step("a").units) == ["x", "z"]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"x": 1}',
        b'{"step": "a", "state": null}',
        b"\xff",
        b'{"unit": "x", "step": "a", "state": {"digest": 3}}',
        b'{"file": "arrays/x"}',
        b'{"unit": ""}',
    ],
)
def test_a_damaged_line_is_refused_by_its_number(tmp_path, line):
    with ResultStore(tmp_path).writing() as store:
        store.record("a", "x", done())
    with (tmp_path / JOURNAL).open("ab") as opened:
        opened.write(line + b'\n{"step": "a", "unit": "x", "state": null}\n')
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(InputError, match=r"journal\.jsonl, line 2 is damaged, expected an event of a run"):
        _ = ResultStore(tmp_path).manifest
    with pytest.raises(InputError, match=r"journal\.jsonl, line 2 is damaged"), ResultStore(tmp_path).writing():
        pass
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_a_directory_that_nobody_writes_to_keeps_no_journal(tmp_path):
    with ResultStore(tmp_path).writing():
        pass
    ResultStore(tmp_path).record("a", "x", done())
    assert files(tmp_path) == {MANIFEST}


# stopped between a file, its checksum and its record
STOPS = {  # by where it stops: what is seen then of a unit that was 1 and becomes 2
    "before the file is in place": [1.0],
    "before the record": None,  # neither: the file is the new one, and known as the old one
    "after the record": [2.0],
}


def stopped(monkeypatch, where: str, act) -> None:
    """Do what writes a file or removes one, and stop."""

    def stop(*_: object, **__: object) -> None:
        raise Stop

    add = Journal.add
    if where == "before the file is in place":
        monkeypatch.setattr(folder_module.os, "replace", stop)
    elif where == "before the record":
        monkeypatch.setattr(Journal, "add", stop)
    else:
        monkeypatch.setattr(Journal, "add", lambda self, **event: (add(self, **event), stop()))
    with pytest.raises(Stop):
        act()
    monkeypatch.undo()


@pytest.mark.parametrize("where", STOPS)
def test_stopped_while_a_result_is_replaced(tmp_path, monkeypatch, where):
    with ResultStore(tmp_path).writing() as store:
        store.save_unit("a", "x", done(digest="1"), numbers(1.0))
        ask(store, "a", "x")
        stopped(monkeypatch, where, lambda: store.save_unit("a", "x", done(digest="2"), numbers(2.0)))
    seen, expected = ResultStore(tmp_path), STOPS[where]
    assert seen.step("a").units["x"].digest == ("2" if where == "after the record" else "1")
    if expected is None:
        assert seen.damaged() == ["arrays/a/x"]
        with pytest.raises(InputError, match=r"a/x\.safetensors is damaged"):
            seen.load_result("a/x", Numbers)
    else:
        assert seen.damaged() == []
        assert values(seen, "a/x") == expected


@pytest.mark.parametrize("where", STOPS)
def test_stopped_while_a_new_result_is_written(tmp_path, monkeypatch, where):
    with ResultStore(tmp_path).writing() as store:
        ask(store, "a", "x")
        stopped(monkeypatch, where, lambda: store.save_unit("a", "x", done(), numbers(2.0)))
    is_there = where == "after the record"
    assert ResultStore(tmp_path).step("a").done == ["x"] * is_there
    assert ResultStore(tmp_path).names() == ["a/x"] * is_there
    with ResultStore(tmp_path).writing() as store:
        assert store.damaged() == []
        assert files(tmp_path) == {MANIFEST} | ({"arrays/a/x.safetensors"} if is_there else set())


@pytest.mark.parametrize("state", [None, done(outcome="failed", reason="why"), done(kept="nothing")])
@pytest.mark.parametrize("where", ["before the record", "after the record"])
def test_stopped_while_a_result_is_removed(tmp_path, monkeypatch, where, state):
    with ResultStore(tmp_path).writing() as store:
        path = store.save_unit("a", "x", done(), numbers(1.0))
        ask(store, "a", "x")
        stopped(monkeypatch, where, lambda: store.record("a", "x", state))
    assert path.exists()
    seen = ResultStore(tmp_path)
    assert seen.damaged() == []
    if where == "before the record":
        assert values(seen, "a/x") == [1.0]
        return
    assert seen.names() == []
    assert seen.step("a").units.get("x") == state
    with ResultStore(tmp_path).writing():
        assert not path.exists()


@pytest.mark.parametrize("where", STOPS)
def test_stopped_while_a_table_is_written(tmp_path, monkeypatch, where):
    """A table is known by what it was made of as soon as it is there."""
    with ResultStore(tmp_path).writing() as store:
        frame = pd.DataFrame({"x": [1]})
        stopped(monkeypatch, where, lambda: store.save_table("t", frame, TableState(digest="d")))
    is_there = where == "after the record"
    assert ResultStore(tmp_path).table_names() == ["t"] * is_there
    assert ResultStore(tmp_path).manifest.tables == ({"t": TableState(digest="d")} if is_there else {})


@pytest.mark.parametrize("where", ["before the record", "after the record"])
def test_stopped_while_a_table_is_removed(tmp_path, monkeypatch, where):
    with ResultStore(tmp_path).writing() as store:
        store.save_table("t", pd.DataFrame({"x": [1]}))
        stopped(monkeypatch, where, lambda: store.remove_table("t"))
    assert ResultStore(tmp_path).has_table("t") == (where == "before the record")
    with ResultStore(tmp_path).writing():
        assert (tmp_path / "tables/t.parquet").exists() == (where == "before the record")


def test_the_journal_of_a_directory_without_its_manifest_is_believed_by_nobody(tmp_path):
    with ResultStore(tmp_path).writing() as store:
        store.save_unit("a", "x", done(), numbers(1.0))
    (tmp_path / MANIFEST).unlink()
    assert (tmp_path / JOURNAL).exists()
    assert ResultStore(tmp_path).manifest == Manifest()
    with pytest.raises(InputError, match=r"holds arrays but no manifest\.json"), ResultStore(tmp_path).writing():
        pass
    shutil.rmtree(tmp_path / "arrays")
    with ResultStore(tmp_path).writing() as store:
        assert store.step("a").units == {}
        assert json.loads((tmp_path / MANIFEST).read_text())["steps"] == {}
    assert files(tmp_path) == {MANIFEST}


# what is there and cannot be read is not damaged
REASON = "Permission denied"


@pytest.mark.parametrize("file", [MANIFEST, JOURNAL])
def test_what_cannot_be_read_is_told_apart_from_what_is_damaged(tmp_path, monkeypatch, file):
    with ResultStore(tmp_path).writing() as store:
        store.record("a", "x", done())
    honest = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name == file:
            raise PermissionError(errno.EACCES, REASON)
        return honest(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(InputError, match=rf"{file} cannot be read: {REASON}$"):
        _ = ResultStore(tmp_path).manifest


def test_a_table_and_a_result_that_cannot_be_read_are_not_said_to_be_damaged(tmp_path, monkeypatch):
    store = ResultStore(tmp_path / "out")
    store.save_table("scores", pd.DataFrame({"a": [1]}))
    path = numbers(1.0).save(tmp_path / "one.safetensors")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, REASON)

    monkeypatch.setattr(pd, "read_parquet", refused)
    monkeypatch.setattr("lensdiff.results.result.safe_open", refused)
    for read in (lambda: store.load_table("scores"), lambda: Numbers.load(path)):
        with pytest.raises(InputError, match=rf"cannot be read: {REASON}$"):
            read()


def test_a_mistake_of_lensdiffs_own_is_not_told_of_the_journal(tmp_path, monkeypatch):
    with ResultStore(tmp_path).writing() as store:
        store.record("a", "x", done())

    def broken(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("lensdiff.results.journal.apply", broken)
    with pytest.raises(KeyError, match="ours"):
        _ = ResultStore(tmp_path).manifest


def test_what_is_not_there_is_told_apart_from_what_is_damaged(tmp_path):
    store = ResultStore(tmp_path / "out")
    store.save_result("one", numbers(1.0)).write_bytes(b"junk")
    for read in (lambda: store.load_result("two", Numbers), lambda: store.load_table("two")):
        with pytest.raises(NotThere):
            read()
    with pytest.raises(InputError) as caught:
        store.load_result("one", Numbers)
    assert not isinstance(caught.value, NotThere)
