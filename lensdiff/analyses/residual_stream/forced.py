"""A prompt and its response as one model reads them, and the passes over them that keep only what predicts it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView
from lensdiff.models.aligned_text import AlignedText
from lensdiff.models.response import Response
from lensdiff.models.text import encode, generate, token_strings
from lensdiff.results import InputError

MAX_BYTES = 2**28  # of activations, or of logits, at a time


@dataclass(frozen=True, eq=False)
class Read:
    """See the module.

    Attributes:
        response: as text.
        ids: what is read; the last response token is only predicted.
        said: the response's tokens, and `tokens` the same as text.
        first: the position that predicts the first of them.
        end: as `Response` has it, "" where the response is not read to its end.
    """

    prompt: Prompt
    response: str
    ids: Int[Tensor, " pos"]
    said: Int[Tensor, " out_pos"]
    tokens: tuple[str, ...]
    first: int
    end: str | None = None

    @property
    def n_out(self) -> int:
        return len(self.tokens)

    @property
    def labels(self) -> dict[str, Any]:
        """The fields of a result that say what was read."""
        return {
            "prompt_id": self.prompt.id,
            "prompt": self.prompt.text,
            "response": self.response,
            "out_tokens": self.tokens,
            "end": self.end,
        }


def read(
    view: ModelView,
    prompt: Prompt,
    response: str | Response | None,
    *,
    max_tokens: int | None = None,
    max_new_tokens: int,
    prepend_bos: bool | None,
) -> Read:
    """Return a text as one model reads it, of its response the first `max_tokens` tokens; without one its own.

    Raises:
        InputError: the text cannot be tokenised, the response is empty, or `max_tokens` is not positive.
    """
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens={max_tokens} is not positive")
    if response is None:
        response = generate(view, prompt, max_new_tokens=max_new_tokens, prepend_bos=prepend_bos)
    found = encode(view, prompt, response, prepend_bos=prepend_bos)
    said = found.response_ids[:max_tokens]
    if not said:
        raise InputError(f"the response to prompt {prompt.id or prompt.stripped[:40]!r} is empty: nothing is predicted")
    text = response.text if isinstance(response, Response) else response.strip()
    n_read = found.n_special + found.n_prompt + len(said) - 1
    return Read(
        prompt,
        text,
        torch.tensor(found.ids[:n_read]),
        torch.tensor(said),
        token_strings(view, said),
        found.n_special + found.n_prompt - 1,
        found.end if len(said) == found.n_response else "",
    )


def of_side(text: AlignedText, side: str) -> Read:
    """Return a text that both models read, as the base or the tuned model does."""
    said = text.response
    return Read(text.prompt, said.text, text.ids[side], text.said[side], text.tokens, text.first, said.end)


def groups(layers: Sequence[int], size: int, max_bytes: int = MAX_BYTES) -> Iterator[Sequence[int]]:
    """Yield layers in groups that are read by one pass: as many as fit, at `size` bytes each, at least one."""
    at_once = max(1, max_bytes // max(1, size))
    for start in range(0, len(layers), at_once):
        yield layers[start : start + at_once]
