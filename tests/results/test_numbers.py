"""Counts as they are refused and as they are said."""

import pytest

from lensdiff.results import InputError
from lensdiff.results.numbers import check_count, check_numbers, n_of


@pytest.mark.parametrize(
    ("value", "least", "message"),
    [
        (0, 1, "n=0 given, expected at least 1"),
        (1, 2, "n=1 given, expected at least 2"),
        (2.5, 2, "n=2.5 given, expected a whole number of at least 2"),
        (3.0, 1, "n=3.0 given, expected a whole number of at least 1"),
        (True, 0, "n=True given, expected a whole number of at least 0"),
        ("3", 1, "n='3' given, expected a whole number of at least 1"),
        (None, 1, "n=None given, expected a whole number of at least 1"),
    ],
)
def test_what_is_no_count_is_told_apart_from_one_that_is_too_small(value, least, message):
    with pytest.raises(InputError) as refused:
        check_count("n", value, least=least)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "value", [[], 1.0, "12", None, [1, 1.0], [True], [float("nan")], [float("inf")], ["1"], {1: 2}]
)
def test_what_is_no_list_of_numbers_is_refused(value):
    with pytest.raises(InputError) as refused:
        check_numbers("scales", value)
    assert str(refused.value) == f"scales={value!r} given, expected at least one finite number, each once"


def test_numbers_are_floats_in_their_order():
    assert check_numbers("scales", (2, -0.5)) == [2.0, -0.5]


def test_one_is_no_plural():
    assert [n_of(n, "prompt") for n in (0, 1, 2)] == ["0 prompts", "1 prompt", "2 prompts"]
