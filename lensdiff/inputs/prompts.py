"""Prompts with their instruction and context marked, and reading them from files.

A prompt is attributed without the white space around it, so everything that counts characters here counts those of
`prompt.stripped`. A chat of several messages is a prompt too; its raw text is what they say, a blank line between. A
prompt that a chat template has written (`Prompt.render`) is again a prompt: its text is the rendered one, as it is, its
spans are where the user's words lie in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lensdiff.defaults import CHAT, RAW
from lensdiff.inputs.characters import lone_surrogate
from lensdiff.inputs.json_lines import read_json_lines
from lensdiff.inputs.rendering import ANSWERS, CONTENT, ROLE, USER, Rendering
from lensdiff.inputs.spans import Range, Span, as_span, locate, shorten, widen_to_sentences
from lensdiff.inputs.tables import read_rows, split_spans, unescape
from lensdiff.results import InputError
from lensdiff.results.numbers import n_of
from lensdiff.results.paths import as_path
from lensdiff.results.printed import shortened

if TYPE_CHECKING:  # prompts are read and refused before anything large is imported
    import torch

Part = Literal["instruction", "context", "template"]
MARKED: tuple[Part, ...] = ("instruction", "context")  # the parts that a user marks
PARTS: tuple[Part, ...] = (*MARKED, "template")
SHOWN = 40  # characters of a text where it is printed
APART = "\n\n"  # what stands between the messages of a chat in its raw text
PROMPT_COLUMNS = ("ID", "Prompt", "Response", "Instruct&Context")


@dataclass(frozen=True, repr=False)
class Prompt:
    """A text to respond to, with the spans that instruct and those that give context.

    Spans are substrings of the text (the first hit counts) or character ranges (start, end) of the text as given; a
    substring alone stands for a sequence of one. They are kept as tuples. `kind` says what is asked for ("define"), and
    `reference` is a right answer; both may be empty. `turns` are the messages of a chat, each its role and the
    characters (start, end) of the text; `rendering` is there where a chat template wrote the text. `of_messages` and
    `render` make those.

    Attributes:
        text: what is to be responded to.
        instruction, context: spans of the text.
        id: by which results are filed; kind, reference, turns, rendering: see above.

    Raises:
        InputError: the text is empty or no text, the id holds half a character (results are filed by it), a span is
            empty, not in the text, reversed or out of range, turns are no ranges of the text in order, or kind or
            reference is no text.
    """

    text: str
    instruction: Sequence[Span] = ()
    context: Sequence[Span] = ()
    id: str = ""
    kind: str = ""
    reference: str = ""
    turns: tuple[tuple[str, int, int], ...] = ()
    rendering: Rendering | None = None

    def __repr__(self) -> str:
        """Return how the text begins, and what else there is beside it."""
        said = [repr(shortened(self.text, SHOWN))]
        said += [f"{part}={n_of(len(getattr(self, part)), 'span')}" for part in MARKED if getattr(self, part)]
        said += [f"{name}={shorten(getattr(self, name))}" for name in ("id", "kind") if getattr(self, name)]
        return f"Prompt({', '.join(said + (['rendered'] if self.rendering else []))})"

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InputError(f"prompt {self.id!r} has the text {shorten(self.text)}, expected words")
        if not self.text.strip():
            raise InputError(f"prompt {self.id!r} has the empty text {shorten(self.text)}, expected words")
        if lone_surrogate(str(self.id)) is not None:
            raise InputError(f"the id {self.id!r} holds half a character, expected whole ones")
        for name in ("kind", "reference"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"prompt {self.id!r} has the {name} {shorten(getattr(self, name))}, expected words")
        for part in MARKED:
            given = getattr(self, part)
            spans = (given,) if isinstance(given, str) else tuple(given)
            try:
                spans = tuple(as_span(span) for span in spans)
                for span in spans:
                    locate(span, self.text)
            except InputError as error:
                raise InputError(f"{part} of prompt {self.id!r}: {error}") from None
            object.__setattr__(self, part, spans)
        ends = [end for _, *both in self.turns for end in both]
        inside = not ends or (min(ends) >= 0 and max(ends) <= len(self.text) and self.text == self.stripped)
        if ends != sorted(ends) or not inside:
            raise InputError(
                f"prompt {self.id!r} has the turns {shorten(self.turns)}, expected ranges of its text in order"
            )

    @classmethod
    def of_messages(cls, messages: Any, *, id: str = "", kind: str = "", reference: str = "") -> "Prompt":
        """Return a chat as a prompt: what its messages say, a blank line between them, with the spans of each.

        Args:
            messages: a list of mappings, each with a "role" ("system", "user", "assistant"), its "content", and
                optionally its "instruction" and "context": a span of the content, or a list of spans. The last one is
                to be answered.
            id, kind, reference: as of a prompt.

        Raises:
            InputError: there is no message, the last one is an answer, or a message has no role, no words, or a span
                that is not in its content (called by its number, from 0).
        """
        if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
            raise InputError(f"prompt {id!r} has the messages {shorten(messages)}, expected at least one")
        text, turns = "", []
        spans: dict[str, list[Span]] = {part: [] for part in MARKED}
        for number, message in enumerate(messages):
            try:
                role, own = _message(message)
            except InputError as error:
                raise InputError(f"message {number} of prompt {id!r}: {error}") from None
            text += APART if turns else ""
            for part in MARKED:
                spans[part] += [(start + len(text), end + len(text)) for start, end in own.ranges(part)]
            turns.append((role, len(text), len(text) + len(own.stripped)))
            text += own.stripped
        if turns[-1][0] == ANSWERS:
            raise InputError(
                f"the last message of prompt {id!r} is the assistant's, expected one that is to be answered"
            )
        return cls(text, spans["instruction"], spans["context"], id, kind, reference, tuple(turns))

    @property
    def stripped(self) -> str:
        """The text as it is attributed: without white space around it, unless a template wrote that."""
        return self.text if self.rendering else self.text.strip()

    @property
    def template(self) -> str:
        """How it is rendered: "raw", or "chat"."""
        return CHAT if self.rendering else RAW

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages of a chat, role and content; one of the user's where it is none."""
        return [{ROLE: role, CONTENT: self.stripped[start:end]} for role, start, end in self.message_ranges]

    @property
    def message_ranges(self) -> tuple[tuple[str, int, int], ...]:
        """Role, start and end of each message in `stripped`; one of the user's where it is no chat."""
        return self.turns or ((USER, 0, len(self.stripped)),)

    def render(self, model: Any, template: str = CHAT) -> "Prompt":
        """Return the prompt as a model's chat template writes it, of a pair the tuned model's; or "raw", as it is.

        Raises:
            InputError: there is no such rendering, the tokenizer has no chat template, the template cannot write the
                prompt, or where its words lie in the template's text cannot be told (see `rendering`).
        """
        from lensdiff.models.templates import render  # the one permitted look upwards: a prompt knows how to be written

        return render(self, model, template)

    def with_text(self, text: str) -> "Prompt":
        """Return a prompt with another text, read as this one is, without spans and messages."""
        rendering = replace(self.rendering, written=()) if self.rendering else None
        return Prompt(text, id=self.id, rendering=rendering)

    def answered(self, response: str) -> str:
        """Return the text with a response behind it: a space between, or what the template writes there."""
        return f"{self.stripped}{self.rendering.between if self.rendering else ' '}{response.strip()}"

    def segments(self) -> list[tuple[str, str]]:
        """Return the text in pieces, in order: each with what it is, "instruction", "context", "template" or "other".

        What is marked as both is called instruction.
        """
        ranges = {part: self.ranges(part) for part in PARTS}
        cuts = sorted({0, len(self.stripped), *(end for spans in ranges.values() for span in spans for end in span)})
        found: list[tuple[str, str]] = []
        for start, end in pairwise(cuts):
            part = next((p for p, spans in ranges.items() if any(a <= start < b for a, b in spans)), "other")
            before = found.pop()[1] if found and found[-1][0] == part else ""
            found.append((part, before + self.stripped[start:end]))
        return found

    def ranges(self, part: Part) -> tuple[Range, ...]:
        """Return the characters (start, end) of a part's spans in `stripped`."""
        if part == "template":
            return self.rendering.written if self.rendering else ()
        cut, length = len(self.text) - len(self.text.lstrip()) if not self.rendering else 0, len(self.stripped)
        located = (locate(span, self.text) for span in getattr(self, part))
        return tuple((max(start - cut, 0), min(end - cut, length)) for start, end in located)

    def mask(self, part: Part, offsets: Sequence[Range], *, pieces: Sequence[str] | None = None) -> "torch.Tensor":
        """Return which tokens of `stripped` belong to the part, a bool a token (see `token_mask`).

        A token is the template's if it covers nothing of a message: one that reaches into a message is not.

        Args:
            part: "instruction", "context", or "template" for what a chat template wrote.
            offsets: characters (start, end) of each token in `stripped`.
            pieces: the tokens as the vocabulary spells them, where they are known.
        """
        import torch

        from lensdiff.inputs.masks import token_mask

        if part != "template":
            return token_mask(self.ranges(part), offsets, self.stripped, pieces=pieces)
        if not self.rendering:
            return torch.zeros(len(offsets), dtype=torch.bool)
        said = [(start, end) for _, start, end in self.message_ranges]
        inside = [any(a < end and start < max(b, a + 1) for start, end in said) for a, b in offsets]
        return ~torch.tensor(inside, dtype=torch.bool)


def _message(message: object) -> tuple[str, Prompt]:
    """Return a message's role, and what it says with its spans."""
    if not isinstance(message, Mapping):
        raise InputError(f"it is {shorten(message)}, expected a role and a content")
    role, content = message.get(ROLE), message.get(CONTENT)
    if not isinstance(role, str) or not role.strip():
        raise InputError(f"its role is {shorten(role)}, expected a word such as {USER!r}")
    if not isinstance(content, str) or not content.strip():
        raise InputError(f"its content is {shorten(content)}, expected words")
    instruction, context = (_spans_of(message, part) for part in MARKED)
    return role, Prompt(content, instruction, context)


def _from_jsonl(path: Path) -> Iterator[tuple[int, Prompt]]:
    for number, record in read_json_lines(path):
        is_chat = isinstance(record, dict) and "text" not in record and isinstance(record.get("messages"), list)
        if not is_chat and (not isinstance(record, dict) or not isinstance(record.get("text"), str)):
            raise InputError(f'{path}, line {number}: expected an object with a string "text", got {shorten(record)}')
        name = record.get("id", str(number))
        if type(name) not in (str, int):
            raise InputError(f'{path}, line {number}: "id" is {shorten(name)}, expected a string or an integer')
        try:
            more = {key: record[key] for key in ("kind", "reference") if record.get(key) is not None}
            if is_chat:
                yield number, Prompt.of_messages(record["messages"], id=str(name), **more)
            else:
                instruction, context = (_spans_of(record, part) for part in MARKED)
                yield number, Prompt(record["text"], instruction, context, str(name), **more)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None


def _spans_of(record: Mapping[str, Any], part: Part) -> Sequence[Span]:
    given = record.get(part, [])
    if not isinstance(given, (str, list)):
        raise InputError(f'"{part}" is {shorten(given)}, expected a list of spans')
    return given if isinstance(given, str) else [as_span(span) for span in given]


def _from_tsv(path: Path) -> Iterator[tuple[int, Prompt]]:
    for number, row in read_rows(path, PROMPT_COLUMNS):
        text = unescape(row["Prompt"])
        instruction, context = (widen_to_sentences(spans, text) for spans in split_spans(row["Instruct&Context"]))
        try:
            yield number, Prompt(text, instruction, context, row["ID"], reference=unescape(row["Response"]))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None


_READERS = {".jsonl": _from_jsonl, ".tsv": _from_tsv}


def load_prompts(path: str | Path) -> list[Prompt]:
    """Read prompts from a JSONL file or from the paper's `FinalDataset.tsv`.

    JSONL: one object a line with "text", and optionally "id" (else the line's number), "instruction" and "context" (a
    substring, or a list of substrings and [start, end] pairs), "kind" and "reference"; other keys are ignored. In place
    of "text" there may be "messages", as `Prompt.of_messages` takes them. TSV:
    columns ID, Prompt, Response (the reference), Instruct&Context with the authors' escapes, annotated spans widened to
    sentences (see `widen_to_sentences`). A text with half a character (an escape "\\ud800" alone) is read: that prompt
    fails by itself when it is tokenised, and the others go on.

    Args:
        path: of a file whose name ends with .jsonl or .tsv.

    Returns:
        A list of `Prompt`, in the order of the file.

    Raises:
        InputError: the file is missing, of another kind, without prompts, holds an id twice, or a line is unusable
            (named by its number).
    """
    path = as_path(path, "a file of prompts")
    if path.suffix.lower() not in _READERS:
        raise InputError(f"{path} is no prompt file, expected a name that ends in {' or '.join(_READERS)}")
    prompts: dict[str, Prompt] = {}
    for number, prompt in _READERS[path.suffix.lower()](path):
        if prompt.id in prompts:
            raise InputError(f"{path}, line {number}: the id {prompt.id!r} was used before, expected it once")
        prompts[prompt.id] = prompt
    if not prompts:
        raise InputError(f"{path} holds no prompts")
    return list(prompts.values())
