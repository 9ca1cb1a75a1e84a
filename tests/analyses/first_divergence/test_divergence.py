"""Where models part: transformers' own greedy texts, ends of texts, vocabularies that differ, positions beside it."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from lensdiff.analyses.first_divergence.divergence import Divergence, find_divergences
from lensdiff.models import ModelPair, view_of
from lensdiff.models.asked import Asked
from lensdiff.results import InputError
from tests.analyses.first_divergence.parting import N_LAYERS, PROMPTS, greedy_of, logits_of, nearby, pair_of, small
from tests.checkpoints import hf_model, tokenizer_of
from tests.models.test_forced_text import cycled
from tests.models.test_pair import with_more_tokens


def found(pair: ModelPair, prompts: Any = PROMPTS, most: int = 24, draws: int = 100, seed: int = 0):
    asked = Asked.of(prompts)
    return *find_divergences(
        pair, asked, max_new_tokens=most, prepend_bos=None, draws=draws, seed=seed, advance=lambda n: None
    ), asked


def spelled(tokens: Any) -> list[int]:
    return tokenizer_of()(tokens)["input_ids"]


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    base = small()
    return base, nearby(base)


@pytest.fixture(scope="module")
def pair(models) -> ModelPair:
    return pair_of(*models)


def test_models_part_where_transformers_own_greedy_texts_do(models, pair):
    parted, agreed, _ = found(pair)
    by_id = {one.prompt.id: one for one in parted}
    lengths = set()
    for prompt in PROMPTS:
        ids = spelled(prompt.text)
        expected = greedy_of(*models, ids, 24)
        if expected is None:
            assert agreed[prompt.id] == "both choose the same 24 tokens"
            continue
        said, base, tuned = expected
        one = by_id[prompt.id]
        assert one.n_out == len(said)
        assert one.ids["base"][: one.first.position + 1].tolist() == [*ids, *said]
        assert one.first == (len(ids) + len(said) - 1, base, tuned)
        lengths.add(len(said))
    assert len(lengths) > 1, "texts that part at different places"
    assert max(lengths) > 1


def test_after_as_many_tokens_as_asked_they_do_not_part(pair):
    parted, _, _ = found(pair)
    longest = max(parted, key=lambda one: one.n_out)
    again, agreed, _ = found(pair, [longest.prompt], most=longest.n_out)
    assert (again, agreed) == ([], {longest.prompt.id: f"both choose the same {longest.n_out} tokens"})
    (once_more,), _, _ = found(pair, [longest.prompt], most=longest.n_out + 1)
    assert once_more.first == longest.first


def test_equal_models_never_part(models):
    parted, agreed, _ = found(pair_of(models[0], small()), most=6)
    assert (parted, set(agreed.values())) == ([], {"both choose the same 6 tokens"})


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_a_text_that_ends_for_one_of_them_has_ended(models, pair, side):
    parted, _, _ = found(pair)
    one = max(parted, key=lambda one: one.n_out)
    end = int(one.ids[side][one.first.position])  # what both chose before they parted
    fresh = pair_of(*models)
    view = view_of(getattr(fresh, side))
    view.info = replace(view.info, eos_token_ids=(end,))
    again, agreed, _ = found(fresh, [one.prompt])
    said = one.ids["base"][one.first.position - one.n_out + 1 : one.first.position + 1].tolist()
    assert (again, agreed) == ([], {one.prompt.id: f"both choose the same {said.index(end)} tokens and then the end"})


def test_the_end_is_a_choice_like_any_other(models, pair):
    parted, _, _ = found(pair)
    one = next(one for one in parted if one.later and one.first.tuned not in one.ids["base"][-one.n_out :].tolist())
    fresh = pair_of(*models)
    view = view_of(fresh.tuned)
    view.info = replace(view.info, eos_token_ids=(one.first.tuned,))
    (again,), _, _ = found(fresh, [one.prompt])
    assert again.first == one.first
    assert again.later == (), "behind the end the tuned model has no text"


def test_a_full_context_ends_the_comparison():
    base = small(max_position_embeddings=40)
    pair = pair_of(base, nearby(base, 1e-6))
    ids = spelled(PROMPTS[0].text)
    parted, agreed, _ = found(pair, PROMPTS[:1])
    assert (parted, agreed) == ([], {"p0": f"both choose the same {41 - len(ids)} tokens, and the context is full"})


def test_a_token_of_one_model_alone_is_no_choice(models):
    more = hf_model("llama", seed=0, dtype=torch.float64, num_hidden_layers=N_LAYERS, vocab_size=402)
    more.load_state_dict(
        {
            name: torch.cat([value, 3 * value[:2]]) if value.shape[0] == 400 else value
            for name, value in models[1].state_dict().items()
        }
    )
    with torch.no_grad():  # the new token is likelier than whatever the tuned model would say
        logits = logits_of(models[1], spelled(PROMPTS[0].text))[-1]
        more.lm_head.weight[400] = 2 * more.lm_head.weight[int(logits.argmax())]
    added = with_more_tokens("<|user|>", "<|reply|>")
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tuned_options": {"tokenizer": added}}
    pair = pair_of(models[0], more, tokenizer=None, **sides)
    alone = logits_of(more, spelled(PROMPTS[0].text))[-1]
    assert int(alone.argmax()) == 400
    (one,), _, _ = found(pair, PROMPTS[:1])
    expected = greedy_of(*models, spelled(PROMPTS[0].text), 24)
    assert expected is not None
    assert (one.first.base, one.first.tuned) == expected[1:]
    assert one.ids["tuned"].tolist() == one.ids["base"].tolist()
    assert one.n_out == len(expected[0])


def test_vocabularies_in_another_order_are_matched_by_their_strings(models, pair):
    other = cycled()
    order = [tokenizer_of().convert_tokens_to_ids(other.convert_ids_to_tokens(i)) for i in range(400)]
    tuned = small()
    tuned.load_state_dict(
        {name: value[order] if value.shape[0] == 400 else value for name, value in models[1].state_dict().items()}
    )
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tuned_options": {"tokenizer": other}}
    parted, agreed, _ = found(pair_of(models[0], tuned, tokenizer=None, **sides))
    expected, alike, _ = found(pair)
    assert agreed == alike
    for one, same in zip(parted, expected, strict=True):
        assert [place.position for place in one.places] == [place.position for place in same.places]
        assert one.ids["base"].tolist() == same.ids["base"].tolist()
        assert tokenizer_of().convert_ids_to_tokens(one.ids["base"].tolist()) == other.convert_ids_to_tokens(
            one.ids["tuned"].tolist()
        )


def test_later_positions_are_those_on_the_tuned_text_at_which_choices_differ(models, pair):
    parted, _, _ = found(pair)
    one = max(parted, key=lambda one: len(one.later))
    assert one.later
    start = len(spelled(one.prompt.text))
    tuned_text = spelled(one.prompt.text)
    for _ in range(24):
        tuned_text.append(int(logits_of(models[1], tuned_text)[-1].argmax()))
    choices = [logits_of(model, tuned_text[:-1])[start - 1 :].argmax(dim=-1).tolist() for model in models]
    differ = [(start - 1 + i, b, t) for i, (b, t) in enumerate(zip(*choices, strict=True)) if b != t]
    assert [tuple(place) for place in (one.first, *one.later)] == differ
    assert [place.position for place in one.earlier] == list(range(one.first.position))
    assert {place[1:] for place in one.earlier} == {one.first[1:]}, "scored on the first divergence's two tokens"
    assert len(one.ids["base"]) == differ[-1][0] + 1, "no more is read than is scored"


def test_positions_beside_are_drawn_by_seed_and_text(pair):
    whole, _, _ = found(pair)

    def drawn(seed: int, prompts: Any = PROMPTS) -> list[Divergence]:
        return found(pair, prompts, draws=2, seed=seed)[0]

    for some, every in zip(drawn(0), whole, strict=True):
        for name in ("later", "earlier"):
            few, all_of_them = getattr(some, name), getattr(every, name)
            assert len(few) == min(2, len(all_of_them))
            assert set(few) <= set(all_of_them)
            assert list(few) == sorted(few)
    assert [one.places for one in drawn(0)] == [one.places for one in drawn(0)]
    assert [one.places for one in drawn(0)] != [one.places for one in drawn(1)]
    last = drawn(0)[-1]
    (alone,) = drawn(0, [last.prompt])
    assert alone.places == last.places, "whatever else is in the list"
    (none, *_), _, _ = found(pair, draws=0)
    assert (none.later, none.earlier) == ((), ())


def test_a_prompt_that_the_models_read_as_other_tokens_fails_alone(models):
    renamed = with_more_tokens(without="Ġthe")
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tuned_options": {"tokenizer": renamed}}
    pair = pair_of(*models, tokenizer=None, **sides)
    parted, agreed, asked = found(pair, [PROMPTS[0].text, "Apples"])
    assert list(asked.failures) == ["0"]
    assert "as different tokens" in asked.failures["0"]
    assert [one.prompt.id for one in parted] + list(agreed) == ["1"]


def test_other_special_tokens_in_front_are_refused(models):
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tuned_options": {"tokenizer": tokenizer_of(bos=True)}}
    pair = pair_of(*models, tokenizer=None, **sides)
    with pytest.raises(InputError, match="positions of the one are not those of the other"):
        found(pair, PROMPTS[0])


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_a_logit_that_is_not_finite_fails_the_prompt(models, side):
    fresh = pair_of(*copy.deepcopy(models))  # a model in memory is not copied on loading
    view = view_of(getattr(fresh, side))
    assert found(fresh, PROMPTS[0])[2].failures == {}
    with torch.no_grad():
        view.forward.wrapper.W_U[:, 5] = float("nan")
    with pytest.raises(InputError, match="a logit is not finite"):
        found(fresh, PROMPTS[0])
