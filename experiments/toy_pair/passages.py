"""Passages of three sentences, and what can be asked about each: the skills that both stages of training share.

    dictionary    heron (noun): wading bird. ...                     define, example, spell, quote
    groups        the animals are heron, mole and newt. ...          list, reverse, quote
    scene         the heron is behind the old barn. ...              answer, question, negate, compare, quote

Every answer follows from the passage, so it is right for words that were never seen; only `example` has no single
right answer. The base meets the skills in plain text (`plain.py`), the tuned model is asked for them
(`instructions.py`); both draw from here.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from wordnet import GROUPS, Dictionary, Sense, words_of


def listed(words: str) -> tuple[str, ...]:
    """Words that spaces part."""
    return tuple(words.split())


ORDINALS = ("first", "second", "last")
ADJECTIVES = listed(
    "old new big small red green blue black white heavy light warm cold dry wet dark bright clean dirty strong weak "
    "soft hard long short wide narrow round flat rich poor quiet loud slow quick plain strange famous"
)
VERBS = listed(
    "see find carry lift hold move push pull break hide keep lose sell buy paint wash burn cover follow hear help hit "
    "leave like love meet need open reach save show take touch turn use want watch"
)
PLACES = listed("near behind under above beside before after inside with without against below")
MODALS = ("can", "will", "must", "should")
COPULAS = ("is", "was")


@dataclass(frozen=True)
class Task:
    """What a kind asks of a passage: the right answer, and the words that fill a phrasing ({k}, {j})."""

    kind: str
    passage: str
    answer: str
    fill: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Words:
    """The words of one side of the dictionary that passages are made of."""

    entries: dict[str, tuple[Sense, ...]]
    names: list[str]
    defined: list[str]
    with_example: list[str]
    nouns: list[str]
    by_group: dict[str, list[str]]

    @classmethod
    def of(cls, entries: dict[str, tuple[Sense, ...]]) -> "Words":
        """The words of some entries: of 3 to 9 letters, with a gloss that fits; a group has at least five members."""
        short = [w for w in entries if len(w) <= 9]
        defined = [w for w in short if 2 <= len(short_gloss(entries[w][0]).split()) <= 9]
        grouped = {w: entries[w][0].group for w in short if entries[w][0].group}
        by_group: dict[str, list[str]] = {}
        for word, group in grouped.items():
            by_group.setdefault(group, []).append(word)
        return cls(
            entries=entries,
            names=list(entries),
            defined=defined,
            with_example=[w for w in defined if example_of(w, entries[w][0])],
            nouns=list(grouped),
            by_group={g: members for g, members in sorted(by_group.items()) if len(members) >= 5},
        )


@dataclass(frozen=True)
class Passage:
    """Three sentences, each with the word it is about."""

    sort: str
    keys: tuple[str, ...]
    sentences: tuple[str, ...]
    words: Words

    @property
    def text(self) -> str:
        """The sentences in one line."""
        return " ".join(self.sentences)


def short_gloss(sense: Sense) -> str:
    """The gloss up to its first semicolon, without what it has in brackets."""
    outside = "".join(part.split(")")[-1] for part in sense.gloss.split("("))
    return " ".join(outside.split(";")[0].split()).strip(" ,.")


def example_of(word: str, sense: Sense) -> str:
    """The first example sentence of 3 to 12 words that has the word in it, or nothing."""
    fit = (e for e in sense.examples if word in words_of(e) and 3 <= len(e.split()) <= 12)
    return next(fit, "").rstrip(".!? ")


def dictionary_passage(words: Words, rng: random.Random) -> Passage:
    """Three dictionary entries."""
    first = rng.choice(words.with_example) if words.with_example and rng.random() < 0.5 else rng.choice(words.defined)
    keys = list(dict.fromkeys([first, *rng.sample(words.defined, 3)]))[:3]
    rng.shuffle(keys)
    senses = [words.entries[k][0] for k in keys]
    lines = (f"{k} ({s.part_of_speech}): {short_gloss(s)}." for k, s in zip(keys, senses, strict=True))
    return Passage("dictionary", tuple(keys), tuple(lines), words)


def groups_passage(words: Words, rng: random.Random) -> Passage:
    """Three groups with three or four members each."""
    keys = rng.sample(list(words.by_group), 3)
    members = (rng.sample(words.by_group[k], rng.randint(3, 4)) for k in keys)
    return Passage(
        "groups", tuple(keys), tuple(f"the {k} are {series(m)}." for k, m in zip(keys, members, strict=True)), words
    )


def scene_passage(words: Words, rng: random.Random) -> Passage:
    """Three statements about things."""
    names = rng.sample(words.nouns, 6)
    sentences = []
    for subject, thing in zip(names[:3], names[3:], strict=True):
        if rng.random() < 0.5:
            verb = f"{rng.choice(COPULAS)} {rng.choice(PLACES)}"
        else:
            verb = f"{rng.choice(MODALS)} {rng.choice(VERBS)}"
        sentences.append(f"the {subject} {verb} the {rng.choice(ADJECTIVES)} {thing}.")
    return Passage("scene", tuple(names[:3]), tuple(sentences), words)


def series(members: list[str]) -> str:
    """Words as one says them: a, b and c."""
    return f"{', '.join(members[:-1])} and {members[-1]}"


def members_of(sentence: str) -> list[str]:
    """The words that `series` joined, from a sentence about a group."""
    return sentence.split(" are ")[1].rstrip(".").replace(" and ", ", ").split(", ")


def quote(passage: Passage, rng: random.Random) -> Task:
    which = rng.randrange(3)
    return Task("quote", passage.text, passage.sentences[which], {"k": ORDINALS[which]})


def define(passage: Passage, rng: random.Random) -> Task:
    which = rng.randrange(3)
    gloss = passage.sentences[which].split("): ", 1)[1]
    return Task("define", passage.text, gloss, {"k": passage.keys[which]})


def spell(passage: Passage, rng: random.Random) -> Task:
    key = rng.choice(passage.keys)
    return Task("spell", passage.text, " - ".join(key), {"k": key})


def example(passage: Passage, rng: random.Random) -> Task:
    """A training answer is WordNet's; where there is none the answer is empty, and the rule alone judges."""
    known = [k for k in passage.keys if k in passage.words.with_example]
    key = rng.choice(known or passage.keys)
    sentence = example_of(key, passage.words.entries[key][0])
    return Task("example", passage.text, sentence + "." if sentence else "", {"k": key})


def list_members(passage: Passage, rng: random.Random) -> Task:
    which = rng.randrange(3)
    return Task("list", passage.text, series(members_of(passage.sentences[which])) + ".", {"k": passage.keys[which]})


def reverse(passage: Passage, rng: random.Random) -> Task:
    which = rng.randrange(3)
    backwards = members_of(passage.sentences[which])[::-1]
    return Task("reverse", passage.text, series(backwards) + ".", {"k": passage.keys[which]})


def answer(passage: Passage, rng: random.Random) -> Task:
    which = rng.randrange(3)
    return Task("answer", passage.text, passage.sentences[which], {"k": passage.keys[which]})


def question(passage: Passage, rng: random.Random) -> Task:
    which = rng.randrange(3)
    the, subject, verb, *rest = passage.sentences[which].rstrip(".").split()
    asked = " ".join((verb, the, subject, *rest)) + "?"
    return Task("question", passage.text, asked, {"k": passage.keys[which]})


def negate(passage: Passage, rng: random.Random) -> Task:
    which = rng.randrange(3)
    the, subject, verb, *rest = passage.sentences[which].split()
    return Task("negate", passage.text, " ".join((the, subject, verb, "not", *rest)), {"k": passage.keys[which]})


def compare(passage: Passage, rng: random.Random) -> Task:
    a, b = rng.sample(range(3), 2)
    both = f"{passage.sentences[a].rstrip('.')}, but {passage.sentences[b]}"
    return Task("compare", passage.text, both, {"k": passage.keys[a], "j": passage.keys[b]})


SORTS: dict[str, Callable[[Words, random.Random], Passage]] = {
    "dictionary": dictionary_passage,
    "groups": groups_passage,
    "scene": scene_passage,
}
ASKED: dict[str, dict[str, Callable[[Passage, random.Random], Task]]] = {
    "dictionary": {"define": define, "example": example, "spell": spell, "quote": quote},
    "groups": {"list": list_members, "reverse": reverse, "quote": quote},
    "scene": {"answer": answer, "question": question, "negate": negate, "compare": compare, "quote": quote},
}
KINDS = tuple(dict.fromkeys(kind for asked in ASKED.values() for kind in asked))
SORTS_OF = {kind: [sort for sort, asked in ASKED.items() if kind in asked] for kind in KINDS}
OPEN_KINDS = ("example",)


def make_task(kind: str, words: Words, rng: random.Random, *, trained: bool) -> Task:
    """A task of a kind about a new passage; with `trained`, one that has an answer to train on."""
    while True:
        sort = rng.choice(SORTS_OF[kind])
        task = ASKED[sort][kind](SORTS[sort](words, rng), rng)
        if task.answer or not trained:
            return task


def sides(dictionary: Dictionary) -> tuple[Words, Words]:
    """The words that may be trained on, and the held-out ones."""
    return Words.of(dictionary.train), Words.of(dictionary.held_out)


def passage_words() -> set[str]:
    """Every word that passages add to the dictionary's, which a held-out word must not be."""
    return words_of(" ".join((*ORDINALS, *ADJECTIVES, *VERBS, *PLACES, *MODALS, *COPULAS, *GROUPS.values())))
