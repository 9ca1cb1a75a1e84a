"""Numbers for scripts: significant digits by hand, and what stands for a number that JSON lacks."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from lensdiff.views.numbers import known, known_all, rounded, rounded_all

VALUES = [0.0, -1.0, 123456.0, 0.000123456, 1 / 3]
ROUNDED = [0.0, -1.0, 123500.0, 0.0001235, 0.3333]


@pytest.mark.parametrize(("value", "expected"), list(zip(VALUES, ROUNDED, strict=True)))
def test_four_significant_digits(value, expected):
    assert rounded(value) == known(value) == expected


def test_other_numbers_of_digits():
    assert rounded(2 / 3, 1) == known(2 / 3, 1) == 0.7
    assert rounded_all([2 / 3], 2) == known_all([2 / 3], 2) == [0.67]


@pytest.mark.parametrize(
    "values",
    [VALUES, tuple(VALUES), np.array(VALUES), pd.Series(VALUES, index=list("edcba")), torch.tensor(VALUES).double()],
    ids=lambda values: type(values).__name__,
)
def test_lists_of_all_kinds(values):
    for found in (rounded_all(values), known_all(values)):
        assert found == ROUNDED
        assert {type(number) for number in found} == {float}


def test_single_precision_shows_no_more_digits_than_it_has():
    assert rounded_all(torch.tensor([0.1, 0.7])) == rounded_all(np.float32([0.1, 0.7])) == [0.1, 0.7]


def test_what_is_not_finite_is_none_only_where_it_may_be_missing():
    values = [math.nan, math.inf, -math.inf, 1.0]
    assert known_all(values) == known_all(torch.tensor(values)) == [None, None, None, 1.0]
    kept = rounded_all(values)
    assert math.isnan(kept[0])
    assert kept[1:] == values[1:]
