"""Words as a reader sees them, and each word once."""

import pytest

from lensdiff.views.section import LONGEST_CELL, cell
from lensdiff.views.words import WordIndex, clipped, visible


def test_breaks_and_tabs_have_signs():
    assert visible("a\n\tb\r c") == "a⏎⇥b␍ c"
    assert cell("a\nb") == "a⏎b"


@pytest.mark.parametrize(("text", "expected"), [("", ""), ("abc", "abc"), ("abcd", "ab…")])
def test_a_text_is_cut_where_it_is_too_long(text, expected):
    assert clipped(text, 3) == expected


def test_a_cell_is_cut_after_its_signs_are_put_in():
    assert cell("\n" * 300) == "⏎" * (LONGEST_CELL - 1) + "…"


def test_each_word_has_one_number_in_the_order_of_its_first_mention():
    words = WordIndex()
    assert [words(word) for word in ("sea", "moon", "sea", "Sea", "moon")] == [0, 1, 0, 2, 1]
    assert words.words() == ["sea", "moon", "Sea"]
    assert WordIndex().words() == [], "an index of its own for each widget"
