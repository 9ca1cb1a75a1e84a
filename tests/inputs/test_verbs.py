"""The verb lists: the paper's 38, and general verbs by frequency without them."""

from pathlib import Path

import pytest

from lensdiff.inputs.verbs import INSTRUCTION_VERBS, STOP_WORDS, general_verbs
from lensdiff.inputs.vocabulary import DATA
from lensdiff.results import InputError

WORDNET = Path("/usr/share/wordnet/data.verb")


def test_instruction_verbs_are_the_papers() -> None:
    assert len(INSTRUCTION_VERBS) == len(set(INSTRUCTION_VERBS)) == 38
    assert list(INSTRUCTION_VERBS) == sorted(INSTRUCTION_VERBS)
    assert {"act", "have", "summarize", "write"} <= set(INSTRUCTION_VERBS)


def test_general_verbs_are_the_most_frequent_others() -> None:
    verbs = general_verbs()
    assert len(verbs) == len(set(verbs)) == 3000
    assert not set(verbs) & {*INSTRUCTION_VERBS, *STOP_WORDS}
    assert verbs[:3] == ("see", "know", "come")  # be, have, say, make and do are left out
    assert general_verbs(10) == verbs[:10]
    every = general_verbs(10**6)
    assert 3000 < len(every) < 10**6
    assert every[:3000] == verbs


@pytest.mark.parametrize("n", [0, -3])
def test_a_number_of_verbs_is_at_least_one(n: int) -> None:
    with pytest.raises(InputError, match=f"n={n} given, expected at least 1"):
        general_verbs(n)


@pytest.mark.skipif(not WORDNET.is_file(), reason="WordNet is not installed (Debian package wordnet-base)")
def test_the_shipped_lists_are_what_the_script_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.wordlist import build

    monkeypatch.setattr(build, "DATA", tmp_path)
    build.main(WORDNET.parent)
    for name in ("words.tsv", "verbs.tsv", "WORDNET_LICENSE"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes(), name
