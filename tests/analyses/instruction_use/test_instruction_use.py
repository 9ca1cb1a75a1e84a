"""Instruction use: transformers' own log-probabilities, planted models that use the instruction or ignore it."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from lensdiff import stats
from lensdiff.analyses.instruction_use.measure import _texts, instruction_use
from lensdiff.analyses.instruction_use.other_instructions import deleted, instruction_ranges, swapped
from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.inputs import Prompt
from lensdiff.models import ModelPair, forced_reading, load_model, load_pair, view_of
from lensdiff.models.asked import Asked
from lensdiff.models.forced_text import as_base_reads
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.text import Response, generate
from lensdiff.results import InputError
from tests.checkpoints import hf_model, save_checkpoint, tokenizer_of
from tests.models.test_pair import with_more_tokens
from tests.views.pages import given

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False, "dtype": "float64"}
PROMPTS = [
    Prompt("Write a poem about the moon", ["Write a poem about"], ["the moon"], id="poem"),
    Prompt("Translate to French: the moon", ["Translate to French:"], id="french"),
    Prompt("List three fruits. Apples are good", ["List three fruits."], id="list"),
    Prompt("Repeat the word moon in one sentence", ["Repeat the word", "in one sentence"], id="repeat"),
    Prompt("Explain the word sea to a child", ["Explain the word", "to a child"], id="explain"),
]
KINDS = ["write", "write", "list", "word", "word"]
WORDS = ("write", "list", "repeat", "explain", "make", "spell")
RESPONSE = "Apples and bananas, good morning."


def model_of(*, seed: int = 0, bos: bool = True, **options: Any) -> Any:
    hf = hf_model("llama", seed=seed, dtype=torch.float64)
    return load_model(hf, tokenizer=tokenizer_of(bos), **(OPTIONS | options))


def pair_of(base: Any = None, tuned: Any = None, **options: Any) -> ModelPair:
    sides = (
        hf_model("llama", dtype=torch.float64) if base is None else base,
        hf_model("llama", seed=1, dtype=torch.float64) if tuned is None else tuned,
    )
    return load_pair(*sides, **({"tokenizer": tokenizer_of(True)} | OPTIONS | options))


def bigrams(*, said: float = 1.0, seed: int = 0) -> Any:
    """A model whose next token depends on the last one alone; with `said=0` on nothing."""
    model: Any = hf_model("llama", seed=seed, dtype=torch.float64)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.mul_(said)
    return model


def use_of(model: Any, prompt_ids: list[int], other_ids: list[list[int]], out: list[int]) -> tuple[float, float]:
    """Log-probabilities with and without the instruction, a token at a time, by `transformers`."""

    def mean(before: list[int]) -> float:
        with torch.no_grad(), double_precision(True):
            logits = model(torch.tensor([before + out])).logits[0]
        places = range(len(before) - 1, len(before) + len(out) - 1)
        return float(np.mean([float(logits[i].log_softmax(-1)[y]) for i, y in zip(places, out, strict=True)]))

    return mean(prompt_ids), float(np.mean([mean(ids) for ids in other_ids]))


# numbers


@pytest.mark.parametrize("wrapper", ["bridge", pytest.param("hooked", marks=NO_HOOKED)])
@pytest.mark.parametrize("by", ["swap", "deletion"])
def test_numbers_are_transformers_own(by: str, wrapper: str) -> None:
    hf, tokenizer = hf_model("llama", dtype=torch.float64), tokenizer_of(True)
    model = load_model(hf_model("llama", dtype=torch.float64), tokenizer=tokenizer, wrapper=wrapper, **OPTIONS)
    found = instruction_use(model, PROMPTS[:3], [RESPONSE] * 3, by=by)
    exact = 1e-9 if wrapper == "bridge" else 1e-7  # a HookedTransformer has its rotary frequencies in float32
    rest = "the moon", "the moon", "Apples are good"
    instructions = [prompt.instruction[0] for prompt in PROMPTS[:3]]
    for i, row in enumerate(found.to_df().itertuples()):
        assert (row.prompt_id, row.text, row.by) == (PROMPTS[i].id, "given", by)
        others = [f"{text} {rest[i]}" for text in instructions if text != instructions[i]]
        others = others if by == "swap" else [rest[i]]  # without white space around it
        n = len(tokenizer.encode(PROMPTS[i].text))
        whole = tokenizer.encode(f"{PROMPTS[i].text} {RESPONSE}")
        with_it, without = use_of(hf, whole[:n], [tokenizer.encode(text) for text in others], whole[n:])
        assert row.log_prob == pytest.approx(with_it, abs=exact, rel=0)
        assert row.log_prob_without == pytest.approx(without, abs=exact, rel=0)
        assert row.use == pytest.approx(with_it - without, abs=exact, rel=0)
        assert (row.n_out, row.n_draws) == (len(whole) - n, len(others))


def test_a_pair_forces_both_models_own_responses_on_both() -> None:
    base, tuned = (hf_model("llama", seed=seed, dtype=torch.float64) for seed in (0, 1))
    pair, tokenizer = pair_of(), tokenizer_of(True)
    found = instruction_use(pair, PROMPTS, by="deletion", max_new_tokens=5)
    table = found.to_df().set_index(["prompt_id", "text", "model"])
    assert table.index.is_unique
    assert len(table) == len(PROMPTS) * 4
    for said, source in (("base", pair.base), ("tuned", pair.tuned)):
        for prompt in PROMPTS:
            out = generate(source, prompt, max_new_tokens=5).token_ids
            other = deleted(prompt)
            assert other is not None
            for name, side in (("base", base), ("tuned", tuned)):
                ids = tokenizer.encode(prompt.stripped), [tokenizer.encode(other.stripped)]
                expected = use_of(side, *ids, list(out))
                row = table.loc[prompt.id, said, name]
                np.testing.assert_allclose([row.log_prob, row.log_prob_without], expected, atol=1e-9)
                assert row.n_out == len(out)


def test_a_model_that_ignores_the_prompt_has_no_use() -> None:
    pair = pair_of(bigrams(said=0.0), bigrams())
    found = instruction_use(pair, PROMPTS, [RESPONSE] * 5).to_df()
    assert found.query("model == 'base'").use.eq(0).all()
    model = load_model(bigrams(), tokenizer=tokenizer_of(True), **OPTIONS)
    same_end = PROMPTS[:3]  # their instructions come first: the last token is the context's
    np.testing.assert_allclose(instruction_use(model, same_end, [RESPONSE] * 3).use, 0.0, atol=1e-12)


def test_a_planted_use_is_the_tuned_models_alone() -> None:
    # the instruction comes last, so that its last token decides on the response's first one: known from W_E and W_U
    prompts = [Prompt(f"the moon: {text}", [text], id=text) for text in ("write", "repeat it", "explain", "list")]
    pair = pair_of(bigrams(said=0.0), bigrams())
    found = instruction_use(pair, prompts, [RESPONSE] * 4)
    hf, tokenizer = bigrams(), tokenizer_of(True)
    with torch.no_grad():
        rows = hf.lm_head(hf.model.norm(hf.model.embed_tokens.weight)).log_softmax(-1)
    expected = []
    for prompt in prompts:
        n = len(tokenizer.encode(prompt.text))
        out = tokenizer.encode(f"{prompt.text} {RESPONSE}")[n:]
        first = [float(rows[tokenizer.encode(p.text)[-1], out[0]]) for p in (prompt, *prompts) if p.id]
        others = [value for p, value in zip(prompts, first[1:], strict=True) if p is not prompt]
        expected.append((first[0] - np.mean(others)) / len(out))
    table = found.to_df()
    np.testing.assert_allclose(table.query("model == 'tuned'").use, expected, atol=1e-6)
    assert np.abs(expected).min() > 1e-3
    difference = found.difference("given")
    assert difference.estimate == pytest.approx(np.mean(expected), abs=1e-6)
    assert difference.to_dict() == stats.paired(table.query("model == 'tuned'").use, np.zeros(4)).to_dict()
    assert found.top(1).prompt_id.tolist() == [prompts[int(np.abs(expected).argmax())].id]


def test_base_against_base_differs_by_exactly_nothing() -> None:
    pair = pair_of(tuned=hf_model("llama", dtype=torch.float64))
    found = instruction_use(pair, PROMPTS, kinds=KINDS, max_new_tokens=4, controls=[pair.control("self")])
    frame = found.differences()
    assert frame.text.tolist() == ["base", "base", "tuned", "tuned", "mean", "mean"]
    assert frame.difference.eq(0).all()
    assert frame.p.eq(1).all()


def test_planted_uses_of_several_texts_are_each_the_last_tokens_own() -> None:
    prompts = [Prompt(f"the moon: {text}", [text], id=text) for text in ("write", "repeat it", "explain", "list")]
    texts: dict[str, list[str | None]] = {
        "fruit": ["Apples and bananas", None, "Apples and bananas", "Apples and oranges"],
        "greeting": ["Good morning, how are you?", "Good morning", "Good day", "How are you?"],
    }
    pair, model, tokenizer = pair_of(bigrams(said=0.0), bigrams()), bigrams(), tokenizer_of(True)
    found = instruction_use(pair, prompts, texts)
    with torch.no_grad():
        rows = model.lm_head(model.model.norm(model.model.embed_tokens.weight)).log_softmax(-1)
    last = {prompt.id: tokenizer.encode(prompt.text)[-1] for prompt in prompts}
    expected: dict[tuple[str, str], float] = {}
    for name, responses in texts.items():
        for prompt, response in zip(prompts, responses, strict=True):
            if response is None:
                continue
            n = len(tokenizer.encode(prompt.text))
            out = tokenizer.encode(f"{prompt.text} {response}")[n:]
            first = {key: float(rows[token, out[0]]) for key, token in last.items()}
            others = [value for key, value in first.items() if key != prompt.id]
            expected[prompt.id, name] = (first[prompt.id] - np.mean(others)) / len(out)
    table = found.to_df()
    tuned = table.query("model == 'tuned'").set_index(["prompt_id", "text"]).use
    assert set(tuned.index) == set(expected)
    np.testing.assert_allclose(tuned, [expected[key] for key in tuned.index], atol=1e-6)
    assert table.query("model == 'base'").use.eq(0).all()
    assert found.texts == ("fruit", "greeting")
    assert found.prompts("fruit") == ("write", "explain", "list")
    assert found.prompts("greeting") == tuple(prompt.id for prompt in prompts)
    assert found.prompts() == found.prompts("mean") == ("write", "explain", "list"), "those that have both"
    both = [np.mean([expected[key, name] for name in texts]) for key in found.prompts()]
    assert found.effects() == (pytest.approx(np.mean(both), abs=1e-6), [])
    assert found.means() == (0.0, pytest.approx(np.mean(both), abs=1e-6))
    assert found.effects("greeting")[0] == pytest.approx(
        np.mean([expected[p.id, "greeting"] for p in prompts]), abs=1e-6
    )
    assert found.difference().estimate == pytest.approx(np.mean(both), abs=1e-6)
    assert found.differences().text.tolist() == ["fruit", "greeting", "mean"]
    assert found.differences().n.tolist() == [3, 4, 3]
    with pytest.raises(InputError, match="text='own' is none of fruit, greeting, mean"):
        found.effects("own")


def test_several_texts_are_read_as_each_alone_in_one_model_too() -> None:
    texts: dict[str, Any] = {"first": [RESPONSE] * 5, "second": ["Good morning, how are you?", None, None, " ", "Good"]}
    for model in (model_of(), pair_of()):
        found = instruction_use(model, PROMPTS, texts, min_tokens=1)
        assert found.n_left_out == 1, "one is blank; None is no text"
        table = found.to_df().set_index(["text", "prompt_id", "model"])
        for name, own in (("first", [0, 1, 2, 3, 4]), ("second", [0, 4])):
            others = [Prompt(p.text, p.instruction, id=p.id) for p in PROMPTS]
            alone = instruction_use(model, others, [texts[name][i] or "" for i in range(5)], min_tokens=1)
            expected = alone.to_df().set_index(["prompt_id", "model"])
            part = table.loc[name]
            assert set(part.index.get_level_values(0)) == {PROMPTS[i].id for i in own}
            np.testing.assert_allclose(part.use, expected.loc[part.index].use, rtol=0, atol=1e-9)
    assert found.prompts() == ("poem", "explain")
    assert instruction_use(model_of(), PROMPTS[0], RESPONSE, by="deletion").texts == ("given",)


def with_references() -> list[Prompt]:
    """The prompts, all but the last two with a reference; one of these is blank."""
    answers = [RESPONSE, "Good morning, how are you?", "The moon and the sea", " ", ""]
    return [replace(prompt, reference=text) for prompt, text in zip(PROMPTS, answers, strict=True)]


def test_a_reference_is_a_text_of_its_own_and_its_lack_costs_no_prompt() -> None:
    pair, prompts = pair_of(), with_references()
    found = instruction_use(pair, prompts, max_new_tokens=4)
    assert found.texts == ("base", "tuned", "reference")
    own = instruction_use(pair, PROMPTS, max_new_tokens=4)
    given = instruction_use(pair, PROMPTS, [prompt.reference for prompt in prompts])
    table = found.to_df().set_index(["text", "prompt_id", "model"]).use
    for text, expected in (("base", own), ("tuned", own), ("reference", given)):
        frame = expected.to_df()
        frame = frame if text == "reference" else frame[frame.text == text]
        frame = frame.set_index(["prompt_id", "model"]).use
        assert set(table[text].index) == set(frame.index)
        np.testing.assert_allclose(table[text], frame.loc[table[text].index], rtol=0, atol=1e-9)
    assert found.prompts("reference") == ("poem", "french", "list")
    assert found.prompts() == tuple(prompt.id for prompt in PROMPTS), "the mean over the texts that a prompt has"
    means = found.to_df().groupby(["prompt_id", "model"]).use.mean().unstack()
    effect = (means.tuned - means.base).mean()
    assert found.effects()[0] == found.difference().estimate == pytest.approx(effect)
    assert found.n_left_out == 0
    assert instruction_use(pair, prompts, [RESPONSE] * 5).texts == ("given",), "texts that are given are all"
    model = model_of()
    single = instruction_use(model, prompts, max_new_tokens=4)
    assert single.texts == ("own", "reference")
    assert single.to_df().text.value_counts().to_dict() == {"own": 5, "reference": 3}
    alone = instruction_use(model, PROMPTS, [prompt.reference for prompt in prompts])
    read = single.to_df().query("text == 'reference'").use
    np.testing.assert_allclose(read, alone.use, rtol=0, atol=1e-9)
    one = instruction_use(pair, prompts[0], by="deletion", max_new_tokens=4)
    assert set(one.text) == {"base", "tuned", "reference"}


def test_where_every_text_is_the_reference_it_is_needed() -> None:
    found = instruction_use(pair_of(), PROMPTS, {"reference": [RESPONSE, None, None, None, RESPONSE]})
    assert found.prompts() == found.prompts("reference") == ("poem", "explain")


# other prompts


def test_spans_are_replaced_in_order_and_equal_numbers_come_first() -> None:
    def texts(place: int, **options: Any) -> list[str]:
        return [p.text for p in swapped(PROMPTS, place, **({"kinds": None, "draws": 8, "seed": 0} | options))]

    assert texts(3)[0] == "Explain the word moon to a child"
    assert set(texts(3)[1:]) == {"Write a poem about moon ", "Translate to French: moon ", "List three fruits. moon "}
    assert set(texts(0)[:2]) == {"Translate to French: the moon", "List three fruits. the moon"}
    assert set(texts(0)[2:]) == {"Repeat the word the moon", "Explain the word the moon"}
    assert len(texts(0, draws=2)) == 2
    assert set(texts(0, draws=2)) <= set(texts(0)[:2])
    assert set(texts(3, kinds=KINDS)) == set(texts(3)[1:])


def test_a_seed_draws_the_same_donors_again_and_another_seed_others() -> None:
    many = [Prompt(f"{word} the moon", [word], id=word) for word in WORDS]
    drawn = [[p.text for p in swapped(many, 0, kinds=None, draws=2, seed=seed)] for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert any(a != b for a, b in pairwise(drawn[1:]))
    model = model_of()
    options: dict[str, Any] = {"draws": 2, "seed": 3}
    first, second = (instruction_use(model, many, [RESPONSE] * 6, **options) for _ in range(2))
    assert torch.equal(first.use, second.use)
    other = instruction_use(model, many, [RESPONSE] * 6, draws=2)
    assert torch.equal(first.log_prob, other.log_prob)
    assert not torch.equal(first.log_prob_without, other.log_prob_without)
    assert first.provenance.seed == 3


def test_donors_are_of_another_kind_where_the_prompts_say_theirs() -> None:
    model = model_of()
    kinded = [replace(prompt, kind=kind) for prompt, kind in zip(PROMPTS, KINDS, strict=True)]
    given = instruction_use(model, PROMPTS, [RESPONSE] * 5, kinds=KINDS)
    own = instruction_use(model, kinded, [RESPONSE] * 5)
    assert own.to_df().equals(given.to_df())
    assert own.provenance.options["kinds"] == KINDS
    free = instruction_use(model, PROMPTS, [RESPONSE] * 5)
    assert free.provenance.options["kinds"] is None
    assert not free.to_df().equals(given.to_df())
    some = instruction_use(model, [*kinded[:4], PROMPTS[4]], [RESPONSE] * 5)
    assert some.to_df().equals(free.to_df()), "one prompt says none: any other instruction will do"
    over = instruction_use(model, kinded, [RESPONSE] * 5, kinds=["a", "b", "c", "d", "e"])
    assert over.to_df().equals(free.to_df()), "what is given comes first"


def test_a_donor_makes_another_text_and_each_text_counts_once() -> None:
    prompts = [
        Prompt("Write of the moon", ["Write"], id="a"),
        Prompt("Write of the sea", ["Write"], id="b"),
        Prompt("List: the sea", ["List:"], id="c"),
        Prompt("List: the moon", ["List:"], id="d"),
        Prompt("no instruction", id="e"),
    ]
    assert [p.text for p in swapped(prompts, 0, kinds=None, draws=8, seed=0)] == ["List: of the moon"]
    found = pytest.warns(UserWarning, match="prompt 'e' failed: prompt 'e' marks no instruction")
    with found:
        result = instruction_use(model_of(), prompts, [RESPONSE] * 5, draws=8)
    assert result.n_draws.tolist() == [1] * 4, "fewer donors than draws: all of them"
    assert list(result.failures) == ["e"]


def test_spans_that_overlap_are_one_and_positions_count_the_stripped_text() -> None:
    prompt = Prompt("  Put moon in a sentence now ", ["in a sentence", "sentence now", (2, 5)])
    assert instruction_ranges(prompt) == ((0, 3), (9, 26))
    other = deleted(prompt)
    assert other is not None
    assert other.text == " moon "


@pytest.mark.parametrize("bos", [True, False])
def test_where_nothing_is_left_the_bos_stands_alone(bos: bool) -> None:
    prompts = [Prompt("Write a poem", ["Write a", "poem"], id="all"), PROMPTS[0]]
    tokenizer = tokenizer_of(bos)
    if not bos:
        tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>", pad_token="<pad>")
    model = load_model(hf_model("llama", dtype=torch.float64), tokenizer=tokenizer, wrapper="bridge", **OPTIONS)
    found = instruction_use(model, prompts, [RESPONSE] * 2, by="deletion")
    assert found.n_nothing_left == (0 if bos else 1)
    if not bos:
        assert found.use.isnan().tolist() == [True, False]
        return
    n = len(tokenizer.encode("Write a poem"))
    whole = tokenizer.encode(f"Write a poem {RESPONSE}")
    expected = use_of(hf_model("llama", dtype=torch.float64), whole[:n], [[1]], whole[n:])
    assert float(found.use[0]) == pytest.approx(expected[0] - expected[1], abs=1e-9)


# responses


def test_short_responses_are_left_out_and_counted() -> None:
    model, tokenizer = model_of(), tokenizer_of(True)
    one = tuple(tokenizer.encode("Apples and", add_special_tokens=False))
    responses = [Response("", ()), Response("x", one[:1]), Response("xy", one[:2]), " ", RESPONSE]
    found = instruction_use(model, PROMPTS, responses)
    assert found.prompt_id == ("list", "explain")
    assert found.n_left_out == 3
    assert instruction_use(model, PROMPTS, responses, min_tokens=1).n_left_out == 2
    pair = pair_of()
    both = instruction_use(pair, PROMPTS, responses)
    assert both.n_left_out == 3
    assert len(both.to_df()) == 4
    assert instruction_use(pair, PROMPTS, max_new_tokens=1).to_df().empty


def test_after_other_prompts_the_ids_are_forced_that_the_response_has_after_its_own(monkeypatch: Any) -> None:
    # a tokenizer may read the text otherwise behind another prompt: then it would be another response
    given, encode = [], forced_reading.encode

    def seen(view: Any, prompt: Prompt, response: Any = None, **options: Any) -> Any:
        given.append(response)
        return encode(view, prompt, response, **options)

    monkeypatch.setattr(forced_reading, "encode", seen)
    model = model_of()
    instruction_use(model, PROMPTS[:2], [RESPONSE] * 2)
    first, second = given[:2]
    assert first == RESPONSE
    assert isinstance(second, Response)
    assert second.token_ids == encode(view_of(model), PROMPTS[0], RESPONSE).response_ids


def test_the_mean_over_texts_takes_prompts_that_have_all_of_them() -> None:
    pair = pair_of()
    found = instruction_use(pair, PROMPTS, max_new_tokens=4)
    table = found.to_df()
    means = table.groupby(["prompt_id", "model"]).use.mean().unstack()
    assert found.difference().estimate == pytest.approx((means.tuned - means.base).mean())
    assert found.difference().n == (5,)
    keep = [i for i, key in enumerate(zip(found.prompt_id, found.text, strict=True)) if key != ("poem", "base")]
    numbers = {name: getattr(found, name)[keep] for name in ("model", "n_out", "n_draws", "log_prob")}
    names = {name: tuple(getattr(found, name)[i] for i in keep) for name in ("prompt_id", "text")}
    fewer = replace(found, **numbers, **names, log_prob_without=found.log_prob_without[keep])
    assert fewer.difference("tuned").n == (5,)
    assert fewer.difference("base").n == (4,)
    assert fewer.difference().n == (4,)


def test_a_single_models_own_response_is_its_own_text() -> None:
    model = model_of()
    found = instruction_use(model, PROMPTS, max_new_tokens=4)
    assert set(found.to_df().text) == {"own"}
    given = instruction_use(model, PROMPTS, generate(model, PROMPTS, max_new_tokens=4))
    torch.testing.assert_close(found.use, given.use, rtol=0, atol=0)
    assert found.models == (view_of(model).info.id,)
    single = instruction_use(model, PROMPTS[0], RESPONSE, by="deletion")
    assert single.prompt_id == ("poem",)
    assert found.top(2).use.tolist() == sorted(found.use.tolist(), reverse=True)[:2]
    with pytest.raises(InputError, match="there is one model, LlamaForCausalLM: a difference needs a pair"):
        found.difference("own")


# controls


def test_controls_read_the_same_forced_text_and_are_let_go_of() -> None:
    pair = pair_of()
    controls = [pair.control(kind, 0) for kind in ("spectrum", "norm")]
    found = instruction_use(pair, PROMPTS, [RESPONSE] * 5, controls=iter(controls))
    assert found.models == ("base", "tuned", *(control.info.id for control in controls))
    assert found.control_kinds == ("", "", "spectrum", "norm")
    assert not any(control.is_made for control in controls)
    alone = instruction_use(load_pair(pair.base, controls[1]), PROMPTS, [RESPONSE] * 5)
    table, expected = found.to_df(), alone.to_df()
    np.testing.assert_allclose(
        table.query("model == @controls[1].info.id").use, expected.query("model == 'tuned'").use, atol=1e-9
    )
    frame = found.differences()
    assert frame.columns.tolist() == [
        "text", "model", "kind", "n", "base", "use", "difference", "low", "high", "p",
    ]  # fmt: skip
    assert frame.kind.tolist() == ["", "spectrum", "norm"]
    np.testing.assert_allclose(frame.difference, [found.difference("given", i).estimate for i in (1, 2, 3)])
    assert frame.difference.iloc[2] == pytest.approx(alone.difference("given").estimate, abs=1e-9)
    assert "beside controls: 1 spectrum, 1 norm" in repr(found)


TEXTS: dict[str, Any] = {
    "a": [RESPONSE] * 5,
    "reference": ["Good morning", None, "The moon and the sea", None, "Good day"],
}


@pytest.mark.parametrize("by", ["swap", "deletion"])
def test_controls_that_were_read_apart_give_the_same(by: str) -> None:
    pair = pair_of()
    kinds = ("spectrum", "norm", "spectrum")

    def controls() -> list[Any]:
        return [pair.control(kind, seed) for seed, kind in enumerate(kinds)]

    together = instruction_use(pair, PROMPTS, TEXTS, by=by, controls=controls())
    alone = instruction_use(pair, PROMPTS, TEXTS, by=by)
    apart = [instruction_use(control, PROMPTS, TEXTS, by=by) for control in controls()]
    found = alone.with_controls(apart)
    assert found.models == together.models
    assert found.control_kinds == together.control_kinds == ("", "", *kinds)
    keys = ["prompt_id", "text", "model"]
    frames = [result.to_df().sort_values(keys, ignore_index=True) for result in (found, together)]
    assert frames[0][[*keys, "n_out", "n_draws", "by"]].equals(frames[1][[*keys, "n_out", "n_draws", "by"]])
    for name in ("log_prob", "log_prob_without", "use"):
        np.testing.assert_allclose(frames[0][name], frames[1][name], rtol=0, atol=1e-9)
    effect, others = found.effects()
    assert effect == pytest.approx(alone.difference().estimate)
    assert others == pytest.approx([together.difference(model=i).estimate for i in (2, 3, 4)], abs=1e-9)
    assert len(set(others)) == 3
    assert found.means() == alone.means()
    frame = found.differences()
    np.testing.assert_allclose(frame.difference, together.differences().difference, rtol=0, atol=1e-9)
    one_more = found.with_controls(apart[:1])
    assert one_more.models == (*found.models, found.models[2])
    assert one_more.effects()[1] == [*others, others[0]]
    assert alone.with_controls([]).to_df().equals(alone.to_df())
    assert alone.effects()[1] == []


def test_a_model_that_no_pair_made_is_a_given_control() -> None:
    pair, other = pair_of(), model_of(seed=5)
    read = instruction_use(other, PROMPTS, [RESPONSE] * 5)
    assert read.control_kinds == ("",)
    together = instruction_use(pair, PROMPTS, [RESPONSE] * 5, controls=[other])
    found = instruction_use(pair, PROMPTS, [RESPONSE] * 5).with_controls([read])
    assert found.control_kinds == together.control_kinds == ("", "", "given")
    assert found.effects()[1] == pytest.approx(together.effects()[1], abs=1e-9)


def test_a_prompt_that_a_control_lacks_is_left_out_of_all() -> None:
    pair = pair_of()
    alone = instruction_use(pair, PROMPTS, [RESPONSE] * 5)
    control = instruction_use(pair.control("norm", 0), PROMPTS, [RESPONSE] * 5)
    kept = [i for i, name in enumerate(control.prompt_id) if name not in ("poem", "list")]
    rows = {
        name: getattr(control, name)[kept] for name in ("model", "n_out", "n_draws", "log_prob", "log_prob_without")
    }
    names = {name: tuple(getattr(control, name)[i] for i in kept) for name in ("prompt_id", "text")}
    fewer = replace(control, **rows, **names, failures={"poem": "it broke"})
    found = alone.with_controls([control, fewer])
    assert found.prompts() == ("french", "repeat", "explain")
    assert set(found.prompt_id) == {"french", "repeat", "explain"}
    assert found.failures == {"poem": "it broke", "list": f"{control.models[0]} has no use on text 'given'"}
    assert found.effects()[0] == pytest.approx(
        (alone.to_df().query("model == 'tuned'").use.array - alone.to_df().query("model == 'base'").use.array)[
            [1, 3, 4]
        ].mean()
    )
    nothing = {name: values[:0] for name, values in rows.items()} | {"prompt_id": (), "text": ()}
    none = alone.with_controls([replace(control, **nothing)])
    assert none.prompts() == ()
    assert none.to_df().empty
    assert all(np.isnan(none.means()))
    with pytest.raises(InputError, match="no prompt has a use on text 'mean' in every model"):
        none.effects()


def test_a_control_may_read_a_prompt_that_failed_in_the_pair() -> None:
    larger = hf_model("llama", vocab_size=402, dtype=torch.float64)
    sides = {"tokenizer": tokenizer_of()}, {"tokenizer": with_more_tokens("<|user|>", "<|reply|>")}
    base = hf_model("llama", dtype=torch.float64)
    pair = load_pair(base, larger, base_options=sides[0], tuned_options=sides[1], **OPTIONS)
    odd = Prompt("List <|user|> fruits", ["List"], id="odd")
    prompts = [*PROMPTS, odd]
    with pytest.warns(UserWarning, match="prompt 'odd' failed: the models read the prompt"):
        alone = instruction_use(pair, prompts, [RESPONSE] * 6)
    control = instruction_use(pair.control("norm", 0), prompts, [RESPONSE] * 6)
    assert "odd" in control.prompt_id
    found = alone.with_controls([control])
    assert found.failures == alone.failures
    assert "odd" not in found.prompt_id
    with pytest.warns(UserWarning, match="prompt 'odd' failed"):
        together = instruction_use(pair, prompts, [RESPONSE] * 6, controls=[pair.control("norm", 0)])
    assert found.effects()[1] == pytest.approx(together.effects()[1], abs=1e-9)
    # the tuned model's own response, in the base's ids, is one that pair and control read alike
    said = [generate(pair.tuned, prompt, max_new_tokens=5) for prompt in PROMPTS]
    said = [replace(one, token_ids=tuple(i for i in one.token_ids if i < 400)) for one in said]
    texts: dict[str, Any] = {"tuned": [as_base_reads(pair, *both) for both in zip(PROMPTS, said, strict=True)]}
    own = instruction_use(pair, PROMPTS, texts)
    apart = instruction_use(pair.control("norm", 0), PROMPTS, texts)
    assert own.with_controls([apart]).prompts() == own.prompts() == tuple(prompt.id for prompt in PROMPTS)


def test_a_use_that_is_no_number_is_an_error_and_few_prompts_are_a_gap() -> None:
    found = instruction_use(pair_of(), PROMPTS, [RESPONSE] * 5)
    log_prob = found.log_prob.clone()
    log_prob[-1] = -torch.inf  # of the last prompt in the tuned model
    broken = replace(found, log_prob=log_prob)
    for call in (broken.difference, broken.differences, broken.beside, broken.show, lambda: repr(broken)):
        with pytest.raises(InputError, match="is -inf, expected finite values") as error:
            call()
        assert not isinstance(error.value, stats.NotTestable)
    rows = slice(0, 2)  # of the first prompt
    one = replace(
        found,
        prompt_id=found.prompt_id[rows],
        text=found.text[rows],
        **{name: getattr(found, name)[rows] for name in ("model", "n_out", "n_draws", "log_prob", "log_prob_without")},
    )
    with pytest.raises(stats.TooFew, match=r"1 prompt\(s\) have a use on text 'given', a difference needs 2"):
        one.difference("given")
    assert one.differences()[["low", "high", "p"]].isna().to_numpy().all()
    assert given(one.show())["texts"][0]["facts"] == ["1 prompt(s) have a use on text 'given', a difference needs 2."]


def test_prompts_that_all_differ_alike_are_tested_by_sign_flips() -> None:
    found = instruction_use(pair_of(), PROMPTS, [RESPONSE] * 5)
    base = found.log_prob[found.model == 0]
    log_prob = torch.stack([base, base + 0.25], dim=1).flatten()
    without = found.log_prob_without[found.model == 0].repeat_interleave(2)
    test = replace(found, log_prob=log_prob, log_prob_without=without).difference("given")
    assert (test.name, test.p, test.low) == ("sign flip", 2 / 2**5, None)


def test_controls_of_other_texts_or_means_are_refused() -> None:
    pair, model = pair_of(), model_of()
    alone, read = (instruction_use(m, PROMPTS, TEXTS) for m in (pair, model))
    with pytest.raises(InputError, match="there is one model, LlamaForCausalLM: controls stand beside a pair"):
        read.with_controls([read])
    with pytest.raises(InputError, match="a result of 2 models was given as a control, expected one model's"):
        alone.with_controls([alone])
    message = "was read by deletion on a, reference, expected swap on a, reference as the pair"
    with pytest.raises(InputError, match=message):
        alone.with_controls([instruction_use(model, PROMPTS, TEXTS, by="deletion")])
    with pytest.raises(InputError, match="was read by swap on given, expected swap on a, reference as the pair"):
        alone.with_controls([instruction_use(model, PROMPTS, [RESPONSE] * 5)])
    shorter = replace(read, n_out=read.n_out - 1)
    message = (
        rf"read {int(read.n_out[0]) - 1} tokens of text 'a' of prompt 'poem', the pair {int(read.n_out[0])}: expected"
    )
    with pytest.raises(InputError, match=message):
        alone.with_controls([read, shorter])
    fewer = instruction_use(pair, PROMPTS[:3], {name: texts[:3] for name, texts in TEXTS.items()})
    with pytest.raises(InputError, match="of text 'a' of prompt 'repeat', the pair none: expected the same"):
        fewer.with_controls([read])
    with pytest.raises(InputError, match="there is one model, LlamaForCausalLM: a difference needs a pair"):
        read.effects()


# one model at a time, vocabularies, files


def test_one_model_at_a_time_gives_the_same(tmp_path: Any) -> None:
    folders = save_checkpoint("llama", tmp_path / "a", bos=True), save_checkpoint("llama", tmp_path / "b", seed=1)
    tokenizer = {"tokenizer": tokenizer_of(True)}
    both, one = (load_pair(*folders, keep=keep, **(OPTIONS | tokenizer)) for keep in ("both", "one"))
    expected, found = (instruction_use(pair, PROMPTS, max_new_tokens=3) for pair in (both, one))
    assert found.to_df().equals(expected.to_df())


def test_texts_that_the_models_read_differently_are_refused_or_listed() -> None:
    larger = hf_model("llama", vocab_size=402, dtype=torch.float64)
    sides = {"tokenizer": tokenizer_of()}, {"tokenizer": with_more_tokens("<|user|>", "<|reply|>")}
    pair = load_pair(
        hf_model("llama", dtype=torch.float64), larger, base_options=sides[0], tuned_options=sides[1], **OPTIONS
    )
    odd = Prompt("List <|user|> fruits", ["List"], id="odd")
    with pytest.raises(InputError, match=r"the models read the prompt 'odd' or its response as different"):
        instruction_use(pair, odd, RESPONSE, by="deletion")
    with pytest.warns(UserWarning, match="prompt 'odd' failed: the models read the prompt"):
        found = instruction_use(pair, [*PROMPTS, odd], [RESPONSE] * 6)
    assert list(found.failures) == ["odd"]
    assert set(found.prompt_id) == {prompt.id for prompt in PROMPTS}
    with pytest.raises(InputError, match="which the base does not have: it cannot be forced on both models"):
        instruction_use(pair, PROMPTS[0], "Hello <|reply|> there", by="deletion")


def test_table_text_and_file(tmp_path: Any) -> None:
    found = instruction_use(pair_of(), PROMPTS, max_new_tokens=3)
    table = found.to_df()
    assert table.columns.tolist() == [
        "prompt_id", "by", "text", "model", "n_out", "log_prob", "log_prob_without", "use", "n_draws",
    ]  # fmt: skip
    assert list(table.prompt_id.drop_duplicates()) == [prompt.id for prompt in PROMPTS]
    assert table.model.tolist()[:4] == ["base", "tuned", "base", "tuned"]
    again = InstructionUse.load(found.save(tmp_path / "use.safetensors"))
    assert again.to_df().equals(table)
    assert again.differences().equals(found.differences())
    text = repr(found)
    assert "by swap, 5 prompts (nats per token)" in text
    assert "mean text: base" in text
    assert found.top(3).columns.tolist() == ["prompt_id", "text", "base", "tuned", "difference"]
    assert found.top(3).difference.abs().is_monotonic_decreasing


# refusals


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((PROMPTS,), {"by": "noise"}, "by='noise' is none of swap, deletion"),
        ((PROMPTS,), {"draws": 0}, "draws=0 given, expected at least 1"),
        ((PROMPTS,), {"min_tokens": 0}, "min_tokens=0 given, expected at least 1"),
        ((PROMPTS,), {"max_new_tokens": 0}, "max_new_tokens=0 given, expected at least 1"),
        ((PROMPTS,), {"kinds": ["a"]}, r"5 prompts given with kinds=\['a'\], expected a list of as many"),
        ((PROMPTS, [RESPONSE]), {}, "5 prompts given with 1 response, expected as many"),
        ((PROMPTS, RESPONSE), {}, "5 prompts given with a single response"),
        ((PROMPTS, {}), {}, r"texts are named \[\], expected names other than 'mean'"),
        ((PROMPTS, {"mean": [RESPONSE] * 5}), {}, r"texts are named \['mean'\], expected names other than 'mean'"),
        ((PROMPTS, {"": [RESPONSE] * 5}), {}, r"texts are named \[''\]"),
        ((PROMPTS, {"a": [RESPONSE] * 5, "b": [RESPONSE]}), {}, "5 prompts given with 1 response"),
        ((PROMPTS, {"a": RESPONSE}), {}, "5 prompts given with a single response"),
        (([],), {}, r"expected a Prompt, a text or a list of them, got \[\]"),
        (([*PROMPTS, PROMPTS[0]],), {}, "the id 'poem' comes twice"),
        (("Write a poem",), {"by": "deletion"}, "prompt 'Write a poem' marks no instruction, expected a span of it"),
        ((PROMPTS[0], RESPONSE), {}, "prompt 'poem' has no donor: none of the 1 prompts given has another instruction"),
        (
            (PROMPTS[0], RESPONSE),
            {"kinds": ["a"]},
            "none of the 1 prompts given has an instruction of another kind than 'a'",
        ),
        ((PROMPTS[0], RESPONSE), {"by": "deletion", "controls": ["x"]}, "controls stand beside a pair"),
        ((PROMPTS[0], Response("", (999,))), {"by": "deletion"}, "has the token 999 at position"),
    ],
)
def test_unusable_arguments_are_refused(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        instruction_use(model_of(), *arguments, **options)


def test_a_missing_response_is_refused() -> None:
    with pytest.raises(InputError, match="a response is None, expected a text or a Response for every prompt"):
        _texts(Asked.of(PROMPTS[:2]), [RESPONSE, None])
    assert _texts(Asked.of(PROMPTS[:2]), {"a": [RESPONSE, None]}) == {"a": {"poem": RESPONSE}}
    with pytest.raises(InputError, match="a response is 3, expected a text or a Response for every prompt"):
        _texts(Asked.of(PROMPTS[:2]), {"a": [RESPONSE, 3]})


def test_a_list_of_which_every_prompt_fails_is_refused() -> None:
    with pytest.raises(InputError, match="none of 2 prompts could be read; '0': prompt '0' marks no instruction"):
        instruction_use(model_of(), ["one", "two"])


def test_a_prompt_that_fills_the_context_fails_alone() -> None:
    long = Prompt("Write " + "moon " * 150, ["Write"], id="long")
    with pytest.warns(UserWarning, match="prompt 'long' failed"):
        found = instruction_use(model_of(), [*PROMPTS, long], max_new_tokens=3)
    assert list(found.failures) == ["long"]
    assert len(found.to_df()) == len(PROMPTS)


def test_an_own_response_that_fills_the_context_is_cut_to_fit_every_prompt() -> None:
    model, tokenizer = model_of(), tokenizer_of(True)
    n_ctx = view_of(model).n_ctx
    for read in (model, pair_of(tuned=hf_model("llama", seed=2, dtype=torch.float64))):
        found = instruction_use(read, PROMPTS, max_new_tokens=300)
        assert not found.failures
        others = [swapped(PROMPTS, i, kinds=None, draws=8, seed=0) for i in range(len(PROMPTS))]
        longest = {p.id: max(len(tokenizer.encode(x.stripped)) for x in (p, *others[i])) for i, p in enumerate(PROMPTS)}
        full = [n_ctx - longest[name] - 1 for name in found.prompt_id]
        assert all(n <= most for n, most in zip(found.n_out.tolist(), full, strict=True))
        assert any(n == most for n, most in zip(found.n_out.tolist(), full, strict=True)), "some were cut"


def test_a_difference_needs_two_prompts_and_a_place() -> None:
    found = instruction_use(pair_of(), PROMPTS[0], RESPONSE, by="deletion")
    with pytest.raises(InputError, match=r"1 prompt\(s\) have a use on text 'given', a difference needs 2"):
        found.difference("given")
    with pytest.raises(InputError, match="text='own' is none of given, mean"):
        found.difference("own")
    with pytest.raises(InputError, match="model=2 given, expected 1 to 1"):
        found.difference("given", 2)
    frame = found.differences()
    assert frame.n.tolist() == [1]
    assert frame.p.isna().all()
    assert frame.difference.notna().all()
    assert "given text: 1 prompt(s)" in repr(found)


def test_a_control_of_another_vocabulary_is_refused() -> None:
    other = load_model(hf_model("llama", vocab_size=402), tokenizer=tokenizer_of(), **OPTIONS)
    with pytest.raises(InputError, match="has d_vocab 402, expected the base's 400"):
        instruction_use(pair_of(), PROMPTS, [RESPONSE] * 5, controls=[other])
