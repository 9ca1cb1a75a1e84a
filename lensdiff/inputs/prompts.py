"""Prompts with their instruction and context marked, and reading them from files.

A prompt is attributed without the white space around it, so everything that counts characters here counts those of
`prompt.stripped`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Bool
from torch import Tensor

from lensdiff.inputs.characters import lone_surrogate
from lensdiff.inputs.json_lines import read_json_lines
from lensdiff.inputs.spans import Range, Span, as_span, locate, shorten, token_mask, widen_to_sentences
from lensdiff.inputs.tables import read_rows, split_spans, unescape
from lensdiff.results import InputError
from lensdiff.results.paths import as_path

Part = Literal["instruction", "context"]
PROMPT_COLUMNS = ("ID", "Prompt", "Response", "Instruct&Context")


@dataclass(frozen=True)
class Prompt:
    """A text to respond to, with the spans that instruct and those that give context.

    Spans are substrings of the text (the first hit counts) or character ranges (start, end) of the text as given; a
    substring alone stands for a sequence of one. They are kept as tuples. `kind` says what is asked for ("define"), and
    `reference` is a right answer; both may be empty.

    Raises:
        InputError: the text is empty or no text, the id holds half a character (results are filed by it), a span is
            empty, not in the text, reversed or out of range, or kind or reference is no text.
    """

    text: str
    instruction: Sequence[Span] = ()
    context: Sequence[Span] = ()
    id: str = ""
    kind: str = ""
    reference: str = ""

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
        for part in ("instruction", "context"):
            given = getattr(self, part)
            spans = (given,) if isinstance(given, str) else tuple(given)
            try:
                spans = tuple(as_span(span) for span in spans)
                for span in spans:
                    locate(span, self.text)
            except InputError as error:
                raise InputError(f"{part} of prompt {self.id!r}: {error}") from None
            object.__setattr__(self, part, spans)

    @property
    def stripped(self) -> str:
        """The text as it is attributed: without white space around it."""
        return self.text.strip()

    def ranges(self, part: Part) -> tuple[Range, ...]:
        """Return the characters (start, end) of the instruction's or the context's spans in `stripped`."""
        cut, length = len(self.text) - len(self.text.lstrip()), len(self.stripped)
        located = (locate(span, self.text) for span in getattr(self, part))
        return tuple((max(start - cut, 0), min(end - cut, length)) for start, end in located)

    def mask(
        self, part: Part, offsets: Sequence[Range], *, pieces: Sequence[str] | None = None
    ) -> Bool[Tensor, " pos"]:
        """Return which tokens of `stripped` belong to the part (see `token_mask`)."""
        return token_mask(self.ranges(part), offsets, self.stripped, pieces=pieces)


def _from_jsonl(path: Path) -> Iterator[tuple[int, Prompt]]:
    for number, record in read_json_lines(path):
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise InputError(f'{path}, line {number}: expected an object with a string "text", got {shorten(record)}')
        name = record.get("id", str(number))
        if type(name) not in (str, int):
            raise InputError(f'{path}, line {number}: "id" is {shorten(name)}, expected a string or an integer')
        try:
            instruction, context = (_spans_of(record, part) for part in ("instruction", "context"))
            more = {key: record[key] for key in ("kind", "reference") if record.get(key) is not None}
            yield number, Prompt(record["text"], instruction, context, str(name), **more)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None


def _spans_of(record: dict[str, Any], part: Part) -> Sequence[Span]:
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
    substring, or a list of substrings and [start, end] pairs), "kind" and "reference"; other keys are ignored. TSV:
    columns ID, Prompt, Response (the reference), Instruct&Context with the authors' escapes, annotated spans widened to
    sentences (see `widen_to_sentences`). A text with half a character (an escape "\\ud800" alone) is read: that prompt
    fails by itself when it is tokenised, and the others go on.

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
