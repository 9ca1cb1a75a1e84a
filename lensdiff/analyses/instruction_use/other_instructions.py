"""The same prompt with another instruction, or with none: what `instruction_use` compares a prompt with.

    swap      the i-th span of the instruction is replaced by the i-th span of a donor's instruction
    deletion  the characters of the instruction are taken out; the rest is a text like any other

Spans are counted in the order of the text; those that overlap or touch are one. A donor with fewer spans leaves the
last ones empty; spans that a donor has beyond the prompt's are not used.
"""

import random
from collections.abc import Sequence

from lensdiff.inputs.prompts import Prompt
from lensdiff.inputs.spans import Range
from lensdiff.results import InputError


def instruction_ranges(prompt: Prompt) -> tuple[Range, ...]:
    """Return the characters (start, end) of the instruction's spans in `prompt.stripped`, in order and apart.

    Raises:
        InputError: the prompt marks no instruction.
    """
    found: list[Range] = []
    for start, end in sorted(prompt.ranges("instruction")):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    if not found:
        raise InputError(f"prompt {prompt.id or prompt.stripped[:40]!r} marks no instruction, expected a span of it")
    return tuple(found)


def replaced(prompt: Prompt, texts: Sequence[str]) -> str:
    """Return the prompt's text with the i-th span of its instruction replaced by the i-th text, or by nothing."""
    parts, at = [], 0
    for i, (start, end) in enumerate(instruction_ranges(prompt)):
        parts += [prompt.stripped[at:start], texts[i] if i < len(texts) else ""]
        at = end
    return "".join([*parts, prompt.stripped[at:]])


def deleted(prompt: Prompt) -> Prompt | None:
    """Return the prompt without its instruction; None if nothing but white space is left.

    A chat template's frame around nothing is a text still: an empty message is what the model then reads.
    """
    text = replaced(prompt, ())
    return prompt.with_text(text) if text.strip() else None


def swapped(
    prompts: Sequence[Prompt], place: int, *, kinds: Sequence[str] | None, draws: int, seed: int
) -> list[Prompt]:
    """Return the prompt at a place with the instructions of `draws` others, or of as many as there are.

    Donors are prompts of another kind (without kinds: any) whose instruction makes another text of the prompt; no text
    comes twice. Those with as many spans as the prompt come first, each group in an order that depends on the seed and
    the place alone.

    Raises:
        InputError: the prompt marks no instruction, or there is no donor.
    """
    prompt = prompts[place]
    n = len(instruction_ranges(prompt))
    same: dict[str, None] = {}  # a set that keeps its order
    other: dict[str, None] = {}
    for i, donor in enumerate(prompts):
        if not donor.instruction or (kinds is not None and kinds[i] == kinds[place]):
            continue
        spans = [donor.stripped[start:end] for start, end in instruction_ranges(donor)]
        text = replaced(prompt, spans)
        if text.strip() != prompt.stripped:
            (same if len(spans) == n else other)[text] = None
    chance, found = random.Random(f"{seed} {place}"), []
    for group in (list(same), [text for text in other if text not in same]):
        chance.shuffle(group)
        found += group
    if not found:
        wanted = "another instruction" if kinds is None else f"an instruction of another kind than {kinds[place]!r}"
        raise InputError(
            f"prompt {prompt.id or prompt.stripped[:40]!r} has no donor: none of the {len(prompts)} prompts given has "
            f"{wanted}; give more prompts, or by='deletion'"
        )
    return [prompt.with_text(text) for text in found[:draws]]
