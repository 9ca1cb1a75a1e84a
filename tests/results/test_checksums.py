"""A file that is not as it was written is named, and never read."""

import pandas as pd
import pytest

from lensdiff.results import InputError, ResultStore
from tests.results.small import Numbers, done, numbers, values


def directory(root):
    """A directory with two results and two tables."""
    with ResultStore(root).writing() as store:
        store.save_unit("heads", "base", done(), numbers(1.0, 2.0))
        store.save_result("rotation", numbers(3.0))
        store.save_table("t", pd.DataFrame({"a": [1, 2]}))
        store.save_table("u", pd.DataFrame({"a": [3]}))
        store.update(
            steps=store.manifest.steps | {"heads": store.step("heads").model_copy(update={"wanted": ["base"]})}
        )
    return ResultStore(root)


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the last number of an array, or the end of a table
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_a_byte, "is damaged: it is not what the run wrote; run again, which makes it anew"),
        (truncate, "is damaged: it is not what the run wrote; run again, which makes it anew"),
        (lambda path: path.unlink(), "cannot be read: .*No such file"),
    ],
    ids=["a changed byte", "a truncated file", "a missing file"],
)
def test_a_damaged_file_is_named_and_not_read(tmp_path, damage, message):
    store = directory(tmp_path)
    assert store.damaged() == []
    damage(tmp_path / "arrays/heads/base.safetensors")
    damage(tmp_path / "tables/t.parquet")
    for seen in (store, ResultStore(tmp_path)):
        assert seen.damaged() == ["arrays/heads/base", "tables/t"]
        with pytest.raises(InputError, match=rf"arrays/heads/base\.safetensors {message}"):
            seen.load_result("heads/base", Numbers)
        for read in (seen.load_table, seen.columns, seen.publish):
            with pytest.raises(InputError, match=rf"tables/t\.parquet {message}"):
                read("t")
        assert values(seen, "rotation") == [3.0]
        assert seen.load_table("u").a.tolist() == [3]


def test_a_damaged_file_is_written_anew(tmp_path):
    store = directory(tmp_path)
    change_a_byte(tmp_path / "arrays/heads/base.safetensors")
    with store.writing():
        store.forget("arrays/heads/base")
        assert not store.has("heads/base")
        store.save_unit("heads", "base", done(), numbers(5.0))
    assert ResultStore(tmp_path).damaged() == []
    assert values(ResultStore(tmp_path), "heads/base") == [5.0]


def test_a_unit_whose_file_nobody_knows_of_is_named(tmp_path):
    with directory(tmp_path).writing() as store:
        store.forget("arrays/heads/base")  # and a program that stops here has not forgotten the unit
        store.record("other", "a", done(kept="nothing"))
        store.record("other", "b", done(outcome="failed"))
    assert ResultStore(tmp_path).damaged() == ["arrays/heads/base"]


def test_a_table_without_a_checksum_is_read_as_far_as_it_can_be(tmp_path):
    path = ResultStore(tmp_path).save_table("t", pd.DataFrame({"a": [1]}))
    assert ResultStore(tmp_path).load_table("t").a.tolist() == [1]
    path.write_bytes(path.read_bytes()[:20])
    for read in (ResultStore(tmp_path).load_table, ResultStore(tmp_path).columns):
        with pytest.raises(InputError, match=r"t\.parquet is damaged"):
            read("t")
