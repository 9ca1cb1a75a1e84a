"""What the views of the knock-out are given, and what its section of the report holds."""

from dataclasses import replace

import numpy as np
import pytest

from lensdiff import stats
from lensdiff.analyses.knock_out.section import controls_beside, knock_out_section, summary
from lensdiff.analyses.knock_out.shift import PARTS
from lensdiff.analyses.knock_out.view import token_widget
from lensdiff.results import Diff, Results, ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE
from lensdiff.views import show
from lensdiff.views.section import Table
from lensdiff.views.widget import Widget
from tests.analyses.knock_out.results import PROMPTS, RISE, TOKENS, knock_out, shift
from tests.directories import put
from tests.views.hostile import HOSTILE
from tests.views.pages import given


def test_a_response_has_its_numbers_in_every_way():
    data = given(knock_out().show())
    assert data["ways"] == ["cut for the response, layers 0–3", "cut for the response, layers 0–1"]
    (response,) = data["responses"]
    assert response["tokens"] == list(TOKENS)
    assert response["label"] == "p1: List three."
    assert "instruction of 2 tokens, 4 others; response as generated" in response["facts"]
    (model,) = response["models"]
    assert (model["role"], model["name"]) == ("model", "a")
    assert model["log_prob"] == [-0.5, -1.25, -2.0]
    assert model["drop"] == [[2.0, 0.5, -1.0], [1.0, 0.25, -0.5]]
    assert model["random"] == [[0.25] * 3, [None] * 3]


def test_both_models_stand_together_on_one_text_and_apart_on_two():
    (response,) = given(show(Diff(knock_out(), knock_out(shift=1.0))))["responses"]
    assert [model["role"] for model in response["models"]] == ["base", "tuned"]
    assert response["models"][1]["drop"][0] == [3.0, 1.5, 0.0]
    apart = given(show(Diff(knock_out(), knock_out(("Hi",)))))["responses"]
    assert [response["label"] for response in apart] == [
        "p1: List three., base's own response", "p1: List three., tuned's own response",
    ]  # fmt: skip
    assert [[model["role"] for model in response["models"]] for response in apart] == [["base"], ["tuned"]]
    many = Results({name: knock_out(prompt_id=name) for name in PROMPTS})
    assert [r["label"] for r in given(many.show())["responses"]] == [f"{name}: List three." for name in PROMPTS]


def test_curves_are_means_over_prompts_with_their_limits():
    result = shift()
    data = given(result.show())
    assert data["texts"] == ["mean of both texts", "the tuned model's response", "the base's response"]
    assert data["ways"] == ["cut for the response", "cut for all that stands behind it"]
    assert "1 response too short, 0 prompts that failed. Windows do not add up" in data["facts"][0]
    of_base = data["found"][2][1]  # the base's text, cut behind the instruction
    windows = of_base["windows"]
    assert windows["columns"] == ["0–1", "2–3"]
    assert [line["role"] for line in windows["series"]] == ["base", "tuned"]
    mean = 2 * np.mean([RISE + 0.2 * i for i in range(3)])
    assert windows["series"][1]["values"] == pytest.approx([0.75 * mean, 0.25 * mean], rel=1e-3)
    assert [band["name"] for band in windows["bands"]] == ["base, other tokens cut", "tuned, other tokens cut"]
    profile = of_base["profile"]
    assert profile["columns"] == ["0–20", "20–40", "40–60", "60–80", "80–100"]
    curve = result.curve("profile", 1, "base", "after")
    limits = stats.paired_interval(curve, np.zeros_like(curve))
    tuned = profile["series"][1]
    assert tuned["values"] == pytest.approx(curve.mean(axis=0).tolist(), rel=1e-3)
    assert tuned["low"] == pytest.approx(limits.low.tolist(), rel=1e-3, abs=1e-3)
    assert tuned["high"] == pytest.approx(limits.high.tolist(), rel=1e-3)
    assert (profile["bands"], profile["dots"]) == ([], [])
    difference = result.difference("drop", "base", "after")
    assert difference is not None
    assert of_base["facts"][0].endswith(f"tuned - base {difference.numbers()}.")
    assert len(of_base["facts"]) == 3


def test_controls_are_a_band_where_every_kind_has_enough_and_dots_elsewhere():
    few, enough = (given(shift(controls={"spectrum": n}).show())["found"][0][0]["profile"] for n in (2, 19))
    assert few["bands"] == []
    assert np.shape(few["dots"]) == (PARTS, 2)
    assert enough["dots"] == []
    (band,) = enough["bands"]
    assert (band["role"], band["name"], band["values"]) == ("control", "where one more control lies", [])
    result = shift(controls={"spectrum": 19})
    means = [result.curve("profile", 2 + i).mean(axis=0) for i in range(19)]
    expected = stats.rank_band(np.array(means))
    assert band["low"] == pytest.approx(expected.low.tolist(), rel=1e-3)
    assert band["high"] == pytest.approx(expected.high.tolist(), rel=1e-3)
    facts = given(result.show())["found"][0][0]["facts"]
    assert facts[-1] == f"Beside controls, loss of the model - base: {result.beside()}."


def test_one_prompt_says_that_there_is_no_interval():
    data = given(shift(("poem",), texts=("given",)).show())
    assert data["texts"] == ["the given response"]
    (found, _) = data["found"][0]
    assert found["facts"] == ["Fewer than two prompts: there is no interval."]
    assert found["profile"]["series"][0]["low"] == [None] * PARTS


def test_every_response_of_a_pair_is_there_with_both_models():
    result = shift(controls={"spectrum": 2})
    data = given(token_widget(result))
    assert [response["label"] for response in data["responses"][:3]] == [
        "poem, the tuned model's response", "poem, the base's response", "list, the tuned model's response",
    ]  # fmt: skip
    frame = result.tokens().set_index(["prompt_id", "text", "model", "cut"])
    asked = [(prompt, text) for prompt in PROMPTS for text in ("tuned", "base")]
    for response, (prompt, text) in zip(data["responses"], asked, strict=True):
        for model in response["models"]:
            for way, cut in enumerate(("response", "after")):
                rows = frame.loc[[(prompt, text, model["role"], cut)]]
                assert model["drop"][way] == pytest.approx(rows["drop"].tolist(), rel=1e-3)
                assert model["random"][way] == rows["random_drop"].tolist()
    assert token_widget(replace(result, failures={})).fallback == ""


def test_the_section_and_the_summary_of_a_directory(tmp_path):
    store = ResultStore(tmp_path)
    assert knock_out_section(Found(store)) == []
    assert summary(Found(store)).empty
    assert controls_beside(Found(store)) == {}
    result = shift(controls={"spectrum": 19})
    with store.writing():
        put(store, "knock_out", WHOLE, result)
        store.save_table("knock_out_effects", result.summary())
    curves, tokens, table = knock_out_section(Found(store))
    assert isinstance(curves, Widget)
    assert isinstance(tokens, Widget)
    assert isinstance(table, Table)
    rows = summary(Found(store)).set_index(["text", "cut", "measure"])
    row = rows.loc["base", "after", "drop"]
    assert (row["base"], row["tuned"]) == pytest.approx(result.means("drop", "base", "after"))
    assert row["difference"] == pytest.approx(row["tuned"] - row["base"])
    assert row["control_low"] < row["control_high"] < row["difference"]
    assert controls_beside(Found(store)) == {"instruction cut": ["spectrum"] * 19}


def test_hostile_tokens_stay_text():
    page = knock_out(HOSTILE, prompt_id=HOSTILE[0], prompt=HOSTILE[0]).show().html()
    assert HOSTILE[0] not in page
    assert HOSTILE[0] not in token_widget(shift((HOSTILE[0],), tokens=HOSTILE)).html()
