"""Plain texts: those that ship, those of a file and of a list, and what is refused."""

from pathlib import Path

import pytest

from lensdiff.inputs.texts import load_texts, shipped_texts, texts_of
from lensdiff.inputs.vocabulary import DATA
from lensdiff.results import InputError

WORDNET = Path("/usr/share/wordnet/data.verb")


def test_the_shipped_texts_are_many_and_begin_differently():
    texts = shipped_texts()
    assert len(texts) == len(set(texts)) == 512
    words = [text.split() for text in texts]
    assert min(map(len, words)) >= 8
    assert len({tuple(word.lower() for word in some[:2]) for some in words}) == 512
    firsts = [some[0].lower() for some in words]
    assert max(firsts.count(word) for word in set(firsts)) <= 20
    head = (DATA / "texts.txt").read_text(encoding="utf-8").split("\n")[:3]
    assert "WORDNET_LICENSE" in head[1]
    assert "Princeton University" in head[1]


@pytest.mark.skipif(not WORDNET.is_file(), reason="WordNet is not installed (Debian package wordnet-base)")
def test_the_shipped_texts_are_what_their_script_builds(tmp_path, monkeypatch):
    from experiments.wordlist import texts

    monkeypatch.setattr(texts, "DATA", tmp_path)
    texts.main(WORDNET.parent)
    assert (tmp_path / "texts.txt").read_bytes() == (DATA / "texts.txt").read_bytes()


def test_a_file_holds_a_passage_a_line(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeff  The sea is wide. \r\n\n# no comment\nÅland, the moon\n".encode())
    expected = ("The sea is wide.", "# no comment", "Åland, the moon")
    assert load_texts(path) == texts_of(path) == texts_of(str(path)) == expected
    assert texts_of(["a b", "c"]) == ("a b", "c")
    assert texts_of(None) == shipped_texts()


def test_what_holds_no_texts_is_refused(tmp_path):
    path = tmp_path / "texts.txt"
    for content, message in (
        (b"", "0 texts are given, expected at least 2"),
        (b"\n \n", "0 texts are given"),
        (b"only one\n", "1 texts are given, expected at least 2: the mean of one is that text"),
        (b"\xff\xfe", "is not UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_texts(path)
    with pytest.raises(InputError, match="no file at"):
        load_texts(tmp_path / "none.txt")
    for given, message in (
        ([], "0 texts are given"),
        (["a"], "1 texts are given"),
        (["a", " "], "text 1 is ' ', expected words"),
        (["a", 3], "text 1 is 3, expected words"),
        (["a", "b\ud800"], "text 1 holds half a character"),
        (7, "texts=7 given, expected a list of texts or the path of a file"),
    ):
        with pytest.raises(InputError, match=message):
            texts_of(given)  # type: ignore[arg-type]
