"""Word lists: merging by hand and against the paper's list, reading, the shipped default."""

import re
from pathlib import Path

import numpy as np
import pytest

from lensdiff.inputs.verbs import INSTRUCTION_VERBS, general_verbs
from lensdiff.inputs.vocabulary import Vocabulary, merge_case
from lensdiff.results import InputError
from tests.conftest import PAPER


def test_case_variants_go_into_the_form_that_came_first() -> None:
    words = ["python", "PyTorch", "Python", "PYTHON", "GPT", "gpt", "Paris", "pARIS", "pyTorch", "the", "the"]
    merged, frequencies = merge_case(words, [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.25, 0.125])
    # "pARIS" and "pyTorch" have no earlier lower, upper or capitalised form but "Paris"
    assert merged == ("python", "PyTorch", "GPT", "Paris", "pyTorch", "the")
    assert frequencies == [19, 7, 7, 3, 0.5, 0.375]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["STRASSE", "straße"], ["STRASSE", "straße"]),
        (["MASSE", "masse", "maße", "MASSE"], ["MASSE", "maße"]),
        (["SS", "ß"], ["SS", "ß"]),
        (["straße", "Straße", "STRAẞE"], ["straße"]),  # the capital ẞ has a way back
        (["FIN", "ﬁn", "Fin"], ["FIN", "ﬁn"]),
        (["ʼN", "ŉ"], ["ʼN", "ŉ"]),
        (["IRMAK", "ırmak", "irmak"], ["IRMAK", "ırmak"]),  # the dotless i
        (["S", "ſ", "s"], ["S", "ſ"]),
        (["ΣΑΣ", "σας", "Σας"], ["ΣΑΣ"]),  # two lower-case sigmas, one in the middle of words
        (["ÉTÉ", "été"], ["ÉTÉ"]),
    ],
)
def test_a_form_without_a_way_back_is_another_word(words: list[str], kept: list[str]) -> None:
    merged, frequencies = merge_case(words, [1.0] * len(words))
    assert merged == tuple(kept)
    assert sum(frequencies) == len(words)


def test_a_file_is_read_in_composed_letters(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    path.write_bytes("\ufeffcafe\u0301\t2\nsea\t1\ncaf\u00e9\t3\nCAFE\u0301\t4\n".encode())
    vocabulary = Vocabulary.read(path)
    assert vocabulary.words == ("caf\u00e9", "sea")
    assert vocabulary.frequencies.tolist() == [9, 1]
    with pytest.raises(InputError, match="the word 'caf\u00e9' comes twice, expected distinct words"):
        Vocabulary.read(path, merge=False)


def test_the_papers_list_becomes_the_words_of_the_reference(reference: Path) -> None:
    path = PAPER / "datasets" / "SingleShareGPT_Vocab.tsv"
    if not path.is_file():
        pytest.skip("the paper's word list is not beside the project")
    expected = tuple(map(str, np.load(reference / "word_vectors_50d.npz")["words"]))
    given, vocabulary = Vocabulary.read(path, merge=False), Vocabulary.read(path)
    assert (len(given), len(vocabulary)) == (26497, 26473)  # one of its 26,498 lines is empty
    assert vocabulary.words == expected
    assert vocabulary.frequencies.sum() == pytest.approx(given.frequencies.sum(), rel=1e-12)


def test_reading_keeps_order_and_odd_words(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    path.write_bytes("\ufeff# made by hand\nthe\t10\r\n\nnew york\t3.5\na=b\t2\n#\t1\n  \n\ta\t1e-3\nThe\t1\n".encode())
    vocabulary = Vocabulary.read(path)
    # "#" with a tab is a word, without one a comment; the frequency is what follows the last tab
    assert vocabulary.words == ("the", "new york", "a=b", "#", "\ta")
    assert vocabulary.frequencies.tolist() == [11, 3.5, 2, 1, 0.001]
    assert vocabulary.source == "words.tsv"
    assert len(Vocabulary.read(path, merge=False)) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the 10\n", r"line 1: expected word<TAB>frequency, got 'the 10'"),
        ("a\t1\nthe\tten\n", r"line 2: expected word<TAB>frequency"),
        ("a\t1\n\t3\n", r"line 2: expected word"),
        ("a\t-1\n", r"line 1: expected word"),
        ("a\tnan\n", r"line 1: expected word"),
        ("a\tinf\n", r"line 1: expected word"),
        ("", "holds no words"),
        ("# nothing but this\n\n", "holds no words"),
    ],
)
def test_unusable_files_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "words.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"words\.tsv.*{message}|words\.tsv {message}"):
        Vocabulary.read(path)


def test_a_repeated_word_needs_merging(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    path.write_text("sea\t2\nsea\t1\n", encoding="utf-8")
    assert Vocabulary.read(path).frequencies.tolist() == [3]
    with pytest.raises(InputError, match=r"the word 'sea' comes twice, expected distinct words \(merge_case"):
        Vocabulary.read(path, merge=False)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(f"no file at {tmp_path / 'none.tsv'}")):
        Vocabulary.read(tmp_path / "none.tsv")


def test_words_alone_are_a_vocabulary() -> None:
    vocabulary = Vocabulary.of(word for word in ["b", "a"])
    assert vocabulary.words == ("b", "a")
    assert vocabulary.frequencies.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("words", "frequencies", "message"),
    [
        ((), [], "at least one word, given none"),
        (("a",), [1, 2], r"1 words need as many frequencies, given shape \(2,\)"),
        (("a", "b"), [1, -1], "finite number of at least 0"),
        (("a", "b"), [1, float("nan")], "finite number of at least 0"),
        (("a", " \t"), [1, 1], r"' \\t' is no word"),
        (("a", "a"), [1, 1], "'a' comes twice"),
        (("a", "b\ud800"), [1, 1], r"the word 'b\\ud800' holds half a character"),
    ],
)
def test_unusable_vocabularies_are_refused(words: tuple[str, ...], frequencies: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Vocabulary(words, np.array(frequencies, dtype=float))


def test_the_default_is_sorted_lower_case_and_holds_the_verbs() -> None:
    vocabulary = Vocabulary.default()
    assert len(vocabulary) > 15_000
    assert all(re.fullmatch("[a-z]+", word) for word in vocabulary.words)
    assert (np.diff(vocabulary.frequencies) <= 0).all()
    assert "WordNet 3.0" in vocabulary.source
    listed = set(vocabulary.words)
    assert listed >= set(INSTRUCTION_VERBS)
    assert listed >= set(general_verbs())
    assert not listed & {"the", "of", "and"}  # as the docstring says


def test_the_licence_of_the_shipped_lists_is_with_them() -> None:
    from lensdiff.inputs.vocabulary import DATA

    assert "Princeton University" in (DATA / "WORDNET_LICENSE").read_text(encoding="utf-8")
    for name in ("words.tsv", "verbs.tsv"):
        head = (DATA / name).read_text(encoding="utf-8").splitlines()[:3]
        assert all(line.startswith("#") for line in head)
        assert "WORDNET_LICENSE" in head[1]
