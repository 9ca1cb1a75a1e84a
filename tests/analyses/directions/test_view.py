"""What the view of directions is given, and what its section of the report holds."""

from dataclasses import replace

import pytest
import torch

from lensdiff.analyses.directions.section import (
    controls_beside,
    directions_section,
    directions_summary,
    effects_summary,
)
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE
from lensdiff.views.widget import Widget
from tests.analyses.directions.results import found as directions
from tests.directories import put
from tests.views.pages import given


def test_pictures_stand_before_bands():
    data = given(directions({"spectrum": 19}).show())
    assert data["layers"] == ["0", "1", "out"]
    shared, own, other = data["pictures"]
    assert [line["values"] for line in shared["lines"]] == [[1.0, 0.3, 0.3]]
    assert [band["dotted"] for band in shared["bands"]] == [False]
    assert shared["bands"][0]["low"][1] > 0.8
    assert [line["role"] for line in own["lines"]] == ["base", "tuned"]
    assert own["lines"][0]["values"] == [0.5, 0.9, 1.0]
    assert [band["dotted"] for band in other["bands"]] == [False, True]
    assert other["bands"][1]["low"] == [0.2] * 3
    assert data["table"]["rows"][0][:4] == ["base", "base", "add", pytest.approx(1.15)]
    assert any("AUROC of 0.75; 50% of the first" in fact for fact in data["facts"])
    assert any("controls' bands" in fact for fact in data["facts"])


def test_few_controls_are_dots_and_none_are_said():
    data = given(directions({"spectrum": 2}).show())
    assert [len(layer) for layer in data["pictures"][0]["controls"]] == [2, 2, 2]
    assert data["pictures"][0]["bands"] == []
    alone = given(directions().show())
    assert alone["pictures"][0]["controls"] == []
    assert any("a band takes 19 of a kind" in fact for fact in alone["facts"])


def test_without_effects_there_is_no_table():
    nothing = torch.zeros(2, 2, 2, 0, dtype=torch.float64)
    found = replace(directions(), prompt_id=(), effect=nothing, random_effect=nothing)
    assert given(found.show())["table"] is None


def test_readers_without_scripts_get_tables():
    assert directions().show().fallback.count("<table>") == 2


def test_the_section_has_curves_and_tables(tmp_path):
    store = ResultStore(tmp_path / "out")
    assert directions_section(Found(store)) == []
    assert directions_summary(Found(store)).empty
    assert effects_summary(Found(store)).empty
    assert controls_beside(Found(store)) == {}
    put(store, "directions", WHOLE, directions({"spectrum": 19}))
    found = Found(store)
    assert [part.view for part in directions_section(found) if isinstance(part, Widget)] == ["directions"]
    assert directions_summary(found)["cosine"].tolist() == [1.0, 0.3, 0.3]
    assert effects_summary(found)["effect"].tolist() == pytest.approx([1.15, -2.3] * 4)
    assert {name: len(kinds) for name, kinds in controls_beside(found).items()} == {"directions": 19}
