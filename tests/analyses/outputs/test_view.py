"""What the view of outputs is given, and what its section of the report holds."""

from dataclasses import replace

import torch

from lensdiff.analyses.outputs.section import outputs_section
from lensdiff.analyses.outputs.view import facts, outputs_widget
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import Unit
from lensdiff.views.widget import Widget
from tests.analyses.outputs.results import TOKENS, output_shift
from tests.directories import put
from tests.views.pages import given


def test_a_response_has_its_numbers_and_both_models_likely_tokens():
    (prompt,) = given(output_shift().show())["prompts"]
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
    (prompt,) = given(infinite.show())["prompts"]
    assert prompt["kl"] == [0, None, 1]
    assert prompt["first"] == 1


def test_several_prompts_are_chosen_from():
    data = given(outputs_widget([output_shift(), output_shift((), prompt_id="p2")]))
    assert [p["label"] for p in data["prompts"]] == ["p1: Say p1", "p2: Say p2"]
    assert given(outputs_widget([])) == {"prompts": []}


def test_readers_without_scripts_get_a_table():
    assert "<td>Blue</td>" in output_shift().show().fallback
    assert "&lt;b&gt;" in output_shift(("<b>", "x", "y")).show().fallback


def test_the_section_holds_what_a_results_directory_has(tmp_path):
    store = ResultStore(tmp_path)
    assert outputs_section(Found(store)) == []
    put(store, "outputs", Unit(prompt="p1"), output_shift())
    assert [part.view for part in outputs_section(Found(store)) if isinstance(part, Widget)] == ["outputs"]
