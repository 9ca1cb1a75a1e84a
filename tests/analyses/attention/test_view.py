"""What the views of attention are given, and what their section of the report holds."""

import base64
from dataclasses import replace

import pytest
import torch

from lensdiff.analyses.attention.patterns import MEASURES
from lensdiff.analyses.attention.section import attention_section
from lensdiff.analyses.attention.view_patterns import HEADS as SHOWN
from lensdiff.results import Diff, InputError, ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE, Unit
from lensdiff.views.widget import Widget
from tests.analyses.attention.results import HEADS, LAYERS, attention, attention_shift
from tests.directories import put
from tests.views.pages import given


def unpacked(text):
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.int8).reshape(3, 3) / 127


def test_the_most_changed_head_comes_first_with_both_models_attention():
    base, tuned = attention(), attention(model="b", sharp=(1, 0))
    (prompt,) = given(Diff(base, tuned).show())["prompts"]
    assert len(prompt["heads"]) == LAYERS * HEADS
    first, second = prompt["heads"][:2]
    assert first["name"].startswith("L1 H0 · JS distance here 0.")
    assert second["name"].endswith("JS distance here 0")
    torch.testing.assert_close(unpacked(first["patterns"][0]), base.patterns[1, 0], atol=1 / 250, rtol=0)
    torch.testing.assert_close(unpacked(first["patterns"][1]), torch.eye(3), atol=1 / 250, rtol=0)
    assert [(s["role"], s["name"]) for s in prompt["sides"]] == [("base", "base: a"), ("tuned", "tuned: b")]
    assert f"first token's share {float(tuned.sink_share[1, 0]):.2g}" in first["facts"][1]
    assert "those that changed most" in prompt["facts"]


def test_one_model_alone_is_drawn():
    data = given(attention().show())["prompts"][0]
    assert len(data["sides"]) == 1
    top = attention().top(1)
    assert data["heads"][0]["name"] == f"L{top['layer'][0]} H{top['head_index'][0]}"


def test_long_texts_show_fewer_heads():
    many = ("x",) * 300
    (prompt,) = given(Diff(attention(many), attention(many)).show())["prompts"]
    assert len(prompt["heads"]) == 4 < SHOWN


def test_what_cannot_be_compared_is_said():
    (prompt,) = given(Diff(attention(), attention(("Red", " wine", "!"))).show())["prompts"]
    assert "the models read different texts" in prompt["facts"]
    assert prompt["heads"][0]["name"].count("JS") == 0
    bare = replace(attention(), patterns=torch.empty(LAYERS, HEADS, 0, 0))
    (prompt,) = given(Diff(bare, bare).show())["prompts"]
    assert (prompt["heads"], prompt["facts"].split(";")[0]) == ([], "the patterns were not kept")
    with pytest.raises(InputError, match=r"base has layers \[0, 1, 2\] and tuned \[4, 5, 6\]"):
        Diff(attention(), replace(attention(), layers=(4, 5, 6))).show()


def test_prompts_that_both_models_have_are_chosen_from():
    both = [attention(prompt_id=name) for name in ("p1", "p2")]
    data = given(Diff(both, [attention(prompt_id="p2")]).show())
    assert [p["label"] for p in data["prompts"]] == ["p2: Blue waves"]


def test_the_map_of_shifts_has_bands_and_signed_differences():
    data = given(attention_shift().show())
    distance, signed = data["measures"][0], data["measures"][2]
    assert distance["values"][2][1] == 0.9 > distance["high"][2][1]
    assert (distance["signed"], signed["signed"]) == (False, True)
    assert signed["values"][1][0] == -0.4
    labels = [m["label"] for m in data["measures"]]
    assert not any("context" in label or "template" in label for label in labels), "what no prompt marks is left out"
    assert len(labels) == 2 + len(MEASURES) - 2
    assert [row[0] for row in data["of_head"][1][0]] == [
        "first token's share", "entropy (bits)", "instruction's share", "the rest's share",
    ]  # fmt: skip
    assert data["claim"] == f"Mean JS distance of all heads: {attention_shift().whole}."
    assert data["claim"].endswith("0.4; controls' bands 0.0944 to 0.206 (19 spectrum), p = 0.05.")
    assert "19 controls" in data["facts"]
    assert data["top"][0][:3] == [2, 1, 0.9]


def test_without_controls_there_is_no_band_and_no_claim():
    data = given(attention_shift(controls=0).show())
    assert data["claim"] is None
    assert "no controls" in data["facts"]
    assert data["measures"][0]["low"][0] == [None, None]


def test_with_few_controls_there_is_no_band_and_the_claim_says_so():
    data = given(attention_shift(controls=18).show())
    few = "0.4; too few controls to tell (18 spectrum; 19 of each kind are needed)."
    assert data["claim"] == f"Mean JS distance of all heads: {few}"
    assert all(limit is None for row in data["measures"][0]["high"] for limit in row)


def test_readers_without_scripts_get_a_table():
    assert "<td>0.9</td>" in attention_shift().show().fallback


def test_the_section_holds_what_a_results_directory_has(tmp_path):
    store = ResultStore(tmp_path)
    assert attention_section(Found(store)) == []
    put(store, "attention_shift", WHOLE, attention_shift())
    for side, model in (("base", "a"), ("tuned", "b")):
        put(store, "attention", Unit(side, "p1"), attention(model=model))
        bare = replace(attention(prompt_id="p0"), patterns=torch.empty(LAYERS, HEADS, 0, 0))
        put(store, "attention", Unit(side, "p0"), bare)
    shift, patterns = (part for part in attention_section(Found(store)) if isinstance(part, Widget))
    assert (shift.view, patterns.view) == ("attention_shift", "attention")
    labels = [prompt["label"].split(":")[0] for prompt in given(patterns)["prompts"]]
    assert labels == ["p1"], "prompts without patterns are left out"
