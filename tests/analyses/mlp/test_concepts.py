"""Concepts: the words of planted components, both poles, options, errors, and the reference layers of a real model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lensdiff.analyses.mlp.components import MLP_SIDES, Side
from lensdiff.analyses.mlp.concepts import MLPConcepts, mlp_concepts, named_components
from lensdiff.results import InputError
from tests.analyses.mlp.concept_models import (
    D_MODEL,
    PER_DIRECTION,
    PLANTED,
    model_with,
    orthonormal,
    planted_embedding,
    planted_words,
    single_token_words,
    vectors_with,
)
from tests.checkpoints import tokenizer_of

REFERENCE = Path(__file__).parents[4] / "shared" / "reference"
SIZES = torch.arange(PLANTED, 0, -1.0)


def test_named_components_by_hand() -> None:
    components = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    words = torch.tensor([[0.6, 0.8], [-0.8, 0.6], [0.0, 1.0]])
    turned, named = named_components(components, words, top=2)
    # first: scores .6, -.8, 0, so it turns round; second: -.8, -.6, -1, so it turns too
    assert turned.tolist() == [[-1.0, 0.0], [0.0, 1.0]]
    assert named.index.tolist() == [[1, 0], [2, 0]]
    torch.testing.assert_close(named.score, torch.tensor([[0.8, -0.6], [1.0, 0.8]]))
    assert named.pole_index.tolist() == [[[1, 2], [0, 2]], [[2, 0], [1, 0]]]
    expected = torch.tensor([[[0.8, 0.0], [-0.6, 0.0]], [[1.0, 0.8], [0.6, 0.8]]])
    torch.testing.assert_close(named.pole_score, expected)


@pytest.mark.parametrize("side", MLP_SIDES)
def test_planted_directions_return_exactly_their_words(side: Side) -> None:
    rows = orthonormal(PLANTED, D_MODEL)
    embedding = planted_embedding(rows)
    place = (None, embedding) if side == "value" else (embedding, None)
    model = model_with({(1, side): vectors_with(rows, SIZES)}, embedding=place[0], unembedding=place[1])
    found = mlp_concepts(
        model,
        list(single_token_words()),
        layers=[1],
        sides=[side],
        n_components=PLANTED,
        top_words=PER_DIRECTION,
        fold_gain=False,
    )
    for component, words in enumerate(planted_words()):
        assert set(found.words_of(1, side, component)) == set(words)
    assert float(found.score.min()) > 0.98
    ratio = SIZES.double() ** 2 / (SIZES**2).sum()
    torch.testing.assert_close(found.explained_variance_ratio[0, 0], ratio, rtol=1e-5, atol=0)


def test_the_gain_is_folded_into_keys_and_not_into_values() -> None:
    model = model_with()
    words = list(single_token_words())
    both = [mlp_concepts(model, words, sides=["value", "key"], n_components=4, fold_gain=f) for f in (True, False)]
    assert torch.equal(both[0].components[:, 0], both[1].components[:, 0])
    assert not torch.allclose(both[0].explained_variance_ratio[:, 1], both[1].explained_variance_ratio[:, 1], rtol=1e-3)
    assert [r.provenance.options["fold_gain"] for r in both] == [True, False]


def test_scores_are_cosines_of_component_and_mean_output_embedding() -> None:
    model = model_with()
    words = [*single_token_words(), "unheard"]
    found = mlp_concepts(model, words, n_components=5, top_words=7)
    boundary, *unheard = tokenizer_of()(" unheard", add_special_tokens=False)["input_ids"]
    assert tokenizer_of().convert_ids_to_tokens(boundary) == "Ġ"
    token_ids = [*([i] for i in single_token_words().values()), unheard]
    means = torch.stack([model.W_U.detach()[:, ids].mean(1) for ids in token_ids])
    cosines = torch.nn.functional.cosine_similarity(found.components[1, 0][:, None], means[None], dim=-1)
    for component in range(5):
        order = cosines[component].abs().argsort(descending=True)[:7]
        assert found.index[1, 0, component].tolist() == order.tolist()
        torch.testing.assert_close(found.score[1, 0, component], cosines[component][order], rtol=1e-5, atol=1e-6)
        assert found.pole_index[1, 0, component, 0].tolist() == cosines[component].topk(7).indices.tolist()
        assert found.pole_index[1, 0, component, 1].tolist() == (-cosines[component]).topk(7).indices.tolist()
    assert (found.score[..., 0] > 0).all()


def test_tables_and_file(tmp_path: Path) -> None:
    found = mlp_concepts(model_with(), list(single_token_words()), sides=["value", "gate"], n_components=3, top_words=4)
    frame = found.to_df()
    columns = ["layer", "side", "component", "explained_variance_ratio", "rank", "word", "score"]
    assert list(frame.columns) == columns
    assert len(frame) == 2 * 2 * 3 * 4
    row = frame.query("layer == 1 and side == 'gate' and component == 2 and rank == 3").iloc[0]
    assert row.word == found.words_of(1, "gate", 2)[2]
    assert row.score == float(found.score[1, 1, 2, 2])
    assert row.explained_variance_ratio == float(found.explained_variance_ratio[1, 1, 2])
    poles = found.poles()
    assert list(poles.columns) == ["layer", "side", "component", "pole", "rank", "word", "score"]
    row = poles.query("layer == 0 and side == 'gate' and component == 1 and pole == 'negative' and rank == 1").iloc[0]
    assert row.word == found.words[int(found.pole_index[0, 1, 1, 1, 0])]
    assert row.score == float(found.pole_score[0, 1, 1, 1, 0])
    top = found.top(2)
    assert list(top.columns) == ["layer", "side", "component", "explained_variance_ratio", "words"]
    best = frame.explained_variance_ratio.max()
    assert top.explained_variance_ratio[0] == best
    first = top.iloc[0]
    assert first.words == ", ".join(found.words_of(first.layer, first.side, first.component, 4))
    again = MLPConcepts.load(found.save(tmp_path / "c.safetensors"))
    assert again.to_df().equals(frame)
    assert again.provenance == found.provenance
    assert again.excluded == found.excluded


def test_what_cannot_be_had_is_clipped_and_recorded() -> None:
    words = ["sea", "moon", ""]
    found = mlp_concepts(model_with(), words, n_components=300, top_words=50)
    assert found.components.shape[2] == D_MODEL == found.provenance.options["components_used"]
    assert found.index.shape[3] == 2
    assert found.provenance.options["top_words"] == 50
    assert found.excluded == ("",)


def test_errors() -> None:
    model = model_with()
    with pytest.raises(InputError, match="top_words=0 given, expected at least 1"):
        mlp_concepts(model, ["sea"], top_words=0)
    with pytest.raises(InputError, match="word list is empty"):
        mlp_concepts(model, [])
    found = mlp_concepts(model, ["sea"], layers=[1], n_components=2)
    with pytest.raises(InputError, match=r"no component 2 of layer 1, side 'value': this result has layers \[1\]"):
        found.words_of(1, "value", 2)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference outputs are not beside the checkout")
@pytest.mark.parametrize("layer", [0, 14, 28])
def test_reference_layers(smollm2, layer: int) -> None:
    words = np.load(REFERENCE / "word_vectors_50d.npz")["words"].tolist()
    expected = np.load(REFERENCE / f"ffn_L{layer}.npz")
    found = mlp_concepts(smollm2, words, layers=[layer])
    np.testing.assert_allclose(found.explained_variance_ratio[0, 0], expected["explained"], rtol=0, atol=1e-6)
    same = [len(set(row) & set(found.words_of(layer, "value", i, 50))) for i, row in enumerate(expected["words"])]
    assert np.mean(same) / 50 >= 0.999
    assert not found.excluded
