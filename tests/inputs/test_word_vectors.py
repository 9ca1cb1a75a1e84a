"""Word vectors: files of both formats, a sentence-transformers model, a model's own embeddings."""

import gzip
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lensdiff.inputs.word_vectors import GLOVE, WordVectors
from lensdiff.models import load_model
from lensdiff.results import InputError
from tests.checkpoints import VOCABULARY, hf_model, tokenizer_of

VECTORS: dict[str, list[float]] = {
    "sea": [0.5, -1.0, 2e-3],
    "new york": [1, 2, 3],
    "a=b": [0, 0, 1],
    "日本": [-4, 5, 6.5],
    "Paris": [1, 1, 0],
}


def text_of(vectors: dict[str, list[float]], *, header: bool = False, end: str = "\n") -> str:
    lines = [f"{word} {' '.join(map(str, values))}" for word, values in vectors.items()]
    return end.join([*([f"{len(vectors)} 3"] if header else []), *lines, ""])


@pytest.mark.parametrize("header", [False, True], ids=["glove", "word2vec"])
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("end", ["\n", " \n", "\r\n"])  # word2vec ends its lines with a space
def test_text_files_of_either_format(tmp_path: Path, header: bool, zipped: bool, end: str) -> None:
    path = tmp_path / ("vectors.txt" + ".gz" * zipped)
    content = text_of(VECTORS, header=header, end=end).encode()
    path.write_bytes(gzip.compress(content) if zipped else content)
    found = WordVectors.read(path)
    assert found.words == tuple(VECTORS)
    assert found.vectors.dtype == np.float32
    np.testing.assert_array_equal(found.vectors, np.array(list(VECTORS.values()), dtype=np.float32))
    assert found.source == path.name


@pytest.mark.parametrize("header", ["", "4\t3\n", "4 3\n"])
@pytest.mark.parametrize("between", ["\t", " "])  # of the values; a tab follows the word
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte-order mark"])
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
def test_a_tab_ends_a_word_and_a_byte_order_mark_begins_none(
    tmp_path: Path, header: str, between: str, mark: bytes, zipped: bool
) -> None:
    path = tmp_path / ("vectors.tsv" + ".gz" * zipped)
    words = ["new york", "los angeles", "rio de janeiro", "sea"]  # most hold spaces, and not as many
    lines = [f"{word}\t{between.join(f'{i}.{j}' for j in range(3))}\n" for i, word in enumerate(words)]
    content = mark + (header + "".join(lines)).encode()
    path.write_bytes(gzip.compress(content) if zipped else content)
    found = WordVectors.read(path)
    assert found.words == tuple(words)
    np.testing.assert_array_equal(found.vectors[2], np.array([2.0, 2.1, 2.2], dtype=np.float32))


def test_a_byte_order_mark_is_no_part_of_a_word_between_spaces(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(b"\xef\xbb\xbfsea 1 2\nmoon 3 4\n")
    assert WordVectors.read(path).words == ("sea", "moon")
    path.write_bytes(b"\xef\xbb\xbf2 2\nsea 1 2\nmoon 3 4\n")
    assert WordVectors.read(path).words == ("sea", "moon")


NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("written", [NFC, NFD])
@pytest.mark.parametrize("asked", [NFC, NFD, NFC.upper(), NFD.upper()])
def test_a_word_is_found_in_either_spelling_of_its_accents(tmp_path: Path, written: str, asked: str) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text(f"sea 1 2\n{written} 3 4\n{NFC} 5 6\n{NFD} 7 8\n", encoding="utf-8")
    found = WordVectors.read(path, words=[asked])
    assert found.words == (NFC,)  # the first vector counts, as of any word that comes again
    vectors, has = found.lookup([asked, "sea"])
    assert vectors.tolist() == [[3, 4], [0, 0]]
    assert has.tolist() == [True, False]


def test_given_vectors_are_found_in_either_spelling_and_two_of_one_word_are_refused() -> None:
    given = WordVectors((NFD, "sea"), np.eye(2))
    assert given.words == (NFD, "sea")
    assert given.lookup([NFC, NFD])[0].tolist() == [[1, 0], [1, 0]]
    both = WordVectors((NFC.upper(), NFC), np.eye(2))
    assert both.lookup([NFD.upper(), NFD])[0].tolist() == [[1, 0], [0, 1]]  # its own vector before the lower-case one
    with pytest.raises(InputError, match=f"the word '{NFC}' has two vectors, expected one"):
        WordVectors((NFC, NFD), np.eye(2))


def test_only_the_words_asked_for_and_their_lower_case_forms_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text(text_of(VECTORS | {"PARIS": [9.0, 9.0, 9.0], "rome": [7.0, 7.0, 7.0]}), encoding="utf-8")
    found = WordVectors.read(path, words=["SEA", "Paris", "nowhere", "new york"])
    assert found.words == ("sea", "new york", "Paris")


def test_the_first_vector_of_a_repeated_word_counts(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("sea 1 2 3\nsea 4 5 6\nmoon 7 8 9\n", encoding="utf-8")
    found = WordVectors.read(path)
    assert found.words == ("sea", "moon")
    assert found.vectors[0].tolist() == [1, 2, 3]


def test_a_word_may_look_like_numbers_or_hold_a_carriage_return(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(b"3 1 2 3\n1 2 4 5 6\na\rb 7 8 9\nsea 1 1 1\n")
    found = WordVectors.read(path)
    assert found.words == ("3", "1 2", "a\rb", "sea")
    assert found.vectors[1].tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"sea 1 2 3\nmoon 1 2\nsun 1 2 3\n", r"line 2: expected a word and 3 values"),
        (b"2 3\nsea 1 2 3\nmoon 1 2\n", r"line 3: expected a word and 3 values"),
        (b"sea 1 2 3\nmoon 1 x 3\n", r"line 2: the vector of 'moon' holds no number"),
        (b"sea 1 2 3\nmoon 1 nan 3\n", r"the vector of 'moon' holds a value that is not finite"),
        (b"", r"holds no vectors"),
        (b"5 3\n", r"holds no vectors"),
        (b"sea\nmoon\n", r"line 1: expected a word and 1 values"),
        (b"sea\t1 2\nmoon\t1 2\nsun\t1\n", r"line 3: expected a word and 2 values"),
        (b"sea\t1\t2\n" * 20 + b"sun 1 2\n", r"line 21: expected a word and 2 values"),
        (b"\t1 2\nsun\t1 2\n", r"line 1: expected a word and 2 values"),
        (b"sea \xff 1\n", r"is no GloVe or word2vec text"),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        WordVectors.read(path)


def test_a_file_of_other_words_a_cut_archive_and_no_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text(text_of(VECTORS), encoding="utf-8")
    with pytest.raises(InputError, match="holds a vector of none of the words"):
        WordVectors.read(path, words=["moon"])
    cut = tmp_path / "vectors.gz"
    cut.write_bytes(gzip.compress(text_of(VECTORS).encode())[:-12])
    with pytest.raises(InputError, match="is no GloVe or word2vec text"):
        WordVectors.read(cut)
    (tmp_path / "plain.gz").write_text(text_of(VECTORS), encoding="utf-8")
    with pytest.raises(InputError, match=r"plain\.gz is no GloVe or word2vec text"):
        WordVectors.read(tmp_path / "plain.gz")
    with pytest.raises(InputError, match="no file at"):
        WordVectors.read(tmp_path / "none.txt")


def test_lookup_prefers_the_words_own_vector_and_says_which_has_none() -> None:
    vectors = WordVectors(("sea", "SEA", "moon"), np.array([[1.0, 2], [3, 4], [5, 6]]))
    found, has = vectors.lookup(["SEA", "Sea", "sun", "moon", "MOON"])
    assert found.tolist() == [[3, 4], [1, 2], [0, 0], [5, 6], [5, 6]]
    assert has.tolist() == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("words", "array", "message"),
    [
        (("a",), np.zeros((2, 3)), r"1 words need as many vectors, given shape \(2, 3\)"),
        ((), np.zeros((0, 3)), r"0 words need as many vectors"),
        (("a", "b", "a"), np.ones((3, 2)), r"the word 'a' has two vectors"),
        (("a", "b"), np.array([[1.0], [np.inf]]), r"the vector of 'b' holds a value that is not finite"),
    ],
)
def test_unusable_arrays_are_refused(words: tuple[str, ...], array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        WordVectors(words, array)


# sentence-transformers


@pytest.fixture(scope="module")
def sentence_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a model of the kind that the paper's GloVe vectors come in, built here."""
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("sentence-transformers is not installed (extra `glove`)")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, WordEmbeddings
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    tokenizer = WhitespaceTokenizer(["PADDING_TOKEN", "sea", "moon", "write"], stop_words=[], do_lower_case=False)
    weights = np.array([[0, 0], [1, 2], [3, 4], [5, 6]], dtype=np.float32)
    words = WordEmbeddings(tokenizer, weights)
    model = SentenceTransformer(modules=[words, Pooling(2)], device="cpu")
    folder = tmp_path_factory.mktemp("glove")
    model.save(str(folder), create_model_card=False)
    return str(folder)


def test_sentence_transformers_give_a_word_its_own_row(sentence_model: str) -> None:
    found = WordVectors.from_sentence_transformers((w for w in ["moon", "unknown", "Write", "sea"]), sentence_model)
    assert found.words == ("moon", "Write", "sea")  # the model maps "unknown" to zeros, and "Write" to "write"
    assert found.vectors.tolist() == [[3, 4], [5, 6], [1, 2]]
    assert found.source == sentence_model


def test_sentence_transformers_without_a_usable_word(sentence_model: str) -> None:
    with pytest.raises(InputError, match="has a vector of none of the 1 words"):
        WordVectors.from_sentence_transformers(["unknown"], sentence_model)
    with pytest.raises(InputError, match="at least one word, given none"):
        WordVectors.from_sentence_transformers([], sentence_model)


def test_the_papers_vectors_are_the_named_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    class Asked:
        def __init__(self, name: str, device: str):
            asked.append((name, device))
            raise OSError("no network")

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Asked))
    with pytest.raises(InputError, match=rf"{GLOVE} cannot be loaded by sentence-transformers \(no network\)"):
        WordVectors.from_sentence_transformers(["sea"])
    assert asked == [("average_word_embeddings_glove.840B.300d", "cpu")]


def test_sentence_transformers_are_asked_for_composed_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    class Embeds:
        def __init__(self, name: str, device: str): ...

        def encode(self, words: list[str], show_progress_bar: bool) -> np.ndarray:
            return np.array([[float(word == NFC)] for word in words])

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Embeds))
    assert WordVectors.from_sentence_transformers(["sea", NFD]).words == (NFD,)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"needs sentence-transformers: pip install 'lensdiff\[glove\]'"):
        WordVectors.from_sentence_transformers(["sea"])


# a model's own embeddings


@pytest.mark.parametrize(("family", "wrapper"), [("llama", "hooked"), ("gpt2", "hooked"), ("gemma", "bridge")])
def test_a_models_vectors_are_its_mean_centred_embeddings(family: str, wrapper: Any) -> None:
    tokenizer = tokenizer_of(True)
    model = load_model(hf_model(family), tokenizer=tokenizer, wrapper=wrapper, verify=False)
    words = ["sea", "moon", "Translate", "unheard-of", "日本"]
    found = WordVectors.from_model(model, words)
    matrix = model.W_E.detach().double()
    ids = [tokenizer(" " + word, add_special_tokens=False)["input_ids"] for word in words]
    boundary = tokenizer.convert_tokens_to_ids("Ġ")
    ids = [own[1:] if own[0] == boundary else own for own in ids]
    rows = torch.stack([matrix[own].mean(0) for own in ids])
    assert found.words == tuple(words)
    np.testing.assert_allclose(found.vectors, (rows - rows.mean(0)).numpy(), atol=1e-5)
    assert "input embeddings of the model" in found.source


def test_a_models_vectors_default_to_the_shipped_words() -> None:
    model = SimpleNamespace(tokenizer=tokenizer_of(), W_E=torch.randn(VOCABULARY, 4))
    found = WordVectors.from_model(model)
    assert {"person", "write", "summarize"} <= set(found.words)
    np.testing.assert_allclose(found.vectors.mean(axis=0), 0, atol=1e-5)


def test_words_that_map_to_no_token_are_left_out() -> None:
    tokenizer = tokenizer_of()
    largest = max(tokenizer(" moon", add_special_tokens=False)["input_ids"])
    model = SimpleNamespace(tokenizer=tokenizer, W_E=torch.randn(largest, 4))  # the embedding has no such row
    assert "moon" not in WordVectors.from_model(model, ["a", "moon"]).words
    with pytest.raises(InputError, match="none of the 1 words maps to a token"):
        WordVectors.from_model(model, ["moon"])


def test_a_model_without_tokenizer_has_no_words() -> None:
    with pytest.raises(
        InputError, match=r"^the model has no tokenizer: give one to load_model\(\.\.\., tokenizer=\.\.\.\)$"
    ):
        WordVectors.from_model(SimpleNamespace(tokenizer=None, W_E=torch.ones(3, 2)), ["a"])
