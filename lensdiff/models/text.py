"""From a prompt and a response to token ids, as the checkpoint's own tokenizer has them.

A model's own response keeps the ids it was generated with. A response given as text is joined the paper's way: prompt
+ " " + response, both stripped, tokenised as one; the response's tokens are those after as many as the prompt alone
has. Where the tokenizer merges across the boundary, the sequence no longer begins with the prompt's tokens; that is
reported, not mended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, overload

import torch
from transformers import PreTrainedTokenizerBase

from lensdiff.inputs.prompts import Prompt
from lensdiff.models.decoding import BATCH_SIZE, greedy
from lensdiff.models.identity import check_ids, digest_of
from lensdiff.models.view import Model, ModelView, view_of
from lensdiff.results import InputError

MAX_NEW_TOKENS = 300


@dataclass(frozen=True)
class Response:
    """A continuation as it was generated: its token ids and their text.

    Attributes:
        model: the name of the model that said it.
        tokenizer: the digest of the tokenizer whose ids they are (`digest_of`), or "" where nobody knows.
    """

    text: str
    token_ids: tuple[int, ...]
    model: str = ""
    tokenizer: str = ""


@dataclass(frozen=True)
class Encoded:
    """A prompt and its response as token ids.

    Attributes:
        ids: special tokens, prompt and response.
        n_special: how many special tokens (BOS) precede the prompt; they get no score and are not counted in
            `n_prompt`.
        n_prompt: the prompt's tokens.
        offsets: characters (start, end) of each prompt token in the stripped prompt.
        response_kind: "none", "generated" (ids as generated) or "text" (tokenised with the prompt).
        merged: the tokenizer merged across the boundary of prompt and response.
    """

    ids: tuple[int, ...]
    n_special: int
    n_prompt: int
    offsets: tuple[tuple[int, int], ...]
    response_kind: str
    merged: bool

    @property
    def n_response(self) -> int:
        return len(self.ids) - self.n_special - self.n_prompt

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.ids[self.n_special : self.n_special + self.n_prompt]

    @property
    def response_ids(self) -> tuple[int, ...]:
        return self.ids[self.n_special + self.n_prompt :]


def as_prompt(prompt: Prompt | str) -> Prompt:
    """Return a prompt given as such or as a bare text."""
    if not isinstance(prompt, Prompt | str):
        raise InputError(f"expected a Prompt or a text, got {type(prompt).__name__}")
    return Prompt(prompt) if isinstance(prompt, str) else prompt


def encode(
    view: ModelView, prompt: Prompt, response: str | Response | None = None, *, prepend_bos: bool | None = None
) -> Encoded:
    """Return the token ids of a prompt and its response.

    Args:
        prepend_bos: None for the checkpoint's own habit; True or False to force it.

    Raises:
        InputError: the response text is empty or adds no token, the ids of a `Response` are of another tokenizer and
            mean another text in this one, the sequence is longer than the model's context, or a BOS is asked of a
            tokenizer that has none.
    """
    text = prompt.stripped
    special = _special_ids(view, prepend_bos)
    ids, offsets = _tokenize(view, text)
    merged, kind, out = False, "none", ()
    if isinstance(response, Response):
        kind, out = "generated", response.token_ids
        if response.tokenizer and response.tokenizer != digest_of(view):
            check_ids(view, out, response.text, response.model)
    elif response is not None:
        if not response.strip():
            raise InputError("the response is an empty text: leave it out for the model's own response")
        whole, _ = _tokenize(view, f"{text} {response.strip()}")
        kind, merged = "text", whole[: len(ids)] != ids
        ids, out = whole[: len(ids)], whole[len(ids) :]
        if not out:
            raise InputError(
                f"the response {response.strip()!r} adds no token to the prompt {prompt.id or text[:40]!r}"
            )
    found = Encoded((*special, *ids, *out), len(special), len(ids), offsets, kind, merged)
    if len(found.ids) > view.n_ctx:
        raise InputError(
            f"prompt {prompt.id or text[:40]!r} and response have {len(found.ids)} tokens, "
            f"the model's context holds {view.n_ctx}"
        )
    return found


def token_strings(view: ModelView, ids: tuple[int, ...]) -> tuple[str, ...]:
    """Return each token as text; a token that is only part of a character is shown as the vocabulary spells it."""
    return strings_of(view.tokenizer, ids)


def strings_of(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> tuple[str, ...]:
    """Return the same where there is only a tokenizer."""
    texts = [str(tokenizer.decode([i])) for i in ids]
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    return tuple(piece if "\ufffd" in text or not text else text for text, piece in zip(texts, pieces, strict=True))


@overload
def generate(
    model: Model,
    prompt: Prompt | str,
    *,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    batch_size: int = ...,
) -> Response: ...
@overload
def generate(
    model: Model,
    prompt: Sequence[Prompt | str],
    *,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    batch_size: int = ...,
) -> list[Response]: ...
def generate(  # type: ignore[no-redef]
    model: Model,
    prompt: Prompt | str | Sequence[Prompt | str],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    batch_size: int = BATCH_SIZE,
) -> Response | list[Response]:
    """Return the model's own greedy continuation of the raw prompt (no chat template), without the end token.

    Args:
        prompt: a prompt, or a list of them (then a list of responses in the same order, decoded in batches).
        max_new_tokens: the longest response; the context's end may come earlier.
        prepend_bos: None for the tokenizer's own habit.
        batch_size: prompts that are decoded together.

    Raises:
        InputError: `max_new_tokens` or `batch_size` is not positive, a prompt leaves no room in the context, or a logit
            is not finite.
    """
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name}={value} is not positive")
    view = view_of(model)
    single = isinstance(prompt, Prompt | str)
    encoded = [_with_room(view, as_prompt(item), prepend_bos) for item in ([prompt] if single else prompt)]
    found = greedy(view, [torch.tensor(e.ids) for e in encoded], max_new_tokens=max_new_tokens, batch_size=batch_size)
    responses = [_response(view, tuple(new.tolist())) for new in found]
    return responses[0] if single else responses


def _with_room(view: ModelView, prompt: Prompt, prepend_bos: bool | None) -> Encoded:
    encoded = encode(view, prompt, prepend_bos=prepend_bos)
    if len(encoded.ids) >= view.n_ctx:
        raise InputError(f"prompt {prompt.id or prompt.stripped[:40]!r} fills the context of {view.n_ctx} tokens")
    return encoded


def _response(view: ModelView, ids: tuple[int, ...]) -> Response:
    return Response(str(view.tokenizer.decode(list(ids))), ids, view.info.id, digest_of(view))


def _tokenize(view: ModelView, text: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    tokenizer = view.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"the tokenizer of {view.info.id!r} is not a fast one: it cannot tell which characters a token covers"
        )
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return tuple(encoding["input_ids"]), tuple((int(a), int(b)) for a, b in encoding["offset_mapping"])


def _special_ids(view: ModelView, prepend_bos: bool | None) -> tuple[int, ...]:
    tokenizer = view.tokenizer
    if prepend_bos is None:
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        habit = tokenizer("a", add_special_tokens=True)["input_ids"]
        for start in range(len(habit) - len(plain) + 1):
            if habit[start : start + len(plain)] == plain:
                return tuple(habit[:start])
        raise InputError(
            f"the tokenizer of {view.info.id!r} changes a text when it adds special tokens: give prepend_bos"
        )
    if prepend_bos and tokenizer.bos_token_id is None:
        raise InputError(f"prepend_bos=True, but the tokenizer of {view.info.id!r} has no BOS token")
    return (int(cast(int, tokenizer.bos_token_id)),) if prepend_bos else ()
