"""Controls: meaningless changes have the size of the real one, and a whole model made of them is what was read."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from lensdiff.analyses.attention.patterns import attention
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.models import ModelPair, load_pair, view_of
from lensdiff.models.change import (
    PARAMETER,
    Maker,
    RealChange,
    flatten,
    generator_for,
    orthonormal,
    random_norm,
    random_spectrum,
    singular_values,
    unflatten,
)
from lensdiff.models.inside.parts import Weight
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.text import generate
from lensdiff.results import InputError
from tests.checkpoints import BRIDGED, HOOKED, MORE, TEXT, hf_model, tokenizer_of

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
UNSERVED = ("gpt_neox_without_bias", "falcon_grouped", "cohere")  # see test_families
EVERY = [(family, "bridge") for family in [*BRIDGED, *MORE] if family not in UNSERVED]
EVERY += [pytest.param(f, "hooked", marks=NO_HOOKED) for f in HOOKED]
CASES = [(family, "bridge") for family in BRIDGED] + [pytest.param(f, "hooked", marks=NO_HOOKED) for f in HOOKED]
RANK = 2


def everything(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def low_rank(model: torch.nn.Module) -> None:
    """Change the queries of the second layer by rank 2, as a LoRA adapter does, and nothing else."""
    weight = model.get_parameter("model.layers.1.self_attn.q_proj.weight")
    generator = torch.Generator().manual_seed(6)
    a, b = (torch.randn(n, RANK, generator=generator, dtype=weight.dtype) for n in weight.shape)
    weight.add_(0.1 * a @ b.T)


def nothing(model: torch.nn.Module) -> None:
    pass


def pair_of(
    family: str = "llama",
    edit: Callable[[torch.nn.Module], None] = everything,
    wrapper: str = "auto",
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> ModelPair:
    base, tuned = hf_model(family, dtype=dtype, **options), hf_model(family, dtype=dtype, **options)
    with torch.no_grad():
        edit(tuned)
    given = {"wrapper": wrapper, "dtype": dtype, "device": "cpu", "verify": False}
    return load_pair(base, tuned, tokenizer=tokenizer_of(), **given)


def change_of(view: Any, base: Any, weight: Weight) -> Tensor:
    now, before = view.weights.read(weight), base.weights.read(weight)
    assert now is not None
    assert before is not None
    return flatten(now.double() - before.double(), weight.name)


def equal(a: Any, b: Any, weight: Weight) -> bool:
    one, other = a.weights.read(weight), b.weights.read(weight)
    assert one is not None
    assert other is not None
    return torch.equal(one, other)


def tokens() -> Tensor:
    return torch.tensor([tokenizer_of()(TEXT[0])["input_ids"][:20]])


@pytest.fixture(scope="module")
def llama() -> ModelPair:
    return pair_of(dtype=torch.float64)


@pytest.fixture(scope="module")
def adapted() -> ModelPair:
    return pair_of(edit=low_rank, dtype=torch.float64)


# kernels


@pytest.mark.parametrize("shape", [(3, 1), (3, 2), (3, 3), (40, 7)])
def test_random_columns_are_orthonormal(shape):
    found = orthonormal(shape[0], shape[1], generator_for("norm", 0, Weight("W_E")))
    torch.testing.assert_close(found.T @ found, torch.eye(shape[1], dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("columns", [1, 2])  # the two ways to make them
def test_random_directions_are_uniform(columns):
    # oracle (Archimedes): each coordinate of a uniform direction in space is uniform on [-1, 1]
    generator = generator_for("norm", 3, Weight("W_E"))
    drawn = torch.stack([orthonormal(3, columns, generator) for _ in range(800)]).numpy()
    for coordinate in drawn.reshape(800, -1).T:
        assert scipy_stats.kstest(coordinate, "uniform", args=(-1, 2)).pvalue > 1e-3


def test_a_spectrum_has_its_values_and_noise_its_norm():
    values = torch.tensor([3.0, 2.0, 0.5], dtype=torch.float64)
    spectrum = random_spectrum(values, (6, 5), generator_for("norm", 0, Weight("W_in", 0)))
    torch.testing.assert_close(torch.linalg.svdvals(spectrum)[:3], values)
    assert int(torch.linalg.matrix_rank(spectrum)) == 3
    noise = random_norm(values, (6, 5), generator_for("norm", 0, Weight("W_in", 0)))
    torch.testing.assert_close(noise.norm(), values.norm())
    assert int(torch.linalg.matrix_rank(noise)) == 5


def test_no_change_has_no_singular_values_and_rounding_makes_no_rank():
    assert singular_values(torch.zeros(4, 3)).shape == (0,)
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(60, 50, generator=generator)
    change = 0.05 * torch.randn(60, 3, generator=generator) @ torch.randn(3, 50, generator=generator)
    tuned = (base + change).bfloat16()
    found = singular_values(tuned.double() - base.double(), rounding=2**-8 * float(tuned.norm()))
    assert len(found) >= 3
    # what was dropped is at most a thousandth of the norm, however coarse the rounding
    kept, whole = found.norm(), (tuned.double() - base.double()).norm()
    assert float(kept / whole) > (1 - 1e-3**2) ** 0.5 - 1e-9
    exact = singular_values(change.double(), rounding=1e-6 * float(base.norm()))
    assert len(exact) == 3, "the noise of a float32 product is no rank"


@pytest.mark.parametrize("name", ["W_Q", "W_K", "W_V", "W_O", "W_in", "attn_gain", PARAMETER + "blocks.0.attn.b_Q"])
def test_flattening_can_be_undone(name):
    value = (
        torch.arange(24.0).reshape(2, 3, 4)
        if name in ("W_Q", "W_K", "W_V", "W_O")
        else torch.arange(24.0).reshape(4, 6)
    )
    if name.endswith("gain"):
        value = value.flatten()
    matrix = flatten(value, name)
    assert matrix.ndim == 2
    assert torch.equal(unflatten(matrix, value, name), value)
    if name == "W_Q":  # columns are those of the checkpoint: head after head
        assert torch.equal(matrix, torch.cat(list(value), dim=1))
    if name == "W_O":
        assert torch.equal(matrix, torch.cat(list(value), dim=0))
    if name.endswith(("gain", "b_Q")):
        assert len(matrix) == 1


# weights


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_sizes_are_those_of_the_real_change(family):
    pair = pair_of(family)
    base, tuned = view_of(pair.base), view_of(pair.tuned)
    spectrum, norm = pair.control("spectrum", 1), pair.control("norm", 1)
    for weight in base.weights.known():
        real = torch.linalg.svdvals(change_of(tuned, base, weight))
        if weight.name == "W_U" and pair.change().tied:
            continue  # it is the embedding, tested as such
        found = torch.linalg.svdvals(change_of(spectrum, base, weight))
        torch.testing.assert_close(found, real, rtol=1e-5, atol=1e-5 * float(real[0]))
        torch.testing.assert_close(change_of(norm, base, weight).norm(), real.norm(), rtol=1e-5, atol=0)
        assert not equal(spectrum, norm, weight) or weight.name.endswith("gain")
        assert not equal(spectrum, tuned, weight)


def test_directions_are_not_those_of_the_real_change(llama):
    base, tuned = view_of(llama.base), view_of(llama.tuned)
    for weight in (Weight("W_in", 0), Weight("W_Q", 1), Weight("W_E")):
        real, found = (change_of(view, base, weight).flatten() for view in (tuned, llama.control("spectrum", 0)))
        assert abs(float(torch.cosine_similarity(real, found, dim=0))) < 0.15


def test_self_is_the_base(llama):
    control, base = llama.control("self"), view_of(llama.base)
    assert all(equal(control, base, weight) for weight in base.weights.known())
    assert torch.equal(control.forward.logits(tokens()), base.forward.logits(tokens()))
    assert control.model is llama.base
    assert not control.is_made


def test_what_did_not_change_stays_and_low_rank_stays_low_rank(adapted):
    base, control = view_of(adapted.base), adapted.control("spectrum", 4)
    for weight in base.weights.known():
        if weight == Weight("W_Q", 1):
            change = change_of(control, base, weight)
            assert int(torch.linalg.matrix_rank(change, rtol=1e-10)) == RANK
        else:
            assert equal(control, base, weight)
    assert torch.equal(adapted.control("norm", 4).weights.W_E, base.weights.W_E)
    control.whole()
    for name, parameter in control.model.named_parameters():
        same = torch.equal(parameter, adapted.base.get_parameter(name))
        changed = name == "blocks.1.attn.W_Q" or ("layers.1." in name and "q_proj" in name)  # as the wrapper names it
        assert same != changed


@pytest.mark.parametrize("kind", ["spectrum", "norm"])
def test_a_seed_means_one_change_whatever_is_read_before(llama, kind):
    first, again, other = (llama.control(kind, seed) for seed in (1, 1, 2))
    names = [Weight("W_Q", 0), Weight("W_Q", 1), Weight("W_E"), Weight("mlp_gain", 1)]
    for weight in names:
        assert equal(first, again, weight)
    for weight in reversed(names):
        assert equal(first, again, weight)
        assert not equal(first, other, weight)
    base = view_of(llama.base)
    layers = [change_of(first, base, Weight("W_in", layer)).flatten() for layer in range(2)]
    assert abs(float(torch.cosine_similarity(*layers, dim=0))) < 0.1, "each layer has directions of its own"


def test_a_tied_unembedding_stays_tied():
    pair = pair_of("gpt2")
    control = pair.control("spectrum", 0)
    assert torch.equal(control.weights.W_U, control.weights.W_E.T)
    assert torch.equal(control.whole().weights.W_U, control.weights.W_E.T)
    untied = pair_of("llama").control("spectrum", 0)
    assert not torch.equal(untied.weights.W_U, untied.weights.W_E.T)


def test_only_rows_of_shared_tokens_change():
    base, tuned = hf_model("llama"), hf_model("llama", vocab_size=410)
    state = base.state_dict() | {
        n: t for n, t in tuned.state_dict().items() if n.endswith(("embed_tokens.weight", "lm_head.weight"))
    }
    tuned.load_state_dict(state)
    fewer = copy.deepcopy(tokenizer_of())
    pair = load_pair(base, tuned, tokenizer=fewer, device="cpu", verify=False)
    control, view = pair.control("norm", 0), view_of(pair.base)
    shared = pair.shared_tokens[0]
    changed = (control.weights.W_E != view.weights.W_E).any(dim=1)
    expected = torch.zeros(view.d_vocab, dtype=torch.bool)
    expected[shared] = True
    assert not view.weights.W_E[0].any(), "transformers makes a padding token's row zero, and it stays so"
    assert torch.equal(changed, expected & view.weights.W_E.any(dim=1))
    assert torch.equal((control.weights.W_U != view.weights.W_U).any(dim=0), expected)
    real = view_of(pair.tuned).weights.W_E[pair.shared_tokens[1]] - view.weights.W_E[shared]
    torch.testing.assert_close((control.weights.W_E - view.weights.W_E).norm(), real.norm(), rtol=1e-4, atol=0)
    assert control.forward.logits(tokens()).shape[-1] == view.d_vocab


def test_reading_weights_copies_no_model(llama, monkeypatch):
    deepcopy = copy.deepcopy

    def refuse(value: object, *rest: object) -> object:
        assert not isinstance(value, torch.nn.Module), "a whole model was copied"
        return deepcopy(value, *rest)

    def held() -> int:
        gc.collect()
        found = [o for o in gc.get_objects() if type(o) is Tensor]
        # a bridge of BLOOM keeps its last pattern, also where that was a tensor of forward mode, which has no storage
        storages = [o.untyped_storage() for o in found if not is_functorch_wrapped_tensor(o)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    base, before = view_of(llama.base), held()
    with monkeypatch.context() as patch:
        patch.setattr(copy, "deepcopy", refuse)
        controls = [llama.control("norm", seed) for seed in range(99)]
        for control in controls:
            for layer in range(control.n_layers):
                control.weights.attention(layer)
                control.weights.mlp(layer)
    # the last weight that was read, of one control, and the numbers of the real change
    values = sum(len(v) for v in llama.change()._values.values()) * 8
    assert held() - before <= base.d_model * base.d_mlp * 8 + values
    assert not any(control.is_made for control in controls)


# whole models


@pytest.mark.parametrize(("family", "wrapper"), EVERY)
def test_a_whole_model_is_made_of_every_weight(family, wrapper, monkeypatch):
    # oracle: with the real change in place of the meaningless one it must compute what the tuned model computes
    pair = pair_of(family, wrapper=wrapper)
    base, tuned = view_of(pair.base), view_of(pair.tuned)
    parameters = dict(pair.tuned.named_parameters())

    def the_real_one(self: RealChange, maker: Maker, weight: Weight, before: Tensor, values: Tensor) -> Tensor:
        if weight.name.startswith(PARAMETER):
            return parameters[weight.name.removeprefix(PARAMETER)].detach()
        now, old = tuned.weights.read(weight), base.weights.read(weight)
        assert now is not None
        assert old is not None
        # a gain is written as it is stored, which is not as it is read (Gemma)
        return before + (now - old) if weight.name.endswith("gain") else now

    untouched = base.forward.logits(tokens())
    monkeypatch.setattr(RealChange, "apply", the_real_one)
    control = pair.control("spectrum", 0)
    expected, found = tuned.forward.logits(tokens()), control.forward.logits(tokens())
    size = float(expected.abs().max())
    assert float((found - expected).abs().max()) < 1e-5 * size
    assert float((untouched - expected).abs().max()) > 1e-3 * size
    assert torch.equal(base.forward.logits(tokens()), untouched), "the base was written into"


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_a_forward_pass_uses_the_weights_that_are_read(family, wrapper):
    pair = pair_of(family, wrapper=wrapper)
    base, control = view_of(pair.base), pair.control("spectrum", 3)
    lazy = {weight: control.weights.read(weight) for weight in base.weights.known()}
    logits = control.forward.logits(tokens())
    assert control.is_made
    assert not torch.equal(logits, base.forward.logits(tokens()))
    assert bool(torch.isfinite(logits).all())
    for weight, value in lazy.items():
        assert value is not None
        made = view_of(control.model).weights.read(weight)
        assert made is not None
        torch.testing.assert_close(made, value, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_what_is_read_is_what_the_forward_pass_computes_with(family, wrapper):
    # a copy can come apart: a fused weight for the forward pass, and its parts, no longer parts of it, to be read
    pair = pair_of(family, wrapper=wrapper)
    made = pair.control("spectrum", 0).whole()
    base, tuned, copied = (dict(model.named_parameters()) for model in (pair.base, pair.tuned, made.model))
    changed = [name for name, parameter in base.items() if not torch.equal(parameter, tuned[name])]
    assert [name for name in changed if torch.equal(copied[name], base[name])] == []
    for weight in [w for w in made.weights.known() if w.layer == 0 and not w.name.endswith("gain")]:
        value, before = made.weights.read(weight), made.forward.logits(tokens())
        assert value is not None
        with torch.no_grad():
            value.add_(value.std() * torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
        difference = (made.forward.logits(tokens()) - before).abs().max()
        assert float(difference) > 1e-4 * float(before.abs().max()), f"{weight} is not used"


def test_no_change_makes_the_base_itself_again():
    pair = pair_of("qwen2", nothing)
    for kind in ("spectrum", "norm"):
        assert torch.equal(pair.control(kind, 0).forward.logits(tokens()), view_of(pair.base).forward.logits(tokens()))


@pytest.mark.parametrize("wrapper", ["bridge", pytest.param("hooked", marks=NO_HOOKED)])
def test_a_control_is_a_model_to_every_analysis(wrapper):
    control = pair_of("llama", wrapper=wrapper).control("spectrum", 0)
    name = "LlamaForCausalLM + spectrum-matched change (seed 0)"
    for model in (control, control.model):
        found = attribute(model, TEXT[0][:40], "the sea", deletion_draws=0)
        assert found.provenance.model == name
        assert attention(model, TEXT[0][:40]).provenance.model == name
        assert generate(model, TEXT[0][:40], max_new_tokens=3).model == name
    assert torch.equal(
        *(attribute(m, "Write a poem", "sea", deletion_draws=0).scores for m in (control, control.model))
    )


def test_free_lets_go_of_the_model_and_makes_it_again(llama):
    control = llama.control("norm", 0)
    logits, model = control.forward.logits(tokens()), weakref.ref(control.model)
    control.free()
    gc.collect()
    assert model() is None
    assert not control.is_made
    assert torch.equal(control.forward.logits(tokens()), logits)


def test_a_control_of_half_precision_is_read_unrounded_and_never_run():
    pair = pair_of(dtype=torch.bfloat16)
    control, base, tuned = pair.control("spectrum", 0), view_of(pair.base), view_of(pair.tuned)
    for weight in (Weight("W_E"), Weight("W_Q", 0), Weight("W_in", 1), Weight("mlp_gain", 1)):
        before, after, made = (view.weights.read(weight) for view in (base, tuned, control))
        assert made.dtype == torch.float32
        real, drawn = (after.double() - before.double()).norm(), (made.double() - before.double()).norm()
        assert float(drawn / real) == pytest.approx(1, abs=2e-3)
    with pytest.raises(InputError, match="a control cannot be run in bfloat16"):
        control.forward.logits(tokens())
    assert pair.control("self").forward.logits(tokens()).dtype == torch.bfloat16


def test_the_control_says_what_it_is(llama):
    control, base = llama.control("norm", 7), view_of(llama.base)
    assert control.info.id.endswith("+ norm-matched change (seed 7)")
    assert llama.control("self").info.id.endswith("+ no change")
    for name in ("n_layers", "n_heads", "n_key_value_heads", "d_model", "d_head", "d_mlp", "d_vocab", "n_ctx", "dtype"):
        assert getattr(control, name) == getattr(base, name)
    assert control.weights.attention_soft_cap is None
    assert control.tokenizer is base.tokenizer
    assert not control.is_made


def test_a_copy_that_computes_with_the_bases_weights_is_refused(monkeypatch):
    # Falcon's wrapper puts functions on its modules that hold the modules they were made for
    pair = pair_of("falcon")
    assert not torch.equal(
        pair.control("norm", 0).forward.logits(tokens()), view_of(pair.base).forward.logits(tokens())
    )
    monkeypatch.setattr("lensdiff.models.controlling.copying.bind_to_the_copy", lambda model, copies: None)
    with pytest.raises(InputError, match="a control of FalconForCausalLM cannot be run: in a copy of the model"):
        pair.control("norm", 0).forward.logits(tokens())


# refusals


def test_an_unknown_kind_is_refused(llama):
    with pytest.raises(
        InputError, match="kind='gaussian' is none of distilled, shuffled, gradient-noise, spectrum, norm, self"
    ):
        llama.control("gaussian")


@NO_HOOKED
def test_two_wrappers_allow_reading_but_no_forward_pass():
    base, tuned = hf_model("llama"), hf_model("llama", seed=1)
    options = {"tokenizer": tokenizer_of(), "device": "cpu", "verify": False}
    pair = load_pair(base, tuned, tuned_options={"wrapper": "bridge"}, **options)
    control = pair.control("norm", 0)
    assert control.weights.matrix(0, "W_in") is not None
    with pytest.raises(InputError, match=r"needs both models in one wrapper: give wrapper=\.\.\. to load_pair"):
        control.forward.logits(tokens())


def test_directions_differ_over_seeds_as_chance_has_it(llama):
    # oracle: cosines of independent directions in n dimensions have standard deviation 1 / sqrt(n)
    base = view_of(llama.base)
    changes = torch.stack([change_of(llama.control("norm", s), base, Weight("W_in", 0)).flatten() for s in range(20)])
    cosines = torch.corrcoef(changes)[np.triu_indices(20, 1)]
    assert float(cosines.std()) == pytest.approx(changes.shape[1] ** -0.5, rel=0.2)


def test_a_folded_bridge_runs_no_control():
    base, tuned = hf_model("llama"), hf_model("llama", seed=1)
    options = {"tokenizer": tokenizer_of(), "device": "cpu", "verify": False, "wrapper": "bridge", "weights": "folded"}
    control = load_pair(base, tuned, **options).control("norm", 0)
    with pytest.raises(InputError, match="needs weights='raw' where the models are TransformerBridges"):
        control.forward.logits(tokens())


def test_a_control_can_run_after_a_pass_with_gradients(llama):
    tokens = torch.tensor([[5, 6, 7]])
    view = view_of(llama.base)
    hidden = view.forward.final(tokens, view.forward.embed(tokens).detach().requires_grad_())
    assert hidden.requires_grad, "the wrapper may keep tensors of this pass"
    assert bool(torch.isfinite(llama.control("norm", 17).forward.logits(tokens)).all())
