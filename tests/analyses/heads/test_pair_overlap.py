"""Overlap of pairs: sets by hand, a planted edit of one head, the band of control models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensdiff import stats
from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs, head_word_pairs
from lensdiff.analyses.heads.pair_overlap import PairOverlap, jaccard, pair_overlap, pair_set
from lensdiff.models import load_pair
from lensdiff.results import Control, ControlModel, InputError
from tests.analyses.heads.head_models import N_HEADS, known_words, made, random_vectors, wrapped
from tests.checkpoints import hf_model

WORDS = known_words()
VECTORS = random_vectors(WORDS)
OPTIONS: dict[str, Any] = {"top_k": 12, "threshold_std": 0.5}


def edited(family: str, layer: int, head: int) -> Any:
    """A model with one head's query weights (and bias) negated."""
    hf: Any = hf_model(family)
    with torch.no_grad():
        if family == "gpt2":
            d_model = hf.config.n_embd
            part = slice(head * d_model // N_HEADS, (head + 1) * d_model // N_HEADS)
            hf.transformer.h[layer].attn.c_attn.weight[:, part] *= -1
        else:
            weight = hf.model.layers[layer].self_attn.q_proj.weight
            d_head = len(weight) // N_HEADS
            weight[head * d_head : (head + 1) * d_head] *= -1
    return hf


def pairs_of(model: Any) -> HeadWordPairs:
    return head_word_pairs(model, WORDS, VECTORS, **OPTIONS)


@pytest.fixture(scope="module")
def base() -> HeadWordPairs:
    return pairs_of(wrapped(hf_model("llama")))


def noisy(scale: float, seed: int = 3) -> Any:
    hf, generator = hf_model("llama"), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(scale * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return hf


# kernels


def test_jaccard_by_hand() -> None:
    assert jaccard(np.array([1, 2, 3]), np.array([2, 3, 4, 5])) == 2 / 5
    assert jaccard(np.array([], dtype=int), np.array([], dtype=int)) == 1.0
    assert jaccard(np.array([1]), np.array([], dtype=int)) == 0.0


def test_overlap_by_hand() -> None:
    words = ("a", "b", "c", "d")
    # one head of two dimensions; pairs are ordered: (a, b) is not (b, a)
    base = made([[[[("a", "b"), ("c", "d")], [("a", "b"), ("b", "a")]]]], words)
    tuned = made([[[[("a", "b"), ("d", "c")], [("d", "c"), ("a", "d")]]]], words)
    assert pair_set(base, 0, 0).dims.tolist() == [2, 1, 1]
    found = pair_overlap(base, tuned)
    assert found.jaccard.tolist() == [[1 / 5]]
    row = found.to_df().iloc[0]
    assert (row.n_base, row.n_tuned, row.gained, row.lost) == (3, 3, 2, 2)
    changes = found.changes(0, 0)
    assert list(changes.itertuples(index=False, name=None))[:2] == [
        ("gained", 1, "d", "c", 2),
        ("gained", 2, "a", "d", 1),
    ]
    assert {*zip(changes.change[2:], changes.key_word[2:], changes.query_word[2:], strict=True)} == {
        ("lost", "c", "d"),
        ("lost", "b", "a"),
    }
    assert found.changed_key.shape == (2, 1, 1, 20)


def test_changes_are_listed_by_dimensions_then_cosine() -> None:
    words = ("a", "b", "c", "d")
    empty = made([[[[], []]]], words)
    tuned = made([[[[("a", "b"), ("a", "c"), ("a", "d")], [("a", "d")]]]], words)
    tuned.cosine[:] = torch.tensor([0.1, 0.9, 0.5, 0.5])
    listed = pair_overlap(empty, tuned).changes(0, 0)
    assert list(listed.query_word) == ["d", "c", "b"]
    assert list(pair_overlap(empty, tuned, table_top=2).changes(0, 0).query_word) == ["d", "c"]
    assert len(pair_overlap(empty, tuned, table_top=0).changes(0, 0)) == 0
    assert pair_overlap(empty, empty).jaccard.item() == 1.0


# models


@pytest.mark.parametrize(("family", "wrapper"), [("llama", "hooked"), ("gpt2", "hooked"), ("gemma", "bridge")])
def test_a_head_with_negated_queries_changed_most(family: str, wrapper: Any) -> None:
    before = pairs_of(wrapped(hf_model(family), wrapper))
    found = pair_overlap(before, pairs_of(wrapped(edited(family, 1, 2), wrapper)))
    assert (found.top(1).layer[0], found.top(1).head_index[0]) == (1, 2)
    others = torch.ones(2, N_HEADS, dtype=torch.bool)
    others[1, 2] = False
    assert (found.jaccard[others] == 1.0).all()
    assert found.jaccard[1, 2] < 0.6


def test_base_against_base_is_exactly_the_same(base: HeadWordPairs) -> None:
    found = pair_overlap(base, pairs_of(wrapped(hf_model("llama"))))
    assert (found.jaccard == 1.0).all()
    assert not found.counts[2:].any()
    assert len(found.changes(0, 0)) == 0
    assert found.band.isnan().all()
    assert found.whole is None


def test_counts_add_up_and_agree_with_the_table(base: HeadWordPairs) -> None:
    tuned = pairs_of(wrapped(noisy(0.3)))
    found = pair_overlap(base, tuned)
    n_base, n_tuned, gained, lost = found.counts
    assert (n_base - lost == n_tuned - gained).all()
    torch.testing.assert_close(found.jaccard, (n_base - lost) / (n_base + gained).double())
    for layer, head in ((0, 0), (1, 3)):
        mine, theirs = (
            {*zip(frame.key_word, frame.query_word, strict=True)}
            for frame in (x.to_df(layers=[layer], heads=[head]) for x in (base, tuned))
        )
        assert (int(gained[layer, head]), int(lost[layer, head])) == (len(theirs - mine), len(mine - theirs))
        listed = found.changes(layer, head)
        for name, expected in (("gained", theirs - mine), ("lost", mine - theirs)):
            part = listed[listed.change == name]
            assert {*zip(part.key_word, part.query_word, strict=True)} <= expected
            assert len(part) == min(20, len(expected))


def test_a_real_change_stands_outside_the_band_of_smaller_controls() -> None:
    pair = load_pair(wrapped(hf_model("llama")), wrapped(noisy(0.05)))
    controls = {kind: [pairs_of(pair.control(kind, seed)) for seed in range(19)] for kind in ("norm", "spectrum")}
    given = [one for both in zip(*controls.values(), strict=True) for one in both]
    inside = pair_overlap(pairs_of(pair.base), pairs_of(pair.tuned), controls=given)
    beside = {
        kind: np.array([pair_overlap(pairs_of(pair.base), control).jaccard.numpy() for control in some])
        for kind, some in controls.items()
    }
    bands = [stats.rank_band(values) for values in beside.values()]
    np.testing.assert_allclose(inside.band[0], np.clip(np.minimum(*(band.low for band in bands)), 0, 1))
    np.testing.assert_allclose(inside.band[1], np.clip(np.maximum(*(band.high for band in bands)), 0, 1))
    whole = inside.whole
    assert whole is not None
    assert whole.effect == pytest.approx(float(inside.jaccard.mean()))
    means = {kind: values.mean(axis=(1, 2)) for kind, values in beside.items()}
    assert [(kind.kind, kind.n) for kind in whole.kinds] == [("norm", 19), ("spectrum", 19)]
    assert [kind.p for kind in whole.kinds] == [stats.control_rank(whole.effect, x).p for x in means.values()]
    assert whole.verdict() == "within"  # noise against noise of its size
    assert inside.provenance.control_kinds == ("norm", "spectrum") * 19
    narrow = pair_overlap(pairs_of(pair.base), pairs_of(pair.tuned), controls=given, level=0.5)
    assert (narrow.band[1] - narrow.band[0] < inside.band[1] - inside.band[0]).all()
    # a head edited by hand lies below the band, the others above it, since they did not change
    outside = pair_overlap(pairs_of(pair.base), pairs_of(wrapped(edited("llama", 0, 1))), controls=given)
    assert outside.jaccard[0, 1] < outside.band[0, 0, 1]
    assert outside.jaccard[1, 1] > outside.band[1, 1, 1] or outside.band[1, 1, 1] == 1.0


def test_self_controls_are_exactly_the_same(base: HeadWordPairs) -> None:
    pair = load_pair(wrapped(hf_model("llama")), wrapped(noisy(0.05)))
    same = pairs_of(pair.control("self"))
    found = pair_overlap(base, base, controls=(same for _ in range(19)))
    assert (found.band == 1.0).all()
    assert found.whole is not None
    assert (found.whole.p, found.whole.band) == (1.0, (1.0, 1.0))
    assert found.provenance.controls == (ControlModel(same.provenance.model, Control("self")),) * 19


def test_a_change_beyond_99_controls_has_their_smallest_p(base: HeadWordPairs) -> None:
    tuned = pairs_of(wrapped(edited("llama", 0, 1)))
    found = pair_overlap(base, tuned, controls=[base] * 99)
    assert found.whole is not None
    assert (found.whole.p, found.whole.direction, found.whole.verdict()) == (0.01, "below", "beyond")
    assert [kind.kind for kind in found.whole.kinds] == ["given"]


def test_with_fewer_than_19_of_a_kind_there_is_no_band(base: HeadWordPairs) -> None:
    tuned = pairs_of(wrapped(edited("llama", 0, 1)))
    other = replace(base, provenance=replace(base.provenance, control=Control("spectrum", 0)))
    for controls in ([base], [base, base], [base] * 18, [*[base] * 19, other]):
        found = pair_overlap(base, tuned, controls=controls)
        assert found.band.isnan().all()
        assert found.to_df()[["jaccard_control_low", "jaccard_control_high"]].isna().to_numpy().all()
        assert found.whole is not None
        assert (found.whole.p, found.whole.n) == (None, 1 if controls[-1] is other else len(controls))


# the result and errors


def test_a_result_survives_its_file(base: HeadWordPairs, tmp_path: Path) -> None:
    controls = [pairs_of(wrapped(noisy(0.1, seed))) for seed in range(19)]
    found = pair_overlap(base, pairs_of(wrapped(noisy(0.3))), controls=controls, level=0.9)
    loaded = PairOverlap.load(found.save(tmp_path / "overlap.safetensors"))
    assert loaded.to_df().equals(found.to_df())
    assert loaded.changes(1, 1).equals(found.changes(1, 1))
    assert loaded.whole == found.whole
    assert found.whole is not None
    assert found.whole.level == 0.9
    assert loaded.provenance == found.provenance
    assert loaded.provenance.options["level"] == 0.9


def test_unusable_input_is_refused(base: HeadWordPairs) -> None:
    other = head_word_pairs(wrapped(hf_model("llama")), WORDS, VECTORS, layers=[0], **OPTIONS)
    with pytest.raises(InputError, match=r"tuned has layers \(0,\), base \(0, 1\)"):
        pair_overlap(base, other)
    with pytest.raises(InputError, match=r"control 1 has layers"):
        pair_overlap(base, base, controls=[base, other])
    with pytest.raises(InputError, match="table_top=-1 given, expected at least 0"):
        pair_overlap(base, base, table_top=-1)
    with pytest.raises(InputError, match="layer 5, head 0 was not compared, available: layers 0, 1, heads 0, 1, 2, 3"):
        pair_overlap(base, base).changes(5, 0)
