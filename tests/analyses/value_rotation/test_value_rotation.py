"""Value rotation: turned values are all rotation, what keeps the function is none, the rest as brute force says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment
from scipy.stats import ortho_group

from lensdiff import stats
from lensdiff.analyses.value_rotation import neuron_matching
from lensdiff.analyses.value_rotation.measure import (
    ControlRotation,
    ValueRotation,
    control_rotation,
    value_rotation,
)
from lensdiff.analyses.value_rotation.neuron_matching import gaps, match_neurons, neuron_vectors
from lensdiff.analyses.value_rotation.procrustes import explained_share
from lensdiff.analyses.value_rotation.shares import _vectors
from lensdiff.models import ModelPair, load_model, load_pair, view_of
from lensdiff.results import Control, ControlModel, InputError
from tests.checkpoints import hf_model, save_checkpoint, tokenizer_of

D_MODEL, D_MLP, N_LAYERS = 32, 48, 2
OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False, "dtype": "float64"}
Change = Callable[[torch.Tensor], torch.Tensor]


def model_of(**options: Any) -> Any:
    """A tiny model in float64 whose norms have gains of 1, so that its stream can be turned."""
    model: Any = hf_model("llama", **({"dtype": torch.float64} | options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
    return model


def pair_of(tuned: Any, base: Any = None, **options: Any) -> ModelPair:
    return load_pair(base or model_of(), tuned, tokenizer=tokenizer_of(), **(OPTIONS | options))


def with_values(change: Change) -> Any:
    """The model with changed value vectors (rows) in every layer."""
    model = model_of()
    with torch.no_grad():
        for layer in model.model.layers:
            weight = layer.mlp.down_proj.weight
            weight.copy_(change(weight.T).T)
    return model


def rotation_by(degrees: float, *, seed: int = 0) -> torch.Tensor:
    """A map that turns every direction by the same angle: half as many planes as dimensions, in a random basis."""
    basis = torch.from_numpy(ortho_group.rvs(D_MODEL, random_state=seed))
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    plane = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]], dtype=torch.float64)
    return basis.T @ torch.block_diag(*[plane] * (D_MODEL // 2)) @ basis


def in_basis(model: Any, turn: torch.Tensor) -> Any:
    """The same function with its stream in another basis, x -> x turn: everything that reads and writes it turned."""
    with torch.no_grad():
        for weight in (model.model.embed_tokens.weight, model.lm_head.weight):
            weight.copy_(weight @ turn)
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            readers = attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj
            for reader in readers:
                reader.weight.copy_(reader.weight @ turn)
            for writer in (attention.o_proj, mlp.down_proj):
                writer.weight.copy_(turn.T @ writer.weight)
    return model


def permuted(model: Any, *, seed: int = 0) -> Any:
    """The same function with the neurons of every layer in another order."""
    with torch.no_grad():
        for n, layer in enumerate(model.model.layers):
            order = torch.randperm(D_MLP, generator=torch.Generator().manual_seed(seed + n))
            mlp = layer.mlp
            for weight in (mlp.gate_proj.weight, mlp.up_proj.weight):
                weight.copy_(weight[order])
            mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, order])
    return model


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def values_of(model: Any) -> list[np.ndarray]:
    return [layer.mlp.down_proj.weight.detach().T.numpy() for layer in model.model.layers]


def brute_force(base: np.ndarray, tuned: np.ndarray) -> float:
    """The share by scipy's solution, through norms and the nuclear norm."""
    turn, nuclear = orthogonal_procrustes(base, tuned)
    residual = np.linalg.norm(base) ** 2 + np.linalg.norm(tuned) ** 2 - 2 * nuclear
    assert residual == pytest.approx(np.linalg.norm(base @ turn - tuned) ** 2, abs=1e-6)
    return 1 - residual / np.linalg.norm(tuned - base) ** 2


# planted changes


@pytest.mark.parametrize("degrees", [1e-3, 1.0, 3.0, 10.0, 30.0])
def test_values_that_turned_as_one_are_all_rotation(degrees: float) -> None:
    turn = rotation_by(degrees)
    tuned = with_values(lambda values: values @ turn)
    found = value_rotation(pair_of(tuned))
    np.testing.assert_allclose(found.shares, 1.0, atol=1e-9)
    assert found.share == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(found.change, 2 * np.sin(np.deg2rad(degrees) / 2), rtol=1e-6)
    assert found.neurons_moved.tolist() == [0, 0]
    assert not found.basis_changed


def test_base_against_base_is_exactly_no_change() -> None:
    found = value_rotation(pair_of(model_of()))
    assert found.shares.tolist() == [0.0, 0.0]
    assert found.change.tolist() == [0.0, 0.0]
    assert found.neurons_moved.tolist() == [0, 0]


def test_the_order_of_neurons_is_no_change() -> None:
    tuned = permuted(model_of())
    assert brute_force(values_of(model_of())[0], values_of(tuned)[0]) > 0.2, "without matching it would be one"
    found = value_rotation(pair_of(tuned))
    assert found.shares.tolist() == [0.0, 0.0]
    assert found.change.tolist() == [0.0, 0.0]
    assert found.neurons_moved.gt(D_MLP - 10).all()


def test_neurons_with_equal_keys_are_told_by_their_values_and_the_other_way_round() -> None:
    base, tuned = model_of(), model_of()
    with torch.no_grad():
        for model in (base, tuned):
            mlp = model.model.layers[0].mlp
            for weight in (mlp.gate_proj.weight, mlp.up_proj.weight):
                weight[1] = weight[0]
            mlp.down_proj.weight[:, 3] = mlp.down_proj.weight[:, 2]
        mlp.down_proj.weight[:, [0, 1]] = mlp.down_proj.weight[:, [1, 0]]
        for weight in (mlp.gate_proj.weight, mlp.up_proj.weight):
            weight[[2, 3]] = weight[[3, 2]]
    found = value_rotation(pair_of(tuned, base))
    assert found.change.tolist() == [0.0, 0.0]
    assert found.neurons_moved.tolist() == [4, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("order", [False, True])
def test_the_basis_of_the_stream_is_no_change(dtype: torch.dtype, order: bool) -> None:
    turn = torch.from_numpy(ortho_group.rvs(D_MODEL, random_state=1)).to(dtype)
    tuned = in_basis(permuted(model_of(dtype=dtype)) if order else model_of(dtype=dtype), turn)
    pair = pair_of(tuned, model_of(dtype=dtype), dtype=str(dtype).removeprefix("torch."))
    ids = torch.arange(20)[None]
    logits = [view_of(model).forward.logits(ids) for model in (pair.base, pair.tuned)]
    torch.testing.assert_close(*logits, rtol=0, atol=float(logits[0].abs().max()) * 1e-4)  # it is the same function
    found = value_rotation(pair)
    assert found.shares.tolist() == [0.0, 0.0]
    assert found.change.tolist() == [0.0, 0.0]
    assert found.basis_changed
    assert bool(found.neurons_moved.any()) is order


@pytest.mark.parametrize("degrees", [3.0, 30.0])
def test_values_that_turned_inside_another_basis_are_all_rotation(degrees: float) -> None:
    values_turned = with_values(lambda values: values @ rotation_by(degrees))
    tuned = in_basis(permuted(values_turned), rotation_by(70.0, seed=2))
    found = value_rotation(pair_of(tuned))
    np.testing.assert_allclose(found.shares, 1.0, atol=1e-9)
    np.testing.assert_allclose(found.change, 2 * np.sin(np.deg2rad(degrees) / 2), rtol=1e-6)
    assert found.basis_changed


def test_a_gain_moved_into_its_matrices_before_the_turn_is_no_change() -> None:
    # gains can only be turned away once they are in the matrices that they scale: a base with gains, a tuned without
    gain = 1 + noise(D_MODEL).abs()
    base, tuned = model_of(), model_of()
    with torch.no_grad():
        for layer in base.model.layers:
            layer.post_attention_layernorm.weight.copy_(gain)
        base.model.norm.weight.copy_(gain)
        for layer in tuned.model.layers:
            for reader in (layer.mlp.gate_proj, layer.mlp.up_proj):
                reader.weight.mul_(gain)
        tuned.lm_head.weight.mul_(gain)
    for n in range(N_LAYERS):  # keys are told by what they read, gain included
        views = [view_of(load_model(model, tokenizer=tokenizer_of(), **OPTIONS)) for model in (base, tuned)]
        torch.testing.assert_close(*(torch.stack(_vectors(view, n)) for view in views))
    found = value_rotation(pair_of(permuted(in_basis(tuned, rotation_by(40.0))), base))
    assert found.change.tolist() == [0.0, 0.0]


def test_an_unembedding_that_was_merely_tuned_is_no_basis() -> None:
    tuned = model_of()
    with torch.no_grad():
        tuned.lm_head.weight.add_(0.1 * noise(400, D_MODEL))
    found = value_rotation(pair_of(tuned))
    assert found.shares.tolist() == [0.0, 0.0]
    assert not found.basis_changed


@pytest.mark.parametrize("factor", [1e-6, 0.3, 1.01, 5.0])
def test_rescaled_values_have_no_rotation(factor: float) -> None:
    found = value_rotation(pair_of(with_values(lambda values: factor * values)))
    np.testing.assert_allclose(found.shares, 0.0, atol=1e-9)
    np.testing.assert_allclose(found.change, abs(factor - 1), rtol=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values + 0.3 * noise(*values.shape),
        lambda values: values + 0.001 * noise(*values.shape),
        lambda values: values + noise(D_MODEL),  # the mean moves
        lambda values: values @ (torch.eye(D_MODEL) + 0.1 * noise(D_MODEL, D_MODEL)),
        lambda values: values @ rotation_by(10.0) + 0.2 * noise(*values.shape),
    ],
)
def test_other_changes_have_the_share_that_brute_force_finds(change: Change) -> None:
    tuned = with_values(change)
    found = value_rotation(pair_of(tuned))
    expected = [brute_force(*sides) for sides in zip(values_of(model_of()), values_of(tuned), strict=True)]
    np.testing.assert_allclose(found.shares, expected, atol=1e-6)
    assert found.neurons_moved.tolist() == [0, 0]
    assert 0.0 < found.share < 0.999


def test_a_change_of_a_millionth_keeps_its_digits() -> None:
    base = noise(D_MLP, D_MODEL)
    skew = 1e-6 * (noise(D_MODEL, D_MODEL, seed=1) - noise(D_MODEL, D_MODEL, seed=1).T)
    assert explained_share(base, base @ torch.matrix_exp(skew)) == pytest.approx(1.0, abs=1e-9)
    assert explained_share(base, base) == 0.0


# neurons


@pytest.mark.parametrize("sizes", [(neuron_matching.ROWS, neuron_matching.AT_ONCE), (7, 5), (7, 0)])
def test_neurons_are_found_among_noise(monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int]) -> None:
    monkeypatch.setattr(neuron_matching, "ROWS", sizes[0])
    monkeypatch.setattr(neuron_matching, "AT_ONCE", sizes[1])
    keys, values = noise(60, 16), noise(60, 16, seed=1)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for size in (0.0, 0.2):
        other = [v[order] + size * noise(60, 16, seed=i + 2) for i, v in enumerate((keys, values))]
        base, theirs = neuron_vectors([keys, values]), neuron_vectors(other)
        match = match_neurons(base, theirs)
        assert torch.equal(match, order.argsort())
        best = linear_sum_assignment(-(base @ theirs.T).double().numpy())[1]
        assert match.tolist() == best.tolist()
    far = neuron_vectors([noise(60, 16, seed=8), noise(60, 16, seed=9)])
    assert sorted(match_neurons(base, far).tolist()) == list(range(60)), "each once, however unlike they are"


def test_neurons_are_told_apart_by_keys_and_by_values() -> None:
    keys, values = noise(12, 8), noise(12, 8, seed=1)
    keys[1], values[3] = keys[0], values[2]
    swapped = torch.tensor([1, 0, 3, 2, *range(4, 12)])
    base = neuron_vectors([keys, values])
    assert torch.equal(match_neurons(base, neuron_vectors([keys[swapped], values[swapped]])), swapped)


def test_dead_and_doubled_neurons_stay_where_they_are() -> None:
    keys, values = noise(12, 8), noise(12, 8, seed=1)
    keys[[3, 5]], values[[3, 5]] = 0.0, 0.0
    keys[7], values[7] = keys[2], values[2]
    base = neuron_vectors([keys, values])
    assert match_neurons(base, base).tolist() == list(range(12))
    assert gaps(base)[[2, 7, 3, 5]].tolist() == pytest.approx([0.0] * 4, abs=1e-2)
    doubled = [vectors.repeat(10, 1) for vectors in (keys, values)]
    near = [vectors + 1e-5 * noise(*vectors.shape, seed=9) for vectors in doubled]
    assert match_neurons(*map(neuron_vectors, (doubled, near))).tolist() == list(range(120))


def test_the_short_cut_is_taken_only_where_it_is_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    base = neuron_vectors([noise(20, 8)])
    distances = torch.cdist(base.double(), base.double()).fill_diagonal_(torch.inf)
    torch.testing.assert_close(gaps(base).double(), distances.amin(dim=1), atol=1e-3, rtol=0)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("the table of scores was computed")

    near, far = (base + size * noise(20, 8, seed=1).float() for size in (0.01, 0.3))
    gap = gaps(base)
    monkeypatch.setattr(neuron_matching, "_nearest", refuse)
    assert match_neurons(base, near, gap).tolist() == list(range(20))
    with pytest.raises(AssertionError, match="the table of scores"):
        match_neurons(base, far, gap)


# controls


def test_controls_have_bands_from_19_and_stand_alone_before() -> None:
    pair = pair_of(with_values(lambda values: values @ rotation_by(10.0)))
    few = value_rotation(pair, controls=(pair.control("spectrum", seed) for seed in range(3)))
    assert few.to_df().control_low.isna().all()
    beside = few.beside()
    assert beside is not None
    assert (beside.effect, beside.p, beside.verdict()) == (few.share, None, "too few")
    assert len(few.controls()) == 3 * N_LAYERS
    assert few.controls().columns.tolist() == ["kind", "control", "layer", "share"]
    controls = [pair.control(kind, seed) for kind in ("spectrum", "norm") for seed in range(19)]
    found = value_rotation(pair, controls=[*controls, pair.control("self")])
    assert found.kinds == ("spectrum", "norm", "self")
    expected = [value_rotation(load_pair(pair.base, control)).shares for control in (controls[0], controls[20])]
    torch.testing.assert_close(found.control_shares[[0, 20]], torch.stack(expected))
    assert found.control_shares[-1].tolist() == [0.0, 0.0], "no change at all"
    table = found.to_df()
    assert table.columns.tolist()[:6] == ["layer", "share", "kind", "control_low", "control_high", "neurons_moved"]
    assert table.groupby("kind").size().to_dict() == dict.fromkeys(found.kinds, N_LAYERS)
    assert table.query("kind == 'self'").control_high.isna().all()
    banded = table.query("kind != 'self'")
    assert (banded.share > banded.control_high).all(), "a rotation is told from meaningless changes of its size"
    assert ((banded.control_low >= 0) & (banded.control_low < banded.control_high)).all()
    band = stats.rank_band(found.control_shares[:19].numpy())
    np.testing.assert_allclose(table.query("kind == 'spectrum'").control_low, np.clip(band.low, 0, 1))
    np.testing.assert_allclose(table.query("kind == 'spectrum'").control_high, np.clip(band.high, 0, 1))
    assert found.provenance.control_counts == {"spectrum": 19, "norm": 19, "self": 1}
    assert found.provenance.controls[0] == ControlModel(view_of(controls[0]).info.id, Control("spectrum", 0))


def test_a_rotation_is_beyond_every_kind_of_control() -> None:
    pair = pair_of(with_values(lambda values: values @ rotation_by(10.0)))
    controls = [pair.control(kind, seed) for kind, n in (("spectrum", 20), ("norm", 19)) for seed in range(n)]
    for level in (0.95, 0.5):
        found = value_rotation(pair, controls=controls, level=level)
        beside = found.beside()
        assert beside is not None
        means = found.control_shares.mean(dim=1).numpy()
        own = [stats.control_rank(found.share, some, level=level) for some in (means[:20], means[20:])]
        assert [kind.p for kind in beside.kinds] == [test.p for test in own] == [1 / 21, 1 / 20]
        bands = [stats.rank_band(some, level=level) for some in (means[:20], means[20:])]
        assert beside.band == (min(float(b.low) for b in bands), max(float(b.high) for b in bands))
        assert (beside.level, beside.p, beside.direction) == (level, 0.05, "above")
        assert beside.verdict() == "beyond all, too few"
    assert value_rotation(pair).beside() is None


def test_a_control_is_not_told_from_the_controls() -> None:
    pair = pair_of(with_values(lambda values: values @ rotation_by(10.0)))
    null = load_pair(pair.base, pair.control("spectrum", 100))
    found = value_rotation(null, controls=(pair.control("spectrum", seed) for seed in range(19)))
    table = found.to_df()
    assert table.share.between(table.control_low, table.control_high).all()
    beside = found.beside()
    assert beside is not None
    assert beside.verdict() == "within"
    assert (beside.p or 0) > 0.05


def test_a_model_can_be_a_control() -> None:
    pair = pair_of(with_values(lambda values: 2 * values))
    other = load_model(with_values(lambda values: values @ rotation_by(5.0)), tokenizer=tokenizer_of(), **OPTIONS)
    found = value_rotation(pair, controls=[other])
    assert found.kinds == ("given",)
    np.testing.assert_allclose(found.control_shares, 1.0, atol=1e-9)


def test_controls_that_were_read_apart_give_the_same() -> None:
    pair = pair_of(with_values(lambda values: values @ rotation_by(10.0) + 0.1 * noise(*values.shape)))
    controls = [pair.control(kind, seed) for kind in ("spectrum", "norm") for seed in range(2)]
    together = value_rotation(pair, controls=controls)
    apart = [control_rotation(pair.base, control) for control in controls]
    alone = value_rotation(pair)
    for found in (
        alone.with_controls(iter(apart)),
        value_rotation(pair, controls=apart),
        value_rotation(pair, controls=[*controls[:2], *apart[2:]]),
        value_rotation(pair, controls=controls[:1]).with_controls(apart),  # those it had before are left
    ):
        assert found.to_df().equals(together.to_df())
        assert found.controls().equals(together.controls())
        assert found.provenance == together.provenance
        assert found.beside() == together.beside()
    assert together.control_kinds == ("spectrum", "spectrum", "norm", "norm")
    none = together.with_controls([])
    assert none.control_shares.shape == (0, N_LAYERS)
    assert none.provenance == alone.provenance
    assert alone.control_kinds == (), "it is a value"


def test_a_control_read_apart_knows_its_shares(tmp_path: Any) -> None:
    tuned = model_of()
    with torch.no_grad():
        weight = tuned.model.layers[1].mlp.down_proj.weight
        weight.copy_(rotation_by(10.0).T @ weight)
    pair = pair_of(tuned)
    found = control_rotation(pair.base, pair.tuned)  # a model that no pair made
    np.testing.assert_allclose(found.shares, [0.0, 1.0], atol=1e-9)
    assert (found.provenance.as_control.made, found.provenance.as_control.kind) == (None, "given")
    assert found.to_df().columns.tolist() == ["layer", "share"]
    assert found.to_df().layer.tolist() == [0, 1]
    assert found.top(1).layer.tolist() == [1]
    made = control_rotation(pair.base, pair.control("norm", 3), layers=[1])
    assert made.layers == (1,)
    assert made.provenance.control == Control("norm", 3)
    again = ControlRotation.load(made.save(tmp_path / "control.safetensors"))
    assert again.to_df().equals(made.to_df())
    assert again.provenance == made.provenance
    with pytest.raises(InputError, match=r"a control was read in layers \[1\], expected \[0, 1\]"):
        value_rotation(pair).with_controls([found, made])
    with pytest.raises(InputError, match=r"a control was read in layers \[0, 1\], expected \[1\]"):
        value_rotation(pair, layers=[1], controls=[found])
    with pytest.raises(InputError, match=r"layers=\[2\] given, expected at least one of 0 to 1, each once"):
        control_rotation(pair.base, pair.tuned, layers=[2])
    wide = load_model(hf_model("llama", intermediate_size=40), tokenizer=tokenizer_of(), **OPTIONS)
    with pytest.raises(InputError, match=r"control 0 .* has d_mlp 40, expected the base's 48"):
        control_rotation(pair.base, wide)


# result and refusals


def test_layers_top_text_and_file(tmp_path: Any) -> None:
    tuned = model_of()
    with torch.no_grad():
        weight = tuned.model.layers[1].mlp.down_proj.weight
        weight.copy_(rotation_by(10.0).T @ weight)
    pair = pair_of(tuned)
    found = value_rotation(pair)
    np.testing.assert_allclose(found.shares, [0.0, 1.0], atol=1e-9)
    assert found.share == pytest.approx(0.5)
    assert found.top(1).layer.tolist() == [1]
    assert found.to_df().kind.isna().all()
    assert value_rotation(pair, layers=[1]).layers == (1,)
    assert "share 0.500, mean of 2 layers" in repr(found)
    assert "1 layer without a change" in repr(found)
    again = ValueRotation.load(found.save(tmp_path / "rotation.safetensors"))
    assert again.to_df().equals(found.to_df())
    assert again.control_shares.shape == (0, N_LAYERS)


def test_a_family_without_gates_and_with_biases() -> None:
    base, tuned = (hf_model("gpt2", dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        for block in tuned.transformer.h:
            block.mlp.c_proj.weight.copy_(block.mlp.c_proj.weight @ rotation_by(3.0))
    np.testing.assert_allclose(value_rotation(pair_of(tuned, base)).shares, 1.0, atol=1e-9)


def test_vocabularies_are_compared_on_shared_tokens() -> None:
    from tests.models.test_pair import with_more_tokens

    turn = rotation_by(60.0)
    base, tuned = model_of(), in_basis(model_of(), turn)
    larger = hf_model("llama", dtype=torch.float64, vocab_size=402)
    state = tuned.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = torch.cat([state[name], noise(2, D_MODEL)])
    larger.load_state_dict(state)
    sides = {"tokenizer": tokenizer_of()}, {"tokenizer": with_more_tokens("<|user|>", "<|reply|>")}
    pair = load_pair(base, larger, base_options=sides[0], tuned_options=sides[1], **OPTIONS)
    found = value_rotation(pair)
    assert found.shares.tolist() == [0.0, 0.0]
    assert found.basis_changed


def test_unusable_input_is_refused(tmp_path: Any) -> None:
    pair = pair_of(model_of())
    with pytest.raises(InputError, match=r"layers=\[2\] given, expected at least one of 0 to 1, each once"):
        value_rotation(pair, layers=[2])
    wide = load_model(hf_model("llama", intermediate_size=40), tokenizer=tokenizer_of(), **OPTIONS)
    with pytest.raises(InputError, match=r"control 0 .* has d_mlp 40, expected the base's 48"):
        value_rotation(pair, controls=[wide])
    experts = load_pair(hf_model("mixtral"), hf_model("mixtral", seed=1), tokenizer=tokenizer_of(), **OPTIONS)
    with pytest.raises(InputError, match=r"has no single W_\w+: .*mixture of experts"):
        value_rotation(experts)
    broken = pair_of(model_of())
    view_of(broken.tuned).weights.needed_matrix(0, "W_out")[0, 0] = (
        torch.nan
    )  # a checkpoint with it is refused on loading
    with pytest.raises(InputError, match=r"the MLP of layer 0 of .* holds numbers that are not finite"):
        value_rotation(broken)
    folders = save_checkpoint("llama", tmp_path / "a"), save_checkpoint("llama", tmp_path / "b", seed=1)
    with pytest.raises(InputError, match='load the pair with keep="both"'):
        value_rotation(load_pair(*folders, keep="one", **OPTIONS))
