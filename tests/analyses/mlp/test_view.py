"""What the views of concepts, rotation and coherence are given."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lensdiff.analyses.mlp import view_concepts as view
from lensdiff.analyses.mlp.section import concepts_section
from lensdiff.results import Diff, ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE, Unit
from lensdiff.views.section import Table
from lensdiff.views.widget import Widget
from tests.analyses.mlp.results import ANGLE, COMPONENTS, LIST, WORDS, coherence, concepts, rotation, without_words
from tests.directories import put
from tests.views.hostile import HOSTILE
from tests.views.pages import embedded, given


def test_one_model_shows_every_component_with_both_poles() -> None:
    result = concepts()
    data = given(result.show())
    assert (data["layers"], data["sides"], data["roles"]) == ([0, 3], ["value", "key"], ["control"])
    component = data["components"][1][0][2]
    assert component["angle"] is None
    (model,) = component["models"]
    frame = result.poles().query("layer == 3 and side == 'value' and component == 2")
    for pole, name in zip(model["poles"], ("positive", "negative"), strict=True):
        assert [data["words"][word] for word, _ in pole] == list(frame[frame.pole == name].word)
        np.testing.assert_allclose([score / 100 for _, score in pole], frame[frame.pole == name].score, atol=0.005)
    assert model["variance"] == 0.1


def test_two_models_are_matched_and_turned_to_the_same_side() -> None:
    data = given(Diff(concepts(), concepts("b", angle=ANGLE, sign=-1.0)).show())
    assert data["names"] == ["base: a", "tuned: b"]
    base, tuned = data["components"][0][1][0]["models"]
    assert data["components"][0][1][0]["angle"] == pytest.approx(np.degrees(ANGLE), abs=0.1)
    assert data["components"][0][1][1]["angle"] == 0.0
    # the tuned component points the other way: its poles change places and signs
    assert [word for word, _ in tuned["poles"][0]] == [word for word, _ in base["poles"][1]]
    assert [score for _, score in tuned["poles"][0]] == [40, 30, 20, 10]
    assert [score for _, score in tuned["poles"][1]] == [-90, -80, -70, -60]


def test_too_many_components_are_cut_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "BUDGET", 8)
    data = given(concepts().show())
    assert [len(side) for layer in data["components"] for side in layer] == [2] * 4
    assert f"The first 2 of {COMPONENTS} components of each layer are shown; the results hold all." in data["facts"]
    assert len(data["words"]) <= 2 * 4 * 2 * WORDS


def test_rotation_shows_degrees_and_the_bands_of_enough_controls() -> None:
    result = rotation()
    data = given(result.show())
    assert data["mean"][1][1] == pytest.approx([np.degrees(0.2), np.degrees(0.8)], rel=1e-3)
    assert data["mean"][0][0] == pytest.approx([np.degrees(0.1), np.degrees(0.4)], rel=1e-3)
    assert [band["name"] for band in data["bands"]] == ["gradient-noise controls (99)", "spectrum controls (59)"]
    assert [band["outline"] for band in data["bands"]] == [False, True]
    assert data["bands"][0]["high"][0][0] == pytest.approx([np.degrees(0.3)] * 2, rel=1e-3)
    assert data["bands"][1]["high"][0][0] == pytest.approx([np.degrees(0.27)] * 2, rel=1e-3)
    mean = np.degrees(np.mean([[0.1, 0.2], [0.4, 0.8]]))
    assert (
        data["facts"][0] == f"All layers, sides and ranks together: {mean:.3g}° on average; the curve is of one rank."
    )
    assert data["facts"][1].endswith("would turn it: too few controls to tell (5 norm).")
    row = dict(zip(data["top"]["columns"], data["top"]["rows"][0], strict=True))
    assert (row["layer"], row["side"], row["component"], row["variance change"]) == (0, "value", 0, "+1.00%")
    assert row["angle °"] == pytest.approx(np.degrees(ANGLE))
    assert row["bands to °"] == pytest.approx(np.degrees(0.4)), "the highest of the kinds"
    assert row["lost"] == ", ".join(LIST[:2])


def test_rotation_without_controls_says_what_is_missing() -> None:
    data = given(without_words(rotation(controls={})).show())
    assert data["bands"] == []
    assert data["facts"][1] == "How far a meaningless change would turn it: no controls were made."
    assert "bands to °" not in data["top"]["columns"]
    few = given(rotation(controls={"gradient-noise": 18, "spectrum": 2}).show())
    assert few["bands"] == []
    assert few["facts"][1].endswith("too few controls to tell (18 gradient-noise, 2 spectrum).")
    assert "bands to °" not in few["top"]["columns"]
    assert len(given(rotation(controls={"spectrum": 19}).show())["facts"]) == 1, "nothing is missing"


def test_only_components_beyond_their_band_are_called_so() -> None:
    inside = rotation()
    high = inside.matched()["gradient-noise_high"].min()
    assert inside.matched().spectrum_high.max() < high
    between = replace(inside, matched_angle=torch.full_like(inside.matched_angle, 0.95 * high))
    assert given(between.show())["top"]["rows"] == [], "one kind explains it"
    still = replace(inside, matched_angle=torch.full_like(inside.matched_angle, high / 2))
    assert given(still.show())["top"]["rows"] == []


def test_coherence_shows_shares_and_what_chance_gives() -> None:
    data = given(Diff(coherence(), coherence("b", shift=0.1)).show())
    base, tuned = data["models"]
    assert base["values"][0] == [[66.67, 0.0], [66.67, 0.0]]
    assert base["values"][1][0] == pytest.approx([0.4, 0.15])
    assert tuned["values"][1][0] == pytest.approx([0.5, 0.25])
    assert base["nulls"] == [[5.0, 5.0], [0.25, 0.25]]
    assert "base 40.0%, tuned 40.0% of all components; without any meaning it would be 5%" in data["facts"][0]
    assert given(coherence().show())["models"][0]["null_name"] == "random directions"


@pytest.mark.parametrize(
    "result",
    [concepts(), Diff(concepts(), concepts("b", angle=ANGLE)), rotation(), coherence(), Diff(coherence(), coherence())],
    ids=lambda result: type(result).__name__,
)
def test_pages_escape_every_word(result) -> None:
    html = result.show().html()
    for text in HOSTILE:
        if "<" in text:
            assert text not in html
    assert embedded(html) == [given(result.show())]


def test_the_section_shows_what_a_directory_holds(tmp_path) -> None:
    store = ResultStore(tmp_path)
    with store.writing():
        assert concepts_section(Found(store)) == []
        for side, result in (("base", concepts()), ("tuned", concepts("b", angle=ANGLE))):
            put(store, "concepts", Unit(side, layers=(0, 3)), result)
            put(store, "coherence", Unit(side), coherence(side))
        put(store, "rotation", WHOLE, rotation())
        store.save_table("rotation", rotation().to_df())
        store.save_table("matched_components", rotation().matched())
        store.save_table("concepts", concepts().to_df())
    parts = concepts_section(Found(store))
    assert [part.view for part in parts if isinstance(part, Widget)] == ["rotation", "concepts", "coherence"]
    assert [part.name for part in parts if isinstance(part, Table)] == ["rotation", "matched_components"]
    assert isinstance(parts[-1], str)
    assert "tables/concepts.parquet" in parts[-1]
