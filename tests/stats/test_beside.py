"""Effects beside several kinds of controls: bands, p and the key of a verdict, case by case."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from lensdiff.results import InputError
from lensdiff.stats import (
    FEWEST_FOR_RANK,
    Envelope,
    against_controls,
    by_kind,
    control_rank,
    format_p,
    rank_band,
)


def around(centre: float, n: int, *, half: float = 1.0) -> np.ndarray:
    """n controls, evenly spread over centre -+ half."""
    return centre + np.linspace(-half, half, n)


def envelope(effect: float, controls: dict[str, Any], **options: Any) -> Envelope:
    found = against_controls(effect, controls, **options).envelope
    assert found is not None
    return found


LOW, MIDDLE, HIGH = around(0.0, 59), around(3.0, 59), around(6.0, 59)

CASES: list[tuple[str, float, dict[str, np.ndarray], int, str, str | None]] = [
    ("above both kinds", 9.0, {"a": LOW, "b": HIGH}, 59, "beyond", "above"),
    ("below both kinds", -3.0, {"a": LOW, "b": HIGH}, 59, "beyond", "below"),
    ("among one kind, above the other", 6.2, {"a": LOW, "b": HIGH}, 59, "within", "above"),
    ("beyond each kind, on different sides", 3.0, {"a": LOW, "b": HIGH}, 59, "within", None),
    ("above two of three", 4.5, {"a": LOW, "b": MIDDLE, "c": HIGH}, 59, "within", None),
    ("within the only kind", 0.3, {"a": LOW}, 59, "within", "above"),
    ("beyond the only kind", 2.0, {"a": LOW}, 59, "beyond", "above"),
    ("58 of one kind", 9.0, {"a": LOW, "b": around(6.0, 58)}, 59, "beyond all, too few", "above"),
    ("19 of one kind", -9.0, {"a": LOW, "b": around(6.0, 19)}, 59, "beyond all, too few", "below"),
    ("19 of one kind, between", 3.0, {"a": LOW, "b": around(6.0, 19)}, 59, "within", None),
    ("19, as far as the farthest", 1.0, {"a": around(0.0, 19)}, 59, "within", "above"),
    ("18 of one kind", 9.0, {"a": LOW, "b": around(6.0, 18)}, 59, "too few", "above"),
    ("one control", 9.0, {"a": LOW, "b": np.array([1.0])}, 59, "too few", "above"),
    ("59 from weights alone", 9.0, {"haar": LOW}, 99, "beyond all, too few", "above"),
    ("99 from weights alone", 9.0, {"haar": around(0.0, 99)}, 99, "beyond", "above"),
    ("inside all of 59", 0.0, {"a": LOW, "b": LOW}, 59, "within", None),
    ("controls that do not vary", 0.0, {"a": np.zeros(59)}, 59, "within", None),
]


@pytest.mark.parametrize(
    ("effect", "kinds", "needed", "key", "direction"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_the_key_of_a_verdict(
    effect: float, kinds: dict[str, np.ndarray], needed: int, key: str, direction: str | None
) -> None:
    found = envelope(effect, kinds, needed=needed)
    assert (found.verdict(), found.direction) == (key, direction)
    assert [kind.kind for kind in found.kinds] == list(kinds)
    assert [kind.n for kind in found.kinds] == [len(own) for own in kinds.values()]
    assert found.n == min(map(len, kinds.values()))
    mirrored = envelope(-effect, {kind: -own for kind, own in kinds.items()}, needed=needed)
    assert mirrored.verdict() == key
    assert mirrored.direction == {"above": "below", "below": "above", None: None}[direction]


def test_p_and_band_are_those_of_the_worst_kind() -> None:
    kinds = {"a": LOW, "b": HIGH}
    found = envelope(6.95, kinds)
    own = {kind: control_rank(6.95, values) for kind, values in kinds.items()}
    assert [kind.p for kind in found.kinds] == [own["a"].p, own["b"].p]
    assert found.p == own["b"].p
    assert own["a"].p == pytest.approx(1 / 60)
    bands = [rank_band(values) for values in kinds.values()]
    assert found.band == (float(bands[0].low), float(bands[1].high))
    assert envelope(3.0, kinds).p == 1.0  # both ranks are 1/60, and it lies between the kinds
    assert envelope(9.0, kinds).p == pytest.approx(1 / 60)
    few = envelope(9.0, {"a": LOW, "b": HIGH[:18]})
    assert (few.p, few.band, few.kinds[1].low, few.kinds[1].p) == (None, None, None, None)


def test_it_is_beyond_its_band_exactly_where_p_is_small() -> None:
    rng = np.random.default_rng(0)
    kinds = {"a": rng.exponential(size=59), "b": rng.normal(1.0, 2.0, 80)}
    for effect in np.linspace(-9, 9, 361):
        found = envelope(effect, kinds)
        assert found.band is not None
        outside = not found.band[0] < effect < found.band[1]
        assert (found.verdict() == "beyond") == outside == (found.p is not None and found.p <= 0.05), effect


def test_a_corrected_p_decides() -> None:
    found = envelope(9.0, {"a": LOW})
    assert found.verdict(p=0.05) == "beyond"
    assert found.verdict(p=0.051) == "within"
    assert found.verdict(p=0.0001) == "beyond"
    assert envelope(0.5, {"a": LOW}).verdict(p=0.0001) == "within"  # no correction makes a p smaller


def test_the_level_of_the_whole_is_at_most_that_of_the_true_kind() -> None:
    rng, beyond, runs = np.random.default_rng(7), 0, 400
    for _ in range(runs):
        kinds = {"true": rng.exponential(size=59), "other": rng.normal(0.5, 0.2, 59)}
        beyond += envelope(rng.exponential(), kinds).verdict() == "beyond"
    assert beyond <= 0.05 * runs + 3.1 * np.sqrt(0.05 * 0.95 * runs)


def test_bands_of_layers_and_heads_are_those_of_each_alone() -> None:
    rng = np.random.default_rng(1)
    kinds = {"a": rng.normal(size=(19, 3, 2)), "b": rng.normal(1.0, 1.0, (40, 3, 2))}
    effects = rng.normal(size=(3, 2))
    found = against_controls(effects, kinds)
    assert (found.kinds, found.envelope) == (("a", "b"), None)
    for place in np.ndindex(3, 2):
        alone = against_controls(effects[place], {kind: values[:, *place] for kind, values in kinds.items()})
        assert alone.envelope is not None
        assert alone.envelope.effect == effects[place]
        assert alone.envelope.band == (found.band.low[place], found.band.high[place]) == tuple(map(float, alone.band))
        for i, kind in enumerate(alone.envelope.kinds):
            assert (kind.low, kind.high) == (found.bands.low[i, *place], found.bands.high[i, *place])


def test_controls_are_sorted_by_kind_in_the_order_they_came() -> None:
    assert by_kind([1.0, 2.0, 3.0, 4.0], ["b", "a", "b", "c"]) == {"b": [1.0, 3.0], "a": [2.0], "c": [4.0]}
    assert list(by_kind([1.0, 2.0], ["b", "a"])) == ["b", "a"]
    assert by_kind([], []) == {}
    values, kinds = np.linspace(0.0, 4.0, 45), ["a", "b", "b"] * 15
    assert envelope(3.3, by_kind(values.tolist(), kinds)) == envelope(
        3.3, {"a": values[::3], "b": np.delete(values, np.s_[::3])}
    )
    with pytest.raises(ValueError, match="zip"):
        by_kind([1.0, 2.0], ["a"])


def test_the_band_of_kinds_ends_where_the_rank_of_the_widest_begins_to_reject() -> None:
    rng = np.random.default_rng(5)
    kinds = {"narrow": rng.normal(0.0, 0.1, 19), "wide": rng.normal(0.0, 3.0, 40)}
    low, high = against_controls(None, kinds).band
    for limit, inwards in ((float(low), 1e-9), (float(high), -1e-9)):
        outside, inside = (control_rank(limit + step, kinds["wide"]).p for step in (-inwards, inwards))
        assert (outside or 0) <= 0.05 < (inside or 0)
    assert float(low) < kinds["narrow"].min() < kinds["narrow"].max() < float(high)
    tighter = against_controls(None, kinds, level=0.8).band
    assert float(low) < float(tighter.low) < float(tighter.high) < float(high)


@pytest.mark.parametrize("numbers", [{}, {"a": 1}, {"a": 18}, {"a": 19, "b": 18}, {"a": 19, "b": 19}, {"a": 40}])
def test_a_band_needs_19_controls_of_each_kind(numbers: dict[str, int]) -> None:
    rng, effects = np.random.default_rng(2), np.zeros((3, 2))
    kinds = {kind: rng.normal(size=(n, 3, 2)) for kind, n in numbers.items()}
    found = against_controls(effects, kinds, level=0.9)
    assert found.bands.low.shape == found.bands.high.shape == (len(kinds), 3, 2)
    assert found.band.low.shape == found.band.high.shape == (3, 2)
    for i, (kind, own) in enumerate(kinds.items()):
        if numbers[kind] < FEWEST_FOR_RANK:
            assert np.isnan(found.bands.low[i]).all()
            assert np.isnan(found.bands.high[i]).all()
        else:
            np.testing.assert_array_equal([found.bands.low[i], found.bands.high[i]], rank_band(own, level=0.9))
    enough = bool(numbers) and min(numbers.values()) >= FEWEST_FOR_RANK
    assert np.isnan(found.band.low).any() == np.isnan(found.band.high).any() == (not enough)
    assert np.isnan(found.band.low).all() == (not enough)


def test_bands_end_where_an_effect_has_to() -> None:
    shares = {"a": around(0.1, 19, half=0.5)[:, None], "b": around(0.8, 19, half=0.4)[:, None]}
    free, cut = (against_controls([0.5], shares, **options) for options in ({}, {"limits": (0.0, 1.0)}))
    assert free.band.low[0] < 0 < 1 < free.band.high[0]
    assert (cut.band.low[0], cut.band.high[0]) == (0.0, 1.0)
    np.testing.assert_array_equal(cut.bands.low, np.maximum(free.bands.low, 0.0))
    np.testing.assert_array_equal(cut.bands.high, np.minimum(free.bands.high, 1.0))
    below = against_controls([0.5], shares, limits=(0.0, np.inf)).band
    assert (below.low[0], below.high[0]) == (0.0, free.band.high[0])


def test_without_controls_or_without_an_effect_there_is_no_envelope() -> None:
    alone = against_controls(0.3, {})
    assert (alone.kinds, alone.envelope, alone.bands.low.shape) == ((), None, (0,))
    assert np.isnan([float(alone.band.low), float(alone.band.high)]).all()
    band = against_controls(None, {"a": LOW})
    assert band.envelope is None
    assert tuple(map(float, band.band)) == tuple(map(float, rank_band(LOW)))
    assert np.isnan(float(against_controls(None, {}).band.low))


def test_an_envelope_is_a_sentence() -> None:
    found = envelope(6.95, {"a": LOW, "b": HIGH})
    assert found.band is not None
    assert found.p is not None
    assert (
        str(found)
        == f"6.95; controls' bands {found.band[0]:.3g} to {found.band[1]:.3g} (59 a, 59 b), {format_p(found.p)}"
    )
    # of b the 2 above 6.95 and the 3 as far below the median of all are at least as extreme: 6/60
    assert str(found).endswith("controls' bands -1 to 7 (59 a, 59 b), p = 0.1")
    few = envelope(9.0, {"a": LOW, "b": HIGH[:18]})
    assert str(few) == "9; too few controls to tell (59 a, 18 b; 19 of each kind are needed)"


def test_an_envelope_survives_json() -> None:
    found = envelope(9.0, {"a": LOW, "b": HIGH[:5]})
    assert TypeAdapter(Envelope).validate_python(json.loads(json.dumps(asdict(found), allow_nan=False))) == found


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: against_controls(1.0, {"a": []}), "controls 'a' has 0 observation"),
        (
            lambda: against_controls(1.0, {"a": np.array(3.0)}),
            "controls 'a' is one number, expected one per control on axis 0",
        ),
        (lambda: against_controls(1.0, {"a": [1.0, np.nan]}), r"controls 'a'\[1\] is nan"),
        (lambda: against_controls(np.ones(2), {"a": [[1.0, np.inf]]}), r"controls 'a'\[0, 1\] is inf"),
        (lambda: against_controls(None, {"a": np.full(19, np.nan)}), "is nan"),
        (lambda: against_controls(np.inf, {"a": LOW}), "effect is inf"),
        (lambda: against_controls([1.0, np.nan], {}), r"effect\[1\] is nan"),
        (
            lambda: against_controls(np.ones(2), {"a": LOW}),
            r"an effect of controls 'a' has shape \(\), expected \(2,\) as the others have",
        ),
        (
            lambda: against_controls(None, {"a": np.ones((19, 2)), "b": np.ones((19, 3))}),
            r"an effect of controls 'b' has shape \(3,\), expected \(2,\) as the others have",
        ),
        (lambda: against_controls(1.0, {"a": LOW}, level=2.0), "level is 2.0"),
        (lambda: against_controls(1.0, {"a": LOW}, level=0.99), "level 0.99 needs at least 99 controls, given 59"),
        (lambda: against_controls(1.0, {"a": LOW}, needed=18), "needed=18 given, expected at least 19 controls"),
    ],
)
def test_errors_name_what_was_given(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
