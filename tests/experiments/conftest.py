"""The modules of experiments/toy_pair, and WordNet split at the held-out words."""

import importlib
import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "experiments" / "toy_pair"
WORDNET = Path("/usr/share/wordnet")
MODULES = (
    *("wordnet", "passages", "instructions", "plain"),
    *("muon", "starting_weights", "train", "evaluate", "run", "ways", "curve"),
)
needs_wordnet = pytest.mark.skipif(
    not (WORDNET / "data.noun").is_file(), reason="no WordNet data (Debian package wordnet-base)"
)


def read(path: Path) -> list[dict]:
    """The records of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def scripts():
    """The modules of experiments/toy_pair by name; their folder is on the path only while they are imported."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def dictionary(scripts):
    wordnet = scripts["wordnet"]
    keep = scripts["instructions"].phrasing_words() | scripts["passages"].passage_words()
    return wordnet.split(wordnet.read_entries(WORDNET), seed=0, keep=keep)
