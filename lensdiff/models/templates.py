"""The chat template of a checkpoint, which renders prompts for it, and for the base beside it.

A template is a small program in jinja that came with the checkpoint. It is run by `transformers` alone, in its sandbox
(`ImmutableSandboxedEnvironment`): it sees the messages and the special tokens, and reaches nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from lensdiff.defaults import CHAT, RAW
from lensdiff.inputs.prompts import MARKED, Prompt
from lensdiff.inputs.rendering import rendered
from lensdiff.inputs.spans import shorten
from lensdiff.models.view import view_of
from lensdiff.results import InputError, Result
from lensdiff.results.memory import is_lack_of_memory

R = TypeVar("R")
TEMPLATES = (RAW, CHAT)
MOST = 200  # characters of what a template says that went wrong


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """The chat template of one checkpoint.

    Attributes:
        tokenizer: of the checkpoint, with its template.
        model: its name, as errors call it.
    """

    tokenizer: PreTrainedTokenizerBase
    model: str

    @classmethod
    def of(cls, model: Any) -> "ChatTemplate":
        """Return the chat template of a model; of a pair the tuned model's.

        Raises:
            InputError: its tokenizer has none.
        """
        is_pair = isinstance(getattr(type(model), "tuned", None), property)
        view = view_of(model.tuned if is_pair else model)
        if not getattr(view.tokenizer, "chat_template", None):
            raise InputError(
                f"the tokenizer of {view.info.id!r} has no chat template, expected one that has, or template='raw'"
            )
        return cls(view.tokenizer, view.info.id)

    def write(self, messages: Sequence[dict[str, str]], begins: bool) -> str:
        """Return the text of messages; `begins` whether an answer is to begin behind them.

        Raises:
            InputError: the template raises, or gives no text.
        """
        try:
            text: Any = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=begins)
        except Exception as error:  # whatever somebody else's program may raise
            if is_lack_of_memory(error):
                raise
            said = str(error).strip().split("\n", 1)[0][:MOST]
            kind = type(error).__name__
            raise InputError(f"the chat template of {self.model!r} cannot be used: {kind} {said}".rstrip()) from error
        if not isinstance(text, str):
            raise InputError(f"the chat template of {self.model!r} gives {shorten(text)}, expected a text")
        return text

    def render(self, prompt: Prompt) -> Prompt:
        """Return a prompt as the template writes it; one that is rendered already stays as it is.

        Raises:
            InputError: see `lensdiff.inputs.rendering`.
        """
        if prompt.rendering:
            return prompt
        messages, turns = prompt.messages, prompt.message_ranges
        before = [(start, end) for _, start, end in turns]
        try:
            found = rendered(messages, self.write, bos=str(self.tokenizer.bos_token or ""))
        except InputError as error:
            raise InputError(f"prompt {prompt.id or prompt.stripped[:40]!r}: {error}") from error
        spans = {part: found.moved(prompt.ranges(part), before) for part in MARKED}
        moved = tuple((role, *place) for (role, _, _), place in zip(turns, found.places, strict=True))
        return replace(prompt, text=found.text, **spans, turns=moved, rendering=found.rendering)


Template = str | ChatTemplate


def render(prompt: Prompt, model: Any, template: str = CHAT) -> Prompt:
    """Return a prompt as it is ("raw"), or as the chat template of a model writes it ("chat"); see `Prompt.render`.

    Raises:
        InputError: as `Prompt.render`, or a rendered prompt is asked for as raw.
    """
    if (chosen := template_of(template, model)) is not None:
        return chosen.render(prompt)
    if prompt.rendering:
        raise InputError(f"prompt {prompt.id or prompt.stripped[:40]!r} is rendered already, expected a raw one")
    return prompt


def template_of(template: object, model: Any) -> ChatTemplate | None:
    """Return the chat template that prompts are to be rendered by, or None.

    Raises:
        InputError: there is no such rendering, or the model's tokenizer has no chat template.
    """
    if isinstance(template, ChatTemplate):
        return template
    if template not in TEMPLATES:
        raise InputError(f"template={shorten(template)} is none of {', '.join(TEMPLATES)}")
    return None if template == RAW else ChatTemplate.of(model)


def stamped(result: R, template: str) -> R:
    """Return a result whose provenance says how its prompts were rendered; of raw prompts nothing is said."""
    if template == RAW or not isinstance(result, Result):
        return result
    said = result.provenance
    return replace(result, provenance=replace(said, options=said.options | {"template": template}))
