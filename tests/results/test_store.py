"""What is put into a results directory comes back: results, parts of results, tables, under any name."""

import shutil

import pandas as pd
import pytest

from lensdiff.results import InputError, ResultStore, StepState
from lensdiff.results.manifest import TableState
from tests.results.small import Numbers, Others, ask, done, files, numbers, values


def test_results_and_tables_come_back(tmp_path):
    store = ResultStore(tmp_path / "out")
    assert not store.exists()
    assert store.names() == []
    path = store.save_result("attribution/base/1", numbers(1.0, 2.5))
    assert path == tmp_path / "out/arrays/attribution/base/1.safetensors"
    table = store.save_table("scores", pd.DataFrame({"a": [1, 2], "b": ["x", None]}))
    assert table == tmp_path / "out/tables/scores.parquet"
    assert values(ResultStore(tmp_path / "out"), "attribution/base/1") == [1.0, 2.5]
    pd.testing.assert_frame_equal(store.load_table("scores"), pd.DataFrame({"a": [1, 2], "b": ["x", None]}))
    assert store.columns("scores") == ["a", "b"]
    assert store.has("attribution/base/1")
    assert not store.has("attribution/base/2")
    assert store.has_table("scores")
    assert not store.has_table("attribution/base/1")
    store.save_result("attribution/base/1", numbers(7.0))
    assert values(store, "attribution/base/1") == [7.0]
    assert files(tmp_path / "out") == {"arrays/attribution/base/1.safetensors", "tables/scores.parquet"}


def test_a_part_of_a_table_without_rows_decides_no_type(tmp_path):
    store = ResultStore(tmp_path)
    empty, whole = pd.DataFrame({"n": [], "token": []}), pd.DataFrame({"n": [3], "token": [":"]})
    store.save_table("parts", iter([empty, whole, empty]))
    assert store.load_table("parts").to_dict("list") == {"n": [3], "token": [":"]}
    store.save_table("nothing", iter([empty, empty]))
    assert list(store.load_table("nothing").columns) == ["n", "token"]


def test_a_table_in_parts_is_one_table(tmp_path):
    store = ResultStore(tmp_path)
    parts = [pd.DataFrame({"a": [1.0, 2.0], "b": ["x", None]}), pd.DataFrame({"a": [3], "b": [None]})]
    store.save_table("whole", iter(parts))
    found = store.load_table("whole")
    assert found.a.tolist() == [1.0, 2.0, 3.0]
    assert found.b.isna().tolist() == [False, True, True]


def test_a_table_without_parts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one part"):
        ResultStore(tmp_path).save_table("none", iter([]))
    assert not ResultStore(tmp_path).has_table("none")


def test_what_is_removed_is_gone_with_its_second_name(tmp_path):
    with ResultStore(tmp_path).writing() as store:
        store.save_result("a", numbers(1.0))
        store.save_table("t", pd.DataFrame({"x": [1]}))
        assert store.publish("t") == tmp_path / "t.parquet"
        assert pd.read_parquet(tmp_path / "t.parquet").x.tolist() == [1]
        for _ in range(2):  # what is not there is removed as well
            store.remove("a")
            store.remove_table("t")
        store.write_text("notes.txt", "mine")
    assert files(tmp_path) == {"manifest.json", "journal.jsonl", "notes.txt"}
    assert ResultStore(tmp_path).names() == ResultStore(tmp_path).table_names() == []


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


@pytest.mark.parametrize("manifest", [True, False])
def test_every_name_stays_inside_and_comes_back(tmp_path, manifest):
    store = ResultStore(tmp_path / "out")
    with store.writing() if manifest else pytest.MonkeyPatch.context():
        for i, name in enumerate(HOSTILE):
            path = store.save_result(f"a/{name}", numbers(float(i)))
            assert (tmp_path / "out" / "arrays").resolve() in path.resolve().parents
        with pytest.raises(InputError, match="longer than the 240 bytes"):
            store.save_result("a/" + "é" * 60, numbers(1.0))
    store = ResultStore(tmp_path / "out")
    assert set(store.names("a/")) == {f"a/{name}" for name in HOSTILE}
    for i, name in enumerate(HOSTILE):
        assert values(store, f"a/{name}") == [float(i)]
    assert store.names("a/prompt") == ["a/prompt 9", "a/prompt 10"]
    assert store.names("b") == []


def test_what_is_missing_is_named(tmp_path):
    store = ResultStore(tmp_path)
    with pytest.raises(InputError, match="has no result 'heads/base', it has none"):
        store.load_result("heads/base", Numbers)
    store.save_result("rotation", numbers(1.0))
    with pytest.raises(InputError, match="has no result 'heads/base', it has rotation"):
        store.load_result("heads/base", Numbers)
    for read in (store.load_table, store.columns):
        with pytest.raises(InputError, match="has no table 'weights', it has none"):
            read("weights")
    with pytest.raises(InputError, match="holds 'Numbers', expected 'Others'"):
        store.load_result("rotation", Others)


# what is seen
def test_units_that_were_not_asked_for_or_failed_are_not_seen(tmp_path):
    with ResultStore(tmp_path).writing() as store:
        for number, unit in enumerate(("base/1", "base/2", "base/3", "base/4")):
            store.save_unit("heads", unit, done(model="base", prompt=unit[-1]), numbers(float(number)))
        path = store.save_unit("whole", "", done(), numbers(9.0))
        assert path == tmp_path / "arrays/whole.safetensors"
        store.record("heads", "base/3", done(outcome="failed", reason="no memory"))
        ask(store, "heads", "base/1", "base/3", "base/4", "base/5")
        ask(store, "whole")
        assert store.step("heads").failures == {"base/3": "no memory"}
    for seen in (store, ResultStore(tmp_path)):
        assert seen.names() == ["heads/base/1", "heads/base/4"]
        assert not seen.has("heads/base/2")
        for hidden in ("heads/base/2", "heads/base/3", "whole"):
            with pytest.raises(InputError, match="it has heads/base/1, heads/base/4"):
                seen.load_result(hidden, Numbers)
    assert not (tmp_path / "arrays/heads/base/3.safetensors").exists()
    assert (tmp_path / "arrays/heads/base/2.safetensors").exists()


def test_tables_that_were_not_asked_for_are_not_seen(tmp_path):
    with ResultStore(tmp_path).writing() as store:
        for name in ("a", "b"):
            store.save_table(name, pd.DataFrame({"x": [1]}))
        store.update(tables={"a": TableState(digest="d"), "b": TableState(digest="d", wanted=False)})
    seen = ResultStore(tmp_path)
    assert seen.table_names() == ["a"]
    assert not seen.has_table("b")
    with pytest.raises(InputError, match="has no table 'b', it has a"):
        seen.load_table("b")


def test_a_file_that_the_manifest_does_not_know_is_not_seen(tmp_path):
    with ResultStore(tmp_path).writing() as store:
        path = store.save_result("a", numbers(1.0))
    shutil.copy(path, path.with_name("b.safetensors"))
    seen = ResultStore(tmp_path)
    assert seen.names() == ["a"]
    assert not seen.has("b")
    with pytest.raises(InputError, match="has no result 'b', it has a"):
        seen.load_result("b", Numbers)


# results in parts
def in_parts(root, *missing: str) -> ResultStore:
    """A directory with a result in groups of layers, and one of prompts that are called like layers."""
    with ResultStore(root).writing() as store:
        groups = {"10,11": (10, 11), "2,3": (2, 3), "0": (0,)}  # as they were asked for
        for name, layers in groups.items():
            if name not in missing:
                state = done(model="base", layers=layers)
                store.save_unit("heads", f"base/{name}", state, numbers(*map(float, layers)))
        for prompt in ("1", "2"):
            store.save_unit("answers", f"base/{prompt}", done(model="base", prompt=prompt), numbers(0.0))
        ask(store, "heads", *(f"base/{name}" for name in groups))
        ask(store, "answers", "base/1", "base/2")
    return ResultStore(root)


def test_a_result_in_parts_is_joined_in_the_order_that_was_asked_for(tmp_path):
    store = in_parts(tmp_path)
    assert store.parts("heads/base") == ["heads/base/10,11", "heads/base/2,3", "heads/base/0"]
    assert store.has("heads/base")
    assert values(store, "heads/base") == [10.0, 11.0, 2.0, 3.0, 0.0]
    assert values(store, "heads/base/2,3") == [2.0, 3.0]
    assert store.parts("heads/base/0") == ["heads/base/0"]
    joined = store.load_files(["heads/base/0", "heads/base/10,11"], Numbers)
    assert joined.values.tolist() == [0.0, 10.0, 11.0]


def test_a_result_without_one_of_its_parts_is_refused(tmp_path):
    store = in_parts(tmp_path, "2,3", "0")
    assert store.parts("heads/base") == []
    assert not store.has("heads/base")
    with pytest.raises(InputError, match=r"has the result 'heads/base' without layers 2,3, 0$"):
        store.load_result("heads/base", Numbers)


def test_prompts_that_are_called_like_layers_are_no_parts(tmp_path):
    store = in_parts(tmp_path)
    assert store.parts("answers/base") == []
    with pytest.raises(InputError, match="has no result 'answers/base', it has"):
        store.load_result("answers/base", Numbers)


# the states of steps
def test_steps_are_kept(tmp_path):
    with ResultStore(tmp_path).writing() as store:
        assert store.step("heads") == StepState()
        ask(store, "heads", "base", "tuned", "more")
        assert store.step("heads").state == "pending"
        store.save_unit("heads", "base", done(seconds=1.5), numbers(1.0))
        store.record("heads", "tuned", done(outcome="failed", reason="too long", seconds=2.0))
        assert store.step("heads").state == "running"
        store.record("heads", "more", done(outcome="impossible", reason="no such layer"))
        store.record("other", "", done(outcome="impossible", reason="one model"))
        ask(store, "other", "")
        store.update(pair={"base": {"model": "a"}}, config={"k": 3})
    again = ResultStore(tmp_path)
    assert again.exists()
    state = again.step("heads")
    assert (state.state, state.done, state.seconds) == ("done", ["base"], 3.5)
    assert (state.failures, state.note) == ({"tuned": "too long"}, "")
    assert (again.step("other").state, again.step("other").note) == ("skipped", "one model")
    assert (again.manifest.config, again.manifest.pair) == ({"k": 3}, {"base": {"model": "a"}})
    assert "torch" in again.manifest.versions
