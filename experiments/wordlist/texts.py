"""Build the shipped passages from WordNet 3.0: python experiments/wordlist/texts.py [WORDNET_FOLDER].

texts.txt holds example sentences that WordNet's glosses quote, one a line: they are about anything, each about
something else, and hardly one gives an order. Taken are those of 8 to 24 words that are one sentence without a source's
name behind it, at most one of a synset, one with the same two first words, and 20 with the same first word (a mean over
texts that begin alike would be constant by itself), 512 drawn with a fixed seed. A sentence begins with a capital and
ends with a full stop, as text does.
"""

import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

DEFAULT_FOLDER = Path("/usr/share/wordnet")
DATA = Path(__file__).parents[2] / "lensdiff" / "inputs" / "data"
PARTS = ("noun", "verb", "adj", "adv")
N_TEXTS, SEED = 512, 0
MOST = 20  # with the same first word
SENTENCE = re.compile(r"[A-Za-z][A-Za-z ,'-]*[A-Za-z]")
QUOTED = re.compile(r'"([^"]*)"(?!\s*[-(])')
HEADER = """\
# Example sentences of WordNet 3.0, one a line
# From WordNet 3.0, Copyright 2006 by Princeton University; licence: WORDNET_LICENSE; built by
# experiments/wordlist/texts.py
"""


def sentences(folder: Path) -> Iterator[str]:
    """Yield the first usable example of each synset."""
    for part in PARTS:
        for line in (folder / f"data.{part}").read_text(encoding="latin-1").splitlines():
            quoted = () if line.startswith("  ") else QUOTED.findall(line.partition(" | ")[2])
            plain = (text.strip() for text in quoted)
            found = next((t for t in plain if SENTENCE.fullmatch(t) and 8 <= len(t.split()) <= 24), None)
            if found is not None:
                yield found[0].upper() + found[1:] + "."


def chosen(candidates: list[str], n: int) -> list[str]:
    """Return n of them, drawn at random, of which few begin alike."""
    random.Random(SEED).shuffle(candidates)
    found: dict[tuple[str, ...], str] = {}
    first: Counter[str] = Counter()
    for text in candidates:
        words = tuple(text.lower().split()[:2])
        if words not in found and first[words[0]] < MOST:
            found[words] = text
            first[words[0]] += 1
    return list(found.values())[:n]


def main(folder: Path) -> None:
    texts = chosen(list(sentences(folder)), N_TEXTS)
    (DATA / "texts.txt").write_text(HEADER + "\n".join(texts) + "\n", encoding="utf-8")
    print(f"texts.txt: {len(texts)} texts")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER)
