"""The knock-out: transformers' own eager attention under an explicit mask, and planted models."""

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from experiments.families import exact_rotary
from lensdiff.analyses.knock_out.cuts import Condition, cut_mask, cut_scores
from lensdiff.analyses.knock_out.measure import knock_out
from lensdiff.analyses.knock_out.passes import Plan, Row, drops, text_of, writes
from lensdiff.analyses.knock_out.result import KnockOut, medians, slopes
from lensdiff.inputs import Prompt
from lensdiff.models import Point, load_model, load_pair, view_of
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.text import Response, encode, generate
from lensdiff.results import InputError, Results
from tests.analyses.knock_out.planted import blind, copying
from tests.analyses.knock_out.results import knock_out as by_hand
from tests.checkpoints import hf_model, tokenizer_of

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
WRAPPERS = ["bridge", pytest.param("hooked", marks=NO_HOOKED)]
COLUMNS = ["prompt_id", "cut", "window_first", "window_last", "out_pos", "token", "log_prob", "drop", "random_drop"]
COLUMNS += ["first"]
POEM = Prompt("The moon: write a poem about the sea, using simple words.", ["write a poem"], id="poem")
LIST = Prompt("List three fruits. Apples are good", ["List three fruits."], id="list")
REPEAT = Prompt("Good morning. Repeat the word moon", ["Repeat the word moon"], id="repeat")  # to the end
PROMPTS = [POEM, LIST, REPEAT]
RESPONSE = "Apples and bananas, good morning."


@cache
def model_of(family: str = "llama", wrapper: str = "bridge", *, dtype: str = "float64", bos: bool = False) -> Any:
    """A model that tests share and leave as it is."""
    source = hf_model(family, dtype=getattr(torch, dtype))
    options: dict[str, Any] = {"tokenizer": tokenizer_of(bos), "wrapper": wrapper, "dtype": dtype}
    return load_model(source, device="cpu", verify=False, **options)


# an oracle of its own: a mask made entry by entry, handed to transformers' layers


def mask_of(n: int, last: int, keys: Sequence[int], cut: str, sliding: int = 10**6) -> torch.Tensor:
    mask = np.full((n, n), -np.inf)
    for q in range(n):
        for k in range(max(0, q + 1 - sliding), q + 1):
            asks = q >= last or (cut == "after" and q not in keys and any(key < q for key in keys))
            if not (asks and k in keys):
                mask[q, k] = 0.0
        if np.isinf(mask[q]).all():
            mask[q, q] = 0.0
    return torch.from_numpy(mask)


def oracle(model: Any, ids: Sequence[int], n_out: int, masks: Sequence[torch.Tensor]) -> np.ndarray:
    """Log-probabilities of the last tokens with a mask for each layer."""

    def given(mask: torch.Tensor) -> Any:
        return lambda module, args, kwargs: (args, kwargs | {"attention_mask": mask[None, None]})

    with torch.no_grad(), double_precision(next(model.parameters()).dtype == torch.float64), ExitStack() as stack:
        for layer, mask in zip(model.model.layers, masks, strict=True):
            own = mask.to(next(model.parameters()).dtype)
            stack.callback(layer.self_attn.register_forward_pre_hook(given(own), with_kwargs=True).remove)
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
    said = logits[-n_out - 1 : -1].log_softmax(-1)
    return said.gather(1, torch.tensor(ids[-n_out:])[:, None])[:, 0].numpy()


def read(prompt: Prompt, response: str, tokenizer: Any) -> tuple[list[int], int, list[int], list[int]]:
    """Ids, the prompt's last position, and the positions of the instruction and of the other tokens but the first."""
    encoding = tokenizer(prompt.text, return_offsets_mapping=True, add_special_tokens=False)
    special = len(tokenizer(prompt.text)["input_ids"]) - len(encoding["input_ids"])
    n = len(encoding["input_ids"])
    # a token belongs to a span that it overlaps by more than the white space in front of it
    inside = [
        any(min(end, b) - max(start, a) > 0 and prompt.text[max(start, a) : min(end, b)].strip() for a, b in spans)
        for start, end in encoding["offset_mapping"]
        for spans in [prompt.ranges("instruction")]
    ]
    ids = tokenizer(f"{prompt.text} {response}")["input_ids"]
    own = [i + special for i in range(n) if inside[i]]
    return ids, special + n - 1, own, [i + special for i in range(n) if not inside[i] and i + special]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("cut", ["response", "after"])
@pytest.mark.parametrize("bos", [False, True])
def test_numbers_are_those_of_transformers_under_a_mask(cut: str, dtype: str, wrapper: str, bos: bool):
    # four query heads share two key-value heads
    hf, tokenizer = hf_model("llama", dtype=getattr(torch, dtype)), tokenizer_of(bos)
    if wrapper == "hooked" and dtype == "float64":
        exact_rotary(hf)
    model = model_of(wrapper=wrapper, dtype=dtype, bos=bos)
    moved = 0.0
    for prompt in PROMPTS:
        ids, last, own, others = read(prompt, RESPONSE, tokenizer)
        n_out, n = len(ids) - last - 1, len(ids)
        # float32: 2e-4 of the largest logit
        largest = float(hf(torch.tensor([ids])).logits.detach().abs().max())
        exact = {"atol": 1e-9 if dtype == "float64" else 2e-4 * largest, "rtol": 0}
        for layers, inside in ((None, (0, 1)), ([1], (1,))):
            found = knock_out(model, prompt, RESPONSE, cut=cut, layers=layers, draws=2, seed=3)
            plain = [mask_of(n, last, [], cut)] * 2
            before = oracle(hf, ids, n_out, plain)
            np.testing.assert_allclose(found.log_prob, before, **exact)
            firsts = [False, True] if 0 in own else [False]
            assert [c.first for c in found.conditions] == firsts
            assert {c[:3] for c in found.conditions} == {(cut, inside[0], inside[-1])}
            kept = [i for i in own if i]
            chance = random.Random(f"3 {prompt.text}")
            sets = [kept, *(chance.sample(others, len(kept)) for _ in range(2) if len(others) >= len(kept))]
            for i, first in enumerate(firsts):
                keys = [[0, *some] if first else some for some in sets]
                masks = [mask_of(n, last, some, cut) for some in keys]
                after = [oracle(hf, ids, n_out, [mask if k in inside else plain[0] for k in (0, 1)]) for mask in masks]
                np.testing.assert_allclose(found.drop[i], before - after[0], **exact)
                moved = max(moved, float(np.abs(before - after[0]).max()))
                if len(after) > 1:
                    np.testing.assert_allclose(found.random_drop[i], before - np.stack(after[1:]), **exact)
                else:
                    assert found.random_drop[i].isnan().all()
    assert moved > 1e-2


def test_a_sliding_window_that_shows_the_instruction_alone_shows_the_last_token_itself():
    # both layers see 16 tokens; the instruction is longer than that and ends the prompt
    text = "The moon: translate to French and explain to a child why you chose this word and this bridge"
    prompt = Prompt(text, [text[10:]])
    ids, last, own, _ = read(prompt, RESPONSE, tokenizer_of())
    assert len(own) > 16
    assert own[-1] == last
    hf, n_out = hf_model("mistral", dtype=torch.float64), len(ids) - last - 1
    found = knock_out(model_of("mistral"), prompt, RESPONSE)
    masks = [mask_of(len(ids), last, keys, "response", 16) for keys in ([], own)]
    before, after = (oracle(hf, ids, n_out, [mask] * 2) for mask in masks)
    np.testing.assert_allclose(found.drop[0], before - after, atol=1e-9, rtol=0)
    assert found.random_drop.isnan().all()


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("cut", ["response", "after"])
def test_an_instruction_may_be_the_whole_prompt(wrapper: str, cut: str):
    hf, prompt = hf_model("llama", dtype=torch.float64), Prompt(LIST.text, [LIST.text])
    if wrapper == "hooked":
        exact_rotary(hf)
    ids, last, own, others = read(prompt, RESPONSE, tokenizer_of())
    assert (own, others) == (list(range(last + 1)), [])
    found = knock_out(model_of(wrapper=wrapper), prompt, RESPONSE, cut=cut)
    before = oracle(hf, ids, len(ids) - last - 1, [mask_of(len(ids), last, [], cut)] * 2)
    for keys, drop in zip((own[1:], own), found.drop, strict=True):  # then even token 0
        after = oracle(hf, ids, len(ids) - last - 1, [mask_of(len(ids), last, keys, cut)] * 2)
        np.testing.assert_allclose(drop, before - after, atol=1e-9, rtol=0)


# planted


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("cut", ["response", "after"])
def test_a_copied_letter_needs_the_instruction_and_no_other_token_does(wrapper: str, cut: str):
    tokenizer = tokenizer_of()
    prompt = Prompt("the moon B is good, the sea", ["B is"], id="copy")
    ids = tokenizer(prompt.text)["input_ids"]
    letter = next(i for i in ids if str(tokenizer.decode([i])).strip() == "B")
    other, trigger = (tokenizer(text)["input_ids"][0] for text in ("A", ":"))
    assert ids.count(letter) == 1
    assert len({ids[0], letter, other, trigger}) == 4
    source = copying(ids[0], trigger, [letter, other])
    model = load_model(source, tokenizer=tokenizer, wrapper=wrapper, dtype="float64", device="cpu", verify=False)
    said = (ids[2], trigger, letter, ids[1], ids[0])  # the letter is copied behind the response's own trigger
    found = knock_out(model, prompt, Response("", said), cut=cut, draws=5)
    assert float(found.log_prob[2]) > -1.0
    assert float(found.drop[0, 2]) > 3.0
    np.testing.assert_allclose(np.delete(found.drop[0].numpy(), 2), 0.0, atol=1e-12)
    np.testing.assert_allclose(found.random_drop, 0.0, atol=1e-12)  # other tokens are read by none


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("cut", ["response", "after"])
def test_heads_that_are_blind_to_the_instruction_lose_nothing(wrapper: str, cut: str):
    tokenizer = tokenizer_of()
    ids, _, own, _ = read(POEM, RESPONSE, tokenizer)
    marked = {ids[i] for i in own}
    assert not marked & {ids[i] for i in range(len(ids)) if i not in own}, "the instruction's tokens are its own"
    models = [
        load_model(m, tokenizer=tokenizer, wrapper=wrapper, dtype="float64", device="cpu", verify=False)
        for m in (hf_model("gpt2", dtype=torch.float64), blind(sorted(marked)))
    ]
    seeing, unseeing = (knock_out(m, POEM, RESPONSE, cut=cut) for m in models)
    assert float(seeing.drop.abs().max()) > 1e-3
    np.testing.assert_allclose(unseeing.drop, 0.0, atol=1e-12)
    assert float(unseeing.random_drop.abs().max()) > 1e-3  # it does read


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_cutting_nothing_changes_exactly_nothing(wrapper: str):
    model = model_of(wrapper=wrapper, dtype="float32")
    found = knock_out(model, Prompt(LIST.text, ["L"]), RESPONSE)  # token 0 alone
    assert found.n_instruction == 1
    assert found.drop[0].eq(0).all()
    assert found.random_drop[0].eq(0).all()
    assert found.drop[1].ne(0).any()
    # and on the way there: a cut without keys is written, and nothing follows from it
    view = view_of(model)
    tokens = torch.tensor([tokenizer_of()(POEM.text)["input_ids"]])
    nothing, last = torch.zeros(1, tokens.shape[1], tokens.shape[1], dtype=torch.bool), torch.tensor([3])
    write = {Point("attn_scores", layer): lambda s: cut_scores(s, nothing, last) for layer in (0, 1)}
    logits = Point("logits")
    plain, written = (view.forward.run(tokens, read=[logits], write=w)[logits] for w in ({}, write))
    assert torch.equal(plain, written)


# rows, padding, batches


def texts_of(model: Any, *, own: bool = False) -> list[Any]:
    view, found = view_of(model), []
    for prompt, response in zip(PROMPTS, (RESPONSE, "bonjour", "The city council met on Tuesday."), strict=True):
        found.append(text_of(view, prompt, encode(view, prompt, response), 0))
    return found


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-5), ("float64", 1e-9)])
def test_neither_padding_nor_batches_nor_later_starts_change_a_number(wrapper, dtype, close, monkeypatch):
    from lensdiff.analyses.knock_out import passes

    model = model_of(wrapper=wrapper, dtype=dtype)
    view, texts = view_of(model), texts_of(model)
    plan = Plan(windows=[(0, 1), (0, 0), (1, 1)], first=True, draws=3)
    monkeypatch.setattr(passes, "MOST_PADDING", 10.0)
    together = drops(view, texts, plan)
    alone = [drops(view, [text], plan, max_bytes=1)[0] for text in texts]
    monkeypatch.setattr(passes, "_starts", lambda view, layers: [])
    whole = drops(view, texts, plan)
    for one, *others in zip(together, alone, whole, strict=True):
        for other in others:
            assert one.conditions == other.conditions
            for a, b in zip(one[1:], other[1:], strict=True):
                torch.testing.assert_close(a, b, atol=close, rtol=0, equal_nan=True)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("cut", ["response", "after"])
def test_padding_on_the_left_is_the_same_as_on_the_right(wrapper: str, cut: str):
    view = view_of(model_of(wrapper=wrapper))
    (long, _, short) = texts_of(view.model)
    rows = [Row(text, tuple(i for i in text.instruction if i), cut, 0, 1) for text in (long, short)]
    n = max(len(text.ids) for text in (long, short))
    ids, mask, hidden = torch.full((2, n), 7), torch.zeros(2, n, dtype=torch.int64), torch.zeros(2, n, n).bool()
    lasts = []
    for i, row in enumerate(rows):
        start, keys = n - len(row.text.ids), torch.zeros(len(row.text.ids)).bool()
        keys[list(row.keys)] = True
        ids[i, start:], mask[i, start:] = torch.tensor(row.text.ids), 1
        hidden[i, start:, start:] = cut_mask(keys, row.text.last, cut)
        lasts.append(start + row.text.last)
    last, final = torch.tensor(lasts), Point("final")
    left = {Point("attn_scores", layer): lambda s: cut_scores(s, hidden, last) for layer in (0, 1)}
    found = view.forward.run(ids, read=[final], write=left, mask=mask)[final]
    for i, row in enumerate(rows):
        right = writes([row], len(row.text.ids), view.device)
        alone = view.forward.run(torch.tensor([row.text.ids]), read=[final], write=right)[final][0]
        torch.testing.assert_close(found[i, n - len(row.text.ids) :], alone, atol=1e-9, rtol=0)


def test_what_is_read_at_a_time_is_bounded(monkeypatch):
    model = model_of()
    view, shapes = view_of(model), []
    run = type(view.forward).run
    monkeypatch.setattr(type(view.forward), "run", lambda *a, **k: (shapes.append(tuple(a[1].shape)), run(*a, **k))[1])
    found = [knock_out(model, POEM, RESPONSE, layers="windows", max_bytes=size) for size in (1, 2**28)]
    rows = 1 + 2 * (1 + 8)
    assert [n for n, _ in shapes[:rows]] == [1] * rows
    assert [n for n, _ in shapes[rows:]] == [1, 9, 9], "the text as it is, then a batch for each window"
    np.testing.assert_allclose(found[0].drop, found[1].drop, atol=1e-9)


# one prompt, lists, pairs


def test_a_list_gives_results_and_the_own_response_is_forced():
    model = model_of()
    own = [generate(model, prompt, max_new_tokens=5) for prompt in PROMPTS]
    found = knock_out(model, PROMPTS, max_new_tokens=5, layers="windows", draws=1, progress=False)
    assert isinstance(found, Results)
    assert list(found.by_id) == ["poem", "list", "repeat"]
    for one, said, prompt in zip(found, own, PROMPTS, strict=True):
        alone = knock_out(model, prompt, said, layers="windows", draws=1)
        assert torch.equal(one.drop, alone.drop)
        assert (one.response, one.response_kind, len(one.out_tokens)) == (said.text, "generated", len(said.token_ids))
    frame = found.to_df()
    assert list(frame.columns) == COLUMNS
    assert len(frame) == sum(len(one.conditions) * len(one.out_tokens) for one in found)
    with pytest.warns(UserWarning, match="prompt 'none' failed: prompt 'none' marks no instruction"):
        some = knock_out(model, [POEM, Prompt("The sea", id="none")], [RESPONSE] * 2, progress=False)
    assert list(some.failures) == ["none"]


def test_the_table_is_the_arrays():
    model = model_of()
    found = knock_out(model, LIST, RESPONSE, layers="windows", draws=3, cut="after")
    frame, n = found.to_df(), len(found.out_tokens)
    assert list(frame.columns) == COLUMNS
    assert found.conditions == tuple(("after", i, i, first) for i in (0, 1) for first in (False, True))
    for i, condition in enumerate(found.conditions):
        part = frame.iloc[i * n : (i + 1) * n]
        assert part[["cut", "window_first", "window_last", "first"]].drop_duplicates().values.tolist() == [[*condition]]
        assert part["out_pos"].tolist() == list(range(n))
        assert part["token"].tolist() == list(found.out_tokens)
        np.testing.assert_array_equal(part["log_prob"], found.log_prob)
        np.testing.assert_array_equal(part["drop"], found.drop[i])
        np.testing.assert_array_equal(part["random_drop"], found.random_drop[i].mean(dim=0))
    summary = found.summary()
    np.testing.assert_allclose(summary["drop"], found.drop.mean(dim=1))
    np.testing.assert_allclose(summary["drop_median"], np.median(found.drop, axis=1))
    place = (np.arange(n) + 0.5) / n
    np.testing.assert_allclose(summary["slope"], [np.polyfit(place, drop, 1)[0] for drop in found.drop.numpy()])
    assert found.top(2)["drop"].tolist() == sorted(frame["drop"], reverse=True)[:2]


def test_a_result_is_read_back_as_it_was(tmp_path):
    found = knock_out(model_of(), LIST, RESPONSE, layers="windows", draws=2)
    again = KnockOut.load(found.save(tmp_path / "found.safetensors"))
    assert again.conditions == found.conditions
    assert torch.equal(again.drop, found.drop)
    assert again.provenance == found.provenance
    assert found.provenance.options["layers"] == "windows"
    assert found.provenance.seed == 0


def test_what_is_printed_says_what_each_way_to_cut_takes_and_where():
    assert repr(by_hand(prompt_id="poem")).splitlines() == [
        "KnockOut of a, poem",
        "  3 response tokens, 2 draws",
        "  nats lost by 3 tokens, the instruction's 2 cut:",
        "  response, layers 0 to 3: mean +0.5 (other tokens cut +0.25), most +2 at 'A'",
        "  response, layers 0 to 1: mean +0.25 (other tokens cut not to be had), most +1 at 'A'",
        "  next: summary(), top(), to_df(), show()",
    ]
    found = by_hand()
    many = replace(
        found,
        conditions=tuple(Condition("after", layer, layer, True) for layer in range(12)),
        drop=found.drop[:1].expand(12, -1),
        random_drop=found.random_drop[:1].expand(12, -1, -1),
    )
    assert repr(many).splitlines()[3].startswith("  after, layer 0, token 0 too: mean +0.5")
    assert repr(many).splitlines()[-2] == "  9 more, see summary()"
    assert len(repr(many).splitlines()) == 8
    assert "nan" not in repr(by_hand(()))


def test_an_empty_response_loses_nothing_and_a_token_has_no_slope():
    found = knock_out(model_of(), POEM, Response("", ()))
    assert found.drop.shape == (1, 0)
    assert len(found.to_df()) == 0
    summary: Any = found.summary()
    assert summary[["drop", "drop_median", "slope"]].isna().all().all()
    assert slopes(torch.ones(2, 1)).isnan().all()
    assert medians(torch.tensor([3.0, 1.0, 2.0, 10.0])).item() == 2.5


def test_base_against_base_is_the_same_number():
    pair = load_pair(*(hf_model("llama") for _ in range(2)), tokenizer=tokenizer_of(), device="cpu", verify=False)
    found = pair.compare(knock_out, PROMPTS, [RESPONSE] * 3, progress=False)
    for base, tuned in zip(found.base, found.tuned, strict=True):
        assert torch.equal(base.drop, tuned.drop)
        torch.testing.assert_close(base.random_drop, tuned.random_drop, rtol=0, atol=0, equal_nan=True)


def test_draws_are_of_the_prompt_and_the_seed_alone():
    model = model_of()
    first, again, other = (knock_out(model, POEM, RESPONSE, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.random_drop, again.random_drop)
    assert not torch.equal(first.random_drop, other.random_drop)
    renamed = knock_out(model, Prompt(POEM.text, POEM.instruction, id="other"), RESPONSE)
    assert torch.equal(first.random_drop, renamed.random_drop)
    none: Any = knock_out(model, POEM, RESPONSE, draws=0).to_df()
    assert none["random_drop"].isna().all()


# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cut": "before"}, "cut='before' is none of response, after"),
        ({"layers": [0, 7]}, r"layers=\[0, 7\] given, expected at least one of 0 to 1, each once"),
        ({"layers": "all"}, "layers='all' given, expected None, a list of layers or 'windows'"),
        ({"draws": -1}, "draws=-1 given, expected at least 0"),
        ({"max_bytes": 0}, "max_bytes=0 given, expected at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 given, expected at least 1"),
    ],
)
def test_options_that_do_not_exist_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        knock_out(model_of(), POEM, RESPONSE, **options)


def test_a_prompt_without_an_instruction_is_refused():
    with pytest.raises(InputError, match=r"prompt 'The sea' marks no instruction, expected a span of it"):
        knock_out(model_of(), "The sea", RESPONSE)
    with pytest.raises(InputError, match=r"no token of prompt 'sea' is the instruction's, expected at least one"):
        knock_out(model_of(bos=True), Prompt("<s>The sea", ["<s>"], id="sea"), RESPONSE)


@pytest.mark.parametrize("family", ["gptj", "opt"])
def test_a_family_whose_scores_cannot_be_written_is_refused_by_name(family: str):
    with pytest.raises(InputError, match=r"attn\.hook_attn_scores of .* cannot be (read|written): "):
        knock_out(model_of(family), POEM, RESPONSE)


def test_a_hook_that_never_fired_is_an_error():
    model = model_of.__wrapped__()
    knock_out(model, POEM, RESPONSE)  # what acts has been measured
    attention = model.blocks[1].attn
    vars(attention)["forward"] = lambda *args, **kwargs: (torch.zeros_like(kwargs["hidden_states"]), None)
    with pytest.raises(InputError, match=r"did not come by blocks\.1\.attn\.hook_attn_scores: nothing was read or"):
        knock_out(model, POEM, RESPONSE)
