"""Instruction examples: a prompt with its instruction and context spans, the kind, and the response.

An instruction stands before its passage or after it, with or without a cue at the end, raw or in the chat template. No
prompt ends with white space: the model reads prompt + " " + response.
"""

import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from passages import KINDS, Task, Words, make_task
from wordnet import words_of

PHRASINGS: dict[str, dict[str, list[str]]] = tomllib.loads(Path(__file__).with_name("phrasings.toml").read_text())
LAYOUTS = (
    "{i}\nText: {x}",
    "{i}\nText: {x}\nAnswer:",
    "Text: {x}\n{i}",
    "Text: {x}\n{i}\nAnswer:",
    "{i} Text: {x}\nAnswer:",
    "Input: {x}\nInstruction: {i}\nAnswer:",
)
CHAT_LAYOUTS = ("{i}\nText: {x}", "Text: {x}\n{i}", "{i} Text: {x}")
CHAT = "User: {p}\nAssistant:"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token + '\\n' }}"
    "{% else %}{{ 'User: ' + message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
CHAT_SHARE = 0.5


@dataclass(frozen=True)
class Example:
    """One prompt with its parts; every span is an exact substring of the text."""

    text: str
    instruction: tuple[str, ...]
    context: tuple[str, ...]
    kind: str
    reference: str
    word: str  # what the instruction is about: a word, a group, an ordinal


def worded(task: Task, rng: random.Random, *, phrasings: str, chat: bool) -> Example:
    """A task as a prompt, with a phrasing of `phrasings` ("train" or "held_out"), raw or in the chat template."""
    instruction = rng.choice(PHRASINGS[task.kind][phrasings])
    for name, value in task.fill.items():
        instruction = instruction.replace("{" + name + "}", value)
    layout = rng.choice(CHAT_LAYOUTS if chat else LAYOUTS)
    text = layout.replace("{i}", instruction).replace("{x}", task.passage)
    text = CHAT.replace("{p}", text) if chat else text
    return Example(text, (instruction,), (task.passage,), task.kind, task.answer, task.fill["k"])


def examples(words: Words, rng: random.Random, n: int, *, kinds: Sequence[str] = KINDS) -> list[Example]:
    """`n` training examples, the kinds in equal shares, one half of them in the chat template."""
    tasks = (make_task(rng.choice(kinds), words, rng, trained=True) for _ in range(n))
    return [worded(task, rng, phrasings="train", chat=rng.random() < CHAT_SHARE) for task in tasks]


def phrasing_words() -> set[str]:
    """Every word of the phrasings and layouts, which a held-out word must not be."""
    texts = [p for kind in PHRASINGS.values() for side in kind.values() for p in side]
    return words_of(" ".join((*texts, *LAYOUTS, CHAT)))
