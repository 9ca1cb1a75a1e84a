"""The base's plain text: dictionary entries, and passages with lines that use them.

A document of the second sort is a passage with one to three of

    the animals backwards: newt, mole and heron.          an answer after words that announce it
    on the animals in reverse. ... so: newt, ...          the same, announced before the passage

and gives no order to anybody: the skills of the instructions are in it, the instructions are not.
"""

import random

from instructions import PHRASINGS
from passages import ASKED, SORTS, Task, Words
from wordnet import Sense, entry_text

OPENINGS = ("it is written:", "from a book:", "as we read:", "in the notes:", "Text:", "the lines are:")
AGAIN = ("once more:", "again:", "the same words:", "as was said:")
LEADS = ("so:", "here it is:", "thus:", "and that is:", "in short:")
HEADED = 0.4  # the share of passages whose first answer is announced before the passage
CAPITALS = 0.3  # the share of entries with capitals at the head of every part


def fill(template: str, task: Task) -> str:
    """A phrasing with its words in place."""
    for name, value in {**task.fill, "a": task.answer}.items():
        template = template.replace("{" + name + "}", value)
    return template


def repeated_text(words: Words, rng: random.Random) -> str:
    """Some words said two or three times in their order."""
    said = ", ".join(rng.choice(words.names) for _ in range(rng.randint(4, 16)))
    return "\n".join(
        (f"{rng.choice(OPENINGS)} {said}.", *(f"{rng.choice(AGAIN)} {said}." for _ in range(rng.randint(1, 2))))
    )


def spelled_text(words: Words, rng: random.Random) -> str:
    """Six words spelled, a line each."""
    tasks = [Task("spell", "", " - ".join(key), {"k": key}) for key in rng.sample(words.defined, 6)]
    return "\n".join(fill(rng.choice(PHRASINGS["spell"]["plain"]), task) for task in tasks)


def passage_text(words: Words, rng: random.Random) -> str:
    """One passage with the lines that use it; each ends as its answer ends."""
    sort = rng.choice(list(SORTS))
    passage = SORTS[sort](words, rng)
    kinds = list(ASKED[sort].values())
    tasks = [task for task in (rng.choice(kinds)(passage, rng) for _ in range(rng.randint(2, 4))) if task.answer]
    opening = f"{rng.choice(OPENINGS)} {passage.text}"
    lines = [opening]
    for number, task in enumerate(tasks):
        if number == 0 and rng.random() < HEADED:
            heading = fill(rng.choice(PHRASINGS[task.kind]["heading"]), task)
            lead = rng.choice(LEADS)
            lines = [heading, opening, f"{lead} {task.answer}"]
        else:
            lines.append(fill(rng.choice(PHRASINGS[task.kind]["plain"]), task))
    return "\n".join(lines)


def dictionary_text(word: str, senses: tuple[Sense, ...], rng: random.Random) -> str:
    """A dictionary entry, some with capitals as a printed dictionary has them."""
    text = entry_text(word, senses)
    if rng.random() < CAPITALS:
        text = "\n".join(": ".join(part[:1].upper() + part[1:] for part in x.split(": ")) for x in text.split("\n"))
    return text


def documents(
    words: Words, order: list[str], rng: random.Random, *, passages: int, repeated: int = 0, spelled: int = 0
) -> list[str]:
    """The entries of `order`, and a number of passages, of repetitions and of spelled words, shuffled."""
    texts = [dictionary_text(word, words.entries[word], rng) for word in order]
    texts += [passage_text(words, rng) for _ in range(passages)]
    texts += [repeated_text(words, rng) for _ in range(repeated)]
    texts += [spelled_text(words, rng) for _ in range(spelled)]
    rng.shuffle(texts)
    return texts
