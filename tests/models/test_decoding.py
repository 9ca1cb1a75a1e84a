"""Greedy decoding: the tokens of an uncached argmax of transformers, whatever a cache does."""

import copy

import pytest
import torch

from experiments.families import uncached, wrappers_of
from lensdiff.models import decoding, load_model, view_of
from lensdiff.models.decoding import greedy, greedy_to_the_end
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.response import Response
from lensdiff.models.text import generate
from lensdiff.results import InputError
from tests.checkpoints import FAMILIES, MORE, TEXT, hf_model, tokenizer_of
from tests.lacks import LACKS

needs_hooked = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
WRAPPERS = [pytest.param("hooked", marks=needs_hooked), "bridge"]
PAD = 7
UNCACHED = ("phi3_longrope",)  # its stretched angles change with the length
UNSERVED = ("gpt_neox_without_bias", "falcon_grouped", "cohere")  # see test_families
CACHED = [(f, w) for f in [*FAMILIES, *MORE] if f not in UNSERVED for w in wrappers_of(f)]


def prompts(*lengths: int) -> list[torch.Tensor]:
    ids = tokenizer_of()(" ".join(TEXT))["input_ids"]
    return [torch.tensor(ids[i : i + length]) for i, length in enumerate(lengths)]


def loaded(wrapper: str, family: str = "llama", **options):
    tokenizer = copy.deepcopy(tokenizer_of())
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.convert_ids_to_tokens(PAD), "left"
    model = load_model(hf_model(family, **options), tokenizer=tokenizer, wrapper=wrapper, device="cpu")
    return view_of(model), hf_model(family, **options)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_prompts_of_any_lengths_give_what_each_gives_alone(wrapper, batch_size):
    view, reference = loaded(wrapper)
    given = prompts(17, 3, 40, 3, 9)
    found = greedy(view, given, max_new_tokens=15, batch_size=batch_size, stops=())
    assert view.forward.cache_fault is None, "the cache was to be used"
    for prompt, new in zip(given, found, strict=True):
        assert new.tolist() == uncached(reference, prompt, 15).tolist()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_prompts_that_begin_and_end_in_the_paddings_token(wrapper):
    view, reference = loaded(wrapper)
    given = [torch.tensor([PAD, 20, 30, PAD, PAD]), torch.tensor([50, PAD]), torch.tensor([PAD])]
    for prompt, new in zip(given, greedy(view, given, max_new_tokens=8, stops=()), strict=True):
        assert new.tolist() == uncached(reference, prompt, 8).tolist()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_end_token_ends_a_response_and_is_left_out(wrapper):
    view, reference = loaded(wrapper)
    given = prompts(17, 5)
    free = [uncached(reference, prompt, 12).tolist() for prompt in given]
    ends = {free[0][4], free[1][7]}
    found = greedy(view, given, max_new_tokens=12, stops=tuple(ends))
    for whole, new in zip(free, found, strict=True):
        first = min(i for i, token in enumerate(whole) if token in ends)
        assert new.tolist() == whole[:first]
    together = greedy_to_the_end(view, given, max_new_tokens=12, stops=tuple(ends))
    assert [one.ids.tolist() for one in together] == [new.tolist() for new in found]
    assert [one.end for one in together] == [next(token for token in whole if token in ends) for whole in free]
    (cut,) = greedy_to_the_end(view, given[:1], max_new_tokens=2, stops=tuple(ends))
    assert (cut.ids.tolist(), cut.end) == (free[0][:2], None)


def test_a_response_says_how_it_ended():
    source, tokenizer = hf_model("llama"), tokenizer_of()
    free = generate(load_model(source, tokenizer=tokenizer, device="cpu"), TEXT[0], max_new_tokens=10)
    source = hf_model("llama")
    source.generation_config.eos_token_id = [2, free.token_ids[3]]
    model = load_model(source, tokenizer=tokenizer, device="cpu")
    ended, cut = (generate(model, TEXT[0], max_new_tokens=n) for n in (10, 1))
    assert ended.token_ids == free.token_ids[: free.token_ids.index(free.token_ids[3])]
    assert ended.end == tokenizer.convert_ids_to_tokens(free.token_ids[3])  # half a character has no other name
    assert (cut.token_ids, cut.end) == (free.token_ids[:1], "")
    assert Response("a", (1,)).end is None
    assert Response("a", (1,), end="</s>") == Response("a", (1,), end="")  # the same response


def test_end_tokens_of_the_generation_config_are_the_default():
    source = hf_model("llama")
    free = uncached(hf_model("llama"), prompts(9)[0], 10).tolist()
    source.generation_config.eos_token_id = [2, free[3]]
    view = view_of(load_model(source, tokenizer=tokenizer_of(), device="cpu"))
    assert greedy(view, prompts(9), max_new_tokens=10)[0].tolist() == free[: free.index(free[3])]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_decoding_ends_where_the_context_does(wrapper):
    view, reference = loaded(wrapper)
    given = prompts(view.n_ctx - 4, view.n_ctx - 30)
    found = greedy(view, given, max_new_tokens=10, stops=())
    assert [len(new) for new in found] == [4, 10]
    assert found[0].tolist() == uncached(reference, given[0], 4).tolist()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_cache_that_forgets_the_prompt_is_found_out(wrapper, monkeypatch):
    # what a renamed argument did: every step sees its own token alone
    view, reference = loaded(wrapper)
    honest = view.forward.cached_logits

    def forgetful(tokens, mask, cache):
        return honest(tokens, torch.ones_like(tokens), view.forward.new_cache(len(tokens)))

    monkeypatch.setattr(view.forward, "cached_logits", forgetful)
    given = prompts(17, 17)
    for prompt, new in zip(given, greedy(view, given, max_new_tokens=10, stops=()), strict=True):
        assert new.tolist() == uncached(reference, prompt, 10).tolist()
    assert view.forward.cache_fault == "its tokens are not those of a whole pass"


def test_a_cache_that_fails_costs_time_alone_and_says_so_once(monkeypatch, caplog):
    view, reference = loaded("bridge")

    def failing(tokens, mask, cache):
        raise TypeError("got an unexpected keyword argument 'cache'")

    monkeypatch.setattr(view.forward, "cached_logits", failing)
    (new,) = greedy(view, prompts(11), max_new_tokens=6, stops=())
    assert new.tolist() == uncached(reference, prompts(11)[0], 6).tolist()
    greedy(view, prompts(11), max_new_tokens=2, stops=())
    assert caplog.messages == [
        f"{view.info.id} is decoded without its key-value cache, a whole pass a token: "
        "TypeError: got an unexpected keyword argument 'cache'"
    ]


@pytest.mark.parametrize("lack", LACKS, ids=lambda lack: type(lack).__name__)
def test_too_little_memory_is_no_fault_of_the_cache(monkeypatch, lack):
    view, _ = loaded("bridge")

    def full(tokens, mask, cache):
        raise lack

    monkeypatch.setattr(view.forward, "cached_logits", full)
    with pytest.raises(type(lack), match=str(lack)):
        greedy(view, prompts(11), max_new_tokens=6, stops=())
    assert view.forward.cache_fault is None


@pytest.mark.parametrize(("family", "wrapper"), CACHED)
def test_a_familys_cache_is_used(family, wrapper):
    # where it silently is not, every token costs a whole pass
    view, _ = loaded(wrapper, family)
    greedy(view, prompts(17, 5, 30), max_new_tokens=8, stops=())
    assert (view.forward.cache_fault is None) == (family not in UNCACHED), view.forward.cache_fault


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_check_reads_rows_of_one_length_together(wrapper, monkeypatch):
    view, _ = loaded(wrapper)
    read, honest = [], view.forward.final
    monkeypatch.setattr(view.forward, "final", lambda tokens: read.append(tuple(tokens.shape)) or honest(tokens))
    greedy(view, prompts(17, 17, 17), max_new_tokens=8, stops=())
    assert read == [(3, 24)]
    read.clear()
    greedy(view, prompts(17, 5), max_new_tokens=8, stops=())
    assert sorted(read) == [(1, 5), (1, 12), (1, 24)]  # the padded row's prompt was read with its padding


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("length", [1, 11])
def test_a_prompt_that_alone_gives_other_logits_is_found_out(wrapper, length, monkeypatch):
    # as where angles stretch with the length: the draft's tokens may all have the largest logit, and not be its own
    view, reference = loaded(wrapper)
    honest = view.forward.cached_logits

    def stretched(tokens, mask, cache):
        logits = honest(tokens, mask, cache)
        return logits * (1.1 if mask.shape[1] == length else 1.0)

    monkeypatch.setattr(view.forward, "cached_logits", stretched)
    (new,) = greedy(view, prompts(length), max_new_tokens=6, stops=())
    assert new.tolist() == uncached(reference, prompts(length)[0], 6).tolist()
    assert view.forward.cache_fault == "its tokens are not those of a whole pass"


def test_a_draft_is_kept_as_far_as_it_holds(monkeypatch):
    view, reference = loaded("bridge")
    expected = uncached(reference, prompts(11)[0], 9).tolist()
    calls, honest = [], decoding._decode_uncached

    def counted(view, rows):
        calls.extend(list(row.new) for row in rows)
        honest(view, rows)

    monkeypatch.setattr(decoding, "_draft", lambda rows, held, cached: rows[0].new.extend([*expected[:5], 0, 0, 0, 0]))
    monkeypatch.setattr(decoding, "_decode_uncached", counted)
    (new,) = greedy(view, prompts(11), max_new_tokens=9, stops=())
    assert calls == [expected[:5]]
    assert new.tolist() == expected


def test_logits_that_are_no_numbers_are_refused(monkeypatch):
    view, _ = loaded("bridge")
    monkeypatch.setattr(view.forward, "unembed", lambda hidden: torch.full((*hidden.shape[:-1], 400), torch.nan))
    with pytest.raises(InputError, match="a logit is not finite"):
        greedy(view, prompts(5), max_new_tokens=2)


def test_generate_takes_a_list_and_keeps_its_order():
    model = load_model(hf_model("llama"), tokenizer=tokenizer_of(), device="cpu")
    texts = [TEXT[2], "List", TEXT[0]]
    together = generate(model, texts, max_new_tokens=7, batch_size=2)
    assert [r.token_ids for r in together] == [generate(model, t, max_new_tokens=7).token_ids for t in texts]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 given, expected at least 1"),
        ({"batch_size": 0}, "batch_size=0 given, expected at least 1"),
    ],
)
def test_generate_refuses_what_is_not_positive(options, message):
    model = load_model(hf_model("llama"), tokenizer=tokenizer_of(), device="cpu")
    with pytest.raises(InputError, match=message):
        generate(model, TEXT[0], **options)
