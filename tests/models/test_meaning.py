"""Meanings are measured: a planted lie about a norm, a matrix or a hook is found out, and refused when it is read."""

import pytest
import torch

from lensdiff.analyses.qk_reading import qk_reading
from lensdiff.models import load_model, load_pair, view_of
from lensdiff.models.meaning import Gain, LogitMap, Unknown, measure
from lensdiff.results import InputError
from tests.analyses.head_models import known_words
from tests.checkpoints import hf_model, tokenizer_of


def view(family: str, wrapper: str = "bridge"):
    return view_of(load_model(hf_model(family), tokenizer=tokenizer_of(), wrapper=wrapper, device="cpu"))


def test_logit_maps_by_hand():
    x = torch.tensor([-2.0, 0.0, 4.0])
    assert torch.equal(LogitMap()(x), x)
    torch.testing.assert_close(LogitMap(scale=0.5)(x), torch.tensor([-1.0, 0.0, 2.0]))
    torch.testing.assert_close(LogitMap(cap=3.0)(x), 3 * torch.tanh(x / 3))


@pytest.mark.parametrize(("family", "expected"), [("granite", 0.25), ("llama", 1.0), ("gemma2", 1.0)])
def test_the_scale_of_logits_is_measured(family, expected):
    found = view(family).meaning.logits
    assert found.scale == pytest.approx(expected)
    assert found.cap == (3.0 if family == "gemma2" else None)


def test_a_norm_that_is_neither_is_refused_by_name(monkeypatch):
    found = view("llama")
    handle = found.model.blocks[1].ln1.register_forward_hook(lambda module, args, out: out**3)
    meaning = measure(found)
    handle.remove()
    assert isinstance(meaning.gains[("attn", 1)], Unknown)
    assert isinstance(meaning.gains[("attn", 0)], Gain)
    monkeypatch.setitem(vars(found), "meaning", meaning)
    with pytest.raises(
        InputError, match=r"the attn gain of layer 1 of .* cannot be read: the norm at .* scales neither"
    ):
        found.weights.gain("attn", 1)
    assert not found.weights.has_gain("attn", 1)


def test_what_is_read_behind_something_else_is_refused():
    found = view("llama")
    handle = found.model.blocks[0].attn.register_forward_pre_hook(
        lambda module, args, kwargs: (args, kwargs | {"hidden_states": kwargs["hidden_states"].roll(1, -1)}),
        with_kwargs=True,
    )
    meaning = measure(found)
    handle.remove()
    assert meaning.gains[("attn", 0)] == Unknown("what attn reads is neither the stream nor its norm")


@pytest.mark.parametrize("name", ["W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out"])
@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "gpt_neox"])
def test_a_matrix_that_is_not_what_it_says_is_refused_by_name(name, family, monkeypatch):
    found = view(family)
    honest = found.stored_matrix
    if honest(1, name) is None:
        pytest.skip(f"{family} has no {name}")
    monkeypatch.setattr(
        found,
        "stored_matrix",
        lambda layer, n: honest(layer, n).flip(-1) if (layer, n) == (1, name) else honest(layer, n),
    )
    meaning = measure(found)
    assert set(meaning.matrices) == {(name, 1)}
    monkeypatch.setitem(vars(found), "meaning", meaning)
    with pytest.raises(InputError, match=rf"{name} of layer 1 of .* cannot be read: multiplied by it"):
        found.weights.matrix(1, name)
    assert found.weights.matrix(0, name) is not None


def test_a_bias_is_no_lie():
    assert not view("llama_with_bias").meaning.matrices


@pytest.mark.parametrize("family", ["gptj", "opt"])
def test_probabilities_are_not_taken_for_scores(family):
    words = known_words()
    model = load_model(hf_model(family), tokenizer=tokenizer_of(), device="cpu")
    with pytest.raises(InputError, match="the softmax of its hook_attn_scores is not its attention pattern"):
        qk_reading(model, [(words[0], words[1])], first="<s>")


@pytest.mark.parametrize("family", ["phi", "gptj", "falcon"])
def test_a_norm_that_two_branches_share_is_one_weight_of_a_control(family):
    tuned = hf_model(family)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "ln_1" in name or "input_layernorm" in name:
                parameter.mul_(1.1)
    pair = load_pair(hf_model(family), tuned, tokenizer=tokenizer_of(), device="cpu")
    control = pair.control("norm", seed=1)
    lazily = [control.weights.gain(name, 1) for name in ("attn", "mlp")]
    assert torch.equal(*lazily)
    assert not torch.equal(lazily[0], view_of(pair.base).weights.gain("attn", 1))
    made = view_of(control.model)
    assert torch.equal(made.weights.gain("attn", 1), lazily[0])


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe"])
def test_a_mixture_of_experts_is_a_pair_and_has_no_single_matrix(family):
    pair = load_pair(hf_model(family), hf_model(family, seed=1), tokenizer=tokenizer_of(), device="cpu")
    found = view_of(pair.base)
    assert found.weights.matrix(0, "W_out") is None
    with pytest.raises(InputError, match=r"has no single W_in \(its MLP is a MoEBridge\)"):
        found.weights.mlp(0)
    assert found.weights.attention(0).W_Q.shape == (4, 32, found.d_head)


def test_a_query_that_carries_its_gate_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="W_Q of layer 0 of Qwen3NextForCausalLM cannot be read: transformer-lens"):
        view("qwen3_next").matrix(0, "W_Q")
