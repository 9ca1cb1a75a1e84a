"""Result files, manifests, journals and tables that somebody has doctored: one sentence that names the file."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lensdiff import Report
from lensdiff.results import InputError, Provenance, Result, ResultStore
from lensdiff.results.manifest import Manifest, StepState, UnitState
from tests.bad_inputs.refusals import Case, assert_refuses, case, is_sentence

DEEP = "[" * 100_000
DIGITS = "9" * 5_000


@dataclass(frozen=True, eq=False)
class Small(Result):
    """A result with one of everything: values, an optional one, arrays of one axis, ragged rows."""

    ragged: ClassVar = {"pair": "starts"}

    layers: tuple[int, ...]
    level: float
    note: str | None
    strength: Float[Tensor, "layer head"]
    weakness: Float[Tensor, "layer head"]
    starts: Int[Tensor, " rows_plus_one"]
    pairs: Int[Tensor, " pair"]
    maybe: Float[Tensor, " head"] | None = None

    def to_df(self) -> pd.DataFrame:
        return pd.DataFrame({"strength": self.strength.flatten().numpy()})

    def top(self, k: int = 10) -> pd.DataFrame:
        return self.to_df().head(k)


def small() -> Small:
    ones = torch.ones(2, 3)
    origin = Provenance("made", "model")
    return Small(origin, (0, 1), 0.95, None, ones, 2 * ones, torch.tensor([0, 2, 5]), torch.arange(5), torch.ones(3))


Change = Callable[[dict[str, Any], dict[str, Tensor], dict[str, str]], None]


def doctored(change: Change) -> Callable[[Path], None]:
    """A file whose values, arrays or header are changed."""

    def make(path: Path) -> None:
        with safe_open(path, framework="pt") as stored:
            header, arrays = dict(stored.metadata()), {k: stored.get_tensor(k) for k in stored.keys()}  # noqa: SIM118
        values = json.loads(header["values"])
        change(values, arrays, header)
        if "values" in header and json.loads(header["values"]) != values:
            header["values"] = json.dumps(values)
        save_file(arrays, path, metadata=header)

    return make


def value(name: str, given: Any) -> Callable[[Path], None]:
    return doctored(lambda values, arrays, header: (values.update({name: given}), arrays.pop(name, None)))


def array(name: str, given: Tensor) -> Callable[[Path], None]:
    return doctored(lambda values, arrays, header: (arrays.update({name: given}), values.pop(name, None)))


def raw(name: str, text: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        save_file({"strength": torch.ones(2, 3)}, path, metadata={"class": "Small", "schema": "2", name: text})

    return make


def cut(keep: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)]) and None


def header_of(size: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(struct.pack("<Q", size) + path.read_bytes()[8:]) and None


FILES = [
    *(case(f"a result cut to {keep:.0%}", cut(keep), "small") for keep in (0.0, 0.01, 0.5, 0.99)),
    *(case(f"a header of {n}", header_of(n), "small") for n in (0, 2**40, 2**62)),
    case("junk", lambda path: path.write_bytes(b"junk" * 99), "small"),
    case("a folder", lambda path: (path.unlink(), path.mkdir()), "small"),
    case("another class", raw("class", "Other"), "Other"),
    case("a class of 5,000 letters", raw("class", "O" * 5_000), "OOO"),
    case("another schema", raw("schema", "99"), "99"),
    case("a schema of 5,000 letters", raw("schema", "9" * 5_000), "999"),
    case("no values", raw("more", ""), "values"),
    case("values of no JSON", raw("values", "{"), "values"),
    case("values of a list", raw("values", "[]"), "values"),
    case("values of null", raw("values", "null"), "values"),
    case("values in brackets", raw("values", DEEP), "values"),
    case("values of 5,000 digits", raw("values", f'{{"level": {DIGITS}}}'), "values"),
    case("a value too many", value("zzz", 1), "zzz"),
    case("a value of 5,000 letters too many", value("z" * 5_000, 1), "zzz"),
    case("a value less", doctored(lambda values, arrays, header: values.pop("level")), "level"),
    case("an array less", doctored(lambda values, arrays, header: arrays.pop("strength")), "strength"),
    case("an array too many", array("zzz", torch.ones(2)), "zzz"),
    case("layers in words", value("layers", "all"), "layers"),
    case("layers of words", value("layers", ["a", "b"]), "layers"),
    case("layers of halves", value("layers", [0.5, 1]), "layers"),
    case("a layer too many", value("layers", [0, 1, 2]), "layers"),
    case("a level in words", value("level", "high"), "level"),
    case("a level of a list", value("level", [0.95]), "level"),
    case("a note of a number", value("note", 3), "note"),
    case("provenance of a number", value("provenance", 3), "provenance"),
    case("provenance of nothing", value("provenance", {}), "provenance"),
    case("provenance of wrong kinds", value("provenance", {"analysis": 3, "model": []}), "provenance"),
    case("controls that are none", value("provenance", {"analysis": "a", "model": "m", "controls": 3}), "provenance"),
    case("an array as a value", value("strength", [[1.0]]), "strength"),
    case("an array twice", doctored(lambda values, arrays, header: values.update(strength=None)), "strength"),
    case("an array for a value", array("level", torch.ones(1)), "level"),
    case("an array of another length", array("weakness", torch.ones(2, 4)), "weakness"),
    case("an array of an axis less", array("strength", torch.ones(6)), "strength"),
    case("an array of whole numbers", array("strength", torch.ones(2, 3, dtype=torch.int64)), "strength"),
    case("an array of layers less", array("strength", torch.ones(1, 3)), "axis layer"),
    case("an optional array of another length", array("maybe", torch.ones(9)), "axis head"),
    case("starts beyond the end", array("starts", torch.tensor([0, 2, 99])), "starts"),
    case("starts before the beginning", array("starts", torch.tensor([-3, 2, 5])), "starts"),
    case("starts that go back", array("starts", torch.tensor([0, 7, 5])), "starts"),
    case("no starts", array("starts", torch.tensor([], dtype=torch.int64)), "starts"),
    case("starts of fractions", array("starts", torch.tensor([0.0, 2.0, 5.0])), "starts"),
]


@pytest.mark.parametrize("bad", FILES)
def test_a_doctored_result_is_refused(tmp_path: Path, bad: Case):
    path = small().save(tmp_path / "small.safetensors")
    bad.make(path)
    assert_refuses(lambda: Small.load(path), *bad.says)


def test_a_result_that_nobody_doctored_comes_back(tmp_path: Path):
    path = small().save(tmp_path / "small.safetensors")
    doctored(lambda values, arrays, header: None)(path)
    found = Small.load(path)
    assert (found.layers, found.level, found.note) == ((0, 1), 0.95, None)
    doctored(lambda values, arrays, header: (arrays.pop("maybe"), values.update(maybe=None)))(path)
    assert Small.load(path).maybe is None


# a directory's own files


def manifest(**changes: Any) -> Callable[[Path], None]:
    return text("manifest.json", json.dumps(json.loads(Manifest().model_dump_json()) | changes))


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def journal(*events: Any) -> Callable[[Path], None]:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return text("journal.jsonl", "".join(f"{line}\n" for line in lines))


UNIT = json.loads(UnitState(digest="d").model_dump_json())
DIRECTORIES = [
    case("no manifest", lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
    case("an empty manifest", text("manifest.json", ""), "manifest"),
    case("a manifest of no JSON", text("manifest.json", "{"), "manifest"),
    case("a manifest of no text", text("manifest.json", b"\xff\xfe\x00"), "manifest"),
    case("a manifest of a list", text("manifest.json", "[]"), "manifest"),
    case("a manifest of null", text("manifest.json", "null"), "manifest"),
    case("a manifest in brackets", text("manifest.json", DEEP), "manifest"),
    case("a manifest of 5,000 digits", text("manifest.json", f'{{"schema_version": {DIGITS}}}'), "manifest"),
    case("a manifest of nothing", text("manifest.json", "{}"), "schema"),
    case("another schema", manifest(schema_version=99), "99"),
    case("a schema of 5,000 letters", manifest(schema_version="9" * 5_000), "schema"),
    case("an unknown key", manifest(zzz=3), "manifest"),
    case("a pair of a number", manifest(pair=3), "manifest"),
    case("a base of a number", manifest(pair={"base": 3}), "manifest"),
    case("a tuned model of a list", manifest(pair={"tuned": []}), "manifest"),
    case("a notice of a number", manifest(pair={"notice": 3}), "manifest"),
    case("a config of a list", manifest(config=[]), "manifest"),
    case("steps of a list", manifest(steps=[]), "manifest"),
    case("a step of a number", manifest(steps={"heads": 3}), "manifest"),
    case("a unit of a number", manifest(steps={"heads": {"units": {"base": 3}}}), "manifest"),
    case(
        "an outcome that is none", manifest(steps={"heads": {"units": {"base": UNIT | {"outcome": "z"}}}}), "manifest"
    ),
    case("layers of words", manifest(steps={"heads": {"units": {"base": UNIT | {"layers": ["a"]}}}}), "manifest"),
    case("wanted in words", manifest(steps={"heads": {"wanted": "base"}}), "manifest"),
    case("tables of a list", manifest(tables=[]), "manifest"),
    case("checksums of an unknown room", manifest(checksums={"cellar/a": "0"}), "manifest"),
    case("checksums of no room", manifest(checksums={"a": "0"}), "manifest"),
    case("checksums of numbers", manifest(checksums={"arrays/a": 3}), "manifest"),
    case("a journal of no JSON", journal("{"), "journal.jsonl, line 1"),
    case("a journal of numbers", journal(3), "journal.jsonl, line 1"),
    case("a journal of lists", journal([]), "journal.jsonl, line 1"),
    case("a journal in brackets", journal(DEEP), "journal.jsonl, line 1"),
    case("a journal of 5,000 digits", journal(DIGITS), "journal.jsonl, line 1"),
    case("a journal of an unknown room", journal({"file": "cellar/a", "checksum": "0"}), "journal.jsonl, line 1"),
    case("a journal of a wrong unit", journal({"step": "a", "unit": "b", "state": 3}), "journal.jsonl, line 1"),
    case("a journal without a step", journal({"unit": "b", "state": None}), "journal.jsonl, line 1"),
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    store = ResultStore(tmp_path / "results")
    with store.writing():
        store.save_result("small/base", small())
        store.save_table("small", small().to_df())
    return store.root


@pytest.mark.parametrize("bad", DIRECTORIES)
def test_a_doctored_directory_is_refused(directory: Path, bad: Case):
    bad.make(directory)
    assert_refuses(lambda: Report(directory).html(), *bad.says)


@pytest.mark.parametrize(
    "bad",
    [
        case("a result of another name", lambda store: store.load_result("none", Small), "none"),
        case("a result of 5,000 letters", lambda store: store.load_result("n" * 5_000, Small), "nnn"),
        case("a result above the directory", lambda store: store.load_result("../small/base", Small), "../small"),
        case("a table of another name", lambda store: store.load_table("none"), "none"),
        case("a table above the directory", lambda store: store.load_table("../small"), "../small"),
        case("a name that is too long", lambda store: store.save_result("n" * 300, small()), "nnn"),
    ],
)
def test_what_a_directory_does_not_have_is_named(directory: Path, bad: Case):
    assert_refuses(lambda: bad.make(ResultStore(directory)), *bad.says)


def not_a_folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "below"


def dangling(tmp_path: Path) -> Path:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at" / "all")
    return tmp_path / "link"


def looping(tmp_path: Path) -> Path:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path / "loop"


def file(tmp_path: Path) -> Path:
    return not_a_folder(tmp_path).parent


@pytest.mark.parametrize(
    "bad",
    [
        case("below a file", not_a_folder, "below"),
        case("a dangling link", dangling, "link"),
        case("a link to itself", looping, "loop"),
        case("a file", file, "file"),
        case("5,000 letters", lambda tmp_path: "r" * 5_000, "rrr"),
        case("a null character", lambda tmp_path: str(tmp_path / "a\0b"), "a"),
        case("half a character", lambda tmp_path: str(tmp_path / "a\ud800b"), "a"),
        case("nothing", lambda tmp_path: "", "empty"),
        case("a home of nobody", lambda tmp_path: "~nobody-of-that-name/results", "~nobody-of-that-name"),
    ],
)
def test_results_cannot_go_to(tmp_path: Path, bad: Case):
    def write() -> None:
        with ResultStore(bad.make(tmp_path)).writing():
            pytest.fail("it was written")

    assert_refuses(write, *bad.says)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_bytes_in_a_result_load_or_are_refused(tmp_path_factory, data: Any):
    path = small().save(tmp_path_factory.mktemp("bytes") / "small.safetensors")
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at, new = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.binary(min_size=1, max_size=8))
        whole[at : at + len(new)] = new
    path.write_bytes(whole)
    try:
        Small.load(path)
    except InputError as error:
        is_sentence(str(error))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from([*Manifest.model_fields]), given_value=JSON)
def test_any_value_in_a_manifest_is_read_or_refused(tmp_path_factory, key: str, given_value: Any):
    folder = tmp_path_factory.mktemp("manifest")
    (folder / "manifest.json").write_text(json.dumps(json.loads(Manifest().model_dump_json()) | {key: given_value}))
    try:
        assert isinstance(ResultStore(folder).step("heads"), StepState)
        Report(folder).html()
    except InputError as error:
        is_sentence(str(error))
