"""What the view of layer similarity is given, and what its section of the report holds."""

from dataclasses import replace

import pytest
import torch

from lensdiff.analyses.layer_similarity.running import Products
from lensdiff.analyses.layer_similarity.section import (
    controls_beside,
    layer_similarity_section,
    similarity_summary,
)
from lensdiff.analyses.layer_similarity.view import bias
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE
from lensdiff.views.widget import Widget
from tests.analyses.layer_similarity.results import similarity
from tests.directories import put
from tests.views.pages import given


def test_curves_stand_before_the_band():
    data = given(similarity({"spectrum": 19}).show())
    assert data["layers"] == ["0", "1", "out"]
    assert [label for label, _, _ in data["measures"]] == ["CKA", "relative change", "cosine", "share of one shift"]
    whole, instruction = data["groups"]
    assert (whole["label"], whole["n"], instruction["label"], instruction["n"]) == (
        "all positions",
        20,
        "instruction",
        6,
    )
    cka, change, cosine, _ = whole["curves"]
    assert change["values"] == pytest.approx([0.0, 0.218, 0.436])
    assert change["low"][1] < 0.218 < change["high"][1]
    assert 0 < change["control_low"][1] < change["control_high"][1] < 0.1
    assert change["controls"] == []
    assert cka["low"] == [], "of all prompts together there is no interval"
    assert cosine["high"][0] == 1.0
    outside = next(fact for fact in data["facts"] if fact.startswith("Layers outside"))
    assert outside.endswith("relative change 2 above, 0 below; cosine 0 above, 2 below; CKA 0 above, 2 below.")
    assert "of 3, all positions" in outside
    assert any("Position 0, where models park attention, is left out." in fact for fact in data["facts"])
    assert any("controls' bands" in fact for fact in data["facts"])


def test_few_controls_are_dots_and_none_are_said():
    data = given(similarity({"spectrum": 2}).show())
    curve = data["groups"][0]["curves"][1]
    assert curve["control_low"] == []
    assert [len(layer) for layer in curve["controls"]] == [2, 2, 2]
    alone = given(similarity().show())
    assert alone["groups"][0]["curves"][1]["controls"] == []
    assert any("a band takes 19 of a kind" in fact for fact in alone["facts"])
    assert not any("controls' band" in fact for fact in alone["facts"])


def test_few_positions_are_said_to_raise_cka_and_many_are_not():
    found = similarity({"spectrum": 2})  # 20 positions, 6 of an instruction, of 2 dimensions
    said = [fact for fact in given(found.show())["facts"] if "biased" in fact]
    assert said == [
        "CKA is biased upwards where positions are few beside the 2 dimensions of the stream: two streams that have "
        "nothing in common can show up to 0.25 (instruction). The controls have the same bias."
    ]
    wide = replace(found, d_model=20)
    assert any("0.50 (all positions), 0.77 (instruction)." in fact for fact in given(wide.show())["facts"])
    many = replace(found, positions=3 * found.positions)
    assert not any("biased" in fact for fact in given(many.show())["facts"])


@pytest.mark.parametrize(("n", "d"), [(40, 20), (400, 20), (20, 40)])
def test_streams_without_anything_in_common_have_that_cka(n: int, d: int):
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(20):
        sums = Products.none(d)
        sums.add(*(torch.randn(n + 1, d, generator=generator, dtype=torch.float64) for _ in range(2)))
        found.append(sums.cka())
        narrow = Products.none(d)
        fewer = torch.linspace(0.05, 1, d, dtype=torch.float64) ** 2
        narrow.add(*(torch.randn(n + 1, d, generator=generator, dtype=torch.float64) * fewer for _ in range(2)))
        assert narrow.cka() < sums.cka()
    assert sum(found) / 20 == pytest.approx(bias(n, d), rel=0.03)


def test_what_is_not_defined_is_a_gap():
    found = similarity({"spectrum": 2})
    found.cka[:, 0, 1] = torch.nan
    curve = given(found.show())["groups"][0]["curves"][0]
    assert curve["values"][1] is None
    assert [len(layer) for layer in curve["controls"]] == [2, 0, 2]


def test_readers_without_scripts_get_a_table():
    assert "<table>" in similarity().show().fallback


def test_the_section_has_curves_and_the_table(tmp_path):
    store = ResultStore(tmp_path / "out")
    assert layer_similarity_section(Found(store)) == []
    assert similarity_summary(Found(store)).empty
    assert controls_beside(Found(store)) == {}
    put(store, "layer_similarity", WHOLE, similarity({"spectrum": 19}))
    found = Found(store)
    assert [part.view for part in layer_similarity_section(found) if isinstance(part, Widget)] == ["layer_similarity"]
    summary = similarity_summary(found)
    assert summary["layer"].tolist() == [0, 1, 2]
    assert summary["relative_change"].tolist() == pytest.approx([0.0, 0.218, 0.436])
    assert {name: len(kinds) for name, kinds in controls_beside(found).items()} == {"layer similarity": 19}
