"""What the view of weights is given, and what its section of the report holds."""

from lensdiff.analyses.weights.section import weights_section
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE
from lensdiff.views.section import Table
from lensdiff.views.widget import Widget
from tests.analyses.weights.results import HEADS, weight_shift
from tests.directories import put
from tests.views.pages import given


def test_the_map_of_weights_has_every_row():
    result = weight_shift()
    data = given(result.show())
    assert data["layers"] == [0, 1, 2]
    assert data["groups"] == [{"name": "all matrices", "matrices": ["W_Q", "W_O", "W_in"]}]
    assert (data["headed"], data["heads"]["W_Q"]) == (["W_Q", "W_O"], HEADS)
    rows = {(layer, matrix, head): (raw, folded) for layer, matrix, head, raw, folded in data["rows"]}
    assert len(rows) == len(data["rows"]) == len(result.matrix)
    raw, folded = rows[2, "W_Q", 1]
    assert (raw[0], folded[0]) == (2.0, 1.0)
    assert data["top"][0][:4] == [2, "W_Q", 1, 2.0]
    assert "W_E" in data["facts"]
    assert [m["label"] for m in data["measures"]][-1] == "share of the top 8"


def test_biases_and_other_tensors_have_a_map_of_their_own():
    names = ("b_Q", "attn_gain", "post_attention_layernorm.weight", "attn_norm_bias")
    first, second = given(weight_shift(others=names).show())["groups"]
    assert first["matrices"] == ["W_Q", "W_O", "W_in", "attn_gain"]
    assert second == {
        "name": "biases and the rest",
        "matrices": ["b_Q", "post_attention_layernorm.weight", "attn_norm_bias"],
    }


def test_an_infinite_change_is_no_number():
    widget = weight_shift(planted=float("inf")).show()
    raw = next(row[3] for row in given(widget)["rows"] if row[:3] == [2, "W_Q", 1])
    assert raw[0] is None
    assert given(widget)["top"][0][3] == "∞"


def test_readers_without_scripts_get_a_table():
    assert "<td>W_Q</td>" in weight_shift().show().fallback


def test_the_section_holds_what_a_results_directory_has(tmp_path):
    store = ResultStore(tmp_path)
    assert weights_section(Found(store)) == []
    put(store, "weights", WHOLE, weight_shift())
    store.save_table("weights", weight_shift().to_df())
    assert [type(part) for part in weights_section(Found(store))] == [Widget, Table]
