"""Meanings are measured: a planted lie about a norm, a matrix or a hook is found out, and refused when it is read."""

import pytest
import torch

from lensdiff.analyses.heads.qk_reading import qk_reading
from lensdiff.models import load_model, load_pair, view_of
from lensdiff.models.inside.meaning import LogitMap, measure
from lensdiff.models.inside.norms import Gain, Unknown
from lensdiff.models.inside.points import Point, Site
from lensdiff.models.inside.tape import Tape
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.results import InputError
from tests.analyses.heads.head_models import known_words
from tests.checkpoints import hf_model, tokenizer_of

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
WRAPPERS = ["bridge", pytest.param("hooked", marks=NO_HOOKED)]


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
    meaning = measure(found._wrapper)
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
    meaning = measure(found._wrapper)
    handle.remove()
    assert meaning.gains[("attn", 0)] == Unknown("what attn reads is neither the stream nor its norm")


@pytest.mark.parametrize("name", ["W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out"])
@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "gpt_neox"])
def test_a_matrix_that_is_not_what_it_says_is_refused_by_name(name, family, monkeypatch):
    found = view(family)
    honest = found._wrapper.matrix
    if honest(1, name) is None:
        pytest.skip(f"{family} has no {name}")

    def lying(layer: int, asked: str) -> torch.Tensor | None:
        return honest(layer, asked).flip(-1) if (layer, asked) == (1, name) else honest(layer, asked)

    monkeypatch.setattr(found._wrapper, "matrix", lying)
    meaning = measure(found._wrapper)
    assert set(meaning.matrices) == {(name, 1)}
    monkeypatch.setitem(vars(found), "meaning", meaning)
    with pytest.raises(InputError, match=rf"{name} of layer 1 of .* cannot be read: multiplied by it"):
        found.weights.matrix(1, name)
    assert found.weights.matrix(0, name) is not None


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_matrix_that_the_wrapper_cannot_give_is_refused_when_it_is_read(wrapper, monkeypatch):
    found = view("llama", wrapper)
    honest = found._wrapper.matrix

    def refusing(layer: int, asked: str) -> torch.Tensor | None:
        if (layer, asked) == (1, "W_O"):
            raise NotImplementedError("it is kept in pieces\nof 4")
        return honest(layer, asked)

    monkeypatch.setattr(found._wrapper, "matrix", refusing)
    meaning = measure(found._wrapper)
    assert set(meaning.matrices) == {("W_O", 1)}
    monkeypatch.setitem(vars(found), "meaning", meaning)
    message = r"W_O of layer 1 of .* cannot be read: transformer-lens cannot give it: it is kept in pieces$"
    with pytest.raises(InputError, match=message):
        found.weights.matrix(1, "W_O")
    assert found.weights.matrix(0, "W_O") is not None


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 8, 3, 5), (1, 8, 3, 8)])
def test_values_that_a_pattern_cannot_mix_are_a_reason(shape, monkeypatch):
    """DeepSeek's hook_v has the heads in front of the positions."""
    found = view("llama")
    honest, hook = Tape.made, found.model.blocks[1].attn.hook_v
    monkeypatch.setattr(Tape, "made", lambda self, m: torch.zeros(shape) if m is hook else honest(self, m))
    points = measure(found._wrapper).points
    assert points[Point("pattern", 1)] == Unknown("its hook_v holds no values that its hook_pattern could mix")
    assert isinstance(points[Point("pattern", 0)], Site)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_biases_are_those_of_the_checkpoint(family, wrapper):
    found, source = view(family, wrapper), hf_model(family)
    block = source.transformer.h[1] if family == "gpt2" else source.gpt_neox.layers[1]
    if family == "gpt2":
        q, k, v = block.attn.c_attn.bias.reshape(3, 4, 8)
        o, into, out = block.attn.c_proj.bias, block.mlp.c_fc.bias, block.mlp.c_proj.bias
    else:
        q, k, v = block.attention.query_key_value.bias.reshape(4, 3, 8).unbind(1)
        o, into, out = block.attention.dense.bias, block.mlp.dense_h_to_4h.bias, block.mlp.dense_4h_to_h.bias
    for name, expected in {"b_Q": q, "b_K": k, "b_V": v, "b_O": o, "b_in": into, "b_out": out}.items():
        torch.testing.assert_close(found.weights.bias(1, name).reshape(expected.shape), expected.detach())


def test_where_nothing_is_added_there_is_no_bias_or_one_of_zeros():
    bias = view("llama").weights.bias(1, "b_Q")
    assert bias is None or not bool(bias.any())


def test_a_bias_that_is_not_what_is_added_is_refused(monkeypatch):
    found = view("gpt2")
    honest = found._wrapper.bias
    monkeypatch.setattr(found._wrapper, "bias", lambda layer, name: None if name == "b_V" else honest(layer, name))
    meaning = measure(found._wrapper)
    assert set(meaning.biases) == {("b_V", 0), ("b_V", 1)}
    monkeypatch.setitem(vars(found), "meaning", meaning)
    with pytest.raises(InputError, match=r"b_V of layer 1 of .* cannot be read: what is added behind its matrix"):
        found.weights.bias(1, "b_V")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_position_embeddings_are_what_is_added_to_the_embedding(wrapper):
    found = view("gpt2", wrapper).weights
    torch.testing.assert_close(found.W_pos, hf_model("gpt2").transformer.wpe.weight.detach())
    assert view("llama", wrapper).weights.W_pos is None


def test_positions_start_behind_the_rows_that_are_kept_for_others():
    expected = hf_model("opt").model.decoder.embed_positions.weight.detach()
    torch.testing.assert_close(view("opt").weights.W_pos, expected[2:])


def test_positions_that_are_not_what_is_added_are_refused(monkeypatch):
    found = view("opt")
    shifted = found._wrapper.W_pos().roll(1, 0)
    monkeypatch.setattr(found._wrapper, "W_pos", lambda: shifted)
    monkeypatch.setitem(vars(found), "meaning", measure(found._wrapper))
    with pytest.raises(InputError, match=r"W_pos of .* cannot be read: its position embeddings are not what is added"):
        _ = found.weights.W_pos


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
    with pytest.raises(InputError, match=r"has no single W_in: this reading needs one MLP matrix a layer"):
        found.weights.mlp(0)
    assert found.weights.attention(0).W_Q.shape == (4, 32, found.d_head)


def test_a_query_that_carries_its_gate_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="W_Q of layer 0 of Qwen3NextForCausalLM cannot be read: "):
        view("qwen3_next").weights.matrix(0, "W_Q")
