"""The words of the claims follow sign, significance and controls: planted data for each wording."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as scipy_stats

from lensdiff.analyses import stats
from lensdiff.analyses.claims import NAMES, Claims, ControlNumbers, Evidence, answer, claims
from lensdiff.analyses.evidence import (
    control_numbers,
    heads_evidence,
    instruction_evidence,
    rotation_evidence,
    scores_at_one_length,
)
from lensdiff.analyses.rotation import Rotation
from lensdiff.results import Provenance
from tests.analyses.test_verb_shift import drawn, run, with_counts
from tests.views.attributions import attribution

ORIGIN = Provenance("claims", "a -> b")
WORDS = ("Up", "Down", "Nothing")


def scores(effect, *, control_effects=(), n=40, noise=0.2, kind="spectrum", seed=0) -> Any:
    """Scores of both models and of controls on the same prompts, with planted mean differences from the base."""
    rng = np.random.default_rng(seed)
    base = rng.normal(1.0, 0.3, n)
    runs = {("base", "", pd.NA): base, ("tuned", "", pd.NA): base + effect + rng.normal(0, noise, n)}
    runs |= {("control", kind, i): base + e + rng.normal(0, noise, n) for i, e in enumerate(control_effects)}
    rows = [
        {
            "prompt_id": f"p{i}",
            "model": model,
            "kind": made,
            "seed": number,
            "instruction_score": value,
            "n_in": 9,
            "n_out": 20 + i % 7 + 3 * (model == "tuned") * (i % 2),
        }
        for (model, made, number), values in runs.items()
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def evidence_of(table: Any) -> Any:
    return instruction_evidence(table)


def answers(**evidence: Any) -> Any:
    return claims(ORIGIN, evidence).claims  # pyright: ignore[reportArgumentType] (names of claims)


def first(table: Any) -> Any:
    return answers(instruction=instruction_evidence(table))[0]


def rotation_of(angle, controls, alternative="greater"):
    """A rotation whose every principal angle is `angle`, and whose controls have these mean angles."""
    test = stats.control_rank if len(controls) >= 99 else stats.control_t
    shape = (2, 1, 3)
    return Rotation(
        ORIGIN,
        layers=(0, 1),
        sides=("value",),
        ranks=(1, 2),
        kinds=("spectrum",) if controls else (),
        n_controls=(len(controls),) if controls else (),
        angles=torch.tensor([[angle, float("nan")], [angle, angle]], dtype=torch.float64).expand(2, 1, 2, 2).clone(),
        band=torch.zeros(1 if controls else 0, 2, 2, 1, 2, dtype=torch.float64),
        match=torch.zeros(shape, dtype=torch.int64),
        matched_angle=torch.zeros(shape, dtype=torch.float64),
        matched_band=torch.zeros(1 if controls else 0, 2, *shape, dtype=torch.float64),
        base_variance=torch.zeros(shape),
        tuned_variance=torch.zeros(shape),
        words=("w",),
        lost=torch.full((*shape, 1), -1),
        gained=torch.full((*shape, 1), -1),
        claim=test(angle, controls, alternative=alternative) if controls else None,
    )


# the words


@pytest.mark.parametrize(
    ("effect", "control_effects", "verdict", "beginning", "end"),
    [
        (0.3, (0.0, 0.02, -0.02), "shown", "The instruction's importance rose: +0.", "gives "),
        (-0.3, (0.0, 0.02, -0.02), "opposite", "The instruction's importance fell: -0.", "gives "),
        (0.0, (0.0, 0.02, -0.02), "not shown", "No change of the instruction's importance could be shown:", "gives "),
        (0.3, (0.1, 0.5, -0.3), "within controls", "The instruction's importance rose: +0.", "does as much ("),
        (-0.3, (0.1, 0.5, -0.3), "within controls", "The instruction's importance fell: -0.", "does as much ("),
        (0.3, (), "no control", "The instruction's importance rose: +0.", "no control was run"),
        (0.3, (0.0, 0.01), "no control", "The instruction's importance rose: +0.", "too few (2) for a band"),
    ],
)
def test_words_follow_sign_significance_and_controls(effect, control_effects, verdict, beginning, end):
    claim = first(scores(effect, control_effects=control_effects))
    assert claim.verdict == verdict
    assert claim.statement.startswith(beginning)
    assert end in claim.statement
    assert "adjusted p" in claim.statement
    for word, verdicts in (("rose", ("shown", "within controls", "no control")), ("fell", ("opposite",))):
        if word in claim.statement and effect > 0:
            assert claim.verdict in verdicts


def test_base_against_itself_changes_nothing():
    table = scores(0.0, control_effects=(0, 0, 0), noise=0.0)
    claim = first(table)
    assert claim.verdict == "not shown"
    assert (claim.test.estimate, claim.test.p) == (0.0, 1.0)
    assert "could not be shown" not in claim.statement.split(":")[1]


@pytest.mark.parametrize(
    ("effect", "cut", "verdict"),
    [(0.3, 0.3, "shown"), (0.3, 0.0, "not robust"), (0.3, -0.3, "not robust"), (-0.3, -0.3, "opposite")],
)
def test_an_effect_that_the_length_explains_is_not_robust(effect, cut, verdict):
    table = scores(effect, control_effects=(0.0, 0.02, -0.02))
    rng = np.random.default_rng(1)
    base = rng.normal(0.5, 0.1, 40)
    shorter: Any = pd.DataFrame({"base": base, "tuned": base + cut + rng.normal(0, 0.1, 40)})
    claim = answers(instruction=instruction_evidence(table, shorter))[0]
    assert claim.verdict == verdict
    test: Any = scipy_stats.ttest_rel(shorter["tuned"], shorter["base"])
    assert (
        f"cut to the shorter one's length {stats.paired(shorter['tuned'], shorter['base']).numbers()}"
        in claim.statement
    )
    assert stats.format_p(test.pvalue) in claim.statement


def test_scores_at_one_length_are_those_of_the_cut_map():
    base = attribution(response=("a", " b", " c", " d"), prompt_id="p1")
    tuned = attribution(response=("a", " b"), prompt_id="p1", seed=5)
    found: Any = scores_at_one_length(
        [base, attribution(instruction=0, prompt_id="p2"), attribution(prompt_id="p3")],
        [tuned, attribution(prompt_id="p2")],
    )
    assert found["prompt_id"].tolist() == ["p1"]
    assert found["n_out"].tolist() == [2]
    cut = attribution(response=("a", " b"), scores=base.scores[:, :2])
    assert found["base"][0] == pytest.approx(cut.instruction_score())
    assert found["tuned"][0] == pytest.approx(tuned.instruction_score())


def test_not_testable_says_why():
    found = claims(ORIGIN, {"instruction": "too few prompts", "heads": "3 verbs"})
    assert [c.verdict for c in found.claims] == ["not testable"] * 3
    assert [c.name for c in found.claims] == list(NAMES)
    assert found.claims[0].statement == "Not testable on this pair: too few prompts."
    assert found.claims[2].statement == "Not testable on this pair: its analysis was not run."
    assert all(c.test is None for c in found.claims)


@pytest.mark.parametrize("unit", ["", " degrees"])
def test_a_test_against_controls_needs_no_band_beside(unit):
    test = stats.Test("t", 3.0, 2.0, 4.0, 0.95, 5.0, (99,), 0.001)
    control = ControlNumbers("spectrum", 99, 8.0, 2.0, 14.0)
    claim = answer("rotation", Evidence(test, WORDS, control, unit=unit, effect=11.0, against_controls=True))
    assert claim.verdict == "shown"
    assert claim.statement == (
        f"Up: +3.0 [2.0, 4.0]{unit}, p = 0.001; a meaningless change of the same size gives +8 [2, 14]{unit}."
    )


# the numbers


def test_the_first_claim_is_the_paired_test_over_shared_prompts():
    table = scores(0.1, control_effects=(0.0, 0.01, 0.02))
    kept = table[~((table["model"] == "tuned") & (table["prompt_id"] == "p0"))]
    evidence = evidence_of(kept)
    wide = (
        kept[kept["model"] != "control"].pivot(index="prompt_id", columns="model", values="instruction_score").dropna()
    )
    expected = scipy_stats.ttest_rel(wide["tuned"], wide["base"])
    assert evidence.test.n == (39,)
    assert evidence.test.p == pytest.approx(expected.pvalue)
    assert evidence.test.statistic == pytest.approx(expected.statistic)
    assert "39 prompts" in evidence.facts


def test_controls_are_compared_on_the_prompts_that_all_of_them_have():
    table = scores(0.0, control_effects=(0.0, 0.1, 0.2), noise=0.0, n=4)
    table.loc[(table["model"] == "tuned") & (table["prompt_id"] == "p0"), "instruction_score"] += 1.0
    kept = table[~((table["seed"] == 1) & (table["prompt_id"] == "p0")).fillna(False)]
    evidence = evidence_of(kept)
    assert evidence.test.estimate == pytest.approx(0.25)
    assert evidence.effect == pytest.approx(0.0)
    assert evidence.control.mean == pytest.approx(0.1)
    half = scipy_stats.t.ppf(0.975, 2) * 0.1 * math.sqrt(1 + 1 / 3)
    assert (evidence.control.low, evidence.control.high) == (pytest.approx(0.1 - half), pytest.approx(0.1 + half))


def test_the_headline_control_is_the_spectrum_matched_one():
    table = pd.concat([scores(0.1, control_effects=(9.0,) * 3, kind="norm"), scores(0.1, control_effects=(0.0,) * 3)])
    table = table.drop_duplicates(["prompt_id", "model", "kind", "seed"])
    assert evidence_of(table).control.kind == "spectrum"
    assert evidence_of(scores(0.1, control_effects=(0.0,) * 3, kind="norm")).control.kind == "norm"


def test_welch_and_equal_length_stand_beside():
    table = scores(0.2)
    evidence = evidence_of(table)
    base, tuned = (table[table["model"] == m]["instruction_score"].to_numpy() for m in ("base", "tuned"))
    welch, length = evidence.also
    paper: Any = scipy_stats.ttest_ind(tuned, base, equal_var=False, alternative="greater")
    assert welch.p == pytest.approx(paper.pvalue)
    assert length.name == "regression of differences, HC3"
    assert length.estimate == pytest.approx(0.2, abs=0.15)


def test_what_cannot_be_asked_in_another_way_is_left_out():
    table = scores(0.1, noise=0.0, n=5)
    table["n_out"] = 3
    evidence = evidence_of(table)
    assert evidence.test.name == "sign flip" or "flip" in evidence.test.name
    assert [t.name for t in evidence.also] == ["Welch"]


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_prompts_are_not_testable(n):
    table = scores(0.1, n=3)
    table = table[table["prompt_id"].isin([f"p{i}" for i in range(n)])]
    assert evidence_of(table) == (
        f"{n} prompt(s) with an instruction have a score of both models, at least 2 are needed"
    )


def test_controls_without_a_shared_prompt_are_no_control():
    table = scores(0.1, control_effects=(0.0, 0.1), n=3)
    kept = table[~(table["model"] == "control") | (table["prompt_id"] == "p0") & (table["seed"] == 0).fillna(False)]
    other = table[(table["model"] == "control") & (table["prompt_id"] == "p1") & (table["seed"] == 1)]
    assert evidence_of(pd.concat([kept, other])).control is None


def test_two_controls_have_a_mean_and_no_band():
    found = control_numbers("spectrum", [0.0, 1.0])
    assert (found.mean, found.low, found.high) == (0.5, None, None)
    assert not found.holds(0.5)
    assert str(found) == "+0.5"


@pytest.mark.parametrize("n", [5, 99])
@pytest.mark.parametrize(("angle", "verdict"), [(0.5, "shown"), (0.2, "not shown"), (0.05, "not shown")])
def test_rotation_is_compared_with_its_controls(n, angle, verdict):
    controls = np.random.default_rng(0).normal(0.2, 0.01, n).tolist()
    evidence = rotation_evidence(rotation_of(angle, controls))
    claim = answers(rotation=evidence)[2]
    assert claim.verdict == verdict
    assert "degrees" in claim.statement
    centre = np.median(controls) if n == 99 else np.mean(controls)
    assert claim.control.mean == pytest.approx(math.degrees(centre))
    assert claim.test.estimate == pytest.approx(math.degrees(angle - centre))
    if n == 5:  # the t interval of effect - controls is the band of one more control
        band = stats.control_band(controls)
        assert (claim.control.low, claim.control.high) == (
            pytest.approx(math.degrees(float(band.low))),
            pytest.approx(math.degrees(float(band.high))),
        )


def test_less_rotation_than_the_controls_is_said_as_such():
    controls = np.random.default_rng(0).normal(0.2, 0.01, 99).tolist()
    claim = answers(rotation=rotation_evidence(rotation_of(0.05, controls, "two-sided")))[2]
    assert claim.verdict == "opposite"
    assert claim.statement.startswith("Feed-forward concepts turned less")


def test_rotation_without_controls_is_not_testable():
    assert "no spectrum-matched controls" in str(rotation_evidence(rotation_of(0.2, [])))


def test_rotation_below_its_controls_is_said_though_the_test_is_one_sided():
    controls = np.random.default_rng(0).normal(0.2, 0.01, 99).tolist()
    claim = answers(rotation=rotation_evidence(rotation_of(0.05, controls)))[2]
    assert claim.verdict == "not shown"
    assert claim.statement.startswith("Feed-forward concepts turned less")
    assert "adjusted p = 1 (one-sided)" in claim.statement


def shifted(extra, *, n_controls=5):
    """A verb shift: `extra` more counts of every instruction verb in every tuned head; controls like the base."""
    base = drawn(0, mean=6.0)
    tuned = base + np.random.default_rng(9).integers(-1, 2, base.shape)
    tuned[..., :8] += extra
    controls = [base + np.random.default_rng(20 + i).integers(-1, 2, base.shape) for i in range(n_controls)]
    tuned, controls = np.maximum(tuned, 0), [np.maximum(c, 0) for c in controls]
    return run(base, tuned, controls=[with_counts(c) for c in controls])


@pytest.mark.parametrize(
    ("extra", "verdict", "word"), [(2, "shown", "more"), (-2, "opposite", "less"), (0, "not shown", "could not")]
)
def test_heads_are_compared_with_control_verbs_and_control_models(extra, verdict, word):
    shift = shifted(extra)
    claim = answers(heads=heads_evidence(shift))[1]
    assert claim.verdict == verdict
    assert word in claim.statement
    differences = shift.control_differences[:, -1].tolist()
    assert claim.control.mean == pytest.approx(np.mean(differences))
    band = stats.control_band(differences)
    assert (claim.control.low, claim.control.high) == (pytest.approx(float(band.low)), pytest.approx(float(band.high)))
    assert claim.effect == shift.whole.difference
    assert len(claim.also) == 3


def test_heads_without_control_models_are_not_controlled():
    claim = answers(heads=heads_evidence(shifted(2, n_controls=0)))[1]
    assert claim.verdict == "no control"
    assert "beyond" not in claim.statement


def test_heads_with_too_few_verbs_are_not_testable():
    base = drawn(0, mean=6.0)
    reason = heads_evidence(run(base, base))
    assert isinstance(reason, str)
    claim = answers(heads=reason)[1]
    assert claim.verdict == "not testable"
    assert claim.statement.count("ot testable") == 1


# the family and the file


def test_p_values_are_adjusted_over_what_can_be_tested():
    controls = np.random.default_rng(0).normal(0.2, 0.01, 99).tolist()
    evidence = {
        "instruction": instruction_evidence(scores(0.05)),
        "rotation": rotation_evidence(rotation_of(0.5, controls)),
    }
    found = answers(**evidence)
    raw = [found[0].test.p, found[2].test.p]
    expected = scipy_stats.false_discovery_control(raw)
    assert [found[0].test.p_adjusted, found[2].test.p_adjusted] == pytest.approx(list(expected))
    assert found[0].test.adjustment == "Benjamini-Hochberg over 2"


def test_significance_is_judged_after_adjustment():
    test = stats.Test("t", 1.0, 0.1, 1.9, 0.95, 2.1, (9,), 0.04)
    evidence = Evidence(test, WORDS, against_controls=True)
    weak = Evidence(replace(test, p=0.9), WORDS, against_controls=True)
    assert answers(heads=evidence)[1].verdict == "shown"
    assert answers(heads=evidence, rotation=weak)[1].verdict == "not shown"
    # the smallest p that 19 controls allow counts
    at_the_edge = Evidence(replace(test, p=0.05), WORDS, against_controls=True)
    assert answers(heads=at_the_edge)[1].verdict == "shown"


def test_claims_are_saved_and_read_back(tmp_path):
    found = claims(ORIGIN, {"instruction": instruction_evidence(scores(0.3, control_effects=(0.0, 0.1, 0.2)))})
    again = Claims.load(found.save(tmp_path / "claims.safetensors"))
    assert again.claims == found.claims
    pd.testing.assert_frame_equal(again.to_df(), found.to_df())
    assert found.to_df()["claim"].tolist() == list(NAMES)
    assert len(found.top(2)) == 2
