"""A prompt as a chat template writes it: the rendered text, where the user's words lie in it, and what it wrote itself.

    frame   the template's text of the same messages with a mark in each one's place: what stands between the marks is
            the template's own
    text    the template's text of the messages themselves, which has to be the frame with the words in the marks' place

So a word's place is counted, never searched for: words that occur twice, or that the template writes too, mislead
nothing. A template that cuts, changes, repeats or leaves out a message, or that writes something else around one
because of what it says, fails the second line and is refused. White space around a message is not part of it (see
`Prompt.stripped`), so that a template that takes it away does nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lensdiff.inputs.spans import Range
from lensdiff.results import InputError

Message = Mapping[str, str]  # its role and its content
Write = Callable[[list[dict[str, str]], bool], str]  # a template: of messages, and whether an answer is to begin
ROLE, CONTENT, USER, ANSWERS = "role", "content", "user", "assistant"


@dataclass(frozen=True)
class Rendering:
    """What a chat template added to a prompt.

    Attributes:
        written: the characters (start, end) of the rendered text that the template wrote.
        opening: the BOS that it begins with, "" where there is none.
        between: what the template writes between the prompt and an answer, "" where that cannot be told.
    """

    written: tuple[Range, ...]
    opening: str = ""
    between: str = ""


@dataclass(frozen=True)
class Rendered:
    """A rendered text: places are those of each message's content, in the order of the messages."""

    text: str
    places: tuple[Range, ...]
    rendering: Rendering

    def moved(self, ranges: Iterable[Range], before: Sequence[Range]) -> tuple[Range, ...]:
        """Return where character ranges lie now, given where the messages lay; one of two messages comes in two."""
        found = []
        for start, end in ranges:
            for (old, stop), (new, _) in zip(before, self.places, strict=True):
                first, last = max(start, old), min(end, stop)
                if first < last and self.text[first - old + new : last - old + new].strip():
                    found.append((first - old + new, last - old + new))
        return tuple(found)


def rendered(messages: Sequence[Message], write: Write, *, bos: str = "") -> Rendered:
    """Return what a template makes of messages, the last of which is to be answered.

    Args:
        bos: the tokenizer's BOS as it is spelled, "" where there is none.

    Raises:
        InputError: the template cannot write them, or where their words lie in its text cannot be told.
    """
    marks = [f"\ue000{i}\ue001" for i in range(len(messages) + 1)]
    marked = [{ROLE: m[ROLE], CONTENT: mark} for m, mark in zip(messages, marks[:-1], strict=True)]
    frame = write(marked, True)
    for number, (message, mark) in enumerate(zip(messages, marks[:-1], strict=True)):
        if (times := frame.count(mark)) != 1:
            what = "leaves out" if not times else f"writes {times} times"
            raise InputError(f"the chat template {what} message {number} ({message[ROLE]}), expected it once")
    order = sorted(range(len(messages)), key=lambda i: frame.index(marks[i]))
    ends = [(frame.index(marks[i]), frame.index(marks[i]) + len(marks[i])) for i in order]
    own = [frame[end:start] for (_, end), (start, _) in pairwise([(0, 0), *ends, (len(frame), len(frame))])]
    text, places, written = "", [(0, 0)] * len(messages), []
    for piece, i in zip(own, [*order, None], strict=True):
        if piece:
            written.append((len(text), len(text) + len(piece)))
        text += piece
        if i is not None:
            places[i] = len(text), len(text) + len(messages[i][CONTENT])
            text += messages[i][CONTENT]
    if write([{ROLE: m[ROLE], CONTENT: m[CONTENT]} for m in messages], True) != text:
        raise InputError(
            "the chat template changes a message's words, or what it writes itself depends on them: where they lie in "
            "its text cannot be told"
        )
    opening = bos if bos and text.startswith(bos) and own[0].startswith(bos) else ""
    return Rendered(text, tuple(places), Rendering(tuple(written), opening, _between(write, marked, marks[-1], frame)))


def _between(write: Write, messages: list[dict[str, str]], mark: str, frame: str) -> str:
    try:
        whole = write([*messages, {ROLE: ANSWERS, CONTENT: mark}], False)
    except InputError:  # it takes no answers: the prompt alone is well
        return ""
    start, _, _ = whole.partition(mark)
    return start.removeprefix(frame) if start.startswith(frame) and mark in whole else ""
