"""Instruction examples: a prompt with its instruction and context spans, the kind, and the response.

Every kind has its own phrasings (`phrasings.toml`) and draws its words from one side of the dictionary. A phrasing
holds its context inside the sentence, or a layout puts the context before or after it; some layouts end with a cue such
as "Answer:". No prompt ends with white space: the model reads prompt + " " + response.
"""

import random
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wordnet import PARTS_OF_SPEECH, Dictionary, Sense, words_of

PHRASINGS: dict[str, dict[str, list[str]]] = tomllib.loads(Path(__file__).with_name("phrasings.toml").read_text())
OPEN_KINDS = ("define", "synonym", "example")  # no single right answer: not scored by exact match
ORDINALS = ("first", "second", "third", "last")
INSIDE = ("{i}", "{i}\nAnswer:", "Question: {i}\nAnswer:", "Instruction: {i}\nResponse:")
OUTSIDE = (
    "{i}\n{x}",
    "{i}\n{x}\nAnswer:",
    "{x}\n{i}",
    "Instruction: {i}\nInput: {x}\nResponse:",
    "Input: {x}\n{i}\nAnswer:",
    "{i} {x}\nAnswer:",
)
WEIGHTS = {"spell": 1.5, "upper_case": 1.5, "count_letters": 1.5, "define": 0.8, "example": 0.5, "synonym": 0.5}


@dataclass(frozen=True)
class Example:
    """One prompt with its parts; every span is an exact substring of the text."""

    text: str
    instruction: tuple[str, ...]
    context: tuple[str, ...]
    kind: str
    reference: str


@dataclass(frozen=True)
class Task:
    """What a kind asks this time: the context, the response, and the words that fill the phrasing."""

    context: str
    reference: str
    fill: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Words:
    """The words that examples are made of: `entries` are asked about, `sentences` surround them."""

    entries: dict[str, tuple[Sense, ...]]
    names: list[str]
    by_part: dict[str, list[str]]
    with_synonym: list[str]
    with_example: list[str]
    sentences: list[list[str]]

    @classmethod
    def of(cls, dictionary: Dictionary, *, held_out: bool) -> "Words":
        """The words of one side of the dictionary; the sentences are always the training side's."""
        entries = dictionary.held_out if held_out else dictionary.train
        one_part = {w: {s.part_of_speech for s in senses} for w, senses in entries.items()}
        return cls(
            entries=entries,
            names=list(entries),
            by_part={p: [w for w in entries if one_part[w] == {p}] for p in PARTS_OF_SPEECH.values()},
            with_synonym=[w for w, senses in entries.items() if senses[0].synonyms],
            with_example=[w for w, s in entries.items() if any(w in words_of(e) for e in s[0].examples)],
            sentences=[
                e.rstrip(".!?").split()
                for s in dictionary.train.values()
                for e in s[0].examples
                if 3 <= len(e.split()) <= 9
            ],
        )


def first_letter(words: Words, rng: random.Random) -> Task:
    word = rng.choice(words.names)
    return Task(word, word[0])


def last_letter(words: Words, rng: random.Random) -> Task:
    word = rng.choice(words.names)
    return Task(word, word[-1])


def spell(words: Words, rng: random.Random) -> Task:
    word = rng.choice(words.names)
    return Task(word, "-".join(word))


def repeat(words: Words, rng: random.Random) -> Task:
    word = rng.choice(words.names)
    return Task(word, word)


def upper_case(words: Words, rng: random.Random) -> Task:
    word = rng.choice(words.names)
    return Task(word, word.upper())


def count_letters(words: Words, rng: random.Random) -> Task:
    word = rng.choice(words.names)
    return Task(word, str(len(word)))


def part_of_speech(words: Words, rng: random.Random) -> Task:
    part = rng.choice(list(words.by_part))
    word = rng.choice(words.by_part[part])
    gloss = " ".join(words.entries[word][0].gloss.split()[:14])
    return Task(f"{word}: {gloss}", part, {"x": word})


def define(words: Words, rng: random.Random) -> Task:
    word = rng.choice(words.names)
    sense = words.entries[word][0]
    return Task(word, sense.gloss + ".")


def synonym(words: Words, rng: random.Random) -> Task:
    word = rng.choice(words.with_synonym)
    return Task(word, words.entries[word][0].synonyms[0])


def example(words: Words, rng: random.Random) -> Task:
    word = rng.choice(words.with_example)
    return Task(word, next(e for e in words.entries[word][0].examples if word in words_of(e)))


def extract(words: Words, rng: random.Random) -> Task:
    sentence, word, which = list(rng.choice(words.sentences)), rng.choice(words.names), rng.choice(("first", "last"))
    sentence[0 if which == "first" else -1] = word
    return Task(" ".join(sentence), word, {"which": which})


def list_item(words: Words, rng: random.Random) -> Task:
    ordinal = rng.choice(ORDINALS)
    items = rng.sample(words.names, rng.randint(3, 5))
    return Task(", ".join(items), items[-1 if ordinal == "last" else ORDINALS.index(ordinal)], {"ordinal": ordinal})


def count_items(words: Words, rng: random.Random) -> Task:
    items = rng.sample(words.names, rng.randint(2, 7))
    return Task(", ".join(items), str(len(items)))


def longer_word(words: Words, rng: random.Random) -> Task:
    pair = rng.sample(words.names, 2)
    while abs(len(pair[0]) - len(pair[1])) < 2:
        pair = rng.sample(words.names, 2)
    return Task(", ".join(pair), max(pair, key=len))


KINDS: dict[str, Callable[[Words, random.Random], Task]] = {
    "first_letter": first_letter,
    "last_letter": last_letter,
    "spell": spell,
    "repeat": repeat,
    "upper_case": upper_case,
    "count_letters": count_letters,
    "part_of_speech": part_of_speech,
    "define": define,
    "synonym": synonym,
    "example": example,
    "extract": extract,
    "list_item": list_item,
    "count_items": count_items,
    "longer_word": longer_word,
}
SCORED_KINDS = tuple(k for k in KINDS if k not in OPEN_KINDS)


def make_example(kind: str, words: Words, rng: random.Random, *, phrasings: str = "train") -> Example:
    """An example of a kind, its phrasing drawn from `phrasings` ("train" or "held_out")."""
    task = KINDS[kind](words, rng)
    phrasing = rng.choice(PHRASINGS[kind][phrasings])
    for name, value in task.fill.items():
        phrasing = phrasing.replace("{" + name + "}", value)
    if "{x}" in phrasing:
        text = rng.choice(INSIDE).replace("{i}", phrasing).replace("{x}", task.context)
        parts = [p.strip() for p in phrasing.split("{x}")]
        instruction = tuple(p for p in parts if words_of(p))
    else:
        text = rng.choice(OUTSIDE).replace("{i}", phrasing).replace("{x}", task.context)
        instruction = (phrasing,)
    return Example(text, instruction, (task.context,), kind, task.reference)


def instruction_words() -> set[str]:
    """Every word of the phrasings and layouts, which a held-out word must not be."""
    texts = [p for kind in PHRASINGS.values() for side in kind.values() for p in side]
    return words_of(" ".join((*texts, *INSIDE, *OUTSIDE, *ORDINALS, *PARTS_OF_SPEECH.values())))


def examples(kinds: Sequence[str], words: Words, rng: random.Random, n: int) -> list[Example]:
    """`n` training examples, the kinds drawn by weight."""
    drawn = rng.choices(kinds, weights=[WEIGHTS.get(k, 1.0) for k in kinds], k=n)
    return [make_example(kind, words, rng) for kind in drawn]
