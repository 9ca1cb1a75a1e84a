"""Word lists and word vectors are a run's own where none are given: the shipped words, the base's embeddings."""

import pytest
import torch

import lensdiff
from lensdiff.models import view_of
from lensdiff.results import InputError
from tests.analyses.every import Toy, toy

WORDS = lensdiff.Vocabulary.default()
FEW = {"layers": [0], "heads": [0], "top_k": 5}


@pytest.fixture(scope="module")
def made() -> Toy:
    return toy()


def test_pairs_of_both_models_are_read_with_the_bases_vectors(made: Toy) -> None:
    found = made.pair.compare(lensdiff.head_word_pairs, **FEW)
    vectors = lensdiff.WordVectors.from_model(view_of(made.pair.base), WORDS.words)
    for side in ("base", "tuned"):
        expected = lensdiff.head_word_pairs(getattr(made.pair, side), WORDS, vectors, **FEW)
        one = getattr(found, side)
        assert one.words == expected.words
        for name in ("key", "query", "cosine"):
            assert torch.equal(getattr(one, name), getattr(expected, name))
        assert one.provenance.options["vocabulary"] == WORDS.source
        assert one.provenance.options["word_vectors"] == "mean-centred input embeddings of base"
    few = lensdiff.Vocabulary.of(WORDS.words[:50])
    assert made.pair.compare(lensdiff.head_word_pairs, few, **FEW).tuned.words == few.words


def test_pairs_with_vectors_of_two_models_are_not_compared(made: Toy) -> None:
    few = lensdiff.Vocabulary.of(WORDS.words[:50])
    apart = [lensdiff.head_word_pairs(model, few, **FEW) for model in (made.pair.base, made.pair.tuned)]
    assert [one.provenance.options["word_vectors"].split()[-1] for one in apart] == ["base", "tuned"]
    with pytest.raises(InputError, match="tuned has word_vectors mean-centred input embeddings of tuned, base mean-"):
        lensdiff.pair_overlap(*apart)


def test_readings_and_concepts_are_of_the_shipped_words(made: Toy) -> None:
    model = made.pair.tuned
    assert (
        lensdiff.ov_reading(model, layers=[0], heads=[0]).words
        == lensdiff.ov_reading(model, WORDS, layers=[0], heads=[0]).words
    )
    own = lensdiff.mlp_concepts(model, layers=[0], n_components=2, top_words=4)
    given = lensdiff.mlp_concepts(model, WORDS, layers=[0], n_components=2, top_words=4)
    assert own.words == given.words
    assert torch.equal(own.index, given.index)
    vectors = lensdiff.WordVectors.from_model(view_of(model), own.words)
    expected = lensdiff.coherence(model, own, vectors, top_words=4, n_directions=19)
    found = lensdiff.coherence(model, own, top_words=4, n_directions=19)
    assert torch.equal(found.coherence, expected.coherence)
    assert found.provenance.options["vectors"] == "mean-centred input embeddings of tuned"
