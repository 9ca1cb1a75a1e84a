"""Weight changes that are planted and therefore known: sizes, angles, ranks, gains, one head, one MLP."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as scipy_stats
from torch import nn

from lensdiff.analyses.weights.weight_shift import (
    MEASURES,
    WeightShift,
    cosine,
    effective_rank,
    relative_norm,
    top_share,
    weight_shift,
)
from lensdiff.models import ModelPair, load_pair, view_of
from lensdiff.models.change import orthonormal
from lensdiff.models.inside.parts import MATRICES, Weight
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.results import InputError
from tests.checkpoints import BRIDGED, HOOKED, hf_model, save_checkpoint, tokenizer_of

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
CASES = [(family, "bridge") for family in BRIDGED] + [pytest.param(f, "hooked", marks=NO_HOOKED) for f in HOOKED]
FOLDED = tuple(f"folded_{name}" for name in MEASURES)
Edit = Callable[[nn.Module], None]


def shift_of(edit: Edit, family: str = "llama", wrapper: str = "auto", **options: Any) -> WeightShift:
    return weight_shift(pair_of(edit, family, wrapper), **options)


def sides_of(edit: Edit, family: str, **sizes: Any) -> tuple[nn.Module, nn.Module]:
    base, tuned = hf_model(family, dtype=torch.float64), hf_model(family, dtype=torch.float64, **sizes)
    with torch.no_grad():
        edit(tuned)
    return base, tuned


PAIR = {"tokenizer": tokenizer_of(), "dtype": "float64", "device": "cpu", "verify": False}


def pair_of(edit: Edit, family: str = "llama", wrapper: str = "auto", **sizes: Any) -> ModelPair:
    return load_pair(*sides_of(edit, family, **sizes), wrapper=wrapper, **PAIR)


def llama(layer: int, name: str) -> str:
    return f"model.layers.{layer}.{name}.weight"


def row(shift: WeightShift, layer: int, matrix: str, head: int | None = None) -> Any:
    table = shift.to_df()
    found = table.query("layer == @layer and matrix == @matrix")
    found = found.query("head_index.isna()" if head is None else "head_index == @head")
    assert len(found) == 1
    return found.iloc[0]


def nothing(model: nn.Module) -> None:
    pass


# kernels


def test_measures_by_hand():
    base, tuned = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert relative_norm(base, tuned) == pytest.approx(3 / 5)
    assert cosine(base, tuned) == pytest.approx((9 + 4) / (5 * 10**0.5))
    assert cosine(base, -2 * base) == pytest.approx(-1)
    values = torch.tensor([2.0, 1.0], dtype=torch.float64)
    assert effective_rank(values) == pytest.approx(3 / 2 ** (2 / 3))  # shares 2/3 and 1/3
    assert top_share(values, directions=1) == pytest.approx(4 / 5)
    assert top_share(values, directions=2) == top_share(values, directions=99) == 1


def test_effective_rank_is_scipys_entropy():
    values = torch.rand(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert effective_rank(values) == pytest.approx(math.exp(scipy_stats.entropy(values.numpy())))


def test_nothing_over_nothing_is_no_change():
    zero, one = torch.zeros(2, 2), torch.ones(2, 2)
    none = torch.zeros(0, dtype=torch.float64)
    assert (relative_norm(zero, zero), cosine(zero, zero)) == (0, 1)
    assert (effective_rank(none), top_share(none, directions=1)) == (0, 0)
    assert (relative_norm(zero, one), cosine(zero, one)) == (math.inf, 0)


# planted changes


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_base_against_base_is_exactly_no_change(family, wrapper):
    table = shift_of(nothing, family, wrapper).to_df()
    for prefix in ("", "folded_"):
        for name, value in (("relative_norm", 0), ("effective_rank", 0), ("top_share", 0), ("cosine", 1)):
            assert set(table[prefix + name]) == {value}


@pytest.mark.parametrize("wrapper", ["bridge", pytest.param("hooked", marks=NO_HOOKED)])
def test_one_head_and_one_mlp_are_the_largest_rows(wrapper):
    def edit(model: nn.Module) -> None:
        queries, values = (model.get_parameter(llama(*w)) for w in ((1, "self_attn.q_proj"), (0, "mlp.down_proj")))
        queries[2 * 8 : 3 * 8] *= -1.0  # the third head of width 8
        values *= 1.5

    shift = shift_of(edit, wrapper=wrapper)
    first, second, third = (shift.top(3).iloc[i] for i in range(3))
    assert (first["layer"], first["matrix"], first["head_index"]) == (1, "W_Q", 2)
    assert (first["relative_norm"], first["cosine"]) == (pytest.approx(2), pytest.approx(-1))
    assert (third["layer"], third["matrix"]) == (0, "W_out")
    assert pd.isna(third["head_index"])
    assert (third["relative_norm"], third["cosine"]) == (pytest.approx(0.5), pytest.approx(1))
    # between them the whole of the head's matrix; nothing else moved
    assert (second["layer"], second["matrix"]) == (1, "W_Q")
    assert int((shift.raw[:, 0] > 0).sum()) == 3


@pytest.mark.parametrize(
    ("singular", "rank"),
    [
        ([1.0] * 5, 5.0),
        ([2.0, 1.0], 3 / 2 ** (2 / 3)),
        ([7.0], 1.0),
        ([3.0, 1.0, 0.1], math.exp(scipy_stats.entropy([3.0, 1.0, 0.1]))),
    ],
)
def test_planted_ranks_are_found(singular, rank):
    values = torch.tensor(singular, dtype=torch.float64)

    def edit(model: nn.Module) -> None:
        weight = model.get_parameter(llama(0, "mlp.up_proj"))
        generator = torch.Generator().manual_seed(0)
        left, right = (orthonormal(size, len(values), generator) for size in weight.shape)
        weight += (left * values) @ right.T

    found = row(shift_of(edit, directions=1), 0, "W_in")
    assert found["effective_rank"] == pytest.approx(rank, rel=1e-3)
    assert found["top_share"] == pytest.approx(float(values[0] ** 2 / values.square().sum()))
    before = float(hf_model("llama").get_parameter(llama(0, "mlp.up_proj")).detach().norm())
    assert found["relative_norm"] == pytest.approx(float(values.norm()) / before, rel=1e-6)


def test_rounding_has_no_rank():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(48, 2, generator=generator), torch.randn(2, 32, generator=generator)
    base, tuned = hf_model("llama"), hf_model("llama")
    with torch.no_grad():
        tuned.get_parameter(llama(1, "mlp.gate_proj")).add_(0.2 * left @ right)
    shift = weight_shift(load_pair(base, tuned, device="cpu", verify=False))
    assert row(shift, 1, "W_gate")["effective_rank"] < 2 + 1e-6


def test_a_gain_that_is_made_up_for_is_no_folded_change():
    def edit(model: nn.Module) -> None:
        model.get_parameter(llama(0, "input_layernorm")).mul_(2.0)
        for name in ("q_proj", "k_proj", "v_proj"):
            model.get_parameter(llama(0, f"self_attn.{name}")).mul_(0.5)

    shift = shift_of(edit)
    for matrix in ("W_Q", "W_K", "W_V"):
        for head in (None, 0, 1):
            found = row(shift, 0, matrix, head)
            assert found[list(MEASURES)].tolist()[:2] == [pytest.approx(0.5), pytest.approx(1.0)]
            assert found[list(FOLDED)].tolist() == [0, 1, 0, 0]
    assert row(shift, 0, "attn_gain")["relative_norm"] == pytest.approx(1)
    assert row(shift, 0, "attn_gain")["effective_rank"] == 1, "a vector has one direction"


def test_a_gain_alone_is_a_folded_change_alone():
    scale = 1 + torch.arange(32.0, dtype=torch.float64) / 32

    def edit(model: nn.Module) -> None:
        model.get_parameter(llama(1, "post_attention_layernorm")).mul_(scale)
        model.get_parameter("model.norm.weight").mul_(scale)

    pair = pair_of(edit)
    shift, view = weight_shift(pair), view_of(pair.base)
    for layer, matrix in ((1, "W_in"), (1, "W_gate"), (-1, "W_U")):
        found = row(shift, layer, matrix) if layer >= 0 else shift.to_df().set_index("matrix").loc["W_U"]
        assert found["relative_norm"] == 0
        weight, gain = view.weights.read(Weight(matrix, layer)), view.weights.gain("mlp" if layer >= 0 else "final", 1)
        assert weight is not None
        assert gain is not None
        before, after = weight * gain[:, None], weight * (gain * scale)[:, None]
        assert found["folded_relative_norm"] == pytest.approx(float((after - before).norm() / before.norm()))
        values = np.linalg.svd((after - before).numpy(), compute_uv=False)
        assert found["folded_effective_rank"] == pytest.approx(math.exp(scipy_stats.entropy(values)))
    unscaled = row(shift, 1, "W_out")
    assert unscaled[list(FOLDED)].tolist() == unscaled[list(MEASURES)].tolist() == [0, 1, 0, 0]


def test_an_embedding_is_compared_on_shared_tokens():
    def edit(model: nn.Module) -> None:
        mine, added = hf_model("llama", dtype=torch.float64).state_dict(), torch.full((10, 32), 99.0).double()
        model.load_state_dict({n: torch.cat([t, added]) if t.shape[0] == 400 else t for n, t in mine.items()})
        model.get_parameter("model.embed_tokens.weight")[:400] *= 1.25

    table = weight_shift(pair_of(edit, vocab_size=410)).to_df().set_index("matrix")
    assert table.loc["W_E", "relative_norm"] == pytest.approx(0.25)
    assert table.loc["W_U", "relative_norm"] == 0


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_every_weight_and_head_has_a_row_in_every_family(family, wrapper):
    def edit(model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.mul_(1.1)

    pair = pair_of(edit, family, wrapper)
    view, table = view_of(pair.base), weight_shift(pair).to_df()
    for layer in range(2):
        for name in MATRICES:
            weight = view.weights.matrix(layer, name)
            rows = table.query("layer == @layer and matrix == @name")
            heads = [] if weight is None or weight.ndim == 2 else list(range(len(weight)))
            assert rows["head_index"].dropna().tolist() == heads
            assert len(rows) == (0 if weight is None else len(heads) + 1)
    matrices = table[~table["matrix"].str.endswith(("gain", "weight"))]
    np.testing.assert_allclose(matrices["relative_norm"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(matrices["cosine"], 1.0, rtol=1e-12)
    assert np.isfinite(table[[*MEASURES, *FOLDED]].to_numpy()).all()


SEVERAL = ["llama", "qwen2", "gemma2", "gemma3", "phi", "olmo2", "gpt_neox", "bloom", "opt", "mixtral", "gptj"]
WHOLE = [("gpt2", "bridge"), *((family, "bridge") for family in SEVERAL)]
WHOLE += [pytest.param(family, "hooked", marks=NO_HOOKED) for family in ("gpt2", "qwen2", "gpt_neox")]


@pytest.mark.parametrize(("family", "wrapper"), WHOLE)
def test_every_tensor_of_a_checkpoint_has_a_row(family, wrapper):
    # each tensor grows by a factor of its own, and the table must know every one of them
    factors: dict[str, float] = {}

    def edit(model: nn.Module) -> None:
        for i, (name, parameter) in enumerate(model.named_parameters()):
            if parameter.any():
                factors[name] = 0.01 * (i + 1)
                parameter.mul_(1 + factors[name])

    pair = pair_of(edit, family, wrapper)
    table = weight_shift(pair).to_df()
    whole = table[table["head_index"].isna()]
    found = whole["relative_norm"].to_numpy()
    assert (found > 0).all(), "there is no row of what did not change"
    for name, factor in factors.items():
        # a gain of 1 + w does not grow as w does: its size is checked below
        if not (family.startswith("gemma") and "norm" in name and "post_" not in name):
            assert np.isclose(found, factor, rtol=1e-6).any(), f"{name} has no row"
    assert not whole.duplicated(["layer", "matrix"]).any()


@pytest.mark.parametrize("name", [n for n, _ in hf_model("gemma3").named_parameters() if "layers.1" not in n])
def test_one_changed_tensor_is_one_changed_weight(name):
    def edit(model: nn.Module) -> None:
        model.get_parameter(name).mul_(1.5)

    table = shift_of(edit, "gemma3").to_df()
    changed = table[(table["relative_norm"] > 0) & table["head_index"].isna()]
    tied = "embed_tokens" in name
    assert len(changed) == (2 if tied else 1), "an embedding that is tied is an unembedding too"
    assert changed["layer"].isna().all() == ("layers." not in name)


@pytest.mark.parametrize("wrapper", ["bridge", pytest.param("hooked", marks=NO_HOOKED)])
def test_biases_and_positions_by_their_names(wrapper):
    def edit(model: nn.Module) -> None:
        model.get_parameter("transformer.wpe.weight").mul_(3.0)
        model.get_parameter("transformer.ln_f.bias").mul_(-1.0)
        model.get_parameter("transformer.h.1.ln_2.bias").mul_(0.5)
        model.get_parameter("transformer.h.0.attn.c_attn.bias")[32:64] *= 1.25

    table = shift_of(edit, "gpt2", wrapper).to_df()
    changed = table[table["relative_norm"] > 0].set_index("matrix")
    assert set(changed.index) == {"W_pos", "final_norm_bias", "mlp_norm_bias", "b_K"}
    expected = {"W_pos": 2.0, "final_norm_bias": 2.0, "mlp_norm_bias": 0.5, "b_K": 0.25}
    for name, value in expected.items():
        assert changed.loc[name, "relative_norm"] == pytest.approx(value)
        assert changed.loc[name, "cosine"] == pytest.approx(-1 if name == "final_norm_bias" else 1)
        assert changed.loc[name, list(FOLDED)].tolist() == changed.loc[name, list(MEASURES)].tolist()
    assert changed.loc["b_K", "effective_rank"] == 1, "a vector has one direction, however many heads share it"
    assert changed.loc["W_pos", "effective_rank"] > 2
    assert changed["layer"].fillna(-1).to_dict() == {"W_pos": -1, "final_norm_bias": -1, "mlp_norm_bias": 1, "b_K": 0}


def test_a_bias_that_one_model_has_alone_is_zero_in_the_other():
    def edit(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name.endswith("0.attn.c_proj.bias"):
                parameter.zero_()

    table = shift_of(edit, "gpt2").to_df().set_index(["matrix", "layer"])
    assert table.loc[("b_O", 0), "relative_norm"] == 1
    assert table.loc[("b_O", 0), "cosine"] == 0
    other_way = (
        weight_shift(load_pair(*reversed(sides_of(edit, "gpt2")), **PAIR)).to_df().set_index(["matrix", "layer"])
    )
    assert other_way.loc[("b_O", 0), "relative_norm"] == math.inf


def test_positions_are_compared_where_both_models_have_them():
    def edit(model: nn.Module) -> None:
        mine = hf_model("gpt2", dtype=torch.float64).get_parameter("transformer.wpe.weight")
        model.get_parameter("transformer.wpe.weight").copy_(1.5 * mine[:64])

    table = weight_shift(pair_of(edit, "gpt2", "bridge", n_positions=64)).to_df().set_index("matrix")
    assert table.loc["W_pos", "relative_norm"] == pytest.approx(0.5)


def test_a_control_has_rows_of_what_it_changes_lazily():
    def edit(model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.mul_(1.1)

    pair = pair_of(edit, "gpt2")
    control = pair.control("spectrum", 0)
    names = set(weight_shift(load_pair(pair.base, control)).matrix)
    assert "W_Q" in names
    assert not names & {"b_Q", "W_pos", "attn_norm_bias"}


# the result


def test_a_controls_numbers_are_those_of_a_pair_with_it():
    def edit(model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))

    pair = pair_of(edit)
    real, control = weight_shift(pair), weight_shift(load_pair(pair.base, pair.control("spectrum", 0)))
    whole = real.head_index == -1
    for i, name in enumerate(MEASURES):
        if name != "cosine":
            np.testing.assert_allclose(control.raw[:, i][whole], real.raw[:, i][whole], rtol=1e-6)
    assert not pair.control().is_made


def test_table_and_largest(tmp_path):
    def edit(model: nn.Module) -> None:
        model.get_parameter(llama(0, "mlp.down_proj")).mul_(3.0)

    shift = shift_of(edit)
    table = shift.to_df()
    assert list(table) == ["layer", "matrix", "head_index", *MEASURES, *FOLDED]
    assert table.iloc[0]["matrix"] == "W_E"
    assert int((shift.layer == -1).sum()) == 3  # W_E, W_U and the final gain
    assert shift.top(1)["matrix"].tolist() == ["W_out"]
    assert len(shift.top(5)) == 5
    again = WeightShift.load(shift.save(tmp_path / "weights.safetensors"))
    assert again.to_df().equals(table)
    assert again.provenance == shift.provenance
    assert shift.provenance.options["directions"] == shift.directions == 8
    assert shift.provenance.model == "LlamaForCausalLM -> LlamaForCausalLM (2)"


# refusals


def test_unusable_arguments_are_refused(tmp_path):
    with pytest.raises(InputError, match="directions=0 given, expected at least 1"):
        shift_of(nothing, directions=0)
    folder = save_checkpoint("llama", tmp_path / "model")
    options = {"device": "cpu", "verify": False}
    with pytest.raises(InputError, match='comparing weights takes both models at once: load the pair with keep="both"'):
        weight_shift(load_pair(folder, folder, keep="one", **options))
    with pytest.raises(InputError, match="those of the base are raw, those of the tuned model folded"):
        weight_shift(load_pair(folder, folder, tuned_options={"weights": "folded"}, **options))
