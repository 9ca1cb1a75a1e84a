"""What views of single prompts share: a prompt's label, which prompts two models have, and how a response was read."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from lensdiff.results import Diff, Provenance
from lensdiff.views.words import clipped

LABEL_LENGTH = 90
RENDERED = {"raw": "raw prompt, no chat template", "chat": "prompt in the chat template"}


@runtime_checkable
class OfPrompt(Protocol):
    """A result about one prompt."""

    @property
    def prompt_id(self) -> str: ...


R = TypeVar("R", bound=OfPrompt)


def prompt_label(prompt_id: str, prompt: str) -> str:
    """Return the line under which a prompt is chosen: its id and how its text begins, white space as one space."""
    text = " ".join(prompt.split())
    return clipped(f"{prompt_id}: {text}" if prompt_id else text, LABEL_LENGTH)


def shared_prompts(result: Diff[Any]) -> list[tuple[Any, Any]]:
    """Return (base, tuned) of every prompt that both sides have, each side one result or a list of them.

    Prompts are known by their ids, those without one by their number in the list.
    """
    base, tuned = _by_prompt(result.base), _by_prompt(result.tuned)
    return [(base[name], tuned[name]) for name in base if name in tuned]


def how_rendered(of: Provenance) -> str:
    """Return in words whether a result is of raw prompts, or of a chat template's."""
    return RENDERED.get(of.template, f"prompts partly raw, partly in the chat template ({of.template})")


def how_read(response_kind: str, *, merged: bool, of: Provenance) -> list[str]:
    """Return how the models read prompt and response: a merged boundary, whose tokens the response has, the template.

    Args:
        response_kind: "generated" (the ids as generated) or "text" (tokenised together with the prompt).
        merged: the tokenizer merged prompt and response at their boundary.
        of: the result's.
    """
    facts = ["the tokenizer merged prompt and response at their boundary"] if merged else []
    return [*facts, f"response {'as generated' if response_kind == 'generated' else 'given as text'}", how_rendered(of)]


def _by_prompt(side: R | Sequence[R]) -> dict[str, R]:
    results = side if isinstance(side, Sequence) else [side]
    return {result.prompt_id or str(number): result for number, result in enumerate(results)}
