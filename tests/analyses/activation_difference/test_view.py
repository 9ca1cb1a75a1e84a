"""The view of the activation difference: numbers and words of the result, bands, what is said, the section."""

import pytest

from lensdiff.analyses.activation_difference.section import activation_difference_section, controls_beside, summary
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE
from lensdiff.views.section import Table
from lensdiff.views.widget import Widget
from tests.analyses.activation_difference.results import WORDS, difference
from tests.directories import put
from tests.views.hostile import HOSTILE
from tests.views.pages import given


def test_curves_are_the_shares_by_layer_with_the_controls_band():
    result = difference(controls=19)
    data = given(result.show())
    assert data["layers"] == ["0", "1", "out"]
    assert [curve["label"] for curve in data["curves"]] == ["mean", "0", "1"]
    for curve in data["curves"]:
        assert curve["values"] == [None, 0.5, 1.0], "where nothing differs there is a gap"
        assert curve["controls"] == []
    band = result.to_df()[["control_low", "control_high"]].to_numpy()[::2]
    for curve in data["curves"]:
        assert curve["low"] == pytest.approx(band[:, 0], rel=1e-3)
        assert curve["high"] == pytest.approx(band[:, 1], rel=1e-3)
    assert data["n_controls"] == 19
    assert data["start"] == 2, "the layer of the largest share comes first"
    assert f"Mean share over layers and positions that differ: {result.beside()}." in data["facts"]
    assert "9 texts" in data["facts"][0]


def test_few_controls_are_dots_and_none_are_missed():
    few = given(difference(controls=2).show())
    assert few["curves"][0]["controls"] == [pytest.approx([0.1, 0.11])] * 3
    assert few["curves"][0]["low"] == []
    alone = given(difference().show())
    assert alone["curves"][0]["controls"] == []
    assert "Without controls nothing says" in alone["facts"][1]
    same = given(difference(differs=False, controls=2).show())
    assert same["curves"][0]["values"] == [None] * 3
    assert "Nothing differs: the share of no difference is undefined" in same["facts"][1]


def test_words_stand_beside_those_of_the_base_the_mean_and_three_controls():
    result = difference(controls=5)
    data = given(result.show())
    assert [reading["role"] for reading in data["readings"]] == ["tuned", "base", "model", *["control"] * 3]
    assert [reading["label"] for reading in data["readings"]][3:] == ["control 0", "control 1", "control 2"]
    for i, reading in enumerate(data["readings"]):
        for sign in (0, 1):
            for layer in range(3):
                for position in range(2):
                    shown = [data["words"][w] for w in reading["words"][sign][layer][position]]
                    frame = result.read(layer, position)
                    own = frame[(frame.reading == result.readings[i]) & (frame.sign == "+-"[sign])]
                    assert shown == own.word.tolist()
                    assert reading["logits"][sign][layer][position] == pytest.approx(own.logit.tolist(), rel=1e-2)
    assert set(data["words"]) <= set(WORDS)


def test_names_cannot_break_out():
    html = difference(model=f"a -> {HOSTILE[0]}", controls=2).show().html()
    assert HOSTILE[0] not in html
    assert "<b>" not in html.split("<body>")[1].split("</noscript>")[-1]


def test_the_section_holds_what_a_directory_has(tmp_path):
    store = ResultStore(tmp_path)
    assert activation_difference_section(Found(store)) == []
    assert summary(Found(store)).empty
    assert controls_beside(Found(store)) == {}
    result = difference(controls=2)
    put(store, "activation_difference", WHOLE, result)
    store.save_table("activation_difference", result.to_df())
    store.save_table("activation_difference_words", result.reads())
    store.save_table("activation_difference_controls", result.controls())
    widget, *tables = activation_difference_section(Found(store))
    assert isinstance(widget, Widget)
    assert all(isinstance(table, Table) and len(table.frame) for table in tables)
    assert [table.name for table in tables if isinstance(table, Table)] == [
        *("activation_difference", "activation_difference_words", "activation_difference_controls")
    ]
    found = summary(Found(store))
    assert found.constant_share.tolist()[:4] == [1.0, 1.0, 0.5, 0.5]
    assert controls_beside(Found(store)) == {"activation difference": ["spectrum", "spectrum"]}
