"""The logit lens: each layer's distribution by hand, and by transformers' own modules in every family."""

import pandas as pd
import pytest
import torch
from torch import Tensor

from experiments.families import exact_rotary, wrappers_of
from lensdiff import Prompt, generate, logit_lens
from lensdiff.analyses.residual_stream import lens
from lensdiff.analyses.residual_stream.forced import groups
from lensdiff.analyses.residual_stream.lens import LogitLens, commitment, compare
from lensdiff.models import Model, Point, load_model, load_pair, view_of
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.response import Response
from lensdiff.results import InputError, Results
from tests.checkpoints import FAMILIES, MORE, TEXT, hf_model, tokenizer_of
from tests.models.hf_points import patched

UNSERVED = ("gpt_neox_without_bias", "falcon_grouped", "cohere")  # see tests/models/test_families.py
CASES = [(f, w) for f in [*FAMILIES, *MORE] if f not in UNSERVED for w in wrappers_of(f)]
WRAPPERS = [
    "bridge",
    pytest.param(
        "hooked",
        marks=pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer"),
    ),
]
PROMPT, SAID = Prompt(TEXT[0], id="sea"), "Apples and oranges are good."


def model_of(family: str, wrapper: str = "bridge", dtype: torch.dtype = torch.float64, **options) -> Model:
    source = hf_model(family, dtype=dtype)
    return load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, dtype=dtype, device="cpu", **options)


# kernels
def test_a_layer_is_committed_to_where_its_choice_stays():
    # down: layers; the first token's choice comes, goes and comes back; the second's is there from the start
    choices = torch.tensor([[7, 5, 1], [3, 5, 1], [7, 5, 2], [7, 5, 3]])
    assert commitment(choices).tolist() == [2, 0, 3]


def test_what_a_layer_says_beside_the_output_by_hand():
    own, layer = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]), torch.tensor([[0.25, 0.5, 0.25]] * 2)
    found = compare(own.log(), layer.log(), torch.tensor([0, 1]))
    # .5 ln 2 + .25 ln .5 = .25 ln 2; ln 4, and what the output never says adds nothing
    torch.testing.assert_close(found.kl, torch.tensor([0.25, 2.0], dtype=torch.float64) * torch.tensor(2.0).log())
    assert found.rank.tolist() == [2, 1], "a tie counts for the token"
    assert found.prob.tolist() == [0.25, 0.5]
    assert found.likely[:, 0].tolist() == [1, 1]
    assert compare(own.log(), own.log(), torch.tensor([0, 1])).kl.tolist() == [0.0, 0.0]
    again = compare(layer.log(), own.flip(0).log().clamp(min=-9), torch.tensor([0, 1]), layer)
    torch.testing.assert_close(again.kl, compare(layer.log(), own.flip(0).log().clamp(min=-9), torch.tensor([0, 1])).kl)


def test_a_large_vocabulary_is_summed_as_in_float64():
    generator = torch.Generator().manual_seed(0)
    own, layer = ((4 * torch.randn(3, 200_000, generator=generator)).log_softmax(dim=-1) for _ in range(2))
    said = torch.tensor([0, 1, 2])
    found, exact = compare(own, layer, said, own.exp()), compare(own.double(), layer.double(), said)
    torch.testing.assert_close(found.kl, exact.kl, rtol=2e-6, atol=0)
    assert found.rank.dtype == torch.int64
    assert torch.equal(found.rank, exact.rank)


def test_layers_come_in_groups_that_fit():
    assert [list(g) for g in groups(range(5), 10, 25)] == [[0, 1], [2, 3], [4]]
    assert [list(g) for g in groups(range(2), 10, 5)] == [[0], [1]], "one at least"


# against transformers
@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_each_layer_says_what_transformers_makes_of_its_stream(family: str, wrapper: str, monkeypatch):
    monkeypatch.setattr(lens, "ROWS", 2)  # the response's positions come in several parts
    model, reference = model_of(family, wrapper), hf_model(family, dtype=torch.float64)
    if family == "gemma4":  # its later layers use keys and values of earlier ones
        with pytest.raises(InputError, match=r"hook_resid_pre of Gemma4ForCausalLM cannot be (read|written)"):
            logit_lens(model, PROMPT, SAID)
        return
    if wrapper == "hooked":
        exact_rotary(reference)
    found = logit_lens(model, PROMPT, SAID)
    ids = tokenizer_of()(f"{PROMPT.text} {SAID}")["input_ids"]
    first = len(ids) - len(found.out_tokens) - 1
    tokens, said = torch.tensor([ids[:-1]]), torch.tensor(ids[first + 1 :])
    last = Point("resid_post", 1)
    with torch.no_grad(), double_precision():
        logits = [
            patched(family, reference, tokens, last, lambda _, s=stream: s)[1]
            for stream in (patched(family, reference, tokens, Point("resid_pre", i), None)[0] for i in range(2))
        ]
        logits.append(reference(tokens, use_cache=False).logits)
    log_probs = torch.stack(logits)[:, 0, first:].log_softmax(dim=-1)
    bound = {"phi3_longrope": 1e-6}.get(family, 1e-9)
    expected = log_probs.gather(-1, said.expand(3, -1)[:, :, None])[:, :, 0].exp()
    torch.testing.assert_close(found.prob, expected, rtol=0, atol=bound)
    kl = (log_probs[-1].exp() * (log_probs[-1] - log_probs)).sum(dim=-1)
    torch.testing.assert_close(found.kl, kl, rtol=0, atol=100 * bound)
    assert torch.equal(found.word_ids[found.likely[:, :, 0]], log_probs.argmax(dim=-1))
    assert torch.equal(found.choices[:, 0], log_probs[-1].argmax(dim=-1))
    assert not bool(found.kl[-1].any())


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_in_float32_the_last_layer_is_transformers_output(wrapper: str):
    found = logit_lens(model_of("llama", wrapper, torch.float32), PROMPT, SAID)
    ids = tokenizer_of()(f"{PROMPT.text} {SAID}")["input_ids"]
    with torch.no_grad():
        logits = hf_model("llama")(torch.tensor([ids])).logits[0, -len(found.out_tokens) - 1 : -1]
    said = torch.tensor(ids[-len(found.out_tokens) :])
    expected = logits.log_softmax(dim=-1).gather(-1, said[:, None])[:, 0]
    bound = 2e-4 * float(logits.abs().max())
    assert float((found.prob[-1].log() - expected).abs().max()) < bound


# planted
def silent(layers: list[int]) -> Model:
    """A llama whose layers, those named, write nothing."""
    source = hf_model("llama", dtype=torch.float64)
    for layer in layers:
        block = source.model.layers[layer]
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
    return load_model(source, tokenizer=tokenizer_of(), wrapper="bridge", dtype=torch.float64, device="cpu")


def test_behind_layers_that_write_nothing_all_is_said():
    found = logit_lens(silent([1]), PROMPT, SAID)
    assert float(found.kl[1].max()) < 1e-12 < float(found.kl[0].min())
    assert int(found.committed.max()) == 1
    whole = logit_lens(silent([0, 1]), PROMPT, SAID)
    assert float(whole.kl.max()) < 1e-12
    assert whole.committed.tolist() == [0] * len(whole.out_tokens)
    torch.testing.assert_close(whole.prob[0], whole.prob[2], rtol=1e-9, atol=0)


def test_each_model_reads_its_streams_by_its_own_unembedding():
    """As the page says: of two models with the same streams and other unembeddings, every layer says something else."""
    source, said = hf_model("llama", dtype=torch.float64), tokenizer_of()(" a")["input_ids"][0]
    with torch.no_grad():
        source.lm_head.weight[[said, 99]] = source.lm_head.weight[[99, said]].clone()
        source.model.embed_tokens.weight.copy_(hf_model("llama", dtype=torch.float64).model.embed_tokens.weight)
    other = load_model(source, tokenizer=tokenizer_of(), wrapper="bridge", dtype=torch.float64, device="cpu")
    ids = tokenizer_of()(PROMPT.text)["input_ids"]
    model, point = model_of("llama"), Point("resid_post", 1)
    streams = [view_of(one).forward.run(torch.tensor([ids]), read=[point])[point] for one in (model, other)]
    assert torch.equal(*streams)
    chosen = [Response(tokenizer_of().decode([token]), (token,)) for token in (said, 99)]
    own = logit_lens(model, PROMPT, chosen[0])
    theirs = logit_lens(other, PROMPT, chosen[1])
    torch.testing.assert_close(own.prob, theirs.prob, rtol=1e-12, atol=0)
    assert not torch.allclose(own.prob, logit_lens(other, PROMPT, chosen[0]).prob)


def test_base_against_base_is_exactly_nothing():
    pair = load_pair(hf_model("llama"), hf_model("llama"), tokenizer=tokenizer_of(), device="cpu", verify=False)
    found = pair.compare(logit_lens, PROMPT, SAID)
    for name in ("kl", "rank", "prob", "likely_prob", "committed"):
        assert torch.equal(getattr(found.base, name), getattr(found.tuned, name)), name
    pd.testing.assert_frame_equal(found.base.to_df(), found.tuned.to_df())
    assert "equal weights" in found.notice


# the entry point
def test_the_table_has_a_row_per_token_and_layer():
    found = logit_lens(model_of("llama"), PROMPT, SAID)
    frame = found.to_df()
    assert list(frame.columns) == [
        *("prompt_id", "out_pos", "token", "layer", "kl", "rank", "prob", "top", "committed"),
    ]
    assert len(frame) == 3 * len(found.out_tokens)
    row = frame[(frame.out_pos == 2) & (frame.layer == 1)].iloc[0]
    assert (row.prompt_id, row.token) == ("sea", found.out_tokens[2])
    assert (row.kl, row["rank"], row.prob) == (found.kl[1, 2], found.rank[1, 2], found.prob[1, 2])
    assert row.top == found.words[found.likely[1, 2, 0]]
    assert row.committed == found.committed[2]
    top = found.top(2)
    assert set(top.layer) == {2}
    assert top.committed.tolist() == sorted(found.committed.tolist())[::-1][:2]
    assert "committed at layer" in repr(found)


def test_without_a_response_it_is_the_models_own_and_it_commits_to_that():
    model = model_of("llama")
    own = generate(model, PROMPT, max_new_tokens=4)
    found = logit_lens(model, PROMPT, max_new_tokens=4)
    assert found.response == own.text
    assert found.rank[-1].tolist() == [1] * 4
    assert torch.equal(found.choices[:, 0], torch.tensor(own.token_ids))
    pd.testing.assert_frame_equal(found.to_df(), logit_lens(model, PROMPT, own).to_df())


def test_chosen_layers_are_those_of_all_and_the_output_is_always_there():
    model = model_of("llama")
    whole, some = logit_lens(model, PROMPT, SAID), logit_lens(model, PROMPT, SAID, layers=[1])
    assert (whole.layers, some.layers) == ((0, 1, 2), (1, 2))
    torch.testing.assert_close(some.kl, whole.kl[1:], rtol=1e-9, atol=1e-12)
    alone = logit_lens(model, PROMPT, SAID, layers=[2])
    assert alone.layers == (2,)
    assert alone.committed.tolist() == [2] * len(alone.out_tokens)


def test_the_first_tokens_are_those_of_all():
    model = model_of("llama")
    whole, some = logit_lens(model, PROMPT, SAID), logit_lens(model, PROMPT, SAID, max_tokens=2)
    assert some.out_tokens == whole.out_tokens[:2]
    torch.testing.assert_close(some.kl, whole.kl[:, :2], rtol=1e-9, atol=1e-12)


def test_layers_that_do_not_fit_cost_passes_and_change_nothing(monkeypatch: pytest.MonkeyPatch):
    model = model_of("llama")
    whole = logit_lens(model, PROMPT, SAID)
    monkeypatch.setattr(lens, "groups", lambda layers, size: groups(layers, size, 1))
    apart = logit_lens(model, PROMPT, SAID)
    torch.testing.assert_close(apart.kl, whole.kl, rtol=1e-9, atol=1e-12)
    assert torch.equal(apart.likely, whole.likely)


def test_a_list_is_read_one_by_one(tmp_path):
    model = model_of("llama")
    found = logit_lens(model, [PROMPT, Prompt(TEXT[1], id="fruit")], [SAID, "bonjour"], progress=False)
    assert isinstance(found, Results)
    pd.testing.assert_frame_equal(found[1].to_df(), logit_lens(model, Prompt(TEXT[1], id="fruit"), "bonjour").to_df())
    pd.testing.assert_frame_equal(LogitLens.load(found[0].save(tmp_path / "lens")).to_df(), found[0].to_df())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [3]}, r"layers=\[3\] given, expected at least one of 0 to 2, each once"),
        ({"layers": []}, r"layers=\[\] given, expected at least one of 0 to 2"),
        ({"max_tokens": 0}, "max_tokens=0 is not positive"),
        ({"response": " "}, "the response is an empty text: leave it out for the model's own response"),
    ],
)
def test_what_cannot_be_read_is_said(options: dict, message: str):
    with pytest.raises(InputError, match=message):
        logit_lens(model_of("llama"), PROMPT, **({"response": SAID} | options))


def test_a_generated_response_of_no_token_is_refused():
    model = model_of("llama")
    own = generate(model, PROMPT, max_new_tokens=1)
    nothing = type(own)("", (), own.model, own.tokenizer)
    with pytest.raises(InputError, match="the response to prompt 'sea' is empty: nothing is predicted"):
        logit_lens(model, PROMPT, nothing)


def test_a_model_whose_end_does_more_than_its_last_stream_says_is_refused(monkeypatch: pytest.MonkeyPatch):
    model = model_of("llama")
    view_of(model).forward.require(write=[Point("resid_pre", 1), Point("resid_post", 1)])
    through = lens.behind_last

    def other(forward, streams: Tensor) -> list[Tensor]:
        return [1.01 * final for final in through(forward, streams)]

    monkeypatch.setattr(lens, "behind_last", other)
    with pytest.raises(InputError, match=r"the logit lens of .* cannot be read: its last stream"):
        logit_lens(model, PROMPT, SAID)
