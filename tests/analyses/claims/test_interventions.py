"""The line that an intervention adds to a claim: its number is the intervention's own, ruined controls are left out."""

import numpy as np
import pandas as pd
import pytest

from lensdiff.analyses.claims.interventions import heads_cause, instruction_cause, rotation_cause
from lensdiff.analyses.patch.sets import RANDOM, no_set
from lensdiff.results import Result
from tests.analyses.dose.results import GAIN, SHARES, dose
from tests.analyses.knock_out.results import shift
from tests.analyses.patch.results import set_patch

KINDS = {"gradient-noise": 19, "spectrum": 19}


def validity(found: Result, ruined: int) -> pd.DataFrame:
    """All controls are language models but the first few."""
    controls = found.provenance.controls
    rows = [(c.name, c.kind, i >= ruined) for i, c in enumerate(controls)]
    return pd.DataFrame(rows, columns=["control", "kind", "valid"])


def test_what_the_instruction_cut_costs():
    found = shift(controls=KINDS)
    cause = instruction_cause(found)
    assert cause is not None
    effect, controls = found.effects()
    assert cause.effect == effect
    assert {kind: len(values) for kind, values in cause.controls.items()} == KINDS
    assert [value for values in cause.controls.values() for value in values] == controls
    assert cause.interval is not None
    assert cause.interval[0] < effect < cause.interval[1]
    assert cause.statement.startswith("with attention to the instruction cut a response loses, tuned less base: +")
    left = instruction_cause(found, validity(found, ruined=3))
    assert left is not None
    assert sum(map(len, left.controls.values())) == 38 - 3
    assert left.effect == effect


def test_what_the_heads_bring():
    found = set_patch(controls=KINDS)
    cause = heads_cause(found)
    assert cause is not None
    effect, beside = found.effects()
    assert cause.effect == effect
    assert set(cause.controls) == {RANDOM, *KINDS}
    assert cause.controls[RANDOM] == beside[RANDOM]
    assert cause.beside is not None
    assert "random heads" in cause.statement
    assert f"the {len(found.heads)} heads whose instruction verbs rose most" in cause.statement
    left = heads_cause(found, validity(found, ruined=2))
    assert left is not None
    assert sum(map(len, left.controls.values())) == len(beside[RANDOM]) + 36


def test_what_the_values_change_brings():
    found = dose(controls=KINDS)
    cause = rotation_cause(found)
    assert cause is not None
    gains = GAIN + np.arange(4) / 10
    assert cause.effect == pytest.approx(SHARES["W_out"] * gains.mean())
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
