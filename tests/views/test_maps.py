"""What the views of weights, outputs and attention are given, and what their sections of the report hold."""

import base64
import json
from dataclasses import replace

import pytest
import torch

from lensdiff.analyses.attention.patterns import MEASURES
from lensdiff.analyses.attention.section import attention_section
from lensdiff.analyses.attention.view import HEADS as SHOWN
from lensdiff.analyses.outputs.section import outputs_section
from lensdiff.analyses.outputs.view import facts, outputs_widget
from lensdiff.analyses.weights.section import weights_section
from lensdiff.results import Diff, InputError, ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE, Unit
from lensdiff.views.section import Table
from lensdiff.views.widget import Widget, script_json
from tests.directories import put
from tests.views.maps import HEADS, LAYERS, TOKENS, attention, attention_shift, output_shift, weight_shift

# weights


def test_the_map_of_weights_has_every_row():
    result = weight_shift()
    data = result.show().data
    assert data["layers"] == [0, 1, 2]
    assert data["groups"] == [{"name": "all matrices", "matrices": ["W_Q", "W_O", "W_in"]}]
    assert (data["headed"], data["heads"]["W_Q"]) == (["W_Q", "W_O"], HEADS)
    rows = {(layer, matrix, head): (raw, folded) for layer, matrix, head, raw, folded in data["rows"]}
    assert len(rows) == len(data["rows"]) == len(result.matrix)
    raw, folded = rows[2, "W_Q", 1]
    assert (raw[0], folded[0]) == (2.0, 1.0)
    assert data["top"][0][:4] == [2, "W_Q", 1, 2.0]
    assert "W_E" in data["facts"]
    assert [m["label"] for m in data["measures"]][-1] == "share of the top 8"


def test_biases_and_other_tensors_have_a_map_of_their_own():
    names = ("b_Q", "attn_gain", "post_attention_layernorm.weight", "attn_norm_bias")
    first, second = weight_shift(others=names).show().data["groups"]
    assert first["matrices"] == ["W_Q", "W_O", "W_in", "attn_gain"]
    assert second == {
        "name": "biases and the rest",
        "matrices": ["b_Q", "post_attention_layernorm.weight", "attn_norm_bias"],
    }


def test_an_infinite_change_is_no_number():
    widget = weight_shift(planted=float("inf")).show()
    raw = next(row[3] for row in widget.data["rows"] if row[:3] == (2, "W_Q", 1))
    assert raw[0] is None
    assert widget.data["top"][0][3] == "∞"
    json.loads(script_json(widget.data).replace("\\u003e", ">"))


def test_readers_without_scripts_get_a_table():
    assert "<td>W_Q</td>" in weight_shift().show().fallback
    assert "<td>Blue</td>" in output_shift().show().fallback
    assert "&lt;b&gt;" in output_shift(("<b>", "x", "y")).show().fallback
    assert "<td>0.9</td>" in attention_shift().show().fallback


# outputs


def test_a_response_has_its_numbers_and_both_models_likely_tokens():
    (prompt,) = output_shift().show().data["prompts"]
    assert prompt["tokens"] == list(TOKENS)
    assert prompt["kinds"] == ["unshifted", "marginal", "shifted"]
    assert prompt["first"] == 2, "the token with the largest KL is shown first"
    assert prompt["names"] == ["base: a", "tuned: b"]
    assert (prompt["ranks"], prompt["choice_rank"]) == ([[3] * 3, [1] * 3], [1, 3, 7])
    assert prompt["likely"][0][1] == [[2, 0.6], [0, 0.3]]
    assert prompt["changed"][0] == [".", 0.0, 1.0, 1.0]


def test_facts_of_a_response():
    text = facts(output_shift())
    for part in (
        "KL(tuned || base) 0.1 nats",
        "33% unshifted, 33% marginal, 33% shifted",
        "50% of the 2 most",
        "as text",
    ):
        assert part in text
    assert "one model alone" not in text
    assert "0.0% of the base's and 20.0%" in facts(
        replace(output_shift(), outside=torch.tensor([[0.0] * 3, [0.2] * 3]))
    )
    assert facts(output_shift(())) == "the response is empty"


def test_an_infinite_divergence_is_no_number():
    infinite = replace(output_shift(), kl=torch.tensor([0.0, float("inf"), 1.0], dtype=torch.float64))
    (prompt,) = infinite.show().data["prompts"]
    assert prompt["kl"] == [0, None, 1]
    assert prompt["first"] == 1
    assert script_json(prompt)


def test_several_prompts_are_chosen_from():
    data = outputs_widget([output_shift(), output_shift((), prompt_id="p2")]).data
    assert [p["label"] for p in data["prompts"]] == ["p1: Say p1", "p2: Say p2"]
    assert outputs_widget([]).data == {"prompts": []}


# attention


def unpacked(text):
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.int8).reshape(3, 3) / 127


def test_the_most_changed_head_comes_first_with_both_models_attention():
    base, tuned = attention(), attention(model="b", sharp=(1, 0))
    (prompt,) = Diff(base, tuned).show().data["prompts"]
    assert len(prompt["heads"]) == LAYERS * HEADS
    first, second = prompt["heads"][:2]
    assert first["name"].startswith("L1 H0 · JS distance 0.")
    assert second["name"].endswith("JS distance 0")
    torch.testing.assert_close(unpacked(first["patterns"][0]), base.patterns[1, 0], atol=1 / 250, rtol=0)
    torch.testing.assert_close(unpacked(first["patterns"][1]), torch.eye(3), atol=1 / 250, rtol=0)
    assert [(s["role"], s["name"]) for s in prompt["sides"]] == [("base", "base: a"), ("tuned", "tuned: b")]
    assert f"first token's share {float(tuned.sink_share[1, 0]):.2g}" in first["facts"][1]
    assert "those that changed most" in prompt["facts"]


def test_one_model_alone_is_drawn():
    data = attention().show().data["prompts"][0]
    assert len(data["sides"]) == 1
    top = attention().top(1).iloc[0]
    assert data["heads"][0]["name"] == f"L{top['layer']} H{top['head_index']}"


def test_long_texts_show_fewer_heads():
    many = ("x",) * 300
    (prompt,) = Diff(attention(many), attention(many)).show().data["prompts"]
    assert len(prompt["heads"]) == 4 < SHOWN


def test_what_cannot_be_compared_is_said():
    (prompt,) = Diff(attention(), attention(("Red", " wine", "!"))).show().data["prompts"]
    assert "the models read different texts" in prompt["facts"]
    assert prompt["heads"][0]["name"].count("JS") == 0
    bare = replace(attention(), patterns=torch.empty(LAYERS, HEADS, 0, 0))
    (prompt,) = Diff(bare, bare).show().data["prompts"]
    assert (prompt["heads"], prompt["facts"].split(";")[0]) == ([], "the patterns were not kept")
    with pytest.raises(InputError, match=r"base has layers \[0, 1, 2\] and tuned \[4, 5, 6\]"):
        Diff(attention(), replace(attention(), layers=(4, 5, 6))).show()


def test_prompts_that_both_models_have_are_chosen_from():
    both = [attention(prompt_id=name) for name in ("p1", "p2")]
    data = Diff(both, [attention(prompt_id="p2")]).show().data
    assert [p["label"] for p in data["prompts"]] == ["p2: Blue waves"]


def test_the_map_of_shifts_has_bands_and_signed_differences():
    data = attention_shift().show().data
    distance, signed = data["measures"][0], data["measures"][2]
    assert distance["values"][2][1] == 0.9 > distance["high"][2][1]
    assert (distance["signed"], signed["signed"]) == (False, True)
    assert signed["values"][1][0] == -0.4
    labels = [m["label"] for m in data["measures"]]
    assert not any("context" in label for label in labels), "what no prompt marks is left out"
    assert len(labels) == 2 + len(MEASURES) - 1
    assert [row[0] for row in data["of_head"][1][0]] == [
        "first token's share", "entropy (bits)", "instruction's share", "the rest's share",
    ]  # fmt: skip
    assert data["claim"] == f"Mean JS distance of all heads: {attention_shift().whole}."
    assert data["claim"].endswith("0.4; controls' bands 0.0944 to 0.206 (19 spectrum), p = 0.05.")
    assert "19 controls" in data["facts"]
    assert data["top"][0][:3] == [2, 1, 0.9]


def test_without_controls_there_is_no_band_and_no_claim():
    data = attention_shift(controls=0).show().data
    assert data["claim"] is None
    assert "no controls" in data["facts"]
    assert data["measures"][0]["low"][0] == [None, None]


def test_with_few_controls_there_is_no_band_and_the_claim_says_so():
    data = attention_shift(controls=18).show().data
    few = "0.4; too few controls to tell (18 spectrum; 19 of each kind are needed)."
    assert data["claim"] == f"Mean JS distance of all heads: {few}"
    assert all(limit is None for row in data["measures"][0]["high"] for limit in row)


# the report's sections


def test_sections_hold_what_a_results_directory_has(tmp_path):
    store = ResultStore(tmp_path)
    found = Found(store)
    assert [build(found) for build in (weights_section, outputs_section, attention_section)] == [[], [], []]
    put(store, "weights", WHOLE, weight_shift())
    store.save_table("weights", weight_shift().to_df())
    put(store, "outputs", Unit(prompt="p1"), output_shift())
    put(store, "attention_shift", WHOLE, attention_shift())
    for side, model in (("base", "a"), ("tuned", "b")):
        put(store, "attention", Unit(side, "p1"), attention(model=model))
        bare = replace(attention(prompt_id="p0"), patterns=torch.empty(LAYERS, HEADS, 0, 0))
        put(store, "attention", Unit(side, "p0"), bare)
    weights = weights_section(found)
    assert [type(part) for part in weights] == [Widget, Table]
    assert [part.view for part in outputs_section(found) if isinstance(part, Widget)] == ["outputs"]
    shift, patterns = (part for part in attention_section(found) if isinstance(part, Widget))
    assert (shift.view, patterns.view) == ("attention_shift", "attention")
    assert [p["label"].split(":")[0] for p in patterns.data["prompts"]] == ["p1"], (
        "prompts without patterns are left out"
    )
