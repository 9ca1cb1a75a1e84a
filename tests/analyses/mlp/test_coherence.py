"""Coherence by hand, of planted words, of meaningless directions, and its options and errors."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from lensdiff.analyses.mlp.coherence import Coherence, adjusted_together, coherence, mean_pairwise_cosine
from lensdiff.analyses.mlp.concepts import MLPConcepts, mlp_concepts
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import Model
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

WORDS = list(single_token_words())
OPTIONS: dict[str, Any] = {"top_words": PER_DIRECTION, "n_directions": 199}


@pytest.fixture(scope="module")
def planted() -> tuple[Model, MLPConcepts]:
    """A model whose six first components are six groups of words, each word with as much of its own."""
    rows = orthonormal(PLANTED, D_MODEL)
    values = vectors_with(rows, torch.arange(PLANTED, 0, -1.0))
    model = model_with({(1, "value"): values}, unembedding=planted_embedding(rows, spread=1.0))
    return model, mlp_concepts(model, WORDS, layers=[1], n_components=PLANTED, top_words=PER_DIRECTION)


def grouped_vectors(groups: list[list[str]], *, seed: int = 0) -> WordVectors:
    """Random vectors, alike within a group."""
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((len(WORDS), 40))
    for group in groups:
        shared = 3 * generator.standard_normal(40)
        for word in group:
            vectors[WORDS.index(word)] += shared
    return WordVectors(tuple(WORDS), vectors, "planted")


def test_mean_pairwise_cosine_by_hand() -> None:
    vectors = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0], [9.0, 9.0], [0.0, 0.0]])
    known = np.array([True, True, True, False, True])
    half = np.sqrt(0.5)
    found = mean_pairwise_cosine(vectors, known, np.array([[[0, 1, 2], [0, 2, 3]], [[1, 3, 3], [0, 4, 3]]]))
    np.testing.assert_allclose(found, [[2 * half / 3, half], [np.nan, np.nan]], rtol=1e-12)


def test_it_is_the_mean_over_all_pairs() -> None:
    generator = np.random.default_rng(1)
    vectors, sets = generator.standard_normal((30, 7)), generator.permutation(30)[:20].reshape(2, 10)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [np.mean([unit[i] @ unit[j] for i, j in combinations(row, 2)]) for row in sets]
    np.testing.assert_allclose(mean_pairwise_cosine(vectors, np.ones(30, bool), sets), expected, rtol=1e-12)


def test_planted_groups_are_coherent_and_others_are_not(planted) -> None:
    model, concepts = planted
    alike = planted_words()[:3]
    found = coherence(model, concepts, grouped_vectors(alike), **OPTIONS)
    frame = found.to_df()
    assert (frame.coherence[:3] > 0.7).all()
    assert (frame.coherence[3:] < 0.3).all()
    assert (frame.p[:3] <= 0.01).all()
    assert (frame.p_adjusted[:3] <= 0.05).all()
    assert (frame.p[3:] > 0.05).all()
    assert sorted(found.top(3).component) == [0, 1, 2]
    layer = found.by_layer().iloc[0]
    assert layer.share_above == layer.share_adjusted == 0.5
    assert layer.null_mean == pytest.approx(float(found.null[0].mean()))
    assert layer.mean_coherence == pytest.approx(frame.coherence.mean())


def test_words_without_meaning_pass_as_often_as_they_should() -> None:
    model = model_with()
    concepts = mlp_concepts(model, WORDS, n_components=32)
    above = []
    for seed in range(10):
        found = coherence(model, concepts, grouped_vectors([], seed=seed), top_words=6, n_directions=199, seed=seed)
        above.append(float((found.p <= 0.05).double().mean()))
    assert 0.01 < np.mean(above) < 0.10  # 640 components, 5 % expected


def test_each_reading_is_of_its_own_words(planted) -> None:
    model, concepts = planted
    vectors = grouped_vectors(planted_words()[:1])
    rows = {}
    for reading in ("absolute", "positive", "negative"):
        found = coherence(model, concepts, vectors, reading=reading, **OPTIONS)
        assert found.provenance.options["reading"] == reading
        rows[reading] = float(found.coherence[0, 0, 0])
    pole = concepts.poles().query("component == 0")
    for name, words in pole.groupby("pole").word:
        vectors_of, known = vectors.lookup(list(words))
        expected = mean_pairwise_cosine(vectors_of, known, np.arange(len(words)))
        assert rows[str(name)] == pytest.approx(float(expected), rel=1e-6)
    assert rows["absolute"] > 0.7 > rows["negative"]


def test_keys_are_compared_with_directions_read_against_the_input_embeddings() -> None:
    model = model_with(unembedding=torch.randn(400, D_MODEL, generator=torch.Generator().manual_seed(1)))
    both = mlp_concepts(model, WORDS, sides=["value", "key", "gate"], n_components=3)
    found = coherence(model, both, grouped_vectors([]), top_words=5, n_directions=50)
    assert found.null.shape == (3, 50)
    assert torch.equal(found.null[1], found.null[2])
    assert not torch.allclose(found.null[0], found.null[1])


def test_words_without_vectors_are_left_out_and_counted(planted, tmp_path) -> None:
    model, concepts = planted
    full = grouped_vectors(planted_words())
    kept = [i for i, word in enumerate(WORDS) if word not in planted_words()[0][1:]]
    some = WordVectors(tuple(WORDS[i] for i in kept), full.vectors[kept])
    found = coherence(model, concepts, some, **OPTIONS)
    assert found.coverage == pytest.approx(len(kept) / len(WORDS))
    assert found.coherence[0, 0, 0].isnan()
    assert found.p[0, 0, 0].isnan()
    assert not found.p[0, 0, 1:].isnan().any()
    again = Coherence.load(found.save(tmp_path / "c.safetensors"))
    assert again.to_df().equals(found.to_df())


def test_a_seed_means_the_same_directions(planted) -> None:
    model, concepts = planted
    vectors = grouped_vectors([])
    first, again, other = (coherence(model, concepts, vectors, seed=seed, **OPTIONS) for seed in (1, 1, 2))
    assert torch.equal(first.null, again.null)
    assert not torch.equal(first.null, other.null)


def test_errors(planted) -> None:
    model, concepts = planted
    vectors = grouped_vectors([])
    cases = [
        ({"reading": "both"}, "reading='both' is none of absolute, positive, negative"),
        ({"top_words": 1}, "top_words=1 given, expected at least 2"),
        ({"n_directions": 18}, "n_directions=18 given, expected at least 19"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            coherence(model, concepts, vectors, **options)
    narrow = replace(concepts, components=concepts.components[..., :5])
    with pytest.raises(InputError, match="has d_model 32, the concepts have 5"):
        coherence(model, narrow, vectors)
    with pytest.raises(InputError, match="only 0 random directions have two words with a vector"):
        coherence(model, concepts, WordVectors((WORDS[0],), np.ones((1, 2))), **OPTIONS)


def test_models_that_one_table_shows_are_one_family(planted) -> None:
    model, concepts = planted
    pair = [coherence(model, concepts, grouped_vectors(planted_words()[:k]), **OPTIONS) for k in (1, 4)]
    holed = replace(pair[0], p=pair[0].p.clone())
    holed.p[0, 0, -1] = torch.nan
    both = adjusted_together(holed, pair[1])
    p = np.concatenate([one.p.flatten().numpy() for one in (holed, pair[1])])
    known = p[~np.isnan(p)]
    ranks = known.argsort(kind="stable")
    by_hand = np.minimum.accumulate((known[ranks] * len(known) / np.arange(1, len(known) + 1))[::-1])[::-1]
    found = np.concatenate([one.p_adjusted.flatten().numpy() for one in both])
    assert np.isnan(found).tolist() == np.isnan(p).tolist()
    np.testing.assert_allclose(found[~np.isnan(p)][ranks], np.minimum(by_hand, 1.0))
    assert not torch.allclose(both[1].p_adjusted, pair[1].p_adjusted)
