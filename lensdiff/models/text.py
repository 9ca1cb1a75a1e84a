"""From a prompt and a response to token ids, as the checkpoint's own tokenizer has them.

A model's own response keeps the ids it was generated with. A response given as text is joined the paper's way: prompt
+ " " + response, both stripped, tokenised as one; the response's tokens are those after as many as the prompt alone
has. Where the tokenizer merges across the boundary, the sequence no longer begins with the prompt's tokens; that is
reported, not mended.

A text is taken as it is. Where it already begins with the BOS (a rendered chat template), that BOS is the sequence's
only one: none is added, and it gets no score and is not counted, as an added one would not. What follows it is text,
a second BOS included. A tokenizer that reads the BOS' spelling as ordinary characters makes it ordinary text.

A prompt that a chat template wrote has all the special tokens that it is to have: none is added (but where
`prepend_bos=True` asks for it). What the template's own tokenizer calls the BOS at its start counts as one in the other
model too. A response given as text follows as the template would write it there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast, overload

import torch
from transformers import PreTrainedTokenizerBase

from lensdiff.defaults import MAX_NEW_TOKENS, RAW
from lensdiff.inputs.characters import lone_surrogate
from lensdiff.inputs.prompts import Prompt
from lensdiff.models.asked import Advance, Asked
from lensdiff.models.decoding import BATCH_SIZE, Decoded, greedy_to_the_end
from lensdiff.models.given import one_model
from lensdiff.models.identity import check_ids, digest_of
from lensdiff.models.inside.wrappers import Model
from lensdiff.models.response import Response
from lensdiff.models.templates import Template
from lensdiff.models.view import ModelView
from lensdiff.results import InputError, Results
from lensdiff.results.numbers import check_counts


@dataclass(frozen=True)
class Encoded:
    """A prompt and its response as token ids.

    Attributes:
        ids: special tokens, prompt and response.
        n_special: how many special tokens (BOS) precede the prompt, added or written at its start; they get no score
            and are not counted in `n_prompt`.
        n_prompt: the prompt's tokens.
        offsets: characters (start, end) of each prompt token in the stripped prompt, which also counts a written BOS.
        response_kind: "none", "generated" (ids as generated) or "text" (tokenised with the prompt).
        merged: the tokenizer merged across the boundary of prompt and response.
        n_added: how many of the special tokens were added; the others are written in the prompt.
        end: as `Response` has it; None where there is no response, or a text.
    """

    ids: tuple[int, ...]
    n_special: int
    n_prompt: int
    offsets: tuple[tuple[int, int], ...]
    response_kind: str
    merged: bool
    n_added: int
    end: str | None = None

    @property
    def bos(self) -> str:
        """Where the special tokens come from: "in the text", "added" or "none"."""
        if self.n_special > self.n_added:
            return "in the text"
        return "added" if self.n_added else "none"

    @property
    def n_response(self) -> int:
        return len(self.ids) - self.n_special - self.n_prompt

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.ids[self.n_special : self.n_special + self.n_prompt]

    @property
    def response_ids(self) -> tuple[int, ...]:
        return self.ids[self.n_special + self.n_prompt :]


def encode(
    view: ModelView, prompt: Prompt, response: str | Response | None = None, *, prepend_bos: bool | None = None
) -> Encoded:
    """Return the token ids of a prompt and its response.

    Args:
        prepend_bos: None for the checkpoint's own habit; True or False to force it. A prompt that already begins with
            the BOS has that one whatever is asked for.

    Raises:
        InputError: the prompt is nothing but the BOS, the response text is empty or adds no token, the ids of a
            `Response` are of another tokenizer and mean another text in this one, a text holds half a character, a
            token has no row in the embedding, the sequence is longer than the model's context, or a BOS is asked of a
            tokenizer that has none.
    """
    text = prompt.stripped
    name = repr(prompt.id or text[:40])
    _check_characters(text, f"prompt {name}")
    ids, offsets = _tokenize(view, text)
    special = () if prompt.rendering and prepend_bos is None else special_ids(view, prepend_bos)
    opening = prompt.rendering.opening if prompt.rendering else ""
    added, written = _split_special(view.tokenizer, text, ids, offsets, special, opening)
    if len(ids) == written:
        raise InputError(
            f"prompt {name} is read as {'the BOS alone' if ids else 'no token'}, expected a text to answer"
        )
    merged, kind, out = False, "none", ()
    if response is not None:
        said = response.text if isinstance(response, Response) else response
        _check_characters(said, f"the response to prompt {name}")
    if isinstance(response, Response):
        kind, out = "generated", response.token_ids
        if response.tokenizer and response.tokenizer != digest_of(view):
            check_ids(view, out, response.text, response.model)
    elif response is not None:
        if not response.strip():
            raise InputError("the response is an empty text: leave it out for the model's own response")
        whole, _ = _tokenize(view, prompt.answered(response))
        kind, merged = "text", whole[: len(ids)] != ids
        ids, out = whole[: len(ids)], whole[len(ids) :]
        if not out:
            raise InputError(f"the response {response.strip()!r} adds no token to the prompt {name}")
    sizes = len(added) + written, len(ids) - written
    end = response.end if isinstance(response, Response) else None
    found = Encoded((*added, *ids, *out), *sizes, offsets[written:], kind, merged, len(added), end)
    _check_ids(view, found, name)
    if len(found.ids) > view.n_ctx:
        raise InputError(
            f"prompt {name} and response have {len(found.ids)} tokens, the model's context holds {view.n_ctx}"
        )
    return found


def encode_start(view: ModelView, text: str, n_tokens: int, *, prepend_bos: bool | None = None) -> Encoded:
    """Return the first tokens of a text that nobody is to answer, at most `n_tokens` behind the special ones.

    The text may be longer than the model's context.

    Args:
        prepend_bos: as `encode`.

    Raises:
        InputError: there is no token beside the BOS, the text holds half a character, a token has no row in the
            embedding, the context does not hold so many, or a BOS is asked of a tokenizer that has none.
    """
    text = text.strip()
    name = repr(text[:40])
    _check_characters(text, f"text {name}")
    ids, offsets = _tokenize(view, text)
    added, written = _split_special(view.tokenizer, text, ids, offsets, special_ids(view, prepend_bos), "")
    kept = ids[: written + n_tokens]
    if len(kept) == written:
        raise InputError(f"text {name} is read as {'the BOS alone' if ids else 'no token'}, expected words")
    found = Encoded(
        (*added, *kept), len(added) + written, len(kept) - written, offsets[written : len(kept)], "none", False,
        len(added),
    )  # fmt: skip
    _check_ids(view, found, name)
    if len(found.ids) > view.n_ctx:
        raise InputError(f"{len(found.ids)} tokens of a text are asked for, the model's context holds {view.n_ctx}")
    return found


def token_strings(view: ModelView, ids: tuple[int, ...]) -> tuple[str, ...]:
    """Return each token as text; a token that is only part of a character is shown as the vocabulary spells it."""
    return strings_of(view.tokenizer, ids)


def strings_of(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> tuple[str, ...]:
    """Return the same where there is only a tokenizer."""
    texts = [str(tokenizer.decode([i])) for i in ids]
    pieces = pieces_of(tokenizer, ids)
    return tuple(piece if "\ufffd" in text or not text else text for text, piece in zip(texts, pieces, strict=True))


def pieces_of(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> tuple[str, ...]:
    """Return each token as the vocabulary spells it; a row of the embedding that is no token is shown by its number."""
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    return tuple(f"<{i}>" if piece is None else piece for i, piece in zip(ids, pieces, strict=True))


@overload
def generate(
    model: Model,
    prompt: Prompt | str,
    *,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    batch_size: int = ...,
    progress: bool | None = ...,
) -> Response: ...
@overload
def generate(
    model: Model,
    prompt: Sequence[Prompt | str],
    *,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    batch_size: int = ...,
    progress: bool | None = ...,
) -> Results[Response]: ...
def generate(
    model: Model,
    prompt: Any,  # what is neither is refused in words
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> Response | Results[Response]:
    """Return the model's own greedy continuation of the prompt, without the end token, which is its `end`.

    Args:
        model: one model; for a pair `pair.compare(generate, ...)`, or `pair.tuned`.
        prompt: a prompt, or a list of them (then `Results`, decoded in batches; see `Asked`).
        max_new_tokens: the longest response; the context's end may come earlier.
        prepend_bos: None for the tokenizer's own habit.
        template: "raw", or "chat": as the chat template writes the prompts.
        batch_size: prompts that are decoded together.
        progress: show a progress bar for a list; None shows it on a terminal.

    Raises:
        InputError: `max_new_tokens` or `batch_size` is not positive, a list is empty or holds an id twice; of one
            prompt (or of all in a list): it leaves no room in the context, or a logit is not finite.
    """
    view = one_model(model, "generate")
    asked = Asked.of(prompt, template=template, model=model)
    options = {"max_new_tokens": max_new_tokens, "prepend_bos": prepend_bos, "batch_size": batch_size}
    with asked.bar("generating", progress, len(asked.prompts)) as advance:
        found = own_responses(view, asked, **options, advance=advance)
    return asked.results(found)


def own_responses(
    view: ModelView,
    asked: Asked,
    *,
    max_new_tokens: int,
    prepend_bos: bool | None,
    batch_size: int = BATCH_SIZE,
    advance: Advance | None = None,
) -> dict[str, Response]:
    """Return by id what the model says to each prompt that has not failed; one that does is kept among the failed.

    Raises:
        InputError: as `generate`, of one prompt.
    """
    check_counts(max_new_tokens=max_new_tokens, batch_size=batch_size)
    encoded: dict[str, Encoded] = {}
    for prompt in asked.going():
        with asked.guard(prompt):
            encoded[prompt.id] = _with_room(view, prompt, prepend_bos)

    def decoded(names: Iterable[str]) -> list[Decoded]:
        tokens = [torch.tensor(encoded[name].ids) for name in names]
        return greedy_to_the_end(view, tokens, max_new_tokens=max_new_tokens, batch_size=batch_size, advance=advance)

    try:
        found = dict(zip(encoded, decoded(encoded), strict=True))
    except (InputError, RuntimeError):  # of one of them: which one?
        if asked.single:
            raise
        found = {}
        for prompt in asked.going():
            with asked.guard(prompt):
                (found[prompt.id],) = decoded([prompt.id])
    return {name: _response(view, new) for name, new in found.items()}


def _with_room(view: ModelView, prompt: Prompt, prepend_bos: bool | None) -> Encoded:
    encoded = encode(view, prompt, prepend_bos=prepend_bos)
    if len(encoded.ids) >= view.n_ctx:
        raise InputError(f"prompt {prompt.id or prompt.stripped[:40]!r} fills the context of {view.n_ctx} tokens")
    return encoded


def _response(view: ModelView, new: Decoded) -> Response:
    ids = tuple(new.ids.tolist())
    end = "" if new.end is None else token_strings(view, (new.end,))[0]
    return Response(str(view.tokenizer.decode(list(ids))), ids, view.info.id, digest_of(view), end)


def _check_characters(text: str, name: str) -> None:
    at = lone_surrogate(text)
    if at is not None:
        raise InputError(f"{name} holds half a character ({text[at]!r} at {at}), expected whole ones")


def _check_ids(view: ModelView, encoded: Encoded, name: str) -> None:
    """Refuse a token that the embedding has no row for; on some devices reading one ends the whole process."""
    d_vocab = view.d_vocab  # asked once: a view asks its model
    for position, token in enumerate(encoded.ids):
        if not 0 <= token < d_vocab:
            known = 0 <= token < len(view.tokenizer)
            spelled = f" ({view.tokenizer.convert_ids_to_tokens(token)!r})" if known else ""
            part = "the response to prompt" if position >= encoded.n_special + encoded.n_prompt else "prompt"
            raise InputError(
                f"{part} {name} has the token {token}{spelled} at position {position}, "
                f"the embedding of {view.info.id!r} has rows 0 to {d_vocab - 1}"
            )


def _tokenize(view: ModelView, text: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    tokenizer = view.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"the tokenizer of {view.info.id!r} is not a fast one: it cannot tell which characters a token covers"
        )
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return tuple(encoding["input_ids"]), tuple((int(a), int(b)) for a, b in encoding["offset_mapping"])


def _split_special(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    ids: tuple[int, ...],
    offsets: tuple[tuple[int, int], ...],
    special: tuple[int, ...],
    opening: str,
) -> tuple[tuple[int, ...], int]:
    """Return which special tokens are to be added, and how many are written at the text's start instead.

    Args:
        opening: what a chat template wrote there as its own tokenizer's BOS.
    """

    def is_written(expected: tuple[int, ...]) -> bool:
        # the id alone does not tell: some tokenizers read what they do not know as their BOS
        spelled = (text[slice(*offset)].strip() for offset in offsets[: len(expected)])
        return ids[: len(expected)] == expected and list(spelled) == tokenizer.convert_ids_to_tokens(list(expected))

    for n in range(len(special), 0, -1):  # as much as is written of several, "[gMASK]<sop>"
        if is_written(special[-n:]):
            return special[:-n], n
    # also of a tokenizer that adds none by itself
    known = (tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids(opening) if opening else None)
    return special, int(any(bos is not None and is_written((int(cast(int, bos)),)) for bos in known))


def special_ids(view: ModelView, prepend_bos: bool | None) -> tuple[int, ...]:
    """Return the tokens that are put in front of a text."""
    tokenizer = view.tokenizer
    if prepend_bos is None:
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        habit = tokenizer("a", add_special_tokens=True)["input_ids"]
        for start in range(len(habit) - len(plain) + 1 if plain else 0):
            if habit[start : start + len(plain)] == plain:
                return tuple(habit[:start])
        raise InputError(
            f"the tokenizer of {view.info.id!r} changes a text when it adds special tokens: give prepend_bos"
        )
    if prepend_bos and tokenizer.bos_token_id is None:
        raise InputError(f"prepend_bos=True, but the tokenizer of {view.info.id!r} has no BOS token")
    return (int(cast(int, tokenizer.bos_token_id)),) if prepend_bos else ()
