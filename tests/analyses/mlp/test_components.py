"""Principal components against a singular value decomposition, and the weights that they are taken from."""

from typing import Any

import numpy as np
import pytest
import torch

from lensdiff.analyses.mlp.components import (
    ConceptDirections,
    Side,
    concept_directions,
    concept_vectors,
    covariance_components,
    principal_components,
)
from lensdiff.models import load_model, view_of
from lensdiff.results import InputError
from tests.analyses.mlp.concept_models import D_MLP, D_MODEL, model_with, orthonormal, vectors_with
from tests.checkpoints import hf_model, tokenizer_of


@pytest.mark.parametrize("method", [principal_components, covariance_components])
def test_components_are_right_singular_vectors_of_the_centred_vectors(method) -> None:
    vectors = torch.randn(40, 7, generator=torch.Generator().manual_seed(3)) * torch.arange(1.0, 8.0)
    found = method(vectors, k=5)
    centred = vectors.double() - vectors.double().mean(0)
    _, sizes, rows = torch.linalg.svd(centred, full_matrices=False)
    ratio = sizes**2 / (sizes**2).sum()
    torch.testing.assert_close(found.explained_variance_ratio, ratio[:5], rtol=1e-12, atol=0)
    torch.testing.assert_close((found.components * rows[:5]).sum(1).abs(), torch.ones(5).double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", [principal_components, covariance_components])
def test_vectors_that_do_not_vary_explain_nothing(method) -> None:
    assert method(torch.full((9, 4), 2.0), k=3).explained_variance_ratio.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("method", [principal_components, covariance_components])
def test_planted_components_come_back(method) -> None:
    rows, sizes = orthonormal(5, 16), torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5])
    found = method(vectors_with(rows, sizes, n=30), k=3)
    ratio = sizes.double() ** 2 / (sizes**2).sum()
    torch.testing.assert_close(found.explained_variance_ratio, ratio[:3], rtol=1e-10, atol=0)
    assert (found.components @ rows.T).abs()[:, :3].allclose(torch.eye(3).double(), atol=1e-10)


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
@pytest.mark.parametrize("fold_gain", [True, False])
def test_keys_of_a_gated_layer_are_columns_of_both_input_weights(wrapper: str, fold_gain: bool) -> None:
    hf: Any = hf_model("llama")
    view = view_of(_load(hf, wrapper))
    gain = hf.model.layers[1].post_attention_layernorm.weight if fold_gain else 1.0
    mlp = hf.model.layers[1].mlp
    expectations: list[tuple[Side, Any]] = [("key", mlp.up_proj.weight * gain), ("gate", mlp.gate_proj.weight * gain)]
    for side, expected in expectations:
        found = concept_vectors(view, 1, side, fold_gain=fold_gain)
        torch.testing.assert_close(found.double(), expected.detach().double(), rtol=1e-6, atol=0)
    value = concept_vectors(view, 1, "value", fold_gain=fold_gain)
    torch.testing.assert_close(value, mlp.down_proj.weight.detach().T, rtol=0, atol=0)


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
def test_keys_of_an_ungated_layer(wrapper: str) -> None:
    hf: Any = hf_model("gpt2")
    view = view_of(_load(hf, wrapper))
    block = hf.transformer.h[0]
    expected = (block.mlp.c_fc.weight * block.ln_2.weight[:, None]).T.detach().double()
    torch.testing.assert_close(concept_vectors(view, 0, "key"), expected, rtol=1e-6, atol=0)
    with pytest.raises(InputError, match=r"has no side 'gate', available: value, key"):
        concept_vectors(view, 0, "gate")
    with pytest.raises(InputError, match=r"has no side 'gate'"):
        concept_directions(view, sides=["gate"])


def _load(hf: Any, wrapper: Any) -> Any:
    try:
        return load_model(hf, tokenizer=tokenizer_of(), wrapper=wrapper, device="cpu")
    except InputError as error:
        if wrapper == "hooked":
            pytest.skip(f"this transformer-lens has no HookedTransformer: {error}")
        raise


def test_directions_stream_over_layers_and_sides_and_say_what_was_clipped(tmp_path) -> None:
    model = model_with()
    result = concept_directions(model, layers=[1, 0], sides=["gate", "value"], n_components=300)
    assert (result.layers, result.sides) == ((1, 0), ("gate", "value"))
    assert result.components.shape == (2, 2, D_MODEL, D_MODEL)
    options = result.provenance.options
    assert (options["n_components"], options["components_used"], options["fold_gain"]) == (300, D_MODEL, True)
    direct = principal_components(concept_vectors(view_of(model), 0, "value"), k=D_MODEL)
    torch.testing.assert_close(result.components[1, 1], direct.components.float(), rtol=0, atol=0)
    frame = result.to_df()
    assert list(frame.columns) == ["layer", "side", "component", "explained_variance_ratio"]
    row = frame.query("layer == 0 and side == 'value' and component == 4")
    assert row.explained_variance_ratio.item() == pytest.approx(float(direct.explained_variance_ratio[4]), rel=1e-12)
    assert result.top(1).explained_variance_ratio.item() == frame.explained_variance_ratio.max()
    again = ConceptDirections.load(result.save(tmp_path / "d.safetensors"))
    assert torch.equal(again.components, result.components)
    assert again.to_df().equals(frame)


def test_fewer_neurons_than_dimensions_have_one_component_less() -> None:
    model = load_model(hf_model("llama", intermediate_size=20), tokenizer=tokenizer_of(), device="cpu")
    result = concept_directions(model)
    assert result.components.shape[2] == 19 == result.provenance.options["components_used"]
    np.testing.assert_allclose(result.explained_variance_ratio.sum(-1), 1.0, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [2]}, r"layers=\[2\] given, expected at least one of 0 to 1, each once"),
        ({"layers": []}, r"layers=\[\] given"),
        ({"layers": [1, 0, 1]}, r"layers=\[1, 0, 1\] given"),
        ({"layers": [-1]}, r"layers=\[-1\] given"),
        ({"sides": "value"}, "sides='value' given, expected a list of some of value, key, gate"),
        ({"sides": ["keys"]}, r"sides=\['keys'\] given"),
        ({"sides": []}, r"sides=\[\] given"),
        ({"n_components": 0}, "n_components=0 given, expected at least 1"),
    ],
)
def test_wrong_selections_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        concept_directions(model_with(), **options)


def test_the_builder_plants_what_it_says() -> None:
    vectors = vectors_with(orthonormal(3, D_MODEL), torch.tensor([3.0, 2.0, 1.0]))
    view = view_of(model_with({(1, "value"): vectors}))
    assert concept_vectors(view, 1, "value").shape == (D_MLP, D_MODEL)
    torch.testing.assert_close(concept_vectors(view, 1, "value"), vectors.float(), rtol=0, atol=0)
