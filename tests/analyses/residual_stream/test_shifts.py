"""Both models beside controls: differences, intervals, bands and what counts as moved, by hand; nothing for equals."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from lensdiff.analyses.residual_stream.lens_shift import LensCurves, LensShift, lens_shift
from lensdiff.analyses.residual_stream.parts_shift import ModelParts, PartsShift, parts_shift
from lensdiff.results import InputError, Provenance
from tests.analyses.residual_stream.results import (
    PROMPTS,
    RISE,
    curves,
    logit_lens,
    model_parts,
    shift_of_lens,
    shift_of_parts,
)


def test_curves_are_means_over_each_responses_tokens():
    found = LensCurves.of([logit_lens(), logit_lens(("Red",), prompt_id="p2", shift=0.1)])
    assert found.prompt_id == ("p1", "p2")
    assert found.n_out == (3, 1)
    torch.testing.assert_close(found.kl, torch.tensor([[4.0, 2.0, 0.0], [4.0, 1.9, 0.0]], dtype=torch.float64))
    assert found.committed.tolist() == [2.0, 2.0]
    assert found.to_df().kl.tolist() == pytest.approx([4.0, 1.95, 0.0])
    assert len(found.top(1)) == 1
    with pytest.raises(InputError, match="there is no prompt whose layers were read"):
        LensCurves.of([])


def test_layers_are_compared_over_prompts_and_beside_controls(tmp_path):
    found = shift_of_lens({"spectrum": 19})
    kl = found.differences("kl")
    scale = 1 + 0.1 * np.arange(4)
    np.testing.assert_allclose(kl["difference"], 2.0 * scale.mean() * np.array([1, 0.5, 0]))
    expected = scipy.stats.t.interval(0.95, 3, loc=2 * scale.mean(), scale=2 * scale.std(ddof=1) / 2)
    np.testing.assert_allclose([kl["low"][0], kl["high"][0]], expected)
    assert kl["control_high"][0] < 1.0 < kl["difference"][0]
    beside, test = found.beside(), found.commitment()
    assert beside is not None
    assert test is not None
    assert (beside.effect, beside.direction) == (-0.5, "below")
    assert test.estimate == -0.5
    frame = found.to_df()
    assert list(frame.columns) == [
        *("measure", "layer", "base", "tuned", "difference", "low", "high", "control_low", "control_high"),
    ]
    assert frame.measure.tolist() == ["kl"] * 3 + ["prob"] * 3 + ["committed"]
    assert frame[frame.measure == "committed"].difference.item() == -0.5
    assert found.top(1).measure.item() == "prob"
    assert "committed at layer: base 1.5, tuned 1" in repr(found)
    pd.testing.assert_frame_equal(LensShift.load(found.save(tmp_path / "x")).to_df(), frame)
    with pytest.raises(InputError, match="measure='rank' is none of kl, prob"):
        found.differences("rank")


def test_without_controls_or_with_one_prompt_there_is_no_limit():
    found = shift_of_lens(n=1)
    frame = found.to_df()
    assert frame[["low", "high", "control_low", "control_high"]].isna().all(axis=None)
    assert found.beside() is None
    assert found.commitment() is None
    parts = shift_of_parts(n=1)
    assert parts.to_df()[["low", "p", "p_adjusted", "control_low", "beyond", "moved"]].isna().all(axis=None)
    assert parts.whole() is None


def test_equal_models_differ_in_nothing():
    one = curves(Provenance("", "a"), 4.0, 1.5)
    found = lens_shift(one, replace(one, provenance=Provenance("", "b")))
    assert not found.to_df()[["difference", "low", "high"]].any(axis=None)
    same = model_parts(Provenance("", "a"), 0.5)
    parts = parts_shift(same, same)
    assert not parts.to_df()[["difference", "low", "high"]].any(axis=None)
    assert set(parts.to_df().p) == {1.0}


def test_a_part_moved_where_prompts_and_controls_say_so(tmp_path):
    found = shift_of_parts({"spectrum": 19})
    frame = found.to_df()
    moved = frame[frame.moved.astype(bool)]
    assert moved[["part", "layer", "head_index"]].values.tolist() == [["head", 1, 0]]
    assert moved.difference.item() == pytest.approx(RISE * 1.15)
    scale = RISE * (1 + 0.1 * np.arange(4))
    assert moved.p.item() == pytest.approx(scipy.stats.ttest_1samp(scale, 0).pvalue)
    np.testing.assert_allclose(frame.p_adjusted, scipy.stats.false_discovery_control(frame.p))
    assert not frame[frame.part == "mlp"].beyond.any()
    assert found.top(1).part.item() == "head"
    assert "moved most: head 1.0 +3.45" in repr(found)
    beside = found.beside()
    assert beside is not None
    assert beside.effect == pytest.approx(RISE * 1.15)
    pd.testing.assert_frame_equal(PartsShift.load(found.save(tmp_path / "x")).to_df(), frame)
    np.testing.assert_allclose(frame.difference.sum(), (found.logit[1] - found.logit[0]).mean())


def test_too_few_controls_leave_a_gap():
    frame = shift_of_parts({"spectrum": 3}).to_df()
    assert frame[["control_low", "beyond", "moved"]].isna().all(axis=None)
    assert frame.p_adjusted.notna().all()


def test_parts_of_one_model_are_means():
    found = model_parts(Provenance("", "a"), 0.5)
    assert found.top(3)["part"].tolist() == ["mlp", "mlp", "head"]
    assert found.to_df().contribution.sum() == pytest.approx(float(found.logit.mean()))
    with pytest.raises(InputError, match="there is no prompt whose logits were split"):
        ModelParts.of(Provenance("", "a"), [])


def test_other_texts_are_refused():
    base = curves(Provenance("", "a"), 4.0, 1.5)
    other = replace(base, provenance=Provenance("", "c"), n_out=(1,) * len(PROMPTS))
    with pytest.raises(InputError, match="c was read with another n_out than a, expected the same texts"):
        lens_shift(base, base, [other])
    parts = model_parts(Provenance("", "a"), 0.5)
    with pytest.raises(InputError, match="was read with another prompt_id"):
        parts_shift(parts, model_parts(Provenance("", "b"), 0.5, n=2))
