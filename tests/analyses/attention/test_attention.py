"""Attention against transformers' own (eager) attentions, hand-made patterns and a naive recomputation of shares."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from lensdiff.analyses.attention.patterns import (
    MEASURES,
    AttentionPatterns,
    attention,
    attention_entropy,
    part_shares,
    sink_share,
)
from lensdiff.inputs import Prompt
from lensdiff.models import load_model, view_of
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.text import Response
from lensdiff.results import InputError
from tests.checkpoints import BRIDGED, HOOKED, hf_model, tokenizer_of

INSTRUCTION = "Write a short poem about the sea"
CONTEXT = "The moon is full."
PROMPT = Prompt(f"{INSTRUCTION}. {CONTEXT} Thanks", (INSTRUCTION,), (CONTEXT,), "p1")
RESPONSE = "Apples and bananas, good morning."
WRAPPED = [("hooked", family) for family in HOOKED] + [("bridge", family) for family in BRIDGED]
THREE = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])[None]  # one head, three tokens
NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")


def loaded(family: str = "llama", wrapper: Any = "auto", *, bos: bool = True, hf: Any = None, **options: Any) -> Any:
    return load_model(
        hf_model(family) if hf is None else hf, tokenizer=tokenizer_of(bos), wrapper=wrapper, verify=False, **options
    )


@pytest.fixture(scope="module")
def llama():
    return loaded()


def eager(family, ids):
    with torch.no_grad():
        found = hf_model(family)(torch.tensor([ids]), output_attentions=True).attentions
    return torch.stack([layer[0] for layer in found])  # [layer head_index query_pos key_pos]


# kernels


def test_kernels_on_three_tokens_by_hand():
    later = torch.tensor([False, True, True])
    assert sink_share(THREE, later).tolist() == [pytest.approx((0.5 + 0.25) / 2)]
    assert attention_entropy(THREE, later).tolist() == [pytest.approx((1.0 + 1.5) / 2)]
    parts = torch.tensor([[True, False, False], [False, True, False], [False, False, True]])
    assert part_shares(THREE, later, parts)[:, 0].tolist() == pytest.approx([0.375, 0.375, 0.25])
    last = torch.tensor([False, False, True])
    assert part_shares(THREE, last, parts)[:, 0].tolist() == pytest.approx([0.25, 0.25, 0.5])


def test_entropy_of_uniform_attention_is_the_logarithm_of_the_keys():
    uniform = torch.full((2, 1, 8), 1 / 8)
    assert attention_entropy(uniform, torch.tensor([True])).tolist() == pytest.approx([3.0, 3.0])


def test_entropy_is_scipys():
    pattern = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    expected = scipy_stats.entropy(pattern.numpy(), base=2, axis=-1).mean(-1)
    np.testing.assert_allclose(attention_entropy(pattern, torch.ones(5, dtype=torch.bool)).numpy(), expected, atol=1e-6)


def test_shares_without_a_query_are_nan():
    none, parts = torch.zeros(3, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    assert part_shares(THREE, none, parts).isnan().all()


# models


@pytest.mark.parametrize(("wrapper", "family"), WRAPPED)
def test_patterns_are_transformers_own(wrapper, family):
    if wrapper == "hooked" and HookedTransformer is None:
        pytest.skip("this transformer-lens has no HookedTransformer")
    result = attention(loaded(family, wrapper), PROMPT, RESPONSE)
    ids = tokenizer_of(True).encode(f"{PROMPT.text} {RESPONSE}")
    expected = eager(family, ids)
    assert (
        result.patterns.shape == expected.shape == (2, 4, len(ids), len(ids))
    )  # query heads, also when keys are shared
    assert result.patterns.dtype == torch.float32
    torch.testing.assert_close(result.patterns, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("response", [RESPONSE, Response("any", (5, 77, 6, 5))])
def test_shares_are_those_of_transformers_attentions(bos, response):
    tokenizer = tokenizer_of(bos)
    head = tokenizer.encode(PROMPT.text)
    ids = (
        head + list(response.token_ids)
        if isinstance(response, Response)
        else tokenizer.encode(f"{PROMPT.text} {response}")
    )
    result = attention(loaded(bos=bos), PROMPT, response)
    assert (result.n_special, result.n_prompt, len(result.tokens)) == (int(bos), len(head) - bos, len(ids))
    assert "".join(result.tokens[bos : len(head)]) == PROMPT.text

    # which characters each token covers, without the module's masks
    ends = np.cumsum([len(t) for t in result.tokens[bos : len(head)]])
    starts = np.concatenate([[0], ends[:-1]])
    spans = {"instruction": (0, len(INSTRUCTION)), "context": (PROMPT.text.find(CONTEXT), PROMPT.text.find(" Thanks"))}
    keys = {
        part: [
            i + bos for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if a < end and start < b and i + bos > 0
        ]
        for part, (start, end) in spans.items()
    }
    patterns = eager("llama", ids).double().numpy()
    n = len(ids)
    for layer in range(2):
        for h in range(4):
            a = patterns[layer, h]
            assert result.sink_share[layer, h] == pytest.approx(np.mean([a[q, 0] for q in range(1, n)]), abs=1e-5)
            entropies = [scipy_stats.entropy(a[q], base=2) for q in range(1, n)]
            assert result.entropy[layer, h] == pytest.approx(np.mean(entropies), abs=1e-4)
            for part, where in keys.items():
                share = np.mean([sum(a[q, k] for k in where) for q in range(len(head), n)])
                assert getattr(result, f"{part}_share")[layer, h] == pytest.approx(share, abs=1e-5)
    first = patterns[:, :, len(head) :, 0].mean(-1)
    total = result.instruction_share + result.context_share + result.rest_share
    np.testing.assert_allclose(total.numpy() + first, 1.0, atol=1e-5)


def test_the_first_key_is_kept_apart_or_counted():
    model = loaded(bos=False)
    apart, counted = (attention(model, PROMPT, RESPONSE, sink=sink) for sink in ("apart", "counted"))
    first = apart.patterns[:, :, apart.n_prompt :, 0].double().mean(-1)
    torch.testing.assert_close(counted.instruction_share - apart.instruction_share, first)
    assert apart.parts[:, 0].tolist() == [False] * 4
    assert counted.parts[:, 0].tolist() == [True, False, False, False]
    total = counted.instruction_share + counted.context_share + counted.rest_share
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)
    assert counted.provenance.options["sink"] == "counted"


@pytest.mark.parametrize("prepend", [True, False])
def test_a_bos_can_be_forced(prepend):
    result = attention(loaded(bos=not prepend), PROMPT, prepend_bos=prepend)
    assert result.n_special == int(prepend)
    assert (result.tokens[0] == "<s>") is prepend


def test_what_cannot_be_had_is_nan_and_nothing_else(llama):
    alone = attention(llama, PROMPT)
    assert alone.provenance.options["response"] == "none"
    unmarked = attention(llama, PROMPT.text, RESPONSE)
    assert not any(getattr(r, name).isnan().any() for r in (alone, unmarked) for name in ("sink_share", "entropy"))
    assert all(getattr(alone, f"{part}_share").isnan().all() for part in ("instruction", "context", "rest"))
    assert all(getattr(unmarked, f"{part}_share").isnan().all() for part in ("instruction", "context"))
    assert not unmarked.rest_share.isnan().any()
    empty = attention(llama, PROMPT, Response("", ()))
    assert empty.rest_share.isnan().all()
    assert torch.equal(empty.patterns, alone.patterns)


def test_layers_and_unkept_patterns_change_no_share(llama):
    whole = attention(llama, PROMPT, RESPONSE)
    last = attention(llama, PROMPT, RESPONSE, layers=[1], keep_patterns=False)
    assert last.layers == (1,)
    assert last.patterns.numel() == 0
    for name in MEASURES:
        mine, theirs = getattr(last, name)[0], getattr(whole, name)[1]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
        assert mine.isnan().all() == (name == "template_share")
    assert last.to_df()["layer"].tolist() == [1] * 4


def test_half_precision_is_read_in_float32():
    result = attention(loaded(hf=hf_model("llama", dtype=torch.bfloat16), dtype=torch.bfloat16), PROMPT, RESPONSE)
    assert result.patterns.dtype == torch.float32
    assert result.provenance.dtype == "bfloat16"
    assert float((result.patterns.sum(-1) - 1).abs().max()) < 0.02


@pytest.mark.parametrize("wrapper", [pytest.param("hooked", marks=NO_HOOKED), "bridge"])
def test_few_layers_at_a_time_give_the_same_in_more_passes(wrapper, monkeypatch):
    view = view_of(loaded("gpt2", wrapper))
    ids = torch.tensor(tokenizer_of(True).encode(PROMPT.text))
    passes, run = [], view.forward.run
    monkeypatch.setattr(view.forward, "run", lambda *a, **k: passes.append(1) or run(*a, **k))
    at_once = list(view.forward.patterns(ids))
    assert len(passes) == 1
    one_by_one = list(view.forward.patterns(ids, max_bytes=1))
    assert len(passes) == 3
    assert all(torch.equal(a, b) for a, b in zip(at_once, one_by_one, strict=True))
    (second,) = view.forward.patterns(ids, [1])
    assert torch.equal(second, at_once[1])
    assert not second.requires_grad


def test_a_list_gives_a_list(llama):
    both = attention(llama, [PROMPT, "Repeat the word."], [RESPONSE, None])
    assert [r.prompt_id for r in both] == ["p1", "1"]
    assert torch.equal(both[0].patterns, attention(llama, PROMPT, RESPONSE).patterns)
    assert both[1].rest_share.isnan().all()
    alone = attention(llama, [PROMPT])
    assert torch.equal(alone[0].patterns, attention(llama, PROMPT).patterns)


# results


def test_table_and_best_heads(llama):
    result = attention(llama, PROMPT, RESPONSE)
    table = result.to_df()
    assert list(table) == [
        "prompt_id",
        "layer",
        "head_index",
        "sink_share",
        "entropy",
        "instruction_share",
        "context_share",
        "template_share",
    ]
    assert len(table) == 8
    row = table[(table.layer == 1) & (table.head_index == 2)].iloc[0]
    assert row.context_share == float(result.context_share[1, 2])
    assert row.prompt_id == "p1"
    assert result.top(1).iloc[0].instruction_share == float(result.instruction_share.max())
    alone = attention(llama, PROMPT)
    assert alone.top(1).iloc[0].sink_share == float(alone.sink_share.min())


def test_saved_and_read_back(llama, tmp_path):
    result = attention(llama, PROMPT, RESPONSE)
    again = AttentionPatterns.load(result.save(tmp_path / "a.safetensors"))
    assert (again.tokens, again.layers, again.provenance) == (result.tokens, result.layers, result.provenance)
    assert torch.equal(again.patterns, result.patterns)
    assert torch.equal(again.parts, result.parts)
    bare = attention(llama, PROMPT, keep_patterns=False)
    assert AttentionPatterns.load(bare.save(tmp_path / "b.safetensors")).patterns.shape == (2, 4, 0, 0)


def test_provenance_names_every_option(llama):
    options = attention(llama, PROMPT, RESPONSE, layers=[0]).provenance.options
    assert options == {
        "response": "text",
        "merged_at_response": False,
        "layers": [0],
        "sink": "apart",
        "keep_patterns": True,
        "prepend_bos": None,
        "bos": "added",
    }


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((PROMPT,), {"layers": [2]}, r"layers=\[2\] given, expected at least one of 0 to 1, each once"),
        ((PROMPT,), {"layers": [-1]}, r"layers=\[-1\] given"),
        ((PROMPT,), {"layers": [0, 0]}, r"layers=\[0, 0\] given"),
        ((PROMPT,), {"layers": []}, r"layers=\[\] given"),
        ((PROMPT,), {"sink": "dropped"}, "sink='dropped' is none of apart, counted"),
        ((PROMPT, [RESPONSE]), {}, "one prompt takes one response, given a list"),
        (([PROMPT], RESPONSE), {}, "1 prompt given with a single response, expected as many"),
        (([PROMPT], [RESPONSE] * 2), {}, "1 prompt given with 2 responses"),
        ((3,), {}, "expected a Prompt, a text or a list of them, got 3"),
    ],
)
def test_wrong_arguments_are_refused(llama, arguments, options, message):
    with pytest.raises(InputError, match=message):
        attention(llama, *arguments, **options)


def test_a_single_token_is_refused():
    with pytest.raises(InputError, match="'a' is a single token"):
        attention(loaded(bos=False), "a")
    assert math.isclose(float(attention(loaded(bos=True), "a").patterns[0, 0, 1].sum()), 1.0, rel_tol=1e-5)
