"""Rotation: planted angles come back, no change is none, meaningless changes are not called one, planted ones are."""

import weakref
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

from lensdiff import stats
from lensdiff.analyses.mlp.components import ConceptDirections, concept_directions
from lensdiff.analyses.mlp.concepts import mlp_concepts
from lensdiff.analyses.mlp.rotation import Rotation, highest, rotation, turn
from lensdiff.models import ModelPair, load_pair, view_of
from lensdiff.models.change import RealChange
from lensdiff.models.controls import control_view
from lensdiff.results import Control, InputError, Provenance
from tests.analyses.mlp.concept_models import (
    D_MLP,
    D_MODEL,
    MODULE,
    PER_DIRECTION,
    PLANTED,
    model_with,
    orthonormal,
    planted_embedding,
    planted_words,
    single_token_words,
    vectors_with,
)
from tests.analyses.mlp.test_subspaces import turned
from tests.checkpoints import hf_model, tokenizer_of

SIZES = torch.arange(12, 0, -1.0)
ROWS = orthonormal(12, D_MODEL)
RANK = 4
BASIS, STEEP = orthonormal(D_MODEL, D_MODEL), 8 * 0.8 ** torch.arange(D_MODEL)


@pytest.mark.parametrize("side", ["value", "key", "gate"])
@pytest.mark.parametrize("angle", [0.02, 0.5, 1.3])
def test_a_planted_rotation_out_of_the_subspace_is_its_angle(side: str, angle: float) -> None:
    found = _turned_by(angle, 1, 7, side)
    angles = found.angles[0, 0, found.ranks.index(RANK), :RANK]
    np.testing.assert_allclose(angles, [0.0, 0.0, 0.0, angle], rtol=0, atol=1e-3)
    row = found.matched().query("component == 1").iloc[0]
    if angle < np.pi / 4:  # further round, each of the two is nearer to the other's place
        assert row.angle == pytest.approx(angle, abs=1e-3)
        assert row.tuned_component == 1
    others = found.matched().query("component not in (1, 7)")
    assert others.angle.max() < 1e-3


def test_a_rotation_inside_the_subspace_is_invisible_to_principal_angles_and_seen_by_matched_ones() -> None:
    found = _turned_by(0.5, 1, 3)
    assert float(found.angles[0, 0, found.ranks.index(RANK), :RANK].max()) < 1e-3
    turned_ones = found.matched().query("component in (1, 3)")
    np.testing.assert_allclose(turned_ones.angle, 0.5, atol=1e-3)


def _turned_by(angle: float, i: int, j: int, side: str = "value") -> Rotation:
    results = []
    for rows in (ROWS, turned(ROWS, i, j, angle)):
        model = model_with({(0, side): vectors_with(rows, SIZES)})
        results.append(concept_directions(model, layers=[0], sides=[side], n_components=12, fold_gain=False))
    return rotation(*results, ranks=[RANK, 1, 8])


def test_base_against_itself_has_no_angle_and_nothing_else_to_tell() -> None:
    pair = _pair(lambda weight: weight)
    words = list(single_token_words())
    base, tuned = (mlp_concepts(m, words, sides=["value", "key"]) for m in (pair.base, pair.tuned))
    controls = [pair.control("spectrum", seed) for seed in range(19)] + [pair.control("self")] * 19
    found = rotation(base, tuned, controls=controls)
    assert found.angles.nan_to_num().max() <= 1e-6
    assert found.matched_angle.max() <= 1e-6
    assert found.match.tolist() == [[list(range(D_MODEL))] * 2] * 2
    assert (found.kinds, found.n_controls) == (("spectrum", "self"), (19, 19))
    assert found.band.max() <= 1e-6
    assert found.matched_band.max() <= 1e-6
    matched = found.matched()
    assert (matched.variance_change == 0).all()
    assert (matched.lost == "").all()
    assert (matched.gained == "").all()


def test_recomputed_in_float64_equal_models_differ_by_less_than_a_millionth() -> None:
    # one neuron order is as good as another: the same subspace by another sum
    weights = vectors_with(ROWS, SIZES)
    models = [model_with({(0, "value"): w}) for w in (weights, weights.flip(0))]
    found = rotation(*(concept_directions(m, layers=[0], n_components=12) for m in models), ranks=[1, 5, 10])
    assert found.angles.nan_to_num().max() <= 1e-6


def test_words_are_lost_and_gained_by_the_component_that_turned() -> None:
    rows = orthonormal(PLANTED, D_MODEL)
    embedding = planted_embedding(rows)
    sizes = torch.arange(PLANTED, 0, -1.0)
    results = []
    for kept in ([0, 1, 2, 3, 4], [0, 1, 5, 3, 4]):  # the third direction gives way to the last
        model = model_with({(1, "value"): vectors_with(rows[kept], sizes[:5])}, unembedding=embedding)
        vocabulary = list(single_token_words())
        results.append(mlp_concepts(model, vocabulary, layers=[1], n_components=5, top_words=PER_DIRECTION))
    found = rotation(*results, ranks=[1, 3])
    frame = found.matched()
    row = frame.query("component == 2").iloc[0]
    assert row.angle == pytest.approx(np.pi / 2, abs=1e-3)
    assert set(row.lost.split(", ")) == set(planted_words()[2])
    assert set(row.gained.split(", ")) == set(planted_words()[5])
    assert (frame.query("component != 2").lost == "").all()
    assert found.matched(words=1).query("component == 2").lost.item() in planted_words()[2]
    best = found.top(1).iloc[0]
    assert best.component == 2


def test_words_are_compared_as_strings() -> None:
    model, vocabulary = model_with(), list(single_token_words())
    results = [mlp_concepts(model, words, n_components=4, top_words=6) for words in (vocabulary, vocabulary[::-1])]
    assert results[0].words != results[1].words
    assert (rotation(*results, ranks=[1]).matched().gained == "").all()


def test_variance_changes_are_tuned_less_base() -> None:
    models = [model_with({(0, "value"): vectors_with(ROWS, sizes)}) for sizes in (SIZES, SIZES**2)]
    base, tuned = (concept_directions(m, layers=[0], n_components=12) for m in models)
    frame = rotation(base, tuned, ranks=[1]).matched()
    expected = tuned.explained_variance_ratio[0, 0] - base.explained_variance_ratio[0, 0]
    np.testing.assert_allclose(frame.variance_change, expected, rtol=1e-12)
    assert frame.variance_change[0] > 0


def test_tables_file_and_bands(tmp_path) -> None:
    pair = _pair(_low_rank(seed=1))
    base, tuned = (concept_directions(m, n_components=10, sides=["value", "key"]) for m in (pair.base, pair.tuned))
    numbers = {"spectrum": 20, "norm": 19, "self": 2}
    controls = [pair.control(kind, seed) for kind, n in numbers.items() for seed in range(n)]
    found = rotation(base, tuned, ranks=(1, 5, 20), controls=controls, level=0.9)
    assert found.provenance.options["ranks_left_out"] == [20]  # of 10 components
    assert found.provenance.control_counts == numbers
    assert [control.made for control in found.provenance.controls[18:21]] == [
        Control("spectrum", 18),
        Control("spectrum", 19),
        Control("norm", 0),
    ]
    assert (found.kinds, found.n_controls) == (tuple(numbers), tuple(numbers.values()))
    frame = found.to_df()
    kinds = ["gradient-noise", "spectrum", "norm", "self"]
    bands = [f"{kind}_{limit}" for kind in kinds for limit in ("low", "high")]
    assert list(frame.columns) == ["layer", "side", "rank", "mean_angle", "largest_angle", *bands]
    assert len(frame) == 2 * 2 * 2
    row = frame.query("layer == 1 and side == 'key' and rank == 5").iloc[0]
    assert row.mean_angle == pytest.approx(float(found.angles[1, 1, 1, :5].mean()))
    assert row.largest_angle == float(found.angles[1, 1, 1, 4])
    # the band by the definition of the rank: where one more control's p at level 0.9 begins to be small
    directions = [concept_directions(control, n_components=10, sides=["value", "key"]) for control in controls[:20]]
    turns = [turn(base.components, own.components, (1, 5)) for own in directions]
    means = [float(own.means()[1, 1, 1]) for own in turns]
    for limit, inwards in ((row.spectrum_low, 1e-9), (row.spectrum_high, -1e-9)):
        outside, inside = (stats.control_rank(limit + step, means).p for step in (-inwards, inwards))
        assert (outside or 0) <= 0.1 < (inside or 0)
    columns = ["layer", "side", "component", "tuned_component", "angle", *bands]
    columns += ["base_variance", "tuned_variance", "variance_change", "lost", "gained"]
    matched = found.matched()
    assert list(matched.columns) == columns
    assert len(matched) == 2 * 2 * 10
    assert (matched.spectrum_high >= matched.spectrum_low).all()
    one = matched.query("layer == 1 and side == 'key' and component == 3").iloc[0]
    band = stats.rank_band([float(own.matched_angle[1, 1, 3]) for own in turns], level=0.9)
    expected = np.clip([float(band.low), float(band.high)], 0, np.pi / 2)
    np.testing.assert_allclose([one.spectrum_low, one.spectrum_high], expected)
    for table in (frame, matched):
        assert table[["gradient-noise_low", "gradient-noise_high", "self_low", "self_high"]].isna().to_numpy().all()
        assert table[["spectrum_low", "spectrum_high", "norm_low", "norm_high"]].notna().to_numpy().all()
    top = found.top(3)
    limit = np.maximum(matched.spectrum_high, matched.norm_high)
    np.testing.assert_allclose(top.angle - highest(top), (matched.angle - limit).nlargest(3))
    again = Rotation.load(found.save(tmp_path / "r.safetensors"))
    assert again.to_df().equals(frame)
    assert again.matched().equals(matched)


def test_the_highest_limit_is_that_of_any_kind_that_has_one() -> None:
    matched = pd.DataFrame(
        {
            "angle": [9.0, 9.0, 9.0],
            "a_low": [5.0, 5.0, 5.0],
            "a_high": [1.0, np.nan, np.nan],
            "b_high": [2.0, 0.5, np.nan],
        }
    )
    assert highest(matched).tolist() == [2.0, 0.5, 0.0]


def test_without_controls_there_are_angles_but_no_band(tmp_path) -> None:
    base = concept_directions(model_with(), n_components=6)
    found = rotation(base, base, ranks=[2])
    assert found.kinds == ()
    bands = ["gradient-noise_low", "gradient-noise_high", "spectrum_low", "spectrum_high"]
    assert [name for name in found.to_df() if name.endswith(("_low", "_high"))] == bands
    assert found.to_df()[bands].isna().to_numpy().all()
    assert highest(found.matched()).eq(0).all()
    assert len(found.top(2)) == 2
    again = Rotation.load(found.save(tmp_path / "r.safetensors"))
    assert again.matched().equals(found.matched())


def test_controls_are_read_one_at_a_time_and_may_be_results() -> None:
    pair = _pair(_low_rank(seed=2))
    base, tuned = (concept_directions(m, n_components=6) for m in (pair.base, pair.tuned))
    alive: list[weakref.ref] = []

    def controls(as_results: bool):
        for seed in range(19):
            control = pair.control("spectrum", seed)
            alive.append(weakref.ref(control))
            yield concept_directions(control, n_components=6) if as_results else control
            del control
            assert sum(ref() is not None for ref in alive) <= 1

    both = [rotation(base, tuned, ranks=[1, 3], controls=controls(as_results)) for as_results in (True, False)]
    assert torch.equal(both[0].band, both[1].band)
    assert torch.equal(both[0].matched_band, both[1].matched_band)
    assert both[0].band.isfinite().all()


def test_bands_need_19_controls_of_their_own_kind() -> None:
    given = concept_directions(model_with(), layers=[0], n_components=4).provenance
    kinds = {kind: replace(given, control=Control(kind, 0)) for kind in ("gradient-noise", "spectrum")}
    base, tuned = _directions(0, given), _directions(1, given)
    sides = {kind: [_directions(seed, own) for seed in range(2, 21)] for kind, own in kinds.items()}
    found = rotation(base, tuned, ranks=[1, 2], controls=iter([*sides["gradient-noise"], *sides["spectrum"][:18]]))
    assert (found.kinds, found.n_controls) == (("gradient-noise", "spectrum"), (19, 18))
    frame = found.to_df()
    assert frame[["gradient-noise_low", "gradient-noise_high"]].notna().to_numpy().all()
    assert frame[["spectrum_low", "spectrum_high"]].isna().to_numpy().all()
    assert found.matched().spectrum_high.isna().all()
    means = np.stack([turn(base.components, o.components, (1, 2)).means() for o in sides["gradient-noise"]])
    band = np.clip(stats.rank_band(means), 0.0, np.pi / 2)
    np.testing.assert_allclose(found.band[0, 0], band[0])
    np.testing.assert_allclose(found.band[0, 1], band[1])
    wide = rotation(base, tuned, ranks=[1, 2], controls=sides["gradient-noise"], level=0.5).band[0]
    assert (wide[1] - wide[0] <= found.band[0, 1] - found.band[0, 0]).all()
    few = rotation(base, tuned, ranks=[1], controls=[_directions(seed, given) for seed in (2, 3)])
    assert few.kinds == ("given",)
    assert few.to_df()[["given_low", "given_high"]].isna().to_numpy().all()


def _directions(seed: int, provenance: Provenance) -> ConceptDirections:
    rows = orthonormal(4, 10, seed=seed)[None, None].float()
    return ConceptDirections(provenance, (0,), ("value",), rows, torch.ones(1, 1, 4).double())


def _pair(change: Any, **sizes: Any) -> ModelPair:
    base, tuned = hf_model("llama", **sizes), hf_model("llama", **sizes)
    with torch.no_grad():
        for layer in tuned.model.layers:
            for name in MODULE.values():
                weight = getattr(layer.mlp, name).weight
                weight.copy_(change(weight))
    return load_pair(base, tuned, tokenizer=tokenizer_of(), device="cpu")


def _low_rank(seed: int, *, size: float = 0.1, rank: int = 2) -> Any:
    """A meaningless change: `rank` random directions, a tenth of the weight's norm."""
    generator = torch.Generator().manual_seed(seed)

    def change(weight: torch.Tensor) -> torch.Tensor:
        left, right = (torch.randn(n, rank, generator=generator) for n in weight.shape)
        product = left @ right.T
        return weight + size * product * weight.norm() / product.norm()

    return change


def test_meaningless_low_rank_changes_leave_the_band_in_about_five_of_a_hundred_draws() -> None:
    pair = _pair(lambda weight: weight, num_hidden_layers=1)
    weight = view_of(pair.tuned).weights.matrix(0, "W_out")
    assert weight is not None
    original, base = weight.clone(), concept_directions(pair.base, n_components=8)
    found = []
    for draw in range(100):
        with torch.no_grad():
            weight.copy_(_low_rank(draw)(original))
        views = view_of(pair.base), view_of(pair.tuned)
        change = RealChange(views[0].weights, views[1].weights, pair.shared_tokens)
        # seeds of its own: draws that share controls would be significant together
        controls = (control_view(*views, change, "spectrum", 19 * draw + seed) for seed in range(19))
        tuned = concept_directions(pair.tuned, n_components=8)
        row = rotation(base, tuned, ranks=[1, 4, 8], controls=controls).to_df().iloc[1]
        assert row.spectrum_low < row.spectrum_high
        found.append(not row.spectrum_low < row.mean_angle < row.spectrum_high)
    assert 0 < sum(found) <= 11  # 5 expected; none has a chance of 0.6 %, more than 11 of 0.4 %


def test_a_planted_rotation_lies_above_every_band() -> None:
    weights = {}
    for name, rows in (("base", BASIS), ("tuned", turned(turned(BASIS, 0, 20, 0.3), 1, 21, 0.3))):
        weights[name] = model_with({(layer, "value"): vectors_with(rows, STEEP) for layer in (0, 1)})
    pair = load_pair(weights["base"], weights["tuned"])
    base, tuned = (concept_directions(m, n_components=12) for m in (pair.base, pair.tuned))
    controls = (pair.control(kind, seed) for kind in ("spectrum", "norm") for seed in range(19))
    found = rotation(base, tuned, ranks=(1, 2, 5, 10), controls=controls)
    frame = found.to_df().query("rank == 2")
    np.testing.assert_allclose(frame.mean_angle, 0.3, atol=1e-3)
    assert (frame.mean_angle > frame[["spectrum_high", "norm_high"]].max(axis=1)).all()


def test_controls_are_made_by_pairs() -> None:
    control = _pair(_low_rank(0)).control("norm", 5)
    assert concept_directions(control, n_components=3).provenance.control == Control("norm", 5)


def test_errors() -> None:
    model = model_with()
    base = concept_directions(model, n_components=6)
    cases: list[tuple[dict, dict, str]] = [
        ({"layers": [1]}, {}, r"tuned has layers \[1\], the base has \[0, 1\]"),
        ({"sides": ["key"]}, {}, r"tuned has sides \['key'\]"),
        ({"n_components": 5}, {}, "tuned has 5 components of 32 dimensions, the base has 6 components of 32"),
        ({"fold_gain": False}, {}, "tuned has fold_gain=False, the base has fold_gain=True"),
        ({}, {"ranks": []}, r"ranks=\[\] given, expected numbers from 1"),
        ({}, {"ranks": [0]}, r"ranks=\[0\] given"),
        ({}, {"ranks": [7]}, r"ranks=\[7\] given, expected at least one of 1 to 6"),
        ({}, {"controls": [concept_directions(model)]}, "control 0 has 32 components"),
    ]
    for change, options, message in cases:
        tuned = concept_directions(model, **cast(dict[str, Any], {"n_components": 6} | change))
        with pytest.raises(InputError, match=message):
            rotation(base, tuned, **options)
    whole = concept_directions(model)
    with pytest.raises(InputError, match=rf"expected at least one of 1 to {D_MODEL // 2} \(half of d_model\)"):
        rotation(whole, whole, ranks=[D_MODEL])
    assert D_MLP > D_MODEL
