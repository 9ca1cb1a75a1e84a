"""Instruction use: transformers' own log-probabilities, planted models that use the instruction or ignore it."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from lensdiff.analyses import forced_reading, stats
from lensdiff.analyses.instruction_use import _given, instruction_use
from lensdiff.analyses.instruction_use_result import InstructionUse
from lensdiff.analyses.other_instructions import deleted, instruction_ranges, swapped
from lensdiff.inputs import Prompt
from lensdiff.models import ModelPair, load_model, load_pair, view_of
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.text import Response, generate
from lensdiff.results import InputError
from tests.checkpoints import hf_model, save_checkpoint, tokenizer_of
from tests.models.test_pair import with_more_tokens

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
    assert "beside 2 control(s)" in repr(found)


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
        ((PROMPTS,), {"draws": 0}, "draws=0 is not positive"),
        ((PROMPTS,), {"min_tokens": 0}, "min_tokens=0 is not positive"),
        ((PROMPTS,), {"max_new_tokens": 0}, "max_new_tokens=0 is not positive"),
        ((PROMPTS,), {"kinds": ["a"]}, r"5 prompts were given with kinds=\['a'\], expected a list of as many"),
        ((PROMPTS, [RESPONSE]), {}, "5 prompts were given with 1 responses, expected as many"),
        ((PROMPTS, RESPONSE), {}, "5 prompts were given with a single response"),
        (([],), {}, r"expected a Prompt, a text or a list of them, got \[\]"),
        (([*PROMPTS, PROMPTS[0]],), {}, "the id 'poem' comes twice"),
        (("Write a poem",), {"by": "deletion"}, "prompt '0' marks no instruction, expected a span of it"),
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
        _given(PROMPTS[:2], [RESPONSE, None])


def test_a_list_of_which_every_prompt_fails_is_refused() -> None:
    with (
        pytest.raises(InputError, match="none of 2 prompts could be read; '0': prompt '0' marks no instruction"),
        pytest.warns(UserWarning, match="failed"),
    ):
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
