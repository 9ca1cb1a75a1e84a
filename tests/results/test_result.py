"""A result survives its file; a file that is not one is refused; provenance says what ran."""

from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from lensdiff.results import Control, ControlModel, Diff, InputError, Provenance, Result
from lensdiff.results.printed import LINES, WIDTH, models_of, printed, sizes


@dataclass(frozen=True, eq=False)
class Lengths(Result):
    names: tuple[str, ...]
    limit: float | None
    values: Float[Tensor, " word"]

    def to_df(self) -> pd.DataFrame:
        return pd.DataFrame({"name": self.names, "value": self.values.numpy()})

    def top(self, k: int = 10) -> pd.DataFrame:
        return self.to_df().nlargest(k, "value")


@dataclass(frozen=True, eq=False)
class Other(Lengths):
    pass


def lengths(*values: float) -> Lengths:
    options = {"k": 3, "layers": [0, 1], "target": None}
    provenance = Provenance("lengths", "model ünicode", revision="main", options=options, seed=7)
    return Lengths(provenance, tuple(f"</script>{i}" for i in range(len(values))), None, torch.tensor(values))


def test_saves_and_loads_every_field(tmp_path):
    result = lengths(0.1, float("inf"), -2.0)
    path = result.save(tmp_path / "deep" / "lengths.safetensors")
    again = Lengths.load(path)
    assert again.provenance == result.provenance
    assert again.names == result.names
    assert again.limit is None
    assert torch.equal(again.values, result.values)
    assert [p.name for p in path.parent.iterdir()] == ["lengths.safetensors"], "no temporary file may stay"


def test_what_is_printed_is_short_and_begins_with_a_pairs_notice():
    many = lengths(*range(5000))
    assert repr(many).splitlines() == [
        "Lengths of model ünicode",
        "  5000 words",
        "  next: top(), to_df(), show()",
    ]
    equal = replace(many.provenance, options={"notice": "the weights are equal"})
    assert repr(replace(many, provenance=equal)).splitlines()[:2] == [
        "the weights are equal",
        "Lengths of model ünicode",
    ]

    @dataclass(frozen=True, eq=False)
    class Named(Lengths):
        prompt_id: str

        def __repr__(self) -> str:
            return f"{self.prompt_id}, and {super().__repr__()}"

    said = repr(Named(many.provenance, (), None, torch.zeros(2, 3)[:, 0], "poem"))
    assert said.startswith("poem, and Named of model ünicode, poem\n")


def test_saves_a_view_of_an_array(tmp_path):
    result = Lengths(Provenance("lengths", "m"), ("a", "b"), 1.5, torch.arange(4.0)[::2])
    assert Lengths.load(result.save(tmp_path / "r")).values.tolist() == [0.0, 2.0]


def test_the_controls_that_a_result_stands_beside_are_objects_in_its_file(tmp_path):
    made = Control("distilled", 4, {"steps": 40, "data": "9 rows, 0a1b", "rank": None})
    read = [
        Provenance("lengths", "m + distilled change (seed 4)", control=made),
        Provenance("lengths", "another model"),
        Provenance("lengths", "m + spectrum-matched change (seed 0)", control=Control("spectrum", 0)),
        Provenance("lengths", "m + distilled change (seed 5)", control=replace(made, seed=5)),
    ]
    result = lengths(1.0)
    beside = replace(result, provenance=result.provenance.beside(iter(read)))
    again = Lengths.load(beside.save(tmp_path / "r")).provenance
    assert again == beside.provenance
    assert again.controls[:2] == (
        ControlModel("m + distilled change (seed 4)", made),
        ControlModel("another model", None),
    )
    assert again.control_kinds == ("distilled", "given", "spectrum", "distilled")
    assert list(again.control_counts.items()) == [("distilled", 2), ("given", 1), ("spectrum", 1)]
    assert again.control is None, "what stands beside it does not make it a control"
    assert replace(again, controls=()) == result.provenance
    assert (result.provenance.control_kinds, result.provenance.control_counts) == ((), {})
    assert again.beside(read[2:]).control_kinds == ("spectrum", "distilled"), "those it had before are left"


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = lengths(1.0).save(tmp_path / "r")
    monkeypatch.setattr("lensdiff.results.result.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        lengths(2.0).save(path)
    assert Lengths.load(path).values.tolist() == [1.0]
    assert list(tmp_path.iterdir()) == [path]


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="no result file at"):
        Lengths.load(tmp_path / "none")


def test_refuses_another_class(tmp_path):
    path = lengths(1.0).save(tmp_path / "r")
    with pytest.raises(InputError, match="holds 'Lengths', expected 'Other'"):
        Other.load(path)


def test_refuses_what_is_no_result(tmp_path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="is not a saved result"):
        Lengths.load(tmp_path / "text")
    save_file({"a": torch.zeros(1)}, tmp_path / "tensors")
    with pytest.raises(InputError, match="holds 'no result'"):
        Lengths.load(tmp_path / "tensors")


def test_refuses_another_schema(tmp_path, monkeypatch):
    path = lengths(1.0).save(tmp_path / "r")
    monkeypatch.setattr("lensdiff.results.result.SCHEMA", 99)
    with pytest.raises(InputError, match="has schema 2, this version reads 99"):
        Lengths.load(path)


def test_diff_is_both_tables_with_a_column_model():
    frame = Diff(lengths(1.0), lengths(2.0)).to_df()
    assert list(frame.columns) == ["model", "name", "value"]
    assert frame["model"].tolist() == ["base", "tuned"]
    assert frame["value"].tolist() == [1.0, 2.0]
    many = Diff([lengths(1.0), lengths(3.0)], [lengths(2.0)]).to_df()
    assert many["value"].tolist() == [1.0, 3.0, 2.0]


def test_a_result_without_a_view_is_shown_as_its_first_rows():
    found = lengths(1.0, float("inf"), float("nan"))
    widget = found.show()
    assert (widget.view, widget.title, widget.data.columns) == ("rows", "Lengths", ["name", "value"])
    assert sorted(map(str, (row[1] for row in widget.data.rows))) == ["1.0", "None", "inf"]
    assert "inf" in widget.html()
    assert str(found._repr_html_()).startswith("<iframe srcdoc=")
    both = Diff(found, lengths(1.0)).show()
    assert both.title == "Diff of Lengths"
    assert both.data.columns[0] == "model"
    many = lengths(*range(99)).show()
    assert len(many.data.rows) == 20
    assert many.data.caption == "Lengths: the first 20 rows, see to_df()"


def test_what_is_printed_is_cut_to_eight_lines_of_one_terminals_width():
    said = printed(
        "x of " + "a" * 200 + " -> " + "b" * 200, [f"line {i} " + "z" * 300 for i in range(9)], calls=("f()",)
    )
    lines = said.splitlines()
    assert len(lines) == LINES
    assert {len(line) for line in lines[:-2]} == {WIDTH}
    assert lines[0].endswith("...")
    assert lines[1].startswith("  -> bbb")
    assert lines[-2:] == ["  ... and 5 more", "  next: f()"]
    assert printed("x", ["a\nb"]).splitlines() == ["x", "a b"]
    assert printed("x", notice="first") == "first\nx"


def test_sizes_are_of_the_arrays_and_the_controls():
    found = lengths(1.0, 2.0)
    assert sizes(found) == "2 words"
    made = (ControlModel("a"), ControlModel("b"), ControlModel("c", Control("norm", 1)))
    beside = replace(found, provenance=replace(found.provenance, controls=made))
    assert sizes(beside) == "beside controls: 2 given, 1 norm; 2 words"
    assert sizes(lengths(1.0)) == "1 word"


@dataclass(frozen=True, eq=False)
class OfHeads(Result):
    row_is = "head's own thing"

    of_heads: Float[Tensor, "layer head_index d_head d_model"]
    rows: Float[Tensor, " row"]
    hidden: Float[Tensor, " limit"]

    def to_df(self) -> pd.DataFrame:
        return pd.DataFrame()

    def top(self, k: int = 10) -> pd.DataFrame:
        return self.to_df()


def test_sizes_are_what_a_reader_counts():
    found = OfHeads(Provenance("x", "m"), torch.zeros(2, 3, 4, 5), torch.zeros(7), torch.zeros(6))
    assert sizes(found) == "7 rows, each a head's own thing, 2 layers, 3 heads each, 4 dimensions each"
    one = replace(found, of_heads=torch.zeros(1, 1, 4, 5), rows=torch.zeros(1))
    assert sizes(one) == "1 row, each a head's own thing, 1 layer, 1 head each, 4 dimensions each"


def test_the_base_is_named_where_a_results_model_is_the_tuned_one_alone():
    assert models_of(Provenance("x", "tuned", options={"base": "base"})) == "base -> tuned"
    assert models_of(Provenance("x", "base -> tuned", options={"base": "base"})) == "base -> tuned"
    assert models_of(Provenance("x", "one")) == "one"


def test_provenance_names_the_versions():
    versions = lengths(1.0).provenance.versions
    assert versions["torch"] == torch.__version__
    assert set(versions) == {"python", "lensdiff", "torch", "transformer-lens", "transformers"}
