"""What the views of the residual stream are given, and what their section of the report holds."""

import pytest

from lensdiff.analyses.residual_stream.direct import DirectLogitAttribution
from lensdiff.analyses.residual_stream.section import controls_beside, parts_summary, residual_stream_section
from lensdiff.analyses.residual_stream.view_lens import LIKELY, TOKENS
from lensdiff.results import Diff, Provenance, Results, ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE, Unit
from lensdiff.views import show
from lensdiff.views.widget import Widget
from tests.analyses.residual_stream.results import (
    HEADS,
    RISE,
    logit_lens,
    model_parts,
    shift_of_lens,
    shift_of_parts,
)
from tests.directories import put
from tests.views.pages import given


def test_curves_have_both_models_before_the_band():
    data = given(shift_of_lens({"spectrum": 19}).show())
    assert data["layers"] == ["0", "1", "out"]
    kl, prob = data["curves"]
    assert kl["base"] == [4.6, 2.3, 0]
    assert kl["tuned"] == [6.9, 3.45, 0]
    assert kl["low"][0] < 6.9 < kl["high"][0]
    assert kl["control_low"][0] < 4.6 < kl["control_high"][0] < 6.9
    assert kl["controls"] == []
    assert 0 <= min(prob["control_low"]) <= max(prob["control_high"]) <= 1
    assert any("from layer 1.5 on in the base and 1 in the tuned" in fact for fact in data["facts"])
    assert "A layer is read by each model's own final norm and unembedding" in data["facts"][0]
    assert any("controls' bands" in fact for fact in data["facts"])


def test_few_controls_are_dots_and_none_are_said():
    data = given(shift_of_lens({"spectrum": 2}).show())
    assert data["curves"][0]["control_low"] == []
    assert [len(layer) for layer in data["curves"][0]["controls"]] == [2, 2, 2]
    assert any("a band takes 19 of a kind" in fact for fact in given(shift_of_lens().show())["facts"])


def test_the_lens_has_a_word_in_each_cell_of_both_models():
    widget = show(Diff([logit_lens(model="a")], [logit_lens(shift=0.1)]))
    (prompt,) = given(widget)["prompts"]
    assert prompt["tokens"] == ["Red", " blue", "\n"]
    assert prompt["layers"] == [0, 1, 2]
    base, tuned = prompt["sides"]
    assert (base["role"], base["name"], tuned["role"], tuned["name"]) == ("base", "a", "tuned", "b")
    tops = [[prompt["words"][cell[0]] for cell in layer] for layer in base["likely"]]
    assert tops == [["other"] * 3, ["other"] * 3, ["Red", " blue", "\n"]]
    assert base["chances"][1][0] == [0.5, 0.5]
    assert (base["prob"][0][0], tuned["prob"][0][0]) == (0.01, 0.11)
    assert base["committed"] == [2, 2, 2]
    assert base["rank"][0] == [9, 9, 9]
    alone = given(logit_lens().show())["prompts"][0]["sides"]
    assert [side["role"] for side in alone] == ["tuned"]


def test_the_page_of_the_lens_says_whose_norm_and_unembedding_read():
    both = given(show(Diff([logit_lens(model="a")], [logit_lens(shift=0.1)])))["how"]
    one = given(logit_lens().show())["how"]
    assert "by the model's own final norm and unembedding" in one
    assert both.startswith(one)
    assert "The base's streams are read by the base's" in both
    assert "the base's" not in one


def test_a_long_response_is_cut_and_the_page_says_so():
    (prompt,) = given(logit_lens(tuple(f"t{i}" for i in range(TOKENS + 3))).show())["prompts"]
    assert len(prompt["tokens"]) == len(prompt["sides"][0]["likely"][0]) == TOKENS
    assert f"the first {TOKENS} of {TOKENS + 3} response tokens" in prompt["note"]
    assert all(len(cell) <= LIKELY for layer in prompt["sides"][0]["likely"] for cell in layer)


def test_the_map_of_parts_marks_what_lies_beyond_the_controls():
    data = given(shift_of_parts({"spectrum": 19}).show())
    rows = {(row["part"], row["layer"], row["head"]): row for row in data["groups"][0]["rows"]}
    assert rows["head", 1, 0]["values"] == pytest.approx([RISE * 1.15, 0.575, 0.575 + RISE * 1.15], abs=1e-3)
    assert rows["head", 1, 0]["marked"]
    assert rows["head", 1, 0]["moved"]
    assert [place for place, row in rows.items() if row["marked"]] == [("head", 1, 0)]
    assert (data["n_layers"], data["n_heads"]) == (2, HEADS)
    assert data["table"]["rows"][0][0] == "head 1.0"
    assert data["table"]["rows"][0][-1] == "yes"
    assert "1 of 8 parts moved beyond the controls and over prompts." in data["facts"]
    few = given(shift_of_parts().show())
    assert {row["marked"] for row in few["groups"][0]["rows"]} == {None}


def attribution(head: float, model: str = "b") -> DirectLogitAttribution:
    parts = model_parts(Provenance("", model), head)
    values = parts.contributions[:1].T.expand(-1, 3).clone()
    tokens = ("x", "y", "z")
    return DirectLogitAttribution(
        parts.provenance, "p1", "Say", "xyz", tokens, ("a",) * 3, parts.parts, values, values.sum(dim=0)
    )


def test_single_models_and_pairs_without_controls_have_a_map_too():
    alone = given(attribution(0.5).show())
    assert alone["measures"] == ["contribution"]
    assert alone["table"] is None
    pair = given(show(Diff(attribution(0.5, "a"), attribution(2.5))))
    assert pair["measures"] == ["tuned − base", "base", "tuned"]
    assert ": base " in pair["groups"][0]["note"]
    assert ", tuned " in pair["groups"][0]["note"]
    head = next(row for row in pair["groups"][0]["rows"] if (row["layer"], row["head"]) == (1, 0))
    assert head["values"] == [2.0, 0.5, 2.5]
    many = given(Results({"p1": attribution(0.5)}).show())
    assert many["groups"][0]["label"].startswith("p1: ")


def test_readers_without_scripts_get_tables():
    for result in (shift_of_lens(), shift_of_parts(), logit_lens(("<b>",)), attribution(0.5)):
        assert "<table>" in result.show().fallback
    assert "&lt;b&gt;" in logit_lens(("<b>",)).show().fallback


def test_the_section_has_curves_words_and_parts(tmp_path):
    store = ResultStore(tmp_path / "out")
    assert residual_stream_section(Found(store)) == []
    put(store, "logit_lens_shift", WHOLE, shift_of_lens({"spectrum": 19}))
    for side, name in (("base", "a"), ("tuned", "b")):
        put(store, "logit_lens", Unit(side, "p1"), logit_lens(model=name))
    put(store, "direct_logit_attribution", WHOLE, shift_of_parts({"spectrum": 19}))
    found = Found(store)
    shown = residual_stream_section(found)
    assert [part.view for part in shown if isinstance(part, Widget)] == ["lens_curves", "lens", "logit_parts"]
    assert parts_summary(found).iloc[0].difference == pytest.approx(RISE * 1.15)
    assert {name: len(kinds) for name, kinds in controls_beside(found).items()} == {
        "logit lens": 19,
        "parts of logits": 19,
    }
