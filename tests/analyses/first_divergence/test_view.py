"""The view of first divergences: numbers of the result, texts with both choices, bands, the section and the summary."""

from dataclasses import replace

import numpy as np
import pytest

from lensdiff.analyses.first_divergence.result import EFFECTS, FirstDivergence
from lensdiff.analyses.first_divergence.section import controls_beside, first_divergence_section, prompts, summary
from lensdiff.analyses.first_divergence.view import CONTEXT, SELECTED
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE
from lensdiff.views.widget import Widget
from tests.analyses.first_divergence.results import LAYERS, PROMPTS, first_divergence
from tests.directories import put
from tests.views.hostile import HOSTILE
from tests.views.pages import given


def item(result: FirstDivergence, place: int = 0):
    return given(result.show())["items"][place]


def test_the_mean_comes_first_and_then_every_prompt():
    result = first_divergence()
    data = given(result.show())
    assert [one["label"] for one in data["items"]] == ["mean over prompts", *(f"{name}:  a / !" for name in PROMPTS)]
    assert (data["layers"], data["start"]) == (list(LAYERS), 2)
    mean, first, *_ = data["items"]
    # by hand: the base has -2, -3, -4, the tuned model 2; what crosses moves by 3 and by 1 over the layers
    assert mean["cells"] == [[-3] * 5, [0, -0.75, -1.5, -2.25, -3], [1, 1.25, 1.5, 1.75, 2], [2] * 5]
    assert first["cells"][:2] == [[-2] * 5, [1, 0.25, -0.5, -1.25, -2]]
    assert mean["effects"] == [[3, 2.25, 1.5, 0.75, 0], [1, 0.75, 0.5, 0.25, 0], [-2, -1.5, -1, -0.5, 0]]
    frame = result.means().query("at == 'first' and unembed == 'base'")
    for e, effect in enumerate(EFFECTS):
        assert mean["low"][e] == pytest.approx(frame[frame.effect == effect].low.tolist(), abs=1e-3)
        assert mean["high"][e] == pytest.approx(frame[frame.effect == effect].high.tolist(), abs=1e-3)
    assert (first["low"], first["high"], mean["text"]) == ([], [], None)
    assert given(first_divergence(["one"]).show())["items"][0]["text"]["id"] == "one", "no mean of one prompt"


def test_what_stands_beside_is_in_the_rows():
    result = first_divergence()
    data = given(result.show())
    assert data["columns"] == ["effect", "here", "unembedding of tuned", "later positions", "earlier positions"]
    assert data["items"][0]["rows"] == [
        ["portable", 1.5, 1.5, 0.75, 0.015],
        ["matched", 0.5, 0.5, 0.25, 0.005],
        ["interaction", -1, -1, -0.5, -0.01],
    ]
    assert data["items"][3]["rows"][0] == ["portable", 1.5, 1.5, None, 0.015], "the last prompt has no later position"


def test_texts_have_both_choices():
    data = given(first_divergence().show())
    assert data["texts"][1] == {"id": "list", "prompt": "Say list", "common": " the sea", "base": " a", "tuned": "!"}
    assert data["items"][2]["text"] == data["texts"][1]
    long = replace(first_divergence(), prompt=("x" * 1000,) * 3)
    assert item(long, 1)["text"]["prompt"] == f"… {'x' * CONTEXT}"


def test_it_says_how_positions_are_selected_and_what_the_numbers_are():
    result = first_divergence(agreed={"sum": "both choose the same 3 tokens"})
    data = given(result.show())
    assert SELECTED in data["limits"]
    text = " ".join(data["facts"])
    assert "The models part after 3 of 4 prompts. After the others they do not: both choose the same 3 tokens." in text
    assert "At layer 2 of 4, final norm and unembedding of the base: portable +1.5" in text
    assert f"p = {result.swapped().p:.2g} over all exchanges" in text
    assert "Without controls nothing says" in text
    assert "of the tuned model" in " ".join(given(replace(result, unembed="tuned").show())["facts"])


@pytest.mark.parametrize("layers", [(2,), LAYERS])
def test_controls_have_bands_where_they_were_read(layers):
    result = first_divergence(controls={"spectrum": 19, "norm": 24}, control_layers=layers)
    data = given(result.show())
    for place, own in ((None, data["items"][0]), (1, data["items"][2])):
        for n, layer in enumerate(LAYERS):
            if layer not in layers:
                assert (own["cell_low"][n], own["effect_low"][0][n]) == (None, None)
                continue
            cells, effects = result.band(layer, place), result.effect_band(layer, place)
            assert cells is not None
            assert effects is not None
            assert own["cell_low"][n] == pytest.approx(cells.low.flatten()[1:].min(), abs=1e-4)
            assert own["cell_high"][n] == pytest.approx(cells.high.flatten()[1:].max(), abs=1e-4)
            assert [low[n] for low in own["effect_low"]] == pytest.approx(effects.low.tolist(), abs=1e-4)
            assert [high[n] for high in own["effect_high"]] == pytest.approx(effects.high.tolist(), abs=1e-4)
    text = " ".join(data["facts"])
    band = result.effect_band(2)
    assert band is not None
    assert f"(19 spectrum, 24 norm): portable {band.low[0]:.3g} to {band.high[0]:.3g}, matched" in text
    assert "that alone sets the two apart" in text


def test_few_controls_have_no_band():
    result = first_divergence(controls={"spectrum": 3})
    data = given(result.show())
    assert set(data["items"][0]["cell_low"]) == {None}
    assert "Beside 3 spectrum controls: too few to tell" in " ".join(data["facts"])


def test_models_that_never_part_are_said_to_agree():
    result = first_divergence((), agreed={"sum": "both choose the same 3 tokens"})
    data = given(result.show())
    assert (data["items"], data["texts"]) == ([], [])
    assert "The models part after 0 of 1 prompt. After the others they do not: both choose" in " ".join(data["facts"])


def test_readers_without_scripts_get_a_table_and_names_stay_text():
    assert "<td>poem</td>" in first_divergence().show().fallback
    names = "".join(HOSTILE)
    page = first_divergence([names], tokens=(names, names), common=(names,), model=f"{names} -> {names}").show().html()
    for name in HOSTILE:
        assert name not in page or "<" not in name, "no token makes an element"


def test_the_section_and_the_summary_hold_what_a_directory_has(tmp_path):
    store = ResultStore(tmp_path)
    found = Found(store)
    assert first_divergence_section(found) == []
    assert summary(found).empty
    assert prompts(found).empty
    assert controls_beside(found) == {}
    result = first_divergence(controls={"spectrum": 4})
    put(store, "first_divergence", WHOLE, result)
    found = Found(store)
    assert [part.view for part in first_divergence_section(found) if isinstance(part, Widget)] == ["first_divergence"]
    frame = summary(found)
    assert frame["at"].tolist() == ["first"] * 6 + ["later"] * 3 + ["earlier"] * 3
    own = frame.iloc[0]
    assert (own.effect, own.unembed, own["n"]) == ("portable", "base", 3)
    assert own["mean"] == pytest.approx(result.values("portable").mean())
    means = result.means().query("kind == 'spectrum' and effect == 'portable'")["mean"]
    assert own.controls == f"{means.min():.3g} to {means.max():.3g} (4)"
    assert set(frame.controls[3:]) == {"none"}
    assert not np.isnan(frame["mean"]).any()
    assert controls_beside(found) == {"first divergence": ["spectrum"] * 4}
