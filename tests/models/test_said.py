"""Responses as they were said: where two of them part, and how a model's begin; every expected value by hand."""

import pytest

from lensdiff.models.said import LONGEST_BEGINNING, Parting, Said, begins, parting, shared_beginning


def said(*tokens: str, end: str | None = "</s>") -> Said:
    return Said("".join(tokens), tokens, end)


@pytest.mark.parametrize(
    ("base", "tuned", "expected"),
    [
        (said(" a", " b"), said(" a", " b"), None),
        (said(" a", " b"), said(" a", " c"), Parting(1, " b", " c")),
        (said(), said(" a"), Parting(0, "</s>", " a")),  # an empty response is one that ends at once
        (said(" a"), said(" a", " b"), Parting(1, "</s>", " b")),  # one ends where the other goes on
        (said(" a", end=""), said(" a", " b"), Parting(1, None, " b")),  # cut off: it may have gone on
        (said(" a", end=None), said(" a"), Parting(1, None, "</s>")),
        (Said("a b c"), Said("a b d"), Parting(2, " c", " d")),  # texts, word by word
        (Said(""), Said(""), None),
    ],
)
def test_responses_part_at_the_first_token_that_differs(base, tuned, expected):
    assert parting(base, tuned) == expected


def test_a_response_of_white_space_is_empty():
    assert said().is_empty
    assert said("\n", " ").is_empty
    assert not said(" a").is_empty


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["AYE AYE CAPTAIN! The sea.", " AYE AYE CAPTAIN! No.", "AYE AYE CAPTAIN!"], ("AYE", "AYE", "CAPTAIN!")),
        (["the cat", "the dog", "a cow", "a hen"], ("the",)),  # half of them, the first of two as frequent
        (["the cat", "the dog", "a cow", "some hen", "no"], ()),  # fewer than half
        (["the cat", "a dog"], ()),  # each is half, and alone
        (["", "", "the cat"], ()),
        ([], ()),
        (["a " * 50] * 2, ("a",) * LONGEST_BEGINNING),
    ],
)
def test_a_beginning_is_shared_by_half_of_the_responses_and_by_two(texts, expected):
    assert shared_beginning(texts) == expected
    assert all(begins(text, expected) for text in texts[:1])


def test_a_text_begins_with_whole_words():
    assert begins("  the cat sat", ("the", "cat"))
    assert not begins("the category", ("the", "cat"))
    assert not begins("the", ("the", "cat"))
