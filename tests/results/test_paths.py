"""Names in a results directory, a manifest or a journal never lead out of the directory."""

import json
from pathlib import Path

import pandas as pd
import pytest

from lensdiff.results import InputError, ResultStore
from lensdiff.results.manifest import StepState, UnitState
from tests.results.small import Numbers, numbers

NAMES = (
    *("../victim", "../../victim", "a/../../victim", "/victim", "//victim", "..", ".", "a/..", "..\\victim"),
    *("C:\\victim", "~/victim", "a\0b", "%2e%2e/victim", "..%2fvictim", "\u2024\u2024/victim", "victim\n"),
    *(" ../victim", "", "con", "-rf"),
)


def lay_out(folder: Path) -> tuple[Path, dict[Path, bytes]]:
    """A results directory between files that nothing may touch."""
    around = [folder, folder / "above", folder / "above" / "out"]
    around[-1].mkdir(parents=True)
    for place in around[:-1]:
        for name in ("victim.safetensors", "victim.parquet", "victim", "manifest.json"):
            (place / name).write_bytes(b"mine")
    return around[-1], outside(folder)


def outside(folder: Path) -> dict[Path, bytes]:
    own = folder / "above" / "out"
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and own not in path.parents}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_within_the_directory(tmp_path, name):
    out, before = lay_out(tmp_path)
    with ResultStore(out).writing() as store:
        store.save_result(f"step/{name}", numbers(1.0))
        store.save_unit("step", f"unit/{name}", UnitState(digest="x"), numbers(2.0))
        store.save_table(name, pd.DataFrame({"x": [1]}))
        assert store.load_result(f"step/{name}", Numbers).values.tolist() == [1.0]
        assert store.publish(name).parent == out
        store.remove(f"step/{name}")
        store.record("step", f"unit/{name}", None)
        store.remove_table(name)
        store.remove(name)
    assert outside(tmp_path) == before
    assert not [path for path in out.rglob("*") if path.suffix in (".safetensors", ".parquet")]


def doctored(out: Path, name: str, where: str) -> None:
    """A manifest, or a journal, with a name of a stranger's choice in it."""
    store = ResultStore(out)
    with store.writing():
        store.save_result("good", numbers(1.0))
    path = out / "manifest.json"
    stored = json.loads(path.read_text())
    unit = UnitState(digest="x", prompt=name).model_dump(mode="json")
    if where == "unit":
        stored["steps"] = {"step": StepState(wanted=[name]).model_dump(mode="json") | {"units": {name: unit}}}
    elif where == "step":
        stored["steps"] = {name: StepState(wanted=["a"]).model_dump(mode="json") | {"units": {"a": unit}}}
    elif where == "table":
        stored["tables"] = {name: {"digest": "x", "wanted": True}}
    elif where == "journal":
        (out / "journal.jsonl").write_text(json.dumps({"file": name, "checksum": None}) + "\n")
    else:
        stored["checksums"] = {f"{where}{name}": "0" * 32}
    path.write_text(json.dumps(stored))


@pytest.mark.parametrize("where", ["unit", "step", "table", "arrays/", "tables/"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_manifest_stays_within_the_directory(tmp_path, where, name):
    out, before = lay_out(tmp_path)
    doctored(out, name, where)
    with ResultStore(out).writing() as store:
        for file in store.damaged():
            store.forget(file)
        for found in (*store.names(), *store.table_names()):
            store.parts(found)
        for step, state in list(store.manifest.steps.items()):
            for unit in list(state.units):
                store.record(step, unit, None)
        for table in list(store.manifest.tables):
            store.remove_table(table)
    assert outside(tmp_path) == before


@pytest.mark.parametrize("where", ["journal", "../", "/", ""])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_in_no_room_of_the_directory_is_refused(tmp_path, where, name):
    out, before = lay_out(tmp_path)
    doctored(out, name, where)
    told = r"journal\.jsonl, line 1 is damaged" if where == "journal" else "is not a manifest of lensdiff"
    with pytest.raises(InputError, match=told), ResultStore(out).writing():
        pytest.fail("it was opened")
    assert outside(tmp_path) == before
