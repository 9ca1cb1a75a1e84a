"""Two models in two renderings: planted effects, a pair that differs in its template alone, and what cannot be."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from scipy.stats import ttest_1samp

from lensdiff import (
    Prompt,
    Response,
    attention,
    attribute,
    generate,
    instruction_use,
    knock_out,
    load_pair,
    output_shift,
    template_effects,
)
from lensdiff.analyses.outputs.distributions import js_distance
from lensdiff.analyses.template_effects.measure import effects_of
from lensdiff.analyses.template_effects.result import EFFECTS, TemplateEffects
from lensdiff.models import view_of
from lensdiff.models.text import encode
from lensdiff.results import InputError
from tests.checkpoints import hf_model, tokenizer_of
from tests.models.test_templates import SIMPLE, with_template
from tests.views.pages import given

PROMPTS = [
    Prompt("List the moon and the sea", ["List"], ["sea"], id="list", reference="the moon, the sea"),
    Prompt("Write of the sea today", ["Write of"], ["the sea"], id="write", reference="the sea is blue"),
    Prompt("Say in French: good morning all", ["Say in French:"], ["good morning"], id="say", reference="bonjour all"),
]
NUMBERS = (
    *("instruction_use", "attention_instruction", "attention_context", "attention_rest"),
    *("density_instruction", "density_context", "density_other", "output_shift", "knock_out"),
)


def pair_of(tuned_seed: int = 1, template: Any = SIMPLE, base: Any = None) -> Any:
    return load_pair(
        hf_model("llama"),
        hf_model("llama", seed=tuned_seed),
        device="cpu",
        verify=False,
        base_options={"tokenizer": tokenizer_of() if base is None else base},
        tuned_options={"tokenizer": with_template(template)},
    )


@pytest.fixture(scope="module")
def pair() -> Any:
    return pair_of()


@pytest.fixture(scope="module")
def found(pair: Any) -> TemplateEffects:
    return template_effects(pair, PROMPTS, draws=1)


def planted(pair: Any) -> Any:
    """A measure of 1 + 2 in the tuned model + 3 in the template + 5 in both, and a little by prompt."""

    def measure(model: Any, prompts: Any, responses: Any) -> list[float]:
        tuned = view_of(model) is view_of(pair.tuned)
        return [
            1 + 2 * tuned + (3 + 5 * tuned) * (prompt.template == "chat") + 0.1 * tuned * place
            for place, prompt in enumerate(prompts)
        ]

    return measure


# the numbers


def test_effects_of_four_cells_by_hand():
    cells = torch.tensor([[[1.0, 2.0], [4.0, 2.0]], [[3.0, 2.0], [11.0, 2.5]]])
    assert effects_of(cells).tolist() == [[4.5, 0.25], [5.5, 0.25], [5.0, 0.5]]


def test_planted_effects_are_found_with_their_paired_t_test(pair):
    found = template_effects(pair, PROMPTS, measure=planted(pair))
    table = found.to_df().set_index("effect")
    assert list(found.to_df()) == ["measure", "effect", "estimate", "low", "high", "p", "p_adjusted", "n"]
    assert list(table.index) == list(EFFECTS)
    assert table.estimate.tolist() == pytest.approx([4.6, 5.5, 5.0])
    values = [4.5, 4.6, 4.7]
    test = ttest_1samp(values, 0)
    low, high = test.confidence_interval()
    assert table.loc["model", ["low", "high", "p"]].tolist() == pytest.approx([low, high, test.pvalue])
    assert table.n.tolist() == [3, 3, 3]
    # the others are the same in all prompts: sign flips, of which 2 of 8 are as large
    assert table.p["template"] == table.p["interaction"] == pytest.approx(0.25)
    assert found.cell_means().iloc[0, 1:].tolist() == pytest.approx([1, 4, 3.1, 11.1, 3])
    assert found.measures == ("measure",)


def test_a_pair_that_differs_in_its_template_alone_has_no_effect_of_the_model():
    found = template_effects(pair_of(tuned_seed=0), PROMPTS, draws=1)
    assert found.measures == NUMBERS
    assert (found.effects[:, EFFECTS.index("model")] == 0).all()
    assert (found.effects[:, EFFECTS.index("interaction")] == 0).all()
    assert (found.effects[:, EFFECTS.index("template")].abs() > 1e-6).any(dim=-1).all()
    table = found.to_df().set_index(["measure", "effect"])
    for name in NUMBERS:
        assert table.loc[(name, "model"), ["estimate", "low", "high"]].tolist() == [0, 0, 0]


def test_base_against_base_in_a_template_that_adds_nothing_is_exactly_nothing():
    nothing = "{{ messages[0].content }}{% if messages[1:] %}{{ ' ' + messages[1].content }}{% endif %}"
    found = template_effects(pair_of(tuned_seed=0, template=nothing), PROMPTS, draws=1)
    assert (found.effects == 0).all()
    assert found.measures == NUMBERS


def test_the_cells_are_what_the_calls_give(pair, found):
    texts = [prompt.reference for prompt in PROMPTS]
    cells = dict(zip(found.measures, found.cells, strict=True))
    for way, template in enumerate(("raw", "chat")):
        use = instruction_use(pair, PROMPTS, texts, draws=1, min_tokens=1, template=template).to_df()
        for side, model in enumerate(("base", "tuned")):
            of_model = getattr(pair, model)
            prompts = [prompt.render(pair, template) for prompt in PROMPTS]
            looked = attention(of_model, prompts, texts)
            shares = [one.shares().set_index("segment").share for one in attribute(of_model, prompts, texts)]
            lost = knock_out(of_model, prompts, texts)
            expected = {
                "instruction_use": use.use[use.model == model].tolist(),
                "attention_instruction": [one.instruction_share.mean() for one in looked],
                "attention_context": [one.context_share.mean() for one in looked],
                "attention_rest": [one.rest_share.mean() for one in looked],
                "density_instruction": [share["instruction"] for share in shares],
                "density_other": [share["other"] for share in shares],
                "knock_out": [one.drop[0].mean() for one in lost],
            }
            for name, values in expected.items():
                assert cells[name][side, way].tolist() == pytest.approx([float(x) for x in values], abs=1e-6), name


def test_the_output_shift_is_between_the_models_and_between_the_renderings():
    pair = pair_of(template=SIMPLE.replace("%}[assistant]{", "%}[assistant] {"))
    found = template_effects(pair, PROMPTS, measure="output_shift")
    texts = [prompt.reference for prompt in PROMPTS]
    by_effect = dict(zip(EFFECTS, found.effects[0], strict=True))
    raw, chat = (
        torch.tensor([float(one.js.mean()) for one in output_shift(pair, PROMPTS, texts, template=template)])
        for template in ("raw", "chat")
    )
    torch.testing.assert_close(by_effect["model"].float(), (raw + chat) / 2)
    torch.testing.assert_close(by_effect["interaction"].float(), chat - raw, atol=1e-6, rtol=1e-4)
    prompt, distances = PROMPTS[0], []
    for model in (pair.base, pair.tuned):
        view, ends = view_of(model), []
        read = [encode(view, one, texts[0]) for one in (prompt, prompt.render(pair))]
        # the template leaves no space before an answer: its first tokens are others, then all are the same
        said = [encoded.response_ids for encoded in read]
        n = next(n for n in range(len(said[0]), 0, -1) if said[0][-n:] == said[1][-n:])
        assert 0 < n < len(said[0])
        for encoded in read:
            logits = view.forward.logits(torch.tensor([encoded.ids[:-1]]))[0, -n:]
            ends.append(logits.log_softmax(dim=-1))
        distances.append(float(js_distance(*ends).mean()))
    assert float(by_effect["template"][0]) == pytest.approx(np.mean(distances), abs=1e-5)
    table = found.to_df().set_index(["measure", "effect"])
    for effect in ("model", "template"):
        assert table.loc[("output_shift", effect), ["p", "p_adjusted"]].isna().all()  # a distance is never negative
    tested = scipy.stats.ttest_1samp(by_effect["interaction"].numpy(), 0.0)
    assert table.p[("output_shift", "interaction")] == pytest.approx(tested.pvalue)
    assert found.cells.isnan().all()
    assert found.cell_means().empty


def test_without_a_reference_the_tuned_models_own_words_in_its_template_are_read(pair):
    prompt = Prompt("List the moon and the sea", ["List"], id="p")
    said = generate(pair.tuned, prompt, max_new_tokens=4, template="chat")
    read: list[Any] = []

    def measure(model: Any, prompts: Any, responses: Any) -> list[float]:
        read.extend(responses)
        return [0.0]

    template_effects(pair, prompt, measure=measure, max_new_tokens=4)
    assert [one.token_ids for one in read] == [said.token_ids] * 4
    read.clear()
    template_effects(pair, PROMPTS[:1], [None], measure=measure)
    template_effects(pair, PROMPTS[0], "another", measure=measure)
    assert read == [PROMPTS[0].reference] * 4 + ["another"] * 4


def test_what_a_prompt_does_not_mark_has_no_number_and_the_others_do(pair):
    bare = Prompt("The moon and the sea", id="bare", reference="blue sky")
    found = template_effects(pair, [*PROMPTS, bare], measure=["attention", "knock_out"])
    n = found.to_df().groupby("measure").n.first()
    assert n.to_dict() == {
        "attention_instruction": 3, "attention_context": 3, "attention_rest": 4, "knock_out": 3,
    }  # fmt: skip
    assert found.prompt_id == ("list", "write", "say", "bare")


def test_a_measure_that_cannot_be_had_is_named_and_the_others_stand(pair):
    one = template_effects(pair, PROMPTS[0], measure=["instruction_use", "knock_out"])
    assert one.measures == ("knock_out",)
    assert list(one.without) == ["instruction_use"]
    assert "no donor" in one.without["instruction_use"]
    assert one.to_df()[["low", "high", "p"]].isna().all(axis=None)
    assert "without instruction_use" in repr(one)
    with pytest.raises(InputError, match=r"no measure could be had of the four; instruction_use: .*no donor"):
        template_effects(pair, PROMPTS[0], measure="instruction_use")


def test_a_prompt_that_fails_is_warned_of_and_the_rest_go_on(pair):
    long = Prompt("sea " * 200, ["sea"], id="long", reference="a b")
    with pytest.warns(UserWarning, match="prompt 'long' failed: .*context"):
        found = template_effects(pair, [*PROMPTS, long], measure="knock_out")
    assert found.prompt_id == ("list", "write", "say")
    assert list(found.failures) == ["long"]


# what cannot be


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([PROMPTS], {"measure": "kl"}, "measure='kl' is none of instruction_use, attention, .*, nor a function"),
        ([PROMPTS], {"measure": 3}, "measure=3 given, expected a name, a function, or a list of them"),
        ([PROMPTS], {"measure": None}, "measure=None given, expected a name"),
        ([PROMPTS], {"measure": []}, "no measure is given, expected some of instruction_use"),
        ([PROMPTS], {"measure": ["density", "density"]}, "measure 'density' comes twice"),
        ([PROMPTS], {"measure": lambda m, p, r: [1.0]}, "<lambda> gives 1 numbers for 3 prompts, expected as many"),
        ([PROMPTS], {"draws": 0}, "draws=0"),
        ([PROMPTS], {"level": 2.0}, "level"),
        ([[]], {}, r"expected a Prompt, a text or a list of them, got \[\]"),
        ([PROMPTS[0], Response("", ())], {}, "the response to prompt 'list' is empty"),
    ],
)
def test_what_is_not_what_is_expected_is_refused(pair, arguments, options, message):
    with pytest.raises(InputError, match=message):
        template_effects(pair, *arguments, **options)


def test_a_rendered_prompt_and_a_pair_without_a_template_are_refused(pair):
    with pytest.raises(InputError, match="prompt 'list' is rendered already, expected a raw one"):
        template_effects(pair, PROMPTS[0].render(pair))
    with pytest.raises(InputError, match="has no chat template"):
        template_effects(pair_of(template=None), PROMPTS)


def test_what_the_models_read_as_other_tokens_in_the_template_is_refused():
    known = with_template("<|user|>{{ messages[0].content }}", added=("<|user|>",))
    pair = load_pair(
        hf_model("llama", vocab_size=402), hf_model("llama", seed=1, vocab_size=402), device="cpu", verify=False,
        base_options={"tokenizer": tokenizer_of()}, tuned_options={"tokenizer": known},
    )  # fmt: skip
    with pytest.raises(InputError, match="the models read the prompt 'list' or its response as different tokens"):
        template_effects(pair, PROMPTS[0], measure="knock_out")


# the result


def test_a_result_is_kept_and_shown(found, tmp_path):
    again = TemplateEffects.load(found.save(tmp_path / "effects.safetensors"))
    pd.testing.assert_frame_equal(again.to_df(), found.to_df())
    assert found.provenance.template == "raw and chat"
    data = given(found.show())
    assert [row[0] for row in data["effects"]["rows"]] == [n.replace("_", " ") for n in NUMBERS for _ in EFFECTS]
    assert data["cells"]["columns"] == [
        *("measure", "base, raw", "base, chat", "tuned, raw", "tuned, chat", "n"),
    ]
    assert any("never negative" in note for note in data["notes"])
    assert "3 prompts, each raw and in the tuned model's chat template" in data["facts"][0]
    assert found.top(2).p.is_monotonic_increasing
    assert repr(found).startswith("TemplateEffects of ")
    assert [line.split(":")[0] for line in found.told()] == list(NUMBERS)
