"""What is drawn under each claim: its numbers are those of the results, worked out by hand or by the results' own."""

import pytest

from lensdiff import stats
from lensdiff.analyses.claims.view import claims_widget
from lensdiff.analyses.claims.view_evidence import MOST_PROMPTS, MOST_VERBS, evidence_of
from tests.analyses.claims.results import answers
from tests.analyses.heads.results import verbs
from tests.analyses.instruction_use.results import PROMPTS, RISE, instruction_use
from tests.analyses.value_rotation.results import value_rotation

KINDS = {"spectrum": 19, "gradient-noise": 19}


def test_prompts_are_pairs_before_the_band_of_controls_the_largest_rise_first():
    use = instruction_use(controls=KINDS)
    found = evidence_of(use, None, None)
    assert set(found) == {"instruction"}
    rows = found["instruction"].rows
    assert [row.name for row in rows] == list(PROMPTS[::-1])  # each rises by a tenth more than the one before
    for row in rows:
        base, tuned = row.values
        assert tuned - base == pytest.approx(RISE + 0.1 * PROMPTS.index(row.name), abs=2e-3)
        values = use.uses()[row.name][2:].tolist()
        expected = stats.against_controls(tuned, stats.by_kind(values, use.provenance.control_kinds)).envelope
        assert expected is not None
        assert row.band == expected.band
    assert found["instruction"].note == ""


def test_too_few_controls_have_no_band_and_many_prompts_are_cut():
    rows = evidence_of(instruction_use(controls={"spectrum": 3}), None, None)["instruction"].rows
    assert [row.band for row in rows] == [None] * len(PROMPTS)
    assert [row.band for row in evidence_of(instruction_use(), None, None)["instruction"].rows] == [None] * 4
    many = evidence_of(instruction_use([f"p{i}" for i in range(MOST_PROMPTS + 1)]), None, None)["instruction"]
    assert len(many.rows) == MOST_PROMPTS
    assert many.note == "1 more prompt in the section below"


def test_verbs_are_the_heads_in_which_they_fell_and_rose():
    shift = verbs()
    found = evidence_of(None, shift, None)["heads"]
    top = shift.top(MOST_VERBS)
    assert [row.name for row in found.rows] == top.verb.tolist()
    assert [row.values for row in found.rows] == [[a, b] for a, b in zip(top.heads_down, top.heads_up, strict=True)]
    assert found.how == "bars"


def test_layers_lie_on_the_band_of_every_kind_together():
    share = value_rotation(controls=KINDS)
    rows = evidence_of(None, None, share)["rotation"].rows
    assert [row.name for row in rows] == [f"layer {i}" for i in range(6)]
    assert [row.values[0] for row in rows] == pytest.approx([0.6, 0.54, 0.48, 0.42, 0.36, 0.3])
    bands = [share.band(kind) for kind in KINDS]
    for i, row in enumerate(rows):
        expected = (min(band.low[i] for band in bands), max(band.high[i] for band in bands))
        assert row.band == pytest.approx(expected, rel=1e-3)
    assert {row.band for row in evidence_of(None, None, value_rotation())["rotation"].rows} == {None}


def test_a_card_has_the_evidence_of_its_claim_alone():
    cards = claims_widget(answers(1.5), evidence_of(instruction_use(), None, None)).data.claims
    assert [card.evidence is not None for card in cards] == [True, False, False]
    assert all(card.evidence is None for card in answers(1.5).show().data.claims)
