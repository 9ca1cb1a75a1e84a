"""Doses of a change: both ends exactly, peft's own scaling, planted edits, and no model of the user's is touched."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from lensdiff.models import ModelPair, load_pair, view_of
from lensdiff.models.decoding import ROUNDING
from lensdiff.models.dosing import DosedModel, dosed_model, interpolated
from lensdiff.models.equality import fingerprint
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.weight_groups import Part
from lensdiff.results import InputError
from tests.checkpoints import TEXT, VOCABULARY, hf_model, tokenizer_of
from tests.models.test_pair import with_more_tokens

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
BOTH = ["bridge", pytest.param("hooked", marks=NO_HOOKED)]
OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False, "dtype": "float64"}
TOKENS = torch.tensor([tokenizer_of()(TEXT[0])["input_ids"][:20]])
MLP_OUT = "model.layers.{}.mlp.down_proj.weight"


def pair_of(base: Any, tuned: Any, **options: Any) -> ModelPair:
    return load_pair(base, tuned, **({"tokenizer": tokenizer_of(True)} | OPTIONS | options))


def logits(model: Any) -> Tensor:
    return view_of(model).forward.logits(TOKENS)[0]


def edited(change: Any, family: str = "llama", **options: Any) -> Any:
    """The base model of a family with a change of its parameters, in place, by name."""
    model: Any = hf_model(family, dtype=torch.float64, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            change(name, parameter)
    return model


def shaken(*names: str) -> Any:
    """A change that moves the parameters whose names hold one of these."""

    def change(name: str, parameter: Tensor) -> None:
        if any(part in name for part in names):
            generator = torch.Generator().manual_seed(3)
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))

    return change


def gives(dosed: DosedModel, name: str, amount: float) -> Tensor:
    with dosed.at(dosed.group(name), amount) as view:
        return logits(view)


def test_the_formula_and_its_ends():
    base, tuned = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    assert interpolated(base, tuned, 0.25).tolist() == [1.5, 1.0]
    assert interpolated(base, tuned, -0.5).tolist() == [0.0, 4.0]
    assert interpolated(base, tuned, 1.5).tolist() == [4.0, -4.0]
    assert interpolated(base, tuned, 0.25).dtype == torch.float64
    odd = torch.tensor([0.1, 1e-30]), torch.tensor([0.3, 1e30])
    assert interpolated(*odd, 0.0) is odd[0]
    assert interpolated(*odd, 1.0) is odd[1]


@pytest.mark.parametrize("wrapper", BOTH)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_ends_are_the_two_models(family: str, wrapper: str, dtype: str):
    kind = getattr(torch, dtype)
    models = [hf_model(family, seed=seed, dtype=kind) for seed in (0, 1)]
    pair = pair_of(*models, wrapper=wrapper, dtype=dtype)
    dosed = dosed_model(pair)
    for amount, side in ((0.0, pair.base), (1.0, pair.tuned)):
        expected = logits(side)
        found = gives(dosed, "all", amount)
        assert (found - expected).abs().max() <= 1e-2 * ROUNDING[kind] * expected.abs().max()
    assert (logits(pair.base) - logits(pair.tuned)).abs().max() > 0.1
    middle = gives(dosed, "all", 0.5)
    own = [dict(model.named_parameters()) for model in models]
    with torch.no_grad():
        models[0].load_state_dict({name: (own[0][name] + own[1][name]) / 2 for name in own[0]}, strict=False)
        expected = logits(pair_of(models[0], models[1], wrapper=wrapper, dtype=dtype).base)
    assert (middle - expected).abs().max() <= ROUNDING[kind] * expected.abs().max()


@pytest.mark.parametrize("family", ["gemma2", "olmo2", "mixtral", "opt", "bloom", "falcon", "granite"])
def test_other_families_reach_their_ends(family: str):
    pair = pair_of(*(hf_model(family, seed=seed, dtype=torch.float64) for seed in (0, 1)))
    dosed = dosed_model(pair)  # refuses what does not reach its end
    expected = logits(pair.tuned)
    assert (gives(dosed, "all", 1.0) - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("wrapper", BOTH)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_each_number_of_the_model_is_in_exactly_one_part(family: str, wrapper: str):
    pair = pair_of(*(hf_model(family, seed=seed, dtype=torch.float64) for seed in (0, 1)), wrapper=wrapper)
    dosed = dosed_model(pair)
    parameters = dict(dosed.view.model.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with torch.no_grad():
        for end in dosed.ends.values():
            end.into.add_(1.0)
    for name, parameter in parameters.items():
        moved = parameter.detach() - before[name]
        # a bridge of GPT-2 may compute with copies of the parts of a fused matrix, which then is no weight any more
        expected = 0.0 if ".qkv." in name and not moved.any() else 1.0
        torch.testing.assert_close(moved, torch.full_like(moved, expected))
    for name in ("W_out", "attention", "mlp", "embedding", "layer 1", "head 1.3", "kv 0.1", "W_E"):
        one, rest = dosed.group(name), dosed.group(f"not {name}")
        assert not one & rest
        assert one | rest == dosed.group("all") == dosed.ends.keys()
    layers = [dosed.group("layer 0"), dosed.group("layer 1")]
    assert not layers[0] & layers[1]
    outside = dosed.group("all") - layers[0] - layers[1]
    assert dosed.group("embedding") < outside
    heads = [dosed.group(f"head {layer}.{head}") for layer in (0, 1) for head in range(4)]
    n_kv = view_of(pair.base).n_key_value_heads
    heads += [dosed.group(f"kv {layer}.{head}") for layer in (0, 1) for head in range(n_kv)]
    assert sum(map(len, heads)) == len(frozenset().union(*heads)) == len(dosed.group("attention"))


@pytest.mark.parametrize("wrapper", BOTH)
def test_an_edit_of_one_layer_is_that_layers_alone(wrapper: str):
    base = hf_model("llama", dtype=torch.float64)
    pair = pair_of(base, edited(shaken("layers.1.")), wrapper=wrapper)
    dosed, before = dosed_model(pair), logits(pair.base)
    for amount in (-0.5, 0.5, 1.0):
        whole = gives(dosed, "all", amount)
        assert torch.equal(gives(dosed, "layer 1", amount), whole)
        assert torch.equal(gives(dosed, "not layer 0", amount), whole)
        assert not torch.equal(whole, before)
        for name in ("layer 0", "embedding", "not layer 1", "head 0.1", "kv 0.0"):
            assert torch.equal(gives(dosed, name, amount), gives(dosed, "all", 0.0)), name


@pytest.mark.parametrize("wrapper", BOTH)
@pytest.mark.parametrize(
    ("matrix", "rows", "group"),
    [("k_proj", slice(8, 16), "kv 0.1"), ("v_proj", slice(0, 8), "kv 0.0"), ("q_proj", slice(16, 24), "head 0.2")],
)
def test_an_edit_of_one_head_is_that_heads_alone(wrapper: str, matrix: str, rows: slice, group: str):
    def change(name: str, parameter: Tensor) -> None:
        if name == f"model.layers.0.self_attn.{matrix}.weight":
            parameter[rows] += 0.5 * torch.randn(8, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    pair = pair_of(hf_model("llama", dtype=torch.float64), edited(change), wrapper=wrapper)
    dosed = dosed_model(pair)
    assert dosed.changed < dosed.group(group)
    assert len(dosed.changed) == 1
    torch.testing.assert_close(gives(dosed, group, 1.0), logits(pair.tuned), rtol=0, atol=1e-9)
    assert not torch.equal(gives(dosed, group, 1.0), logits(dosed.view))
    assert torch.equal(gives(dosed, f"not {group}", 1.0), logits(dosed.view))


def test_a_lora_dose_is_pefts_own_scaling():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        adapted: Any = peft.get_peft_model(hf_model("llama", dtype=torch.float64), config).double().eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    merged = copy.deepcopy(adapted).merge_and_unload()
    dosed = dosed_model(pair_of(hf_model("llama", dtype=torch.float64), merged))
    adapters = {name: m for name, m in adapted.named_modules() if isinstance(getattr(m, "scaling", None), dict)}
    first = {name: m.scaling["default"] for name, m in adapters.items()}
    for group, matrix in (("all", ""), ("W_out", "down_proj"), ("W_Q", "q_proj"), ("layer 1", "layers.1.")):
        for amount in (-0.5, 0.25, 1.0, 1.5):
            for name, module in adapters.items():
                module.scaling["default"] = first[name] * (amount if matrix in name else 0.0)
            with torch.no_grad(), dosed.view.forward.wrapper.precision():
                expected = adapted(TOKENS).logits[0]
            # transformers has its rotary frequencies in float32
            torch.testing.assert_close(gives(dosed, group, amount), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrapper", BOTH)
def test_tied_embeddings_move_together(wrapper: str):
    tie = {"tie_word_embeddings": True}
    pair = pair_of(
        hf_model("llama", dtype=torch.float64, **tie), edited(shaken("embed_tokens"), **tie), wrapper=wrapper
    )
    dosed = dosed_model(pair)
    assert dosed.tied
    for name in ("embedding", "W_E", "W_U", "all"):
        with dosed.at(dosed.group(name), 0.5) as view:
            half = view.weights.W_E.clone()
            torch.testing.assert_close(view.weights.W_U, half.T)
            torch.testing.assert_close(half, (view_of(pair.base).weights.W_E + view_of(pair.tuned).weights.W_E) / 2)
    torch.testing.assert_close(gives(dosed, "W_E", 1.0), logits(pair.tuned), rtol=0, atol=1e-9)
    change = view_of(pair.tuned).weights.W_E - view_of(pair.base).weights.W_E
    assert dosed.energy(dosed.group("embedding")) == pytest.approx(float(change.square().sum()))


def test_a_tied_base_does_not_become_an_untied_model_where_the_two_are_one_tensor():
    base = hf_model("llama", dtype=torch.float64, tie_word_embeddings=True)
    pair = pair_of(base, hf_model("llama", seed=1, dtype=torch.float64), wrapper="bridge")
    with pytest.raises(InputError, match="the base's unembedding is its embedding and the tuned model's is not"):
        dosed_model(pair)


@NO_HOOKED
def test_a_tied_base_becomes_an_untied_model_where_the_two_are_apart():
    base = hf_model("llama", dtype=torch.float64, tie_word_embeddings=True)
    pair = pair_of(base, hf_model("llama", seed=1, dtype=torch.float64), wrapper="hooked")
    dosed = dosed_model(pair)
    assert not dosed.tied
    torch.testing.assert_close(gives(dosed, "all", 1.0), logits(pair.tuned), rtol=0, atol=1e-9)
    assert dosed.group("W_E") == {Part("W_E")}


@pytest.mark.parametrize("wrapper", BOTH)
@pytest.mark.parametrize("tie", [False, True])
def test_resized_vocabularies_move_on_their_shared_rows(wrapper: str, tie: bool):
    base = hf_model("llama", dtype=torch.float64, tie_word_embeddings=tie)
    tuned = hf_model("llama", seed=1, dtype=torch.float64, vocab_size=VOCABULARY + 10, tie_word_embeddings=tie)
    options = {"tokenizer": tokenizer_of()}, {"tokenizer": with_more_tokens("<one>", "<two>")}
    pair = load_pair(base, tuned, base_options=options[0], tuned_options=options[1], wrapper=wrapper, **OPTIONS)
    dosed = dosed_model(pair)
    mine, theirs = pair.shared_tokens
    with dosed.at(dosed.group("all"), 1.0) as view:
        assert view.d_vocab == VOCABULARY
        found, expected = logits(view)[:, mine], logits(pair.tuned)[:, theirs]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(view.weights.W_E[mine], view_of(pair.tuned).weights.W_E[theirs])
    torch.testing.assert_close(logits(dosed.view), logits(pair.base), rtol=0, atol=1e-12)


def test_base_against_base_has_no_change():
    dosed = dosed_model(pair_of(*(hf_model("llama", dtype=torch.float64) for _ in range(2))))
    assert dosed.changed == frozenset()
    assert dosed.energy(dosed.group("all")) == 0
    assert torch.equal(gives(dosed, "all", 1.5), gives(dosed, "all", 0.0))


@pytest.mark.parametrize("wrapper", BOTH)
def test_no_model_of_the_users_is_written_and_the_copy_goes_back(wrapper: str):
    pair = pair_of(*(hf_model("llama", seed=seed, dtype=torch.float64) for seed in (0, 1)), wrapper=wrapper)
    views = view_of(pair.base), view_of(pair.tuned)
    before = [fingerprint(view, whole=True) for view in views]
    dosed = dosed_model(pair)
    copied = fingerprint(dosed.view, whole=True)
    for name in ("all", "W_out", "head 0.1"):
        with dosed.at(dosed.group(name), 1.5):
            assert fingerprint(dosed.view, whole=True) != copied
        assert fingerprint(dosed.view, whole=True) == copied
    with pytest.raises(ZeroDivisionError), dosed.at(dosed.group("all"), 0.5):
        raise ZeroDivisionError
    assert fingerprint(dosed.view, whole=True) == copied
    assert [fingerprint(view, whole=True) for view in views] == before
    assert view_of(pair.base) is views[0], "the base keeps its view"


def test_other_weights_are_held_and_let_go():
    base = hf_model("llama", dtype=torch.float64)
    pair = pair_of(hf_model("llama", dtype=torch.float64), hf_model("llama", seed=1, dtype=torch.float64))
    dosed = dosed_model(pair)
    other = hf_model("llama", seed=2, dtype=torch.float64)
    weights = {Part("W_out", i): dict(other.named_parameters())[MLP_OUT.format(i)].detach().T for i in (0, 1)}
    with torch.no_grad():
        for i in (0, 1):
            dict(base.named_parameters())[MLP_OUT.format(i)].copy_(weights[Part("W_out", i)].T)
        expected = logits(pair_of(base, other).base)
    with dosed.holding(weights) as view:
        torch.testing.assert_close(logits(view), expected, rtol=0, atol=1e-9)
    assert not torch.equal(logits(dosed.view), expected)
    with (
        pytest.raises(InputError, match=r"W_out of layer 0 is \(3, 3\), expected \(48, 32\)"),
        dosed.holding({Part("W_out", 0): torch.zeros(3, 3)}),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"W_out of layer 5 is \(3, 3\), expected None"),
        dosed.holding({Part("W_out", 5): torch.zeros(3, 3)}),
    ):
        pass


def test_half_precision_is_rounded_once():
    pair = pair_of(*(hf_model("llama", seed=seed) for seed in (0, 1)), dtype="bfloat16")
    dosed = dosed_model(pair)
    base, tuned = (view_of(side).weights.W_E for side in (pair.base, pair.tuned))
    assert base.dtype == torch.bfloat16
    with dosed.at(dosed.group("W_E"), 0.3) as view:
        expected = (base.double() + 0.3 * (tuned.double() - base.double())).bfloat16()
        assert torch.equal(view.weights.W_E, expected)
    assert torch.equal(gives(dosed, "all", 1.0), logits(pair.tuned))


# what is refused


def test_more_than_weights_is_refused():
    other = {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}
    pair = pair_of(hf_model("llama", dtype=torch.float64), hf_model("llama", seed=1, dtype=torch.float64, **other))
    with pytest.raises(InputError, match="does not compute what the tuned model does: they differ in more than"):
        dosed_model(pair)


@NO_HOOKED
def test_two_wrappers_are_refused():
    sides = [hf_model("llama", seed=seed, dtype=torch.float64) for seed in (0, 1)]
    options = {"base_options": {"wrapper": "hooked"}, "tuned_options": {"wrapper": "bridge"}}
    with pytest.raises(InputError, match="a dose needs both models in one wrapper"):
        dosed_model(pair_of(*sides, **options))


def test_folded_bridges_are_refused():
    sides = [hf_model("llama", seed=seed, dtype=torch.float64) for seed in (0, 1)]
    with pytest.raises(InputError, match="a dose needs weights='raw' where the models are TransformerBridges"):
        dosed_model(pair_of(*sides, weights="folded", wrapper="bridge"))


@NO_HOOKED
def test_folded_hooked_transformers_are_dosed_as_they_are():
    sides = [hf_model("llama", seed=seed, dtype=torch.float64) for seed in (0, 1)]
    pair = pair_of(*sides, weights="folded", wrapper="hooked")
    dosed = dosed_model(pair)
    torch.testing.assert_close(gives(dosed, "all", 1.0), logits(pair.tuned), rtol=0, atol=1e-9)


def test_contexts_of_two_lengths_move_on_the_positions_of_both():
    sides = [hf_model("gpt2", seed=s, dtype=torch.float64, n_positions=n) for s, n in ((0, 128), (1, 64))]
    pair = pair_of(*sides, wrapper="bridge")
    dosed = dosed_model(pair)
    torch.testing.assert_close(gives(dosed, "all", 1.0), logits(pair.tuned), rtol=0, atol=1e-9)
    with dosed.at(dosed.group("W_pos"), 1.0) as view:
        W_pos = view.weights.W_pos
        assert W_pos is not None
        base, tuned = view_of(pair.base).weights.W_pos, view_of(pair.tuned).weights.W_pos
        assert base is not None
        assert tuned is not None
        assert torch.equal(W_pos[:64], tuned)
        assert torch.equal(W_pos[64:], base[64:])
