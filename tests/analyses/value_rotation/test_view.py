"""The view of the values' rotation: numbers of the result, bands with enough controls, the section."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lensdiff.analyses.value_rotation.section import value_rotation_section
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE
from lensdiff.views.section import Table
from lensdiff.views.widget import Widget
from tests.analyses.value_rotation.results import value_rotation
from tests.directories import put
from tests.views.hostile import HOSTILE
from tests.views.pages import given

ENOUGH = {"spectrum": 19, "gradient-noise": 24}


def test_the_curve_has_a_band_for_each_kind_with_enough_controls():
    result = value_rotation(controls=ENOUGH | {"distilled": 4}, changed=True)
    data = given(result.show())
    assert data["shares"] == pytest.approx(result.shares.tolist(), rel=1e-3)
    assert [band["name"] for band in data["bands"]] == ["spectrum controls (19)", "gradient-noise controls (24)"]
    for band, kind in zip(data["bands"], ENOUGH, strict=True):
        low, high = result.band(kind)
        assert band["low"] == pytest.approx(low.tolist(), rel=1e-3)
        assert band["high"] == pytest.approx(high.tolist(), rel=1e-3)
    (dots,) = data["dots"]
    assert dots["name"] == "distilled controls (4)"
    assert np.array(dots["values"]).T.tolist() == pytest.approx(result.of_kind("distilled").numpy(), rel=1e-3)
    said = " ".join(data["facts"])
    assert "too few controls to tell" in said
    assert "18 neurons in another place" in said
    assert "basis was changed" in said
    assert "Share by layer" in result.show().fallback


def test_what_is_said_of_the_mean_is_the_envelope():
    result = value_rotation(controls=ENOUGH)
    assert given(result.show())["facts"] == [f"Mean share over 6 layers: {result.beside()}."]
    alone = given(value_rotation().show())
    assert alone["facts"][0] == "Mean over 6 layers: share 0.45."
    assert "Without controls nothing says" in alone["facts"][1]
    assert (alone["bands"], alone["dots"]) == ([], [])
    still = given(replace(value_rotation(), change=torch.zeros(6, dtype=torch.float64)).show())
    assert "No change in 6 layers." in still["facts"]


def test_names_cannot_break_out():
    assert HOSTILE[0] not in value_rotation(model=f"a -> {HOSTILE[0]}", controls={"spectrum": 2}).show().html()


def test_the_section_holds_what_a_directory_has(tmp_path):
    store = ResultStore(tmp_path)
    assert value_rotation_section(Found(store)) == []
    rotation = value_rotation(controls={"spectrum": 2})
    put(store, "value_rotation", WHOLE, rotation)
    store.save_table("value_rotation", rotation.to_df())
    store.save_table("value_rotation_controls", rotation.controls())
    widget, *tables = value_rotation_section(Found(store))
    assert isinstance(widget, Widget)
    assert all(isinstance(table, Table) and len(table.frame) for table in tables)
    assert [table.name for table in tables] == ["value_rotation", "value_rotation_controls"]
