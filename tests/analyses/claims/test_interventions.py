"""The line that an intervention adds to a claim: its number is the intervention's own, ruined controls are left out."""

import numpy as np
import pandas as pd
import pytest

from lensdiff.analyses.claims.interventions import heads_cause, instruction_cause, rotation_cause
from lensdiff.analyses.patch.set_result import RANDOM, no_set
from lensdiff.results import Result
from tests.analyses.dose.results import GAIN, SHARES, dose
from tests.analyses.knock_out.results import RISE, shift
from tests.analyses.patch.results import set_patch

KINDS = {"gradient-noise": 19, "spectrum": 19}


def validity(found: Result, ruined: slice) -> pd.DataFrame:
    """All controls are language models but some."""
    controls = found.provenance.controls
    out = {control.name for control in controls[ruined]}
    rows = [(control.name, control.kind, control.name not in out) for control in controls]
    return pd.DataFrame(rows, columns=["control", "kind", "valid"])


def test_what_the_instruction_cut_costs():
    found = shift(controls=KINDS)
    cause = instruction_cause(found)
    assert cause is not None
    assert cause.effect == pytest.approx(RISE + 0.1), "the mean over prompts of RISE + 0.1 i"
    drops = found.to_df()
    table = drops[drops["cut"] == "response"].groupby(["model", "prompt_id"])["drop"].mean().unstack(0)
    by_hand = {c.name: (table[c.name] - table["base"]).mean() for c in found.provenance.controls}
    names = {kind: [c.name for c in found.provenance.controls if c.kind == kind] for kind in KINDS}
    for kind, values in cause.controls.items():
        assert values == pytest.approx([by_hand[name] for name in names[kind]])
    assert cause.interval is not None
    assert cause.interval[0] < cause.effect < cause.interval[1]
    assert cause.statement.startswith("with attention to the instruction cut a response loses, tuned less base: +1.1 ")
    assert cause.statement.endswith("(19 gradient-noise, 19 spectrum)")
    left = instruction_cause(found, validity(found, slice(3)))
    assert left is not None
    assert left.controls["gradient-noise"] == pytest.approx([by_hand[name] for name in names["gradient-noise"][3:]])
    assert left.controls["spectrum"] == cause.controls["spectrum"]
    assert left.statement.endswith("too few to tell (19 of each kind are needed); left out as ruined models: "
                                   "3 gradient-noise")  # fmt: skip


def test_a_kind_of_which_all_are_ruined_is_no_kind_that_was_beaten():
    found = shift(controls=KINDS)
    one = instruction_cause(found, validity(found, slice(19)))
    none = instruction_cause(found, validity(found, slice(None)))
    assert one is not None
    assert none is not None
    assert "beside 19 spectrum controls, of the kind gradient-noise none, too few to tell" in one.statement
    assert "no control that is a language model stands beside it; left out as ruined models: 19 gradient-noise, " in (
        none.statement
    )


def test_what_the_heads_bring():
    found = set_patch(controls=KINDS)
    cause = heads_cause(found)
    assert cause is not None
    assert cause.effect == 1.0
    assert set(cause.controls) == {RANDOM, *KINDS}
    assert cause.controls[RANDOM] == pytest.approx(np.linspace(0.05, 0.15, 19))
    assert [x for kind in KINDS for x in cause.controls[kind]] == pytest.approx(np.linspace(-0.1, 0.1, 38))
    assert "the 2 heads whose instruction verbs rose most" in cause.statement
    assert "as many random heads, and of meaningless changes of the same size" in cause.statement
    left = heads_cause(found, validity(found, slice(-2, None)))
    assert left is not None
    assert left.controls["spectrum"] == pytest.approx(np.linspace(-0.1, 0.1, 38)[19:-2])


def test_what_the_values_change_brings():
    found = dose(controls=KINDS)
    cause = rotation_cause(found)
    assert cause is not None
    gains = GAIN + np.arange(4) / 10
    assert cause.effect == pytest.approx(SHARES["W_out"] * gains.mean())
    assert {kind: len(values) for kind, values in cause.controls.items()} == KINDS
    assert "25%" in cause.facts[0]
    alone = rotation_cause(dose(controls={}))
    assert alone is not None
    assert alone.statement.endswith("no controls stand beside it")


def test_without_a_number_there_is_no_line():
    found = set_patch(controls=KINDS)
    assert heads_cause(no_set(found.provenance)) is None
    assert rotation_cause(dose(groups=("all",))) is None
    one = rotation_cause(dose(prompts=("one",)))
    assert one is not None
    assert one.interval is None
