"""Prompts, word lists, word vectors and released files that are not what they should be."""

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensdiff import Prompt, Vocabulary, WordVectors, load_prompts, load_published
from lensdiff.inputs.annotation_prompts import AnnotationPrompts
from lensdiff.inputs.ratings import read_ratings
from lensdiff.inputs.tuning_data import load_tuning_data
from lensdiff.results import InputError
from tests.bad_inputs.refusals import Case, assert_refuses, case, is_sentence

DEEP = "[" * 100_000
DIGITS = "9" * 5_000
Read = Callable[[Path], Any]

PROMPTS = [
    case("an empty text", lambda: Prompt(" \n"), "empty"),
    case("half a character as id", lambda: Prompt("a", id="\ud800"), "half a character"),
    case("a span that is not there", lambda: Prompt("a b", "c"), "'c'"),
    case("an empty span", lambda: Prompt("a b", " "), "' '"),
    case("a span that is reversed", lambda: Prompt("a b", [(2, 1)]), "(2, 1)"),
    case("a span out of range", lambda: Prompt("a b", [(0, 99)]), "(0, 99)"),
    case("a span of 5,000 digits", lambda: Prompt("a b", [(0, 10**5_000)]), "span"),
    case("a span below 0", lambda: Prompt("a b", [(-3, 2)]), "(-3, 2)"),
    case("a span of 5,000 letters", lambda: Prompt("a b", "c" * 5_000), "ccc"),
    case("a chat without messages", lambda: Prompt.of_messages([]), "[]"),
    case("a message that is none", lambda: Prompt.of_messages(["a"]), "'a'"),
    case("a message without words", lambda: Prompt.of_messages([{"role": "user", "content": " "}]), "' '"),
    case("an answer at the end", lambda: Prompt.of_messages([{"role": "assistant", "content": "a"}]), "assistant"),
    case("a template that there is not", lambda: Prompt("a b").render(None, "markdown"), "'markdown'"),
]


@pytest.mark.parametrize("bad", PROMPTS)
def test_a_prompt_is_refused(bad: Case):
    assert_refuses(bad.make, *bad.says)


class Written:
    """A file with some content, and what reads it."""

    def __init__(self, read: Read, name: str, content: str | bytes):
        self.read, self.name, self.content = read, name, content

    def __call__(self, folder: Path) -> None:
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content if isinstance(self.content, bytes) else self.content.encode("utf-8"))
        self.read(path)


def jsonl(content: str | bytes) -> Written:
    return Written(load_prompts, "prompts.jsonl", content)


def tsv(content: str | bytes) -> Written:
    return Written(load_prompts, "prompts.tsv", content)


def words(content: str | bytes) -> Written:
    return Written(Vocabulary.read, "words.tsv", content)


def vectors(content: str | bytes, name: str = "vectors.txt") -> Written:
    return Written(WordVectors.read, name, content)


def data(content: str | bytes) -> Written:
    return Written(load_tuning_data, "data.jsonl", content)


def toml(content: str | bytes) -> Written:
    return Written(AnnotationPrompts.load, "prompts.toml", content)


def rated(content: str | bytes) -> Written:
    return Written(read_ratings, "ratings.tsv", content)


HEADER = "ID\tPrompt\tResponse\tInstruct&Context\n"


def released(name: str, content: bytes) -> Written:
    """A clone of the authors' repository with one prompt, and one more file."""

    def read(path: Path) -> None:
        root = path.parents[len(Path(name).parts) - 1]
        (root / "datasets").mkdir(exist_ok=True)
        (root / "datasets" / "FinalDataset.tsv").write_text(HEADER + "a\tWrite.\tYes\tWrite.&&&\n")
        found = load_published(root)
        _ = found.attributions, found.ratings, list(found.concepts()), list(found.word_pairs())

    return Written(read, name, content)


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("it ran",))


MAP = "results/attribution_interpret/ifa_llama_7b/a.pkl"
FILES = [
    case("prompts: empty", jsonl(""), "prompts.jsonl"),
    case("prompts: no text", jsonl(b"\xff\xfe\x00"), "prompts.jsonl"),
    case("prompts: no JSON", jsonl("{\n"), "line 1"),
    case("prompts: a list", jsonl("[]\n"), "line 1"),
    case("prompts: in brackets", jsonl(DEEP), "line 1", "nested"),
    case("prompts: 5,000 digits", jsonl(f'{{"text": {DIGITS}}}'), "line 1", "digits"),
    case("prompts: an id of 5,000 digits", jsonl(f'{{"text": "a", "id": {DIGITS}}}'), "line 1", "digits"),
    case("prompts: a number as text", jsonl('{"text": 3}'), "line 1", "text"),
    case("prompts: a list as id", jsonl('{"text": "a", "id": []}'), "line 1", "id"),
    case("prompts: an id twice", jsonl('{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}'), "line 2", "'x'"),
    case("prompts: spans of numbers", jsonl('{"text": "a", "instruction": [3]}'), "line 1", "3"),
    case("prompts: spans of an object", jsonl('{"text": "a", "instruction": {}}'), "line 1", "instruction"),
    case("prompts: another kind of file", Written(load_prompts, "prompts.csv", "a"), ".jsonl"),
    case("prompts: no file", lambda folder: load_prompts(folder / "none.jsonl"), "none.jsonl"),
    case("prompts: a folder", lambda folder: load_prompts(folder), "no prompt file"),
    case("prompts: 5,000 letters", lambda folder: load_prompts("p" * 5_000 + ".jsonl"), "ppp"),
    case("prompts: a null character", lambda folder: load_prompts("a\0.jsonl"), "a"),
    case("prompts: a table without a header", tsv(""), "line 1"),
    case("prompts: a table of other columns", tsv("a\tb\n"), "line 1", "ID"),
    case("prompts: a table with a field less", tsv(HEADER + "a\tb\n"), "line 2"),
    case("prompts: a table without rows", tsv(HEADER), "prompts.tsv"),
    case("words: empty", words(""), "words.tsv"),
    case("words: no frequency", words("sea\n"), "line 1"),
    case("words: a frequency in words", words("sea\tmany\n"), "line 1"),
    case("words: a frequency below 0", words("sea\t-1\n"), "line 1"),
    case("words: a frequency of NaN", words("sea\tnan\n"), "line 1"),
    case("words: a line of 5,000 letters", words("s" * 5_000), "line 1"),
    case("words: no text", words(b"\xff\xfe"), "words.tsv"),
    case("words: no file", lambda folder: Vocabulary.read(folder / "none.tsv"), "none.tsv"),
    case("words: 5,000 letters", lambda folder: Vocabulary.read("w" * 5_000), "www"),
    case("vectors: empty", vectors(""), "vectors.txt"),
    case("vectors: no numbers", vectors("sea a b\n"), "line 1"),
    case("vectors: another number of values", vectors("sea 1 2\nmoon 1 2\nsun 1\n"), "line 3"),
    case("vectors: not finite", vectors("sea 1 nan\nmoon 1 2\n"), "sea"),
    case("vectors: a header of 5,000 digits", vectors(f"1 {DIGITS}\nsea 1 2\n"), "'1'", "not finite"),
    case("vectors: no text", vectors(b"\xff\xfe\x00\n"), "vectors.txt"),
    case("vectors: no gzip", vectors(b"junk", "vectors.gz"), "vectors.gz"),
    case("vectors: a gzip that is cut", vectors(gzip.compress(b"sea 1 2\n" * 999)[:-20], "vectors.gz"), "vectors.gz"),
    case("vectors: a gzip of junk", vectors(gzip.compress(b"sea 1 2\n")[:10] + b"\xff" * 30, "v.gz"), "v.gz"),
    case("vectors: no file", lambda folder: WordVectors.read(folder / "none.txt"), "none.txt"),
    case("vectors: a folder", lambda folder: WordVectors.read(folder), "no file"),
    case("vectors: 5,000 letters", lambda folder: WordVectors.read("v" * 5_000), "vvv"),
    case("data: no JSON", data("{"), "line 1"),
    case("data: in brackets", data(DEEP), "line 1"),
    case("data: numbers", data('{"prompt": 3, "response": 4}'), "line 1"),
    case("data: an empty response", data('{"prompt": "a", "response": " "}'), "line 1"),
    case("annotation prompts: no TOML", toml("= ="), "TOML"),
    case("annotation prompts: in brackets", toml("a = " + DEEP), "TOML"),
    case("annotation prompts: 5,000 digits", toml(f"a = {DIGITS}"), "TOML"),
    case("annotation prompts: nothing", toml(""), "describe"),
    case("annotation prompts: a number", toml("describe = 3"), "describe"),
    case("ratings: empty", rated(""), "ratings.tsv"),
    case("ratings: other columns", rated("a\tb\n"), "prompt_id"),
    case("ratings: words", rated("prompt_id\trating\na\tgood\n"), "good"),
    case("ratings: twice", rated("prompt_id\trating\na\t1\na\t1\n"), "twice"),
    case("ratings: above the highest", rated("prompt_id\trating\na\t99\n"), "99"),
    case("ratings: 5,000 digits", rated(f"prompt_id\trating\na\t{DIGITS}\n"), "rating"),
    case("released: no clone", lambda folder: load_published(folder), "datasets/FinalDataset.tsv"),
    case("released: 5,000 letters", lambda folder: load_published("r" * 5_000), "rrr"),
    case("released: a map of junk", released(MAP, b"junk"), "a.pkl"),
    case("released: an empty map", released(MAP, b""), "a.pkl"),
    case("released: a map that runs code", released(MAP, pickle.dumps(Evil())), "print"),
    case("released: a map of a list", released(MAP, pickle.dumps([1])), "a.pkl"),
    case("released: a map without levels",
         released(MAP, pickle.dumps({"ID": "a", "Input": ["a"], "Output": ["b"], "Explain": 3})), "Explain"),
    case("released: a rating in words",
         released("datasets/AnnotatedDataset.tsv", b"File\tModel\tResponse\tRating\na\tb\tc\td\n"), "'d'"),
    case("released: words of other columns",
         released("results/linear_interpret/linear_words.tsv", b"a\tb\n"), "line 1"),
]  # fmt: skip


@pytest.mark.parametrize("bad", FILES)
def test_a_file_is_refused(tmp_path: Path, bad: Case, capsys):
    assert_refuses(lambda: bad.make(tmp_path), *bad.says)
    assert "it ran" not in capsys.readouterr().out


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
LINES = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("text", "id", "instruction", "context", "zzz"), JSON)
    | dict.fromkeys(("kind", "reference"), st.text(max_size=4)),
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(lines=st.lists(LINES | JSON, max_size=3))
def test_any_lines_are_prompts_or_refused(tmp_path_factory, lines: list[Any]):
    path = tmp_path_factory.mktemp("lines") / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    reads_or_says(lambda: load_prompts(path))


@pytest.mark.parametrize("read", [Vocabulary.read, WordVectors.read, load_prompts, load_tuning_data, read_ratings],
                         ids=lambda read: read.__qualname__)  # fmt: skip
@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=60) | st.text(alphabet="a1. \t\n\"'-,{}[]:#\0", max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(tmp_path_factory, read: Read, content: bytes):
    path = tmp_path_factory.mktemp("bytes") / "file.tsv"
    path.write_bytes(content)
    reads_or_says(lambda: read(path))


def reads_or_says(read: Callable[[], Any]) -> None:
    try:
        read()
    except InputError as error:
        is_sentence(str(error))
