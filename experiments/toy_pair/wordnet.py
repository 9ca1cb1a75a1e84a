"""WordNet's data files as dictionary entries, the held-out words, and the entries' plain text.

An entry is a lower-case single word with its senses, the most frequent first. Its plain text is a line for every sense,
``word (part of speech): gloss. Synonyms: a, b. For example, "..."``. A sense whose text contains a held-out word as a
word is dropped, so that no training text of either model shows one; inflected forms are other words and may occur.
A noun's group (animals, plants, ...) is WordNet's own: the lexicographer's file of its first sense.

Source: G. A. Miller, "WordNet: a lexical database for English", CACM 38(11), 1995; file format: wndb(5WN).
Debian and Ubuntu have the files in the package ``wordnet-base`` (folder /usr/share/wordnet).
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFAULT_FOLDER = Path("/usr/share/wordnet")
PARTS_OF_SPEECH = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
GROUPS = {  # WordNet's lexicographer files of nouns, by number: lexnames(5WN)
    "04": "acts",
    "05": "animals",
    "06": "objects",
    "08": "organs",
    "09": "ideas",
    "10": "messages",
    "11": "events",
    "12": "feelings",
    "13": "foods",
    "15": "places",
    "18": "people",
    "20": "plants",
    "26": "states",
    "27": "substances",
    "28": "times",
}
HELD_OUT = {"noun": 400, "verb": 50, "adjective": 50}
PLAIN_WORD = re.compile(r"[a-z]{3,12}")
ANY_WORD = re.compile(r"[a-z]+")
QUOTED = re.compile(r'"([^"]*)"')


@dataclass(frozen=True)
class Sense:
    """One meaning of a word: its part of speech, gloss, example sentences, other words for it and a noun's group."""

    part_of_speech: str
    gloss: str
    examples: tuple[str, ...]
    synonyms: tuple[str, ...]
    group: str = ""

    def words(self) -> set[str]:
        """Every word that the sense's text contains, in lower case."""
        return words_of(" ".join((self.gloss, *self.examples, *self.synonyms)))


@dataclass(frozen=True)
class Dictionary:
    """WordNet split at the held-out words: the entries that may be trained on, and those that may not."""

    train: dict[str, tuple[Sense, ...]]
    held_out: dict[str, tuple[Sense, ...]]


def words_of(text: str) -> set[str]:
    """The lower-cased runs of letters in a text."""
    return set(ANY_WORD.findall(text.lower()))


def read_entries(folder: Path) -> dict[str, tuple[Sense, ...]]:
    """All lower-case single words of 3 to 12 letters with their senses, in WordNet's order of frequency.

    Raises FileNotFoundError, which says how to get the files, if `folder` does not hold them.
    """
    if not (folder / "data.noun").is_file():
        raise FileNotFoundError(
            f"no WordNet data in {folder}: expected data.noun, index.noun, ... "
            "(Debian and Ubuntu: apt-get install wordnet-base; elsewhere: unpack WordNet 3.0 and pass its dict folder)"
        )
    entries: dict[str, tuple[Sense, ...]] = {}
    for suffix, part_of_speech in PARTS_OF_SPEECH.items():
        synsets = {}
        for line in data_lines(folder / f"data.{suffix}"):
            synsets[line[:8]] = parse_synset(line)
        for line in data_lines(folder / f"index.{suffix}"):
            fields = line.split()
            if PLAIN_WORD.fullmatch(fields[0]):
                found = (synsets[offset] for offset in fields[-int(fields[2]) :])
                senses = tuple(make_sense(fields[0], part_of_speech, *s) for s in found if fields[0] in s[0])
                if senses:  # the index also lists names in lower case; their synset spells them with a capital
                    entries[fields[0]] = entries.get(fields[0], ()) + senses
    return dict(sorted(entries.items()))


def data_lines(path: Path) -> Iterator[str]:
    """The lines of a WordNet file without the licence at its head, whose lines begin with two spaces."""
    with path.open(encoding="latin-1") as file:
        yield from (line for line in file if not line.startswith("  "))


def parse_synset(line: str) -> tuple[list[str], str, str]:
    """The words of a line of data.*, its gloss, which still holds the examples, and its lexicographer file."""
    head, _, gloss = line.partition("|")
    fields = head.split()
    words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    return [re.sub(r"\(\w+\)$", "", word) for word in words], gloss.strip(), fields[1]


def make_sense(word: str, part_of_speech: str, synonyms: list[str], gloss: str, file: str) -> Sense:
    """A synset as seen from one of its words."""
    definition = " ".join(QUOTED.sub("", gloss).split()).strip(" ;:-")
    definition = re.sub(r"\s*;(\s*;)+", ";", definition)
    examples = [e.strip(" ;") for e in QUOTED.findall(gloss) if len(e.split()) >= 3]
    examples.sort(key=lambda e: word not in e)  # the ones that show this word of the synset come first
    others = tuple(s for s in synonyms if s != word and PLAIN_WORD.fullmatch(s))
    return Sense(part_of_speech, definition, tuple(examples), others, GROUPS.get(file, ""))


def split(entries: dict[str, tuple[Sense, ...]], *, seed: int, keep: set[str]) -> Dictionary:
    """Set `HELD_OUT` words of each part of speech aside, and drop every training sense that names one.

    A held-out word has one part of speech, 4 to 9 letters, at most 20 senses that mention it, and is not in `keep`
    (the words of phrasings and passages); a held-out noun has a group.
    """
    mentions: dict[str, int] = {}
    for senses in entries.values():
        for sense in senses:
            for word in sense.words():
                mentions[word] = mentions.get(word, 0) + 1
    rng = random.Random(seed)
    held_out: set[str] = set()
    for part_of_speech, n in HELD_OUT.items():
        candidates = [
            word
            for word, senses in entries.items()
            if {s.part_of_speech for s in senses} == {part_of_speech}
            and (senses[0].group or part_of_speech != "noun")
            and 4 <= len(word) <= 9
            and mentions.get(word, 0) <= 20
            and word not in keep
        ]
        held_out |= set(rng.sample(candidates, n))
    train = {}
    for word, senses in entries.items():
        kept = tuple(s for s in senses if not s.words() & held_out)
        if word not in held_out and kept:
            train[word] = kept
    return Dictionary(train=train, held_out={word: entries[word] for word in sorted(held_out)})


def entry_text(word: str, senses: tuple[Sense, ...], *, max_senses: int = 4) -> str:
    """The dictionary entry of a word as plain text, one line a sense."""
    lines = []
    for sense in senses[:max_senses]:
        line = f"{word} ({sense.part_of_speech}): {sense.gloss}."
        if sense.synonyms:
            line += f" Synonyms: {', '.join(sense.synonyms)}."
        if sense.examples:
            line += f' For example, "{sense.examples[0]}".'
        lines.append(line)
    return "\n".join(lines)


def licence(folder: Path) -> str:
    """WordNet's licence notice as it stands at the head of its data files, without the line numbers."""
    with (folder / "data.noun").open(encoding="latin-1") as file:
        head = [line for line in file if line.startswith("  ")]
    return "\n".join(re.sub(r"^ +\d+ ", "", line).rstrip() for line in head) + "\n"
