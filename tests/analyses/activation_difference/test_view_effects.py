"""The view of the interventions: numbers of the result, bands or dots, what is said, the section, hostile words."""

from typing import Any

import pytest

from lensdiff.analyses.activation_difference.section import activation_difference_section, effects_summary
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE
from lensdiff.views.widget import Widget
from tests.analyses.activation_difference.results import AMOUNTS, SCALES, difference, effects
from tests.directories import put
from tests.views.hostile import HOSTILE
from tests.views.pages import given


def picture(data: Any, label: str) -> Any:
    return next(one for one in data["pictures"] if one["label"].startswith(label))


def test_curves_are_the_tables_before_the_bands_of_controls_and_of_random_vectors():
    result = effects(controls=19, draws=19)
    data = given(result.show())
    frame: Any = result.to_df().set_index(["measure", "scale"])
    for label, measure, start in (
        ("steering: distance to tuned", "kl_to_tuned", 0.7),
        ("steering: distance to base", "kl_to_base", 0.0),
        ("steering: its words", "prob", 0.01),
    ):
        one = picture(data, label)
        assert one["columns"] == ["0", "1", "2"]
        own, mean = one["lines"]
        assert (own["role"], own["broken"], mean["role"], mean["broken"]) == ("tuned", False, "control", True)
        assert own["values"] == pytest.approx([start, *frame.loc[measure].difference], rel=1e-3)
        assert mean["values"] == pytest.approx([start, *frame.loc[measure].tuned_mean], rel=1e-3)
        for band, name in zip(one["bands"], ("control", "random"), strict=True):
            assert band["dotted"] == (name == "random")
            for end in ("low", "high"):
                expected = [start, *(frame.loc[(measure, amount), f"{name}_{end}"] for amount in AMOUNTS)]
                assert band[end] == pytest.approx(expected, rel=1e-3)
        assert one["dots"] == []
    said = picture(data, "patchscope")
    assert said["columns"] == ["0.5", "10"]
    assert [line["role"] for line in said["lines"]] == ["tuned", "control", "base"]
    assert said["lines"][0]["values"] == pytest.approx([0.05, 1.0])
    assert said["lines"][2]["values"] == pytest.approx([0.05, 1.0])
    assert "'sea', ' moon'" in said["how"]


def test_few_are_dots_and_their_number_is_said():
    data = given(effects(controls=2, draws=3).show())
    one = picture(data, "steering: distance to tuned")
    assert one["bands"] == []
    controls, random = one["dots"]
    assert (controls["name"], random["name"]) == ("2 controls", "3 random vectors")
    assert controls["values"] == [[], pytest.approx([0.8, 0.81]), pytest.approx([0.9, 0.92])]
    assert [len(column) for column in random["values"]] == [0, 3, 3]
    assert any("A band takes 19 controls of a kind." in fact for fact in data["facts"])
    alone = given(effects().show())
    assert [dots["name"] for dots in picture(alone, "steering: distance to tuned")["dots"]] == ["2 random vectors"]


def test_the_most_probable_word_stands_by_direction_and_scale():
    data = given(effects(controls=5, draws=5).show())
    table = data["words"]
    assert table["columns"] == ["", "0.5", "10"]
    assert [row[0] for row in table["rows"]] == [
        *("difference, in the tuned model", "difference, in the base", "tuned mean, in the tuned model"),
        *("control 0", "control 1", "control 2"),
        *["random vector"] * 3,
    ]
    assert table["rows"][0][1:] == ["sea 0.025", "sea 0.5"]
    assert len(SCALES) == 2


def test_rows_of_the_replaced_component_have_the_interval_of_the_difference_alone():
    data = given(effects(controls=3, draws=2).show())
    tuned, base = data["axes"]
    assert tuned["title"].startswith("The tuned model, its component along each direction set to the base's")
    rows = {row["name"]: row for row in tuned["rows"]}
    assert [*rows] == [
        *("the difference", "all of the base", "tuned model's mean", "control models", "random vectors"),
        "random differences",
    ]
    assert (rows["the difference"]["values"], rows["the difference"]["low"], rows["the difference"]["high"]) == (
        [1.0],
        0.9,
        1.1,
    )
    assert rows["all of the base"]["role"] == "base"
    assert rows["control models"]["values"] == pytest.approx([0.1, 0.11, 0.12])
    assert all(row["low"] is None for name, row in rows.items() if name != "the difference")
    assert "the difference -1;" in base["told"]
    assert "control models -0.12 to -0.1;" in base["told"]
    assert [row["name"] for row in given(effects().show())["axes"][0]["rows"]][3] == "random vectors"


def test_what_was_found_is_said_beside_what_others_do():
    facts = given(effects(controls=3, draws=2).show())["facts"]
    assert facts[0].startswith("The place: layer 1, position 4, half of the layers and the last position")
    assert facts[1] == (
        "Steering: with the difference added as it is, the base is 1.7 nats from the tuned model, and 0.7 with nothing "
        "added; 2 random vectors 0.75 to 0.76; 3 controls 0.8 to 0.82."
    )
    assert facts[2] == (
        "Causal: the tuned model's component along it set to the base's changes the cross-entropy by +1 nats per token "
        "(+0.9 to +1.1 over texts); the whole other model by +2; 2 random vectors 0.05 to 0.06; 2 random differences "
        "0.02 to 0.03; 3 controls 0.1 to 0.12."
    )
    assert facts[3].startswith("Causal: the reverse changes the cross-entropy by -1 nats per token")
    assert "as it was asked for" in given(effects(chosen=True).show())["facts"][0]


def test_hostile_words_are_escaped():
    html = effects(controls=2, model=f"a -> {HOSTILE[0]}", words=(HOSTILE[0], HOSTILE[1])).show().html()
    assert HOSTILE[0] not in html
    assert HOSTILE[1] not in html


def test_the_section_shows_them_below_the_words_or_says_why_not(tmp_path):
    store = ResultStore(tmp_path)
    put(store, "activation_difference", WHOLE, difference(controls=2))
    assert len(activation_difference_section(Found(store))) == 1
    assert effects_summary(Found(store)).empty
    result = effects(controls=19, draws=19)
    put(store, "activation_difference_effects", WHOLE, result)
    store.save_table("activation_difference_effects", result.to_df())
    store.save_table("activation_difference_causal", result.table("causal"))
    _, widget, *tables = activation_difference_section(Found(store))
    assert isinstance(widget, Widget)
    assert widget.view == "difference_effects"
    assert [getattr(table, "name", "") for table in tables] == [
        *("activation_difference_effects", "activation_difference_causal")
    ]
    summary: Any = effects_summary(Found(store))
    assert summary.measure.tolist() == ["kl_to_tuned", "kl_to_tuned", "change", "change"]
    assert summary.difference.tolist() == pytest.approx([1.7, 2.7, 1.0, -1.0])
