"""Direct logit attribution: parts that add up in every family, TransformerLens's own, a planted head, a pair."""

import pandas as pd
import pytest
import torch
from torch import Tensor

from experiments.families import wrappers_of
from lensdiff import Prompt, direct_logit_attribution, generate, load_pair
from lensdiff.analyses.attribute.targets import one_token
from lensdiff.analyses.residual_stream.direct import DirectLogitAttribution, rivals
from lensdiff.analyses.residual_stream.forced import read
from lensdiff.analyses.residual_stream.split import Part, parts_of, split
from lensdiff.models import Point, load_model, view_of
from lensdiff.models.inside.frozen import freeze
from lensdiff.models.inside.norms import Gain, Unknown
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.results import Diff, InputError, Results
from tests.analyses.residual_stream.test_lens import CASES, PROMPT, SAID, model_of
from tests.checkpoints import TEXT, hf_model, tokenizer_of
from tests.models.test_forced_text import cycled, pair_of

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
_LAST = Point("resid_post", 1)
POSITIONS = ("gpt2", "gpt2_quick_gelu", "gpt2_scaled_by_layer", "opt")  # families with an embedding of positions


def part(found: DirectLogitAttribution, *place: object) -> Tensor:
    return found.contributions[found.parts.index((*place, None, None)[:3])]  # pyright: ignore[reportArgumentType]


# sums
@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_parts_add_up_to_the_logit_before_its_cap(family: str, wrapper: str):
    model = model_of(family, wrapper)
    if family == "gemma4":
        with pytest.raises(InputError, match="cannot be read"):
            direct_logit_attribution(model, PROMPT, SAID)
        return
    view = view_of(model)
    for against in (None, " a"):
        found = direct_logit_attribution(model, PROMPT, SAID, against=against)
        text = read(view, PROMPT, SAID, max_new_tokens=1, prepend_bos=None)
        logits = view.forward.logits(text.ids[None])[0, text.first :]
        cap = view.meaning.logits.cap  # pyright: ignore[reportAttributeAccessIssue]
        logits = logits if cap is None else cap * torch.atanh(logits / cap)
        expected = logits.gather(-1, text.said[:, None])[:, 0]
        if against is not None:
            expected = expected - logits[:, one_token(view, against)]
        torch.testing.assert_close(found.logit, expected, rtol=0, atol=1e-9 * float(logits.abs().max()))
        gap = (found.contributions.sum(dim=0) - found.logit).abs()
        assert bool((gap <= 1e-9 * found.contributions.abs().sum(dim=0)).all())
    expected_parts = parts_of(2, 4, positions=family in POSITIONS)
    assert found.parts == tuple((p.kind, p.layer, p.head) for p in expected_parts)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2"])
def test_in_float32_too(family: str):
    found = direct_logit_attribution(model_of(family, wrappers_of(family)[-1], torch.float32), PROMPT, SAID)
    gap = (found.contributions.sum(dim=0) - found.logit).abs()
    assert bool((gap <= 1e-4 * found.contributions.abs().sum(dim=0)).all())


# TransformerLens's own
@NO_HOOKED
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_heads_mlps_and_embeddings_are_those_of_transformer_lens(family: str):
    # its attribution needs gains that are folded into the unembedding
    model = model_of(family, "hooked", weights="folded")
    found = direct_logit_attribution(model, PROMPT, SAID, against=" a")
    text = read(view_of(model), PROMPT, SAID, max_new_tokens=1, prepend_bos=None)
    _, cache = model.run_with_cache(text.ids[None])
    rival = torch.full_like(text.said, one_token(view_of(model), " a"))
    options = {"tokens": text.said, "incorrect_tokens": rival, "has_batch_dim": False}
    where = slice(text.first, None)
    heads = cache.stack_head_results(layer=-1, pos_slice=where)[:8, 0]
    theirs = cache.logit_attrs(heads, pos_slice=where, **options)
    ours = torch.stack([part(found, "head", layer, head) for layer in range(2) for head in range(4)])
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-8, atol=1e-10)
    stack, labels = cache.decompose_resid(layer=-1, mode="mlp", pos_slice=where, return_labels=True)
    theirs = dict(zip(labels, cache.logit_attrs(stack[:, 0], pos_slice=where, **options).detach(), strict=True))
    for layer in range(2):
        torch.testing.assert_close(part(found, "mlp", layer), theirs[f"{layer}_mlp_out"], rtol=1e-8, atol=1e-10)
    for name in ("embed", "pos_embed"):
        if name in theirs and (name, None, None) in found.parts:
            torch.testing.assert_close(part(found, name), theirs[name], rtol=1e-8, atol=1e-10)


# planted
def test_a_head_that_writes_a_tokens_direction_is_the_largest_part():
    source = hf_model("llama", dtype=torch.float64)
    token, size = one_token(view_of(model_of("llama")), " a"), 50.0
    attention, u = source.model.layers[0].self_attn, source.lm_head.weight.data[token]
    with torch.no_grad():
        # the head's output is size |z_0| u / |u|^2, its first value is 1 at every key: see the biases
        attention.v_proj.weight[:8] = 0.0
        attention.v_proj.bias = torch.nn.Parameter(torch.zeros(16, dtype=torch.float64))
        attention.v_proj.bias[0] = 1.0
        attention.o_proj.weight[:, 8:16] = 0.0
        attention.o_proj.weight[:, 8] = size * u / u.square().sum()
        source.model.norm.weight.fill_(1.0)
    for layer in source.model.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            projection = getattr(layer.self_attn, name)
            if projection.bias is None:
                projection.bias = torch.nn.Parameter(torch.zeros(projection.weight.shape[0], dtype=torch.float64))
    source.config.attention_bias = True
    model = load_model(source, tokenizer=tokenizer_of(), wrapper="bridge", dtype=torch.float64, device="cpu")
    prompt = Prompt("Write", id="p")
    said = generate(model, prompt, max_new_tokens=1)
    chosen = type(said)(" a", (token,), said.model, said.tokenizer)
    found = direct_logit_attribution(model, prompt, chosen)
    ids = torch.tensor([tokenizer_of()("Write")["input_ids"]])
    stream = view_of(model).forward.run(ids, read=[_LAST])[_LAST][0, -1]
    expected = size / (stream.square().mean() + source.config.rms_norm_eps).sqrt()
    torch.testing.assert_close(part(found, "head", 0, 1)[0], expected.detach())
    top = found.top(1).iloc[0]
    assert (top.part, top.layer, top.head_index) == ("head", 0, 1)


def test_a_bias_is_a_part():
    model = model_of("gpt2")
    plain = direct_logit_attribution(model, PROMPT, SAID)
    source = hf_model("gpt2", dtype=torch.float64)
    source.transformer.ln_f.bias.data.zero_()
    for block in source.transformer.h:
        block.attn.c_proj.bias.data.zero_()
    without = load_model(source, tokenizer=tokenizer_of(), wrapper="bridge", dtype=torch.float64, device="cpu")
    assert float(part(direct_logit_attribution(without, PROMPT, SAID), "bias").abs().max()) == 0.0
    assert float(part(plain, "bias").abs().max()) > 1e-3


# a pair
def test_rivals_are_the_first_that_were_not_said():
    choices = torch.tensor([[5, 6, 7], [6, 5, 7], [7, 5, 6]])
    assert rivals(choices, torch.tensor([5, 5, 5])).tolist() == [6, 6, 7]
    assert rivals(choices, torch.tensor([5, 5, 5]), {7}).tolist() == [7, 7, 7]
    with pytest.raises(InputError, match="none of the base's 3 most probable tokens at response token 0"):
        rivals(choices, torch.tensor([5, 5, 5]), {5})


def test_both_models_are_held_against_the_bases_choice_or_its_runner_up():
    pair = pair_of(tokenizer_of())
    found = direct_logit_attribution(pair, PROMPT, max_new_tokens=6)
    assert isinstance(found, Diff)
    assert (found.base.provenance.model, found.tuned.provenance.model) == pair.ids
    assert found.base.against == found.tuned.against
    assert "less that of the base's best other one (see against): mean" in repr(found.tuned)
    own = generate(pair.tuned, PROMPT, max_new_tokens=6)
    ids = torch.tensor([[*tokenizer_of()(PROMPT.text)["input_ids"], *own.token_ids]])
    n, said = len(own.token_ids), torch.tensor(own.token_ids)
    assert found.tuned.response == own.text
    sides = [view_of(side).forward.logits(ids[:, :-1])[0, -n:] for side in (pair.base, pair.tuned)]
    rival = sides[0].scatter(-1, said[:, None], -torch.inf).argmax(dim=-1)
    assert tuple(tokenizer_of().convert_ids_to_tokens(rival.tolist())) != found.tuned.out_tokens
    for one, logits in zip((found.base, found.tuned), sides, strict=True):
        expected = (logits.gather(-1, said[:, None]) - logits.gather(-1, rival[:, None]))[:, 0].double()
        torch.testing.assert_close(one.logit, expected, rtol=1e-3, atol=1e-3)
    given = direct_logit_attribution(pair, PROMPT, own, against=" a")
    assert set(given.base.against) == {" a"}
    assert "logit of the token less that of ' a': mean" in repr(given.base)


def test_tokens_keep_their_strings_where_the_vocabularies_differ():
    pair = pair_of(cycled())
    found = direct_logit_attribution(pair, Prompt("Write a poem about the moon", id="p"), "said the moon")
    assert found.base.against == found.tuned.against
    assert found.base.out_tokens == found.tuned.out_tokens
    gap = (found.tuned.contributions.sum(dim=0) - found.tuned.logit).abs()
    assert float(gap.max()) < 1e-4 * float(found.tuned.contributions.abs().sum(dim=0).max())


def test_a_model_against_itself_differs_in_nothing():
    source = hf_model("llama")
    options = {"tokenizer": tokenizer_of(), "device": "cpu", "verify": False}
    pair = load_pair(source, hf_model("llama"), **options)
    found = direct_logit_attribution(pair, PROMPT, SAID)
    assert torch.equal(found.base.contributions, found.tuned.contributions)
    assert found.notice


# the entry point
def test_the_table_has_a_row_per_token_and_part(tmp_path):
    found = direct_logit_attribution(model_of("llama"), PROMPT, SAID)
    frame = found.to_df()
    assert list(frame.columns) == ["prompt_id", "out_pos", "part", "layer", "head_index", "contribution"]
    assert len(frame) == len(found.parts) * len(found.out_tokens)
    row = frame[(frame.out_pos == 3) & (frame.layer == 1) & (frame.head_index == 2)].iloc[0]
    assert row.contribution == part(found, "head", 1, 2)[3]
    sums = frame.groupby("out_pos").contribution.sum()
    torch.testing.assert_close(torch.tensor(sums.to_numpy()), found.logit)
    again = DirectLogitAttribution.load(found.save(tmp_path / "parts"))
    pd.testing.assert_frame_equal(again.to_df(), frame)
    assert "most of it: " in repr(found)
    assert "logit of the token: mean" in repr(found)
    assert [str(Part(*p)) for p in found.parts[:3]] == ["embed", "head 0.0", "head 0.1"]


def test_a_list_is_read_one_by_one():
    model = model_of("llama")
    found = direct_logit_attribution(model, [PROMPT, Prompt(TEXT[1], id="fruit")], [SAID, "bonjour"], progress=False)
    assert isinstance(found, Results)
    one = direct_logit_attribution(model, Prompt(TEXT[1], id="fruit"), "bonjour")
    pd.testing.assert_frame_equal(found[1].to_df(), one.to_df())
    pair = pair_of(tokenizer_of())
    both = direct_logit_attribution(pair, [PROMPT], [SAID], progress=False)
    alone = direct_logit_attribution(pair, PROMPT, SAID)
    pd.testing.assert_frame_equal(both.tuned[0].to_df(), alone.tuned.to_df())


@pytest.mark.parametrize(("against", "n"), [("Apples and", 4), ("", 0)])
def test_what_is_not_one_token_is_refused(against: str, n: int):
    with pytest.raises(InputError, match=rf"'{against}' is {n} tokens of .*, expected exactly one"):
        direct_logit_attribution(model_of("llama"), PROMPT, SAID, against=against)


# the frozen norm
def test_a_frozen_norm_is_the_norm_and_refuses_what_does_not_follow():
    wrapper = view_of(model_of("llama")).forward.wrapper
    x = torch.randn(3, 32, dtype=torch.float64)
    found = freeze(wrapper, Gain(None, centred=True), x, 2.0 * (x - x.mean(dim=-1, keepdim=True)), "here")
    torch.testing.assert_close(found.factor, torch.full_like(x, 2.0))
    u = torch.randn_like(x)
    made = (found.before(u) * x).sum(dim=-1)
    torch.testing.assert_close(made, (u * 2.0 * (x - x.mean(dim=-1, keepdim=True))).sum(dim=-1))
    with pytest.raises(InputError, match="here cannot be split into parts: what is behind its norm does not follow"):
        freeze(wrapper, Gain(None), x, x.flip(0), "here")
    with pytest.raises(InputError, match="here cannot be split into parts: why"):
        freeze(wrapper, Unknown("why"), x, x, "here")


def test_parts_that_do_not_add_up_are_refused(monkeypatch: pytest.MonkeyPatch):
    view = view_of(model_of("llama"))
    text = read(view, PROMPT, SAID, max_new_tokens=1, prepend_bos=None)
    import lensdiff.analyses.residual_stream.split as module

    whole = module._embeddings
    monkeypatch.setattr(module, "_embeddings", lambda *args: {k: v + 1.0 for k, v in whole(*args).items()})
    with pytest.raises(InputError, match="do not add up to its logits: they differ by 1"):
        split(view, text, None)
