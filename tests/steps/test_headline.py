"""Headlines: what stands beside a number, which side of a band means more change, and which rows come first."""

import numpy as np
import pandas as pd
import pytest

from lensdiff import stats
from lensdiff.steps.headline import (
    MOST,
    NO_CONTROL,
    Headline,
    band_of,
    beside_band,
    beside_envelope,
    is_beyond,
    most_shifted,
)


def test_a_line_is_its_sentence_and_its_control():
    assert str(Headline("heads", "Layer 1, head 0 moved", 0.5)) == "Layer 1, head 0 moved; no control"
    assert str(Headline("heads", "It moved", 0.5, control="controls 0 to 1")) == "It moved; controls 0 to 1"


@pytest.mark.parametrize(
    ("low", "high", "counts", "expected"),
    [
        (0.1, 0.25, {"norm": 19, "spectrum": 19}, "controls 0.1 to 0.25 nats (19 norm, 19 spectrum)"),
        (np.nan, np.nan, {"norm": 3}, "too few controls for a band (3 norm; 19 of each kind are needed)"),
        (None, None, {"norm": 3}, "too few controls for a band (3 norm; 19 of each kind are needed)"),
        (np.nan, np.nan, {}, NO_CONTROL),
    ],
)
def test_what_stands_beside_a_number(low, high, counts, expected):
    assert beside_band(low, high, counts, " nats") == expected


def test_one_number_beside_every_kind_of_control():
    few, many = ({"norm": np.linspace(-1, 1, n).tolist()} for n in (3, 59))
    found = [stats.against_controls(5.0, controls).envelope for controls in (few, many)]
    assert band_of(found[0]) == (None, None)
    assert beside_envelope(found[0]) == "too few controls for a band (3 norm; 19 of each kind are needed)"
    low, high = band_of(found[1])
    assert found[1] is not None
    assert (low, high) == found[1].band
    assert beside_envelope(found[1], " nats") == f"controls {low:.3g} to {high:.3g} nats (59 norm)"
    assert beside_envelope(None) == NO_CONTROL


@pytest.mark.parametrize(
    ("value", "side", "expected"),
    [
        (2.0, "either", True),
        (2.0, "above", True),
        (2.0, "below", False),  # more than controls, where less is more change
        (-2.0, "either", True),
        (-2.0, "above", False),
        (-2.0, "below", True),
        (0.5, "either", False),
        (float("nan"), "either", None),
    ],
)
def test_beyond_is_on_the_side_of_more_change(value, side, expected):
    assert is_beyond(value, -1.0, 1.0, side) is expected
    assert is_beyond(value, float("nan"), 1.0, side) is None
    assert is_beyond(value, None, None, side) is None


def test_rows_beyond_their_controls_come_first_and_otherwise_keep_their_order():
    frame = pd.DataFrame({"name": list("abcd"), "x": [9.0, 8.0, 7.0, 6.0], "control_low": 0.0})
    frame["control_high"] = [10.0, 1.0, np.nan, 5.0]
    found = [(row.name, beyond) for row, beyond in most_shifted(frame, "x")]
    assert found == [("b", True), ("d", True), ("a", False), ("c", None)]
    assert len(list(most_shifted(pd.concat([frame] * 3), "x"))) == MOST
    assert [row.name for row, _ in most_shifted(frame, "x", k=1)] == ["b"]
    below = [row.name for row, _ in most_shifted(frame.assign(control_low=7.5), "x", side="below")]
    assert below == ["d", "a", "b", "c"]
    without = frame.drop(columns=["control_low", "control_high"])  # as a table without controls may be
    assert [(row.name, beyond) for row, beyond in most_shifted(without, "x")] == [(name, None) for name in "abcd"]
