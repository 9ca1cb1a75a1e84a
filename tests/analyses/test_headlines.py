"""The lines that the activation difference and the knock-out give for "What changed", of results made by hand."""

from pathlib import Path

import pytest

from lensdiff.analyses.activation_difference import section as difference_section
from lensdiff.analyses.heads import section as head_section
from lensdiff.analyses.knock_out import section as knock_out_section
from lensdiff.results import Result, ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.headline import NO_CONTROL
from lensdiff.steps.unit import WHOLE
from tests.analyses.activation_difference.results import difference
from tests.analyses.heads.results import verbs
from tests.analyses.knock_out.results import RISE, shift
from tests.steps.test_said import put


def found(root: Path, step: str, result: Result) -> Found:
    store = ResultStore(root)
    with store.writing():
        put(store, step, WHOLE, result)
    return Found(store)


def test_the_layers_whose_gain_is_the_same_in_every_text_are_told(tmp_path):
    lines = difference_section.headlines(found(tmp_path / "few", "activation_difference", difference(controls=3)))
    assert [line.number for line in lines] == [1.0, 0.5], "nothing differs at layer 0, and a layer comes once"
    reads = difference().top(1).iloc[0].reads
    said = f"At layer 2, 100% of what tuning adds at position 0 is the same in every text; it speaks for {reads}"
    assert str(lines[0]) == f"{said}; too few controls for a band (3 spectrum; 19 of each kind are needed)"
    assert [(line.kind, line.beyond) for line in lines] == [("layers", None)] * 2
    many = difference_section.headlines(found(tmp_path / "many", "activation_difference", difference(controls=29)))
    assert [line.beyond for line in many] == [True, True]  # controls have 0.1 to 0.38 of each
    assert many[0].control.startswith("controls 0.")
    alone = difference_section.headlines(found(tmp_path / "alone", "activation_difference", difference()))
    assert [line.control for line in alone] == [NO_CONTROL] * 2
    same = difference_section.headlines(found(tmp_path / "same", "activation_difference", difference(differs=False)))
    assert same == []
    assert difference_section.headlines(Found(ResultStore(tmp_path / "none"))) == []


def test_what_responses_lose_without_their_instruction_is_told(tmp_path):
    result = shift(controls={"spectrum": 29})
    (line,) = knock_out_section.headlines(found(tmp_path / "many", "knock_out", result))
    base, tuned = result.means()
    assert line.number == pytest.approx(tuned - base)
    assert line.number > RISE - 1e-9
    assert line.text == (
        f"Responses lose more when no attention reaches their instruction ({line.number:+.3g}): {tuned:.3g} nats per "
        f"token in the tuned model, {base:.3g} in the base"
    )
    beside = result.beside()
    assert beside is not None
    assert line.beyond is (line.number > beside.band[1])
    assert line.control.endswith(" nats per token (29 spectrum)")
    (alone,) = knock_out_section.headlines(found(tmp_path / "alone", "knock_out", shift()))
    assert (alone.control, alone.beyond) == (NO_CONTROL, None)
    few = knock_out_section.headlines(found(tmp_path / "few", "knock_out", shift(prompts=("poem",))))
    assert few == []


@pytest.mark.parametrize(("sign", "said"), [(1, "Instruction verbs rose in"), (-1, "Instruction verbs fell in")])
def test_verbs_that_fell_did_not_rise(tmp_path, monkeypatch, sign, said):
    result = verbs()
    effect = result.effects()[0]
    assert effect is not None
    monkeypatch.setattr(type(result), "effects", lambda self, *_: (sign * abs(effect), [0.0] * 19))
    (line,) = head_section.headlines(found(tmp_path, "verb_shift", result))
    assert line.text.startswith(said)
    assert f" by {sign * abs(effect):+.3g} heads beyond verbs like them" in line.text
    assert ("most" in line.text) == (sign > 0)
