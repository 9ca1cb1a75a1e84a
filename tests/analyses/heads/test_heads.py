"""Word pairs of heads: kernels by hand, every family against a plain loop, planted pairs, the authors' output."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs, head_word_pairs
from lensdiff.analyses.heads.word_pairs import Candidates, candidates, cosine_thresholds, related_pairs, unit_vectors
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.results import InputError
from tests.analyses.heads.head_models import (
    N_HEADS,
    N_LAYERS,
    head_weights,
    ids_of,
    known_words,
    paired_vectors,
    pairs_by_loop,
    planted,
    random_vectors,
    wrapped,
)
from tests.checkpoints import hf_model, tokenizer_of

FAMILIES = [
    ("llama", "hooked"),
    ("llama", "bridge"),
    ("gpt2", "hooked"),
    ("gpt2", "bridge"),
    ("gpt_neox", "hooked"),
    ("qwen3", "hooked"),
    ("gemma", "bridge"),
    ("olmo2", "bridge"),
]
COLUMNS = ["layer", "head_index", "dim", "dim_rank", "energy", "rank", "key_word", "query_word", "cosine"]
OPTIONS: dict[str, Any] = {"top_k": 12, "threshold_words": 20, "threshold_std": 0.5}


@pytest.fixture(scope="module")
def words() -> list[str]:
    return known_words()


@pytest.fixture(scope="module")
def llama() -> Any:
    return wrapped(hf_model("llama"))


@pytest.fixture(scope="module")
def found(llama: Any, words: list[str]) -> HeadWordPairs:
    return head_word_pairs(llama, words, random_vectors(words), **OPTIONS)


def as_sets(result: HeadWordPairs, layer: int, head: int) -> list[dict[tuple[str, str], float]]:
    """Return a head's pairs per dimension, as words."""
    pairs, words = result.of_head(layer, head), result.words
    return [
        {(words[pairs.key[i]], words[pairs.query[i]]): float(pairs.cosine[i]) for i in range(a, b)}
        for a, b in pairwise(pairs.starts.tolist())
    ]


def assert_equal(one: HeadWordPairs, other: HeadWordPairs) -> None:
    for name in ("dims", "energy", "starts", "key", "query", "cosine"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0, msg=name)
    assert (one.layers, one.heads, one.words) == (other.layers, other.heads, other.words)


# kernels


def test_unit_vectors_have_length_one_or_stay_zero() -> None:
    found = unit_vectors(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize("threshold_words", [1, 7, 30, 100])
def test_thresholds_are_mean_and_population_std_of_the_first_words(threshold_words: int) -> None:
    unit = unit_vectors(torch.randn(30, 6, generator=torch.Generator().manual_seed(0)))
    cosines = (unit.double() @ unit[:threshold_words].double().T).numpy()
    expected = cosines.mean(axis=1) + 1.96 * cosines.std(axis=1)
    found = cosine_thresholds(unit, threshold_words=threshold_words, threshold_std=1.96)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_candidates_by_hand() -> None:
    words = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 1.0]])
    W = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 1.0], [0.0, 1.0]]])  # activations: the embedding; 2x, x + y
    found = candidates(words, W, top_k=1)
    assert found.words.tolist() == [[[2], [1]], [[2], [1]]]  # |-3|, 2; |-6|, |2| against 1 and |-2|: see below
    assert found.values.tolist() == [[[-3.0], [2.0]], [[-6.0], [2.0]]]
    assert found.energy.tolist() == [[10.0, 5.0], [40.0, 9.0]]
    assert candidates(words, W, top_k=9).words.shape == (2, 2, 3)


def test_pairs_by_hand() -> None:
    unit = unit_vectors(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.3], [-1.0, 0.0]]))
    words = torch.tensor([[[0, 1, 2, 3], [0, 1, 2, 3]]])
    q = Candidates(words, torch.tensor([[[1.0, -1.0, 1e-30, 1.0], [0.0, 0.0, 0.0, 0.0]]]), torch.zeros(1, 2))
    k = Candidates(words, torch.tensor([[[1.0, -1.0, 1e-30, 1.0], [1.0, 1.0, 1.0, 1.0]]]), torch.zeros(1, 2))
    found = related_pairs(q, k, unit, torch.tensor([-9.0, -9.0, -9.0, -9.0]))
    # signs agree for 0, 2 and 3; 3 has only negative cosines; no sign agrees with zero
    assert found.starts.tolist() == [0, 2, 2]
    assert {*zip(found.key.tolist(), found.query.tolist(), strict=True)} == {(0, 2), (2, 0)}
    np.testing.assert_allclose(found.cosine, 1 / np.sqrt(1.09), atol=1e-6)
    # a threshold holds on either side, and a cosine that equals it is not above it
    assert len(related_pairs(q, k, unit, torch.tensor([-9.0, -9.0, 0.99, -9.0])).key) == 0
    assert len(related_pairs(q, k, unit, torch.tensor([-9.0, -9.0, 0.95, -9.0])).key) == 2
    exact = float(unit[0] @ unit[2])
    assert len(related_pairs(q, k, unit, torch.tensor([exact, -9.0, -9.0, -9.0])).key) == 0


# models


@pytest.mark.parametrize(("family", "wrapper"), FAMILIES)
def test_every_family_against_a_loop(family: str, wrapper: Any, words: list[str]) -> None:
    hf: Any = hf_model(family)
    embedded = hf.get_input_embeddings().weight.detach().double().numpy()[ids_of(words)]
    weights = [head_weights(family, hf, layer) for layer in range(N_LAYERS)]
    vectors = random_vectors(words)
    result = head_word_pairs(wrapped(hf, wrapper), Vocabulary.of(words), vectors, **OPTIONS)
    assert result.dims.shape[:2] == (N_LAYERS, N_HEADS)
    total = 0
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            expected = pairs_by_loop(embedded, weights[layer], head, vectors.vectors, **OPTIONS)
            assert result.dims[layer, head].tolist() == expected.dims
            np.testing.assert_allclose(result.energy[layer, head], expected.energy, rtol=1e-4)
            for dim, (mine, theirs) in enumerate(zip(as_sets(result, layer, head), expected.pairs, strict=True)):
                named = {(words[k], words[q]): c for (k, q), c in theirs.items()}
                assert mine.keys() == named.keys(), (layer, head, dim)
                assert mine == pytest.approx(named, abs=1e-5)
                assert list(mine.values()) == sorted(mine.values(), reverse=True)
                total += len(mine)
    assert total > 200  # the comparison had something to compare


def test_planted_pairs_are_recovered_exactly(words: list[str]) -> None:
    some = words[:24]  # words 2i and 2i + 1 are related
    plants = [
        (0, 0, 3, 0, 1, 2.0),
        (0, 1, 3, 0, 1, 1.5),  # the key of head 0 and 1 is one
        (0, 2, 5, 7, 6, -1.0),  # both activations negative
        (1, 3, 0, 8, 9, 1.0),
        (1, 3, 7, 11, 10, 3.0),
        (1, 0, 2, 2, 5, 4.0),  # unrelated words: no pair
        (1, 1, 4, 12, 12, 4.0),  # a word with itself: no pair
    ]
    result = head_word_pairs(wrapped(planted(plants, some)), some, paired_vectors(some), top_k=1)
    frame = result.to_df()
    got = {
        (layer, head, dim): (str(key), str(query), dim_rank, rank)
        for layer, head, dim, dim_rank, _, rank, key, query, _ in frame.itertuples(index=False, name=None)
    }
    assert got == {
        (0, 0, 3): (some[0], some[1], 1, 1),
        (0, 1, 3): (some[0], some[1], 1, 1),
        (0, 2, 5): (some[7], some[6], 1, 1),
        (1, 3, 0): (some[8], some[9], 2, 1),
        (1, 3, 7): (some[11], some[10], 1, 1),
    }
    assert len(frame) == 5
    torch.testing.assert_close(result.energy[1, 3, :2], torch.tensor([18.0, 2.0]), rtol=1e-4, atol=1e-4)


def test_opposite_activations_are_no_pair(words: list[str]) -> None:
    some = words[:24]
    hf: Any = planted([(0, 0, 3, 0, 1, 2.0)], some)
    with torch.no_grad():
        hf.model.layers[0].self_attn.q_proj.weight.neg_()
    assert len(head_word_pairs(wrapped(hf), some, paired_vectors(some), top_k=1).key) == 0


def test_odd_words_never_shift_the_others(llama: Any, words: list[str]) -> None:
    odd = ["a=b", "new york", "=", "日本 ", words[3] + " " + words[4]]
    mixed = [words[0], odd[0], words[1], odd[1], *words[2:10], *odd[2:]]
    vectors = random_vectors(mixed)
    result = head_word_pairs(llama, mixed, vectors, **OPTIONS)
    assert result.words == tuple(mixed)
    tokenizer = tokenizer_of()
    ids = [tokenizer(" " + word, add_special_tokens=False)["input_ids"] for word in mixed]
    boundary = tokenizer.convert_tokens_to_ids("Ġ")
    matrix = llama.W_E.detach().double().numpy()
    embedded = np.stack([matrix[own[1:] if own[0] == boundary else own].mean(axis=0) for own in ids])
    expected = pairs_by_loop(embedded, head_weights("llama", hf_model("llama"), 1), 2, vectors.vectors, **OPTIONS)
    named = [{(mixed[k], mixed[q]) for k, q in pairs} for pairs in expected.pairs]
    assert [pairs.keys() for pairs in as_sets(result, 1, 2)] == named
    assert any(set(odd) & {word for pair in pairs for word in pair} for pairs in named)


def test_words_without_token_or_vector(llama: Any, words: list[str]) -> None:
    kept, vectors = words[:30], random_vectors(words[:20])
    lost = kept[4]
    largest = max(ids_of(words))
    small = wrapped(hf_model("llama", vocab_size=largest))  # the last word's token has no row
    last = next(word for word in words if ids_of([word]) == [largest])
    with_lost = [kept[0], last, *kept[1:]]
    result = head_word_pairs(small, with_lost, vectors, **OPTIONS)
    assert last not in result.words
    assert result.words == tuple(word for word in kept if word != last)
    options = result.provenance.options
    assert (options["words_without_token"], options["words_without_vector"]) == (1, 10)
    assert lost in result.words
    used = {result.words[i] for i in {*result.key.tolist(), *result.query.tolist()}}
    assert used <= set(words[:20])  # a word without vector forms no pair
    assert_equal(result, head_word_pairs(small, list(result.words), vectors, **OPTIONS))


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_chunks_change_nothing(llama: Any, found: HeadWordPairs, words: list[str], chunk: int) -> None:
    other = head_word_pairs(llama, words, random_vectors(words), chunk=chunk, **OPTIONS)
    assert_equal(found, other)


def test_chosen_layers_and_heads_are_those_of_the_whole(llama: Any, found: HeadWordPairs, words: list[str]) -> None:
    some = head_word_pairs(llama, words, random_vectors(words), layers=[1], heads=[3, 0], **OPTIONS)
    assert (some.layers, some.heads) == ((1,), (3, 0))
    for head in (0, 3):
        assert as_sets(some, 1, head) == as_sets(found, 1, head)
    torch.testing.assert_close(some.energy[0], found.energy[1, [3, 0]])


def test_top_k_beyond_the_list_takes_all(llama: Any, words: list[str]) -> None:
    vectors = random_vectors(words)
    thresholds: dict[str, Any] = OPTIONS | {"top_k": 10**6}
    exact: dict[str, Any] = OPTIONS | {"top_k": len(words)}
    every = head_word_pairs(llama, words, vectors, **exact)
    assert_equal(every, head_word_pairs(llama, words, vectors, **thresholds))
    assert every.provenance.options["top_k"] == len(words)


def test_thresholds_are_options(llama: Any, found: HeadWordPairs, words: list[str]) -> None:
    strict: dict[str, Any] = OPTIONS | {"threshold_std": 1.5}
    stricter = head_word_pairs(llama, words, random_vectors(words), **strict)
    assert 0 < len(stricter.key) < len(found.key)
    default = head_word_pairs(llama, words, random_vectors(words))
    options = default.provenance.options
    assert (options["threshold_words"], options["threshold_std"]) == (3000, 1.96)
    assert options["top_k"] == len(words) < 100


def test_half_precision_is_read_in_single(words: list[str]) -> None:
    half = wrapped(hf_model("llama", dtype=torch.bfloat16), dtype=torch.bfloat16)
    exact = hf_model("llama", dtype=torch.bfloat16).float()
    vectors = random_vectors(words)
    one, other = (
        head_word_pairs(half, words, vectors, **OPTIONS),
        head_word_pairs(wrapped(exact), words, vectors, **OPTIONS),
    )
    assert_equal(one, other)
    assert one.energy.dtype == torch.float32
    assert one.provenance.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k=0 given, expected at least 1"),
        ({"threshold_words": 0}, "threshold_words=0 given, expected at least 1"),
        ({"chunk": 0}, "chunk=0 given, expected at least 1"),
        ({"threshold_std": float("nan")}, "threshold_std is nan, expected a finite number"),
        ({"layers": [2]}, r"layers=\[2\] given, expected at least one of 0 to 1, each once"),
        ({"layers": []}, r"layers=\[\] given"),
        ({"layers": [-1]}, r"layers=\[-1\] given"),
        ({"heads": [0, 0]}, r"heads=\[0, 0\] given, expected at least one of 0 to 3, each once"),
    ],
)
def test_unusable_options_are_refused(llama: Any, words: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        head_word_pairs(llama, words, random_vectors(words), **options)


def test_unusable_words_are_refused(llama: Any, words: list[str]) -> None:
    with pytest.raises(InputError, match=f"the word {words[1]!r} comes twice in the word list"):
        head_word_pairs(llama, [*words, words[1]], random_vectors(words))
    with pytest.raises(InputError, match="has vectors of 1 of the 2 words, expected 2 or more"):
        head_word_pairs(llama, words[:2], random_vectors(words[1:]))


# the result


def test_tables(found: HeadWordPairs) -> None:
    frame = found.to_df()
    assert list(frame.columns) == COLUMNS
    assert len(frame) == len(found.key) == int(found.counts.sum())
    row = frame.loc[(frame["layer"] == 1) & (frame["head_index"] == 2)]
    pairs = as_sets(found, 1, 2)
    for rank, dim in enumerate(found.dims[1, 2].tolist(), start=1):
        part = row.loc[row["dim"] == dim]
        assert set(part["dim_rank"]) <= {rank}
        assert list(part["rank"]) == list(range(1, len(part) + 1))
        assert {*zip(part["key_word"], part["query_word"], strict=True)} == pairs[rank - 1].keys()
        np.testing.assert_allclose(part["energy"], float(found.energy[1, 2, rank - 1]))
    some = found.to_df(layers=[1], heads=[2])
    assert some.reset_index(drop=True).equals(row.reset_index(drop=True))
    short = found.table(2)
    assert list(short.columns) == [*COLUMNS, "pairs_in_dim"]
    assert short.drop(columns="pairs_in_dim").equals(frame[frame["rank"] <= 2].reset_index(drop=True))
    sizes = frame.groupby(["layer", "head_index", "dim"]).size()
    counted = zip(short["layer"], short["head_index"], short["dim"], short["pairs_in_dim"], strict=True)
    assert all(sizes[layer, head, dim] == n for layer, head, dim, n in counted)


def test_top_is_the_best_pair_of_the_largest_shares(found: HeadWordPairs) -> None:
    top = found.top(3)
    share = found.energy / found.energy.sum(dim=-1, keepdim=True)
    share[found.counts == 0] = 0
    expected = share.flatten().sort(descending=True).values[:3]
    rows = zip(top["layer"], top["head_index"], top["energy"], strict=True)
    mine = [energy / float(found.energy[layer, head].sum()) for layer, head, energy in rows]
    np.testing.assert_allclose(mine, expected, rtol=1e-5)
    best = found.to_df().query("rank == 1").set_index(["layer", "head_index", "dim"]).key_word
    for row in top.itertuples():
        assert row.key_word == best[row.layer, row.head_index, row.dim]


def test_no_pairs_at_all_are_a_result(llama: Any, words: list[str]) -> None:
    none = head_word_pairs(llama, words, random_vectors(words), threshold_std=50.0)
    assert len(none.key) == len(none.to_df()) == len(none.table()) == len(none.top()) == 0
    assert list(none.to_df().columns) == COLUMNS


def test_of_head_and_tables_refuse_what_was_not_read(found: HeadWordPairs) -> None:
    with pytest.raises(InputError, match="layer 7 was not read, available: 0, 1"):
        found.of_head(7, 0)
    with pytest.raises(InputError, match=r"heads=\[9\] given, expected at least one of 0 to 3, each once"):
        found.to_df(heads=[9])
    with pytest.raises(InputError, match="table_top=0 given, expected at least 1"):
        found.table(0)


def test_a_result_survives_its_file(found: HeadWordPairs, tmp_path: Path) -> None:
    loaded = HeadWordPairs.load(found.save(tmp_path / "pairs.safetensors"))
    assert_equal(found, loaded)
    assert loaded.provenance == found.provenance
    assert loaded.provenance.options["vocabulary"] == "given words"


# the authors' implementation on a real model


def test_reference_heads_are_met(reference: Path, smollm2: Any) -> None:
    stored = np.load(reference / "word_vectors_50d.npz")
    words = tuple(map(str, stored["words"]))
    vectors = WordVectors(words, stored["vectors"])
    for layer, head in ((0, 0), (7, 3), (29, 5)):
        expected = json.loads((reference / f"att_L{layer}H{head}.json").read_text(encoding="utf-8"))
        result = head_word_pairs(smollm2, words, vectors, layers=[layer], heads=[head])
        assert result.dims[0, 0].tolist() == expected["dims"]
        np.testing.assert_allclose(result.energy[0, 0], expected["energy"], rtol=1e-4)
        overlaps = []
        for mine, listed in zip(as_sets(result, layer, head), expected["pairs"], strict=True):
            joined, theirs = {f"{k}={q}" for k, q in mine}, set(listed)
            overlaps.append(len(joined & theirs) / len(joined | theirs) if joined | theirs else 1.0)
        assert np.mean(overlaps) >= 0.997, (layer, head)
