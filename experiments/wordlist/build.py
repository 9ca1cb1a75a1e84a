"""Build the shipped word list and verb list from WordNet 3.0: python experiments/wordlist/build.py [WORDNET_FOLDER].

words.tsv  lower-case single words, by how often WordNet's texts are tagged with them (all senses together), then the
           verbs of the verb lists that are tagged nowhere, with count 0
verbs.tsv  first lemmas of verb synsets that have an example sentence, by how often they are tagged as a verb

Both are `word<TAB>count`, ties in alphabetical order. Function words and inflected forms are not in WordNet; "person",
"group" and "location" stand high because names are tagged with them. The licence is copied from the data files' heads.
Debian and Ubuntu have WordNet in the package wordnet-base; formats: cntlist(5WN), wndb(5WN).
"""

import re
import sys
from collections import Counter
from pathlib import Path

from lensdiff.inputs.verbs import INSTRUCTION_VERBS

DEFAULT_FOLDER = Path("/usr/share/wordnet")
DATA = Path(__file__).parents[2] / "lensdiff" / "inputs" / "data"
WORD = re.compile(r"[a-z]{2,}|a|i")
VERB_TYPE = "2"
HEADER = """\
# {what}
# From WordNet 3.0, Copyright 2006 by Princeton University; licence: WORDNET_LICENSE; built by
# experiments/wordlist/build.py
"""


def tagged_counts(folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Return how often each single word is tagged, with any part of speech and as a verb."""
    every: Counter[str] = Counter()
    verbs: Counter[str] = Counter()
    for line in (folder / "cntlist.rev").read_text(encoding="ascii").splitlines():
        key, _, count = line.split(" ")  # sense key "lemma%type:...", sense number, count
        lemma, rest = key.split("%")
        if WORD.fullmatch(lemma):
            every[lemma] += int(count)
            if rest[0] == VERB_TYPE:
                verbs[lemma] += int(count)
    return every, verbs


def first_lemmas_with_example(folder: Path) -> set[str]:
    """Return the first lemma of every verb synset whose gloss quotes a sentence."""
    lines = (folder / "data.verb").read_text(encoding="ascii").splitlines()
    synsets = [line.split(" | ") for line in lines if line[0].isdigit()]
    return {head.split(" ")[4] for head, gloss in synsets if '"' in gloss}


def write(path: Path, what: str, counts: dict[str, int]) -> None:
    """Write the words, most frequent first."""
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    path.write_text(HEADER.format(what=what) + "".join(f"{w}\t{n}\n" for w, n in rows), encoding="utf-8")
    print(f"{path.name}: {len(rows)} words")


def main(folder: Path) -> None:
    every, verbs = tagged_counts(folder)
    lemmas = {lemma for lemma in first_lemmas_with_example(folder) if WORD.fullmatch(lemma)}
    words = {word: every[word] for word in every.keys() | lemmas | set(INSTRUCTION_VERBS)}
    write(DATA / "words.tsv", "Single words by the number of their tagged occurrences", words)
    write(
        DATA / "verbs.tsv",
        "First lemmas of verb synsets with an example sentence, by the number of their tagged occurrences as a verb",
        {lemma: verbs[lemma] for lemma in lemmas},
    )
    head = [line[4:].rstrip() for line in (folder / "data.verb").read_text(encoding="ascii").splitlines()[:29]]
    (DATA / "WORDNET_LICENSE").write_text("\n".join(head) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER)
