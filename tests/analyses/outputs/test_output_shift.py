"""Output distributions: scipy and closed forms on planted ones, `transformers`' own logits, and known shifts."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from scipy.spatial.distance import jensenshannon
from torch import nn

from lensdiff.analyses.outputs.distributions import (
    js_distance,
    kl_divergence,
    likeliest,
    ranks,
    top_k_agreement,
)
from lensdiff.analyses.outputs.output_shift import CHANGED, OutputShift, kind_of, output_shift
from lensdiff.inputs import Prompt
from lensdiff.models import ModelPair, load_pair, view_of
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.text import Response, generate, strings_of
from lensdiff.results import InputError
from tests.checkpoints import BRIDGED, HOOKED, TEXT, hf_model, save_checkpoint, tokenizer_of
from tests.models.test_pair import reordered, with_more_tokens

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
CASES = [(family, "bridge") for family in BRIDGED] + [pytest.param(f, "hooked", marks=NO_HOOKED) for f in HOOKED]
PROMPT = Prompt("Write a short poem about the sea", id="p1")
RESPONSE = "Apples and bananas, good morning."
OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False}


def pair_of(base: nn.Module | str = "llama", tuned: nn.Module | None = None, **options: Any) -> ModelPair:
    models = hf_model(base) if isinstance(base, str) else base, tuned or hf_model("llama", seed=1)
    given: dict[str, Any] = {"tokenizer": tokenizer_of(True)} | OPTIONS | options
    return load_pair(*models, **given)


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return pair_of()


def rows(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).log_softmax(dim=-1)


# kernels


def test_divergences_are_scipys():
    p, q = rows(0, 4, 9), rows(1, 4, 9)
    expected = scipy_stats.entropy(p.exp().numpy(), q.exp().numpy(), axis=-1)
    np.testing.assert_allclose(kl_divergence(p, q), expected, rtol=1e-5)
    assert not np.allclose(kl_divergence(q, p), expected), "the direction matters"
    expected = jensenshannon(p.exp().double().numpy(), q.exp().double().numpy(), base=2, axis=-1)  # pyright: ignore[reportCallIssue]
    np.testing.assert_allclose(js_distance(p, q), expected, rtol=1e-6)
    np.testing.assert_allclose(js_distance(q, p), expected, rtol=1e-6)


def test_divergences_in_closed_form():
    p, q = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.25, 0.25, 0.5]).log()
    assert float(kl_divergence(p, q)) == pytest.approx(math.log(2))
    assert float(kl_divergence(q, p)) == math.inf
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
    assert float(js_distance(apart[0], apart[1])) == pytest.approx(1)
    # two geometric distributions, cut where nothing is left: KL = ln((1-a)/(1-b)) + a/(1-a) ln(a/b)
    n, a, b = torch.arange(400, dtype=torch.float64), 0.3, 0.6
    geometric = [math.log(1 - x) + n * math.log(x) for x in (a, b)]
    assert float(kl_divergence(*geometric)) == pytest.approx(math.log(0.7 / 0.4) + a / (1 - a) * math.log(a / b))


def test_equal_distributions_are_exactly_alike():
    p = rows(2, 3, 50)
    assert kl_divergence(p, p).eq(0).all()
    assert js_distance(p, p).eq(0).all()
    assert top_k_agreement(p, p, k=7).eq(1).all()


@pytest.mark.parametrize("n_tokens", [1, 5, 8, 97, 4096, 49_155])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_likeliest_are_those_of_a_sorted_row(n_tokens, dtype):
    rows = torch.randn(5, n_tokens, generator=torch.Generator().manual_seed(n_tokens), dtype=dtype)
    rows[1, -1], rows[2, 0] = 9.0, torch.inf
    rows[3] = -torch.inf  # nothing but ties
    values, tokens = likeliest(rows, 8)
    expected = np.sort(rows.numpy(), axis=1)[:, ::-1][:, :8]
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(rows.gather(1, tokens), expected)
    assert all(len(set(row)) == len(row) for row in tokens.tolist()), "no token twice"


def test_ranks_of_a_large_vocabulary_are_counted():
    rows = torch.randn(3, 300_000, generator=torch.Generator().manual_seed(1))
    ids = rows.argsort(dim=1)[torch.arange(3), [0, 150_000, 299_999]]
    assert ranks(rows, ids).tolist() == [300_000, 150_000, 1]
    assert ranks(rows.half(), ids)[0] == 300_000


def test_ranks_and_agreement_by_hand():
    p = torch.tensor([[0.1, 0.4, 0.4, 0.06, 0.04], [0.1, 0.5, 0.2, 0.15, 0.05]]).log()
    assert ranks(p, torch.tensor([2, 4])).tolist() == [1, 5]  # a tie counts for the token
    assert ranks(p, torch.tensor([0, 3])).tolist() == [3, 3]
    q = p[:, [4, 3, 2, 1, 0]]
    assert top_k_agreement(p, q, k=2).tolist() == [0.5, 0.5]
    assert top_k_agreement(p, q, k=1).tolist()[1] == 0
    assert top_k_agreement(p, q, k=5).tolist() == [1, 1]


@pytest.mark.parametrize(("rank", "kind"), [(1, "unshifted"), (2, "marginal"), (3, "marginal"), (4, "shifted")])
def test_classes(rank, kind):
    assert kind_of(rank) == kind


# models


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_numbers_are_those_of_transformers_logits(family, wrapper):
    sides = [hf_model(family, seed=seed) for seed in (0, 1)]
    tokenizer = tokenizer_of(True)
    ids = tokenizer.encode(f"{PROMPT.text} {RESPONSE}")
    first = len(tokenizer.encode(PROMPT.text))
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits[0, first - 1 : -1].double() for model in sides]
    q, p = (side[:, torch.arange(len(tokenizer))].softmax(-1).numpy() for side in logits)
    shift = output_shift(pair_of(*sides, wrapper=wrapper), PROMPT, RESPONSE, top_k=5)
    table = shift.to_df()
    np.testing.assert_allclose(table["kl"], scipy_stats.entropy(p, q, axis=-1), rtol=1e-3, atol=1e-6)
    expected = jensenshannon(p, q, base=2, axis=-1)  # pyright: ignore[reportCallIssue] (stubs without axis)
    np.testing.assert_allclose(table["js"], expected, rtol=1e-3, atol=1e-4)
    out = np.array(ids[first:])
    for name, side in (("base", q), ("tuned", p)):
        of_token = np.take_along_axis(side, out[:, None], axis=1)
        np.testing.assert_allclose(table[f"{name}_prob"], of_token[:, 0], rtol=1e-3, atol=1e-7)
        assert table[f"{name}_rank"].tolist() == (1 + (side > of_token).sum(axis=1)).tolist()
        assert tuple(table[f"{name}_choice"]) == strings_of(tokenizer, tuple(side.argmax(axis=1).tolist()))
    choice = np.take_along_axis(q, p.argmax(axis=1)[:, None], axis=1)
    assert table["choice_rank"].tolist() == (1 + (q > choice).sum(axis=1)).tolist()
    tops = [[set(np.argsort(-row)[:5]) for row in side] for side in (q, p)]
    assert table["agreement"].tolist() == [len(a & b) / 5 for a, b in zip(*tops, strict=True)]
    assert table["kind"].tolist() == [kind_of(rank) for rank in table["choice_rank"]]
    assert "".join(table["token"]) == f" {RESPONSE}"


def test_base_against_base_is_exactly_no_shift():
    shift = output_shift(pair_of("llama", hf_model("llama")), PROMPT, RESPONSE)
    for values in (shift.kl, shift.js, shift.outside):
        assert values.eq(0).all()
    assert shift.agreement.eq(1).all()
    assert set(shift.kinds) == {"unshifted"}
    assert torch.equal(shift.probability[0], shift.probability[1])
    assert set(shift.changed_tokens()["difference"]) == {0}


def test_a_token_that_tuning_promotes_is_the_one_that_changed_most():
    tuned, promoted = hf_model("llama"), 77
    with torch.no_grad():  # the unembedding of one token follows that of the likeliest one
        logits = tuned(torch.tensor([tokenizer_of(True).encode(f"{PROMPT.text} {RESPONSE}")])).logits[0, -6:]
        liked = int(logits.softmax(-1).mean(0).argmax())
        tuned.lm_head.weight[promoted] = 1.5 * tuned.lm_head.weight[liked]
    shift = output_shift(pair_of("llama", tuned), PROMPT, RESPONSE)
    first = shift.changed_tokens(1).iloc[0]
    assert first["token"] == tokenizer_of().decode([promoted])
    assert first["difference"] == pytest.approx(first["tuned"] - first["base"])
    assert first["difference"] > 0.05
    assert len(shift.changed) == CHANGED
    steps = shift.changed_tokens(CHANGED)["difference"].abs()
    assert steps.is_monotonic_decreasing
    places = shift.kl.argmax()
    assert shift.words[shift.likely[1, places, 0]] == first["token"]


def test_likely_tokens_are_in_order_and_add_up(pair):
    shift = output_shift(pair, PROMPT, RESPONSE, top_k=400)
    assert shift.likely.shape == (2, len(shift.out_tokens), 400)
    torch.testing.assert_close(shift.likely_probability.sum(-1), torch.ones(2, len(shift.out_tokens)))
    assert (shift.likely_probability.diff(dim=-1) <= 0).all()
    assert [shift.words[i] for i in shift.likely[0, :, 0]] == shift.to_df()["base_choice"].tolist()


def test_without_a_response_the_tuned_models_own_is_forced(pair):
    own = generate(pair.tuned, PROMPT, max_new_tokens=6)
    shift = output_shift(pair, PROMPT, max_new_tokens=6)
    assert shift.response == own.text
    assert shift.response_kind == "generated"
    assert len(shift.out_tokens) == len(own.token_ids)
    assert shift.rank[1].eq(1).all(), "greedy: every token is the tuned model's choice"
    assert torch.equal(shift.choice_rank, shift.rank[0])
    assert torch.equal(output_shift(pair, PROMPT, own).kl, shift.kl)


def test_an_empty_own_response_is_an_empty_result(tmp_path, pair):
    shift = output_shift(pair, PROMPT, Response("", ()))
    assert shift.to_df().empty
    assert list(shift.to_df()) == list(output_shift(pair, PROMPT, RESPONSE).to_df())
    assert shift.changed_tokens().empty
    assert OutputShift.load(shift.save(tmp_path / "empty.safetensors")).likely.shape == (2, 0, 10)


def test_a_list_gives_a_list_and_one_model_at_a_time_the_same(tmp_path, monkeypatch):
    folders = save_checkpoint("llama", tmp_path / "base"), save_checkpoint("llama", tmp_path / "tuned", seed=1)
    prompts, responses = [PROMPT, TEXT[1]], [RESPONSE, None]
    both, one = (load_pair(*folders, keep=keep, **OPTIONS) for keep in ("both", "one"))
    expected = output_shift(both, prompts, responses, max_new_tokens=4)
    assert [s.prompt_id for s in expected] == ["p1", "1"]
    loads: list[str] = []
    load = ModelPair._release
    monkeypatch.setattr(ModelPair, "_release", lambda self: (loads.append("model"), load(self))[1])
    for max_bytes, changes in ((2**30, 1), (1, 3)):
        one.tuned  # noqa: B018 (puts it into memory)
        loads.clear()
        found = output_shift(one, prompts, responses, max_new_tokens=4, max_bytes=max_bytes)
        assert len(loads) == changes
        for a, b in zip(expected, found, strict=True):
            assert a.to_df().equals(b.to_df())
    assert len(output_shift(both, prompts, max_new_tokens=2)) == 2


def test_a_bos_is_each_models_own_or_forced():
    sides = {"base_options": {"tokenizer": tokenizer_of(True)}, "tuned_options": {"tokenizer": tokenizer_of(False)}}
    mixed = load_pair(hf_model("llama"), hf_model("llama"), **sides, **OPTIONS)
    assert output_shift(mixed, PROMPT, RESPONSE).kl.gt(0).all()
    assert output_shift(mixed, PROMPT, RESPONSE, prepend_bos=True).kl.eq(0).all()
    assert output_shift(mixed, PROMPT, RESPONSE, prepend_bos=False).kl.eq(0).all()


def test_a_control_can_stand_for_the_tuned_model(pair):
    control = load_pair(pair.base, pair.control("norm", 0))
    shift = output_shift(control, PROMPT, RESPONSE)
    assert shift.kl.gt(0).all()
    assert shift.provenance.model.endswith("+ norm-matched change (seed 0)")


# vocabularies


def resized() -> tuple[ModelPair, Any]:
    """Equal models, but the tuned one's vocabulary has two more tokens, which it likes."""
    more = with_more_tokens("<|user|>", "<|reply|>")
    base, tuned = hf_model("llama"), hf_model("llama", vocab_size=402)
    state = base.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = torch.cat([state[name], 2 * state[name][50:52]])
    tuned.load_state_dict(state)
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tuned_options": {"tokenizer": more}}
    return load_pair(base, tuned, **sides, **OPTIONS), more


def test_distributions_are_over_shared_tokens():
    pair, _ = resized()
    shift = output_shift(pair, PROMPT, RESPONSE)
    assert shift.n_shared == 400
    torch.testing.assert_close(shift.kl, torch.zeros_like(shift.kl), atol=1e-6, rtol=0)
    assert shift.outside[0].eq(0).all()
    view = view_of(pair.tuned)
    ids = torch.tensor([tokenizer_of().encode(f"{PROMPT.text} {RESPONSE}")])
    own = view.forward.logits(ids)[0, -len(shift.out_tokens) - 1 : -1].softmax(-1)[:, 400:].sum(-1)
    torch.testing.assert_close(shift.outside[1], own, atol=1e-6, rtol=1e-4)
    assert shift.outside[1].gt(0).all()


def test_ids_of_either_model_are_translated(tmp_path):
    # the tuned vocabulary lists the same strings in another order, and its embeddings follow
    order = torch.arange(400)
    order[[60, 300]] = order[[300, 60]]
    base, tuned = hf_model("llama"), hf_model("llama")
    with torch.no_grad():
        for weight in (tuned.model.embed_tokens.weight, tuned.lm_head.weight):
            weight.copy_(weight[order])
    shuffled = reordered(60, 300)
    sides = {"base_options": {"tokenizer": tokenizer_of()}, "tuned_options": {"tokenizer": shuffled}}
    folder = tmp_path / "tuned"
    tuned.save_pretrained(folder)
    pair = load_pair(base, folder, **sides, **OPTIONS)
    assert pair.ids == ("LlamaForCausalLM", "tuned")
    for model, ids in (("LlamaForCausalLM", (5, 60, 300)), ("tuned", (5, 300, 60)), ("", (5, 300, 60))):
        shift = output_shift(pair, PROMPT, Response("", ids, model))
        assert shift.kl.eq(0).all()
        assert shift.out_tokens == tuple(tokenizer_of().decode([i]) for i in (5, 60, 300))


def test_a_token_of_one_model_alone_cannot_be_forced():
    pair, more = resized()
    with pytest.raises(InputError, match="which the base does not have: it cannot be forced on both models"):
        output_shift(pair, PROMPT, "Hello <|reply|> there")
    with pytest.raises(InputError, match="which the base does not have"):
        output_shift(pair, PROMPT, Response("<|reply|>", (more.get_vocab()["<|reply|>"],)))
    with pytest.raises(InputError, match=r"the models read the prompt 'a <\|user\|> b' or its response as different"):
        output_shift(pair, "a <|user|> b", "and so on")


# the result


def test_table_and_most_shifted_tokens(pair, tmp_path):
    shift = output_shift(pair, PROMPT, RESPONSE)
    table = shift.to_df()
    assert list(table)[:10] == [
        "prompt_id", "out_pos", "token", "kl", "js", "base_rank", "tuned_rank", "base_prob", "tuned_prob", "kind",
    ]  # fmt: skip
    assert set(table["prompt_id"]) == {"p1"}
    assert shift.top(2)["kl"].tolist() == sorted(shift.kl.tolist(), reverse=True)[:2]
    again = OutputShift.load(shift.save(tmp_path / "outputs.safetensors"))
    assert again.to_df().equals(table)
    assert replace(again, provenance=shift.provenance).kinds == shift.kinds
    assert shift.provenance.options["top_k"] == 10
    assert shift.provenance.options["prepend_bos"] is None


# refusals


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((PROMPT, RESPONSE), {"top_k": 0}, "top_k=0 is not between 1 and the 400 tokens"),
        ((PROMPT, RESPONSE), {"top_k": 401}, "top_k=401 is not between"),
        (([PROMPT], [RESPONSE] * 2), {}, "1 prompt given with 2 responses"),
        (([PROMPT], RESPONSE), {}, "1 prompt given with a single response, expected as many"),
        ((PROMPT, " "), {}, "the response is an empty text"),
        ((3,), {}, "expected a Prompt, a text or a list of them, got 3"),
    ],
)
def test_unusable_arguments_are_refused(pair, arguments, options, message):
    with pytest.raises(InputError, match=message):
        output_shift(pair, *arguments, **options)
