"""What results of patching say of themselves: shares, means over prompts, bands, what is joined; made by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lensdiff import stats
from lensdiff.analyses.patch.result import ControlPatch, Patched
from lensdiff.analyses.patch.set_result import SetPatch, no_set
from lensdiff.results import InputError, Provenance
from tests.analyses.controls import controls_of
from tests.analyses.patch.results import PLANTED, PROMPTS, TOTAL, patched, set_patch

ENOUGH = {"spectrum": 19}


def test_a_share_is_the_effect_by_the_total():
    result = patched()
    frame: Any = result.to_df()
    np.testing.assert_allclose(frame["share"], frame["effect"] / (frame["donor"] - frame["clean"]))
    np.testing.assert_allclose(frame["patched"] - frame["clean"], frame["effect"])
    first = result.top(1).iloc[0]
    assert (first["layer"], first["head_index"]) == PLANTED
    assert first["share"] == pytest.approx(1.55 / TOTAL)
    assert len(result.top(3)) == 3


def test_a_share_of_about_nothing_is_missing():
    result = patched()
    close = replace(result, donor=result.clean + 0.01)
    assert bool(close.to_df()["share"].isna().all())
    assert bool(close.means()["share"].isna().all())
    assert bool(replace(close, least_total=0.009).to_df()["share"].notna().all())
    # each prompt has a total, and over both it is not told from 0
    donor = result.clean.clone()
    donor[0] += 3.0
    donor[1] -= 1.0
    apart = replace(result, donor=donor)
    means: Any = apart.means()
    assert bool(apart.to_df()["share"].notna().all())
    assert means["total"].eq(1.0).all()
    assert means["share"].isna().all()
    assert bool(replace(apart, least_total=2.0).to_df()["share"].notna().sum() == len(apart.to_df()) / 2)


def test_a_sets_share_too_is_missing_where_the_total_is_not_told_from_0():
    result = set_patch()
    frame, means = result.to_df(), result.means()
    assert frame["share"].tolist() == [0.5, 0.25] * 2
    assert means["share"].tolist() == [0.5, 0.25]
    clean = torch.tensor([[-3.0, 0.0], [-3.0, -4.0]], dtype=torch.float64)  # totals of 3 and -1
    apart = replace(result, clean=clean)
    assert apart.to_df()["share"].notna().all()
    assert apart.means()["share"].isna().all()
    assert apart.means()["donor"].tolist() == [-2.0, -3.0]
    close = replace(result, clean=torch.full((2, 2), -3.0, dtype=torch.float64))
    assert close.to_df()["share"].isna().all()


def test_means_have_the_interval_of_a_t_test():
    result = patched()
    row = result.means().iloc[0]
    low, high = stats.paired_interval(result.effect[:, 0].numpy(), np.zeros(2))
    assert row[["low", "high"]].tolist() == pytest.approx([float(low), float(high)])
    assert row["effect"] == pytest.approx(float(result.effect[:, 0].mean()))
    one: Any = patched(PROMPTS[:1]).means()
    assert one["low"].isna().all()


def test_bands_are_those_of_the_controls():
    result = patched(controls=ENOUGH)
    frame: Any = result.to_df()
    means: Any = result.means()
    n = result.n_rows // 2
    expected = stats.rank_band(result.control_effect[:, 1, :n].numpy())
    own = frame[(frame["prompt_id"] == PROMPTS[1]) & (frame["into"] == "base")]
    np.testing.assert_allclose(own["control_low"], expected.low)
    np.testing.assert_allclose(own["control_high"], expected.high)
    np.testing.assert_allclose(
        means["control_high"][:n], stats.rank_band(result.control_effect[:, :, :n].mean(dim=1).numpy()).high
    )
    assert means["control_low"][n:].isna().all()
    assert bool(patched(controls={"spectrum": 18}).to_df()["control_low"].isna().all())


def test_what_is_printed_stands_beside_another_head_and_the_controls():
    result = patched(controls={"spectrum": 3})
    row = list(result.to_df()["layer"]).index(PLANTED[0]) + PLANTED[1]
    controls = result.control_effect[:, :, row].mean(dim=1)
    said = repr(result).splitlines()
    assert len(said) == 7
    assert said[3] == (
        f"    layer 1, head 1 +1.55 (another head +0.05, 3 control(s) {controls.min():+.3g} to {controls.max():+.3g})"
    )
    assert said[5] == "    layer 1, head 1 -1.55", "a control is put into the base alone"
    assert repr(patched()).splitlines()[3] == "    layer 1, head 1 +1.55 (another head +0.05)"


def test_prompts_are_put_together_and_controls_set_beside():
    parts = [patched([name]) for name in PROMPTS]
    joined = Patched.together(parts)
    assert joined.prompt_id == PROMPTS
    assert torch.equal(joined.effect, torch.cat([part.effect for part in parts]))
    made = controls_of({"norm": 2})
    effects = torch.randn(2, 2, joined.n_rows, dtype=torch.float64)
    controls = [
        ControlPatch(Provenance("patch_sweep", c.name, control=c.made), PROMPTS[::-1], effect)
        for c, effect in zip(made, effects, strict=True)
    ]
    beside = joined.with_controls(controls)
    assert torch.equal(beside.control_effect, effects.flip(1)), "by their prompts' names"
    assert beside.provenance.control_kinds == ("norm", "norm")
    with pytest.raises(InputError, match="has 4 rows of prompts list, poem, expected"):
        joined.with_controls([replace(controls[0], effect=effects[0, :, :4])])
    with pytest.raises(InputError, match=r"expected .* of poem, list"):
        joined.with_controls([ControlPatch(controls[0].provenance, ("poem",), effects[0, :1])])
    with pytest.raises(InputError, match="differ in what was patched"):
        Patched.together([parts[0], replace(parts[1], metric="logit")])
    with pytest.raises(InputError, match="no results of prompts"):
        Patched.together([])


@pytest.mark.parametrize("make", [patched, set_patch])
def test_results_are_saved_and_read(make, tmp_path):
    result = make(controls={"norm": 3})
    again = type(result).load(result.save(tmp_path / "result.safetensors"))
    assert again.to_df().equals(result.to_df())
    assert repr(again) == repr(result)
    assert again.provenance == result.provenance


def test_a_set_says_its_effect_and_those_beside_it_by_name():
    result = set_patch(controls={"spectrum": 19, "norm": 2})
    effect, beside = result.effects()
    assert effect == 1.0
    assert list(beside) == ["random heads", "spectrum", "norm"]
    assert beside["random heads"] == pytest.approx(np.linspace(0.05, 0.15, 19).tolist())
    assert [*beside["spectrum"], *beside["norm"]] == pytest.approx(result.control_effects())
    tuned, only = result.effects("tuned")
    assert (tuned, list(only)) == (-0.5, ["random heads"])
    with pytest.raises(InputError, match="into='both' is none of base, tuned"):
        result.effects("both")
    envelope = set_patch(controls=ENOUGH).beside()
    assert envelope is not None
    assert envelope.direction == "above"
    assert envelope.p == pytest.approx(1 / 20)
    frame: Any = result.to_df()
    assert frame["share"].tolist() == [0.5, 0.25] * 2
    assert frame["random_high"][0] == pytest.approx(float(stats.rank_band(np.linspace(0.05, 0.15, 19)).high))
    assert frame["control_low"].isna().all(), "one kind has too few"
    assert set_patch(controls=ENOUGH).to_df()["control_low"].notna().tolist() == [True, False] * 2
    assert "heads 0.1, 1.0" in repr(result)
    assert result.top(1)["effect"].tolist() == [1.0]


def test_no_heads_have_no_effect(tmp_path):
    nothing = no_set(Provenance("patch_set", "a -> b"))
    effect, beside = nothing.effects()
    assert np.isnan(effect)
    assert beside == {}
    assert nothing.beside() is None
    assert len(nothing.to_df()) == len(nothing.means()) == len(nothing.top()) == 0
    assert list(nothing.to_df()) == list(set_patch().to_df())
    assert "heads ; 0 prompt(s)" in repr(nothing)
    assert SetPatch.load(nothing.save(tmp_path / "none.safetensors")).heads == ()
    assert nothing.with_controls([nothing]).effects()[1] == {}
    assert "In no head" in nothing.show().html()


def test_a_control_of_other_heads_is_refused():
    result = set_patch()
    with pytest.raises(InputError, match="has other heads or prompts"):
        result.with_controls([replace(result, heads=((0, 0),))])
    again: SetPatch = result.with_controls([result])
    assert again.control_effects() == [1.0]
