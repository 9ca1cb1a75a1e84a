"""What the views of annotations are given."""

from dataclasses import replace

import numpy as np
import pytest

from lensdiff.analyses.annotate.section import annotations_section
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE
from lensdiff.views.widget import Widget
from tests.analyses.annotate.results import random_annotations, shift
from tests.views.directories import put
from tests.views.hostile import HOSTILE
from tests.views.pages import given


def test_annotation_shares_are_shown_in_percent() -> None:
    result = shift()
    data = given(result.show())
    frame = result.to_df().set_index("label")
    row = dict(zip(data["columns"], data["rows"][0][3], strict=True))
    assert row["label"] == "coding"
    coding = frame.loc["coding"]
    assert row["base"] == f"{100 * coding.base_mean:.2f} ± {100 * coding.base_std:.2f}"
    assert row["difference"] == f"{100 * coding.difference:+.2f} [{100 * coding.low:.2f}, {100 * coding.high:.2f}]"
    assert row["verdict"] == coding.verdict
    assert data["labels"][data["first"]] == "semantics"
    assert data["groups"] == ["0-3", "4-4"]
    groups = result.groups_df().set_index(["group", "label"])
    place = data["group_statistics"].index("tuned_share")
    assert data["by_group"][0][1][3][place] == pytest.approx(groups.loc[("4-4", "coding"), "tuned_share"], rel=1e-3)
    assert "Annotated by fake from 15 words" in data["facts"][0]


def test_shares_that_cannot_be_had_are_dashes() -> None:
    result = shift()
    unknown = replace(result, statistics=result.statistics * np.nan, by_group=result.by_group * np.nan)
    data = given(unknown.show())
    assert data["rows"][0][0][1:] == ["– ± –", "– ± –", "– [–, –]", "–", "undecided", "–"]
    assert data["by_group"][0][0][0] == [None] * 9


def test_annotations_are_listed_layer_by_layer() -> None:
    result = random_annotations(0.4, 1, layers=2, components=3)
    said = replace(result, descriptions=tuple(f"{HOSTILE[0]}{i}" for i in range(result.status.numel())))
    data = given(said.show())
    assert [layer["name"] for layer in data["layers"]] == ["layer 0", "layer 1"]
    assert data["facts"] == ["tiny: 30 explained annotations over 5 seeds."]
    description = data["layers"][1]["rows"][2][data["columns"].index("description")]
    assert description == f"{HOSTILE[0]}{(1 * 3 + 2) * 5}"
    assert HOSTILE[0] not in said.show().html()


def test_the_section_is_there_where_a_directory_was_annotated(tmp_path) -> None:
    store = ResultStore(tmp_path)
    with store.writing():
        assert annotations_section(Found(store)) == []
        put(store, "annotation_shift", WHOLE, shift())
    (part,) = annotations_section(Found(store))
    assert isinstance(part, Widget)
    assert part.view == "annotation_shift"
    assert given(part) == given(shift().show())
