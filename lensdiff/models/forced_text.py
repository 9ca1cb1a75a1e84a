"""The same text for both models of a pair: tuned and base read the same token strings, each with its own ids.

Vocabularies that differ (added tokens, another order) are matched by token string. A text that the two tokenizers read
as different tokens, or with a token that only one model has, cannot be forced on both and is refused.
"""

from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from jaxtyping import Int
from torch import Tensor

from lensdiff.inputs import Prompt
from lensdiff.models import ModelView
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.text import Encoded, encode, pieces_of
from lensdiff.results import InputError


@dataclass(frozen=True, eq=False)
class Forced:
    """A prompt and a response as the tuned model reads them.

    Attributes:
        given: the response as it was given, with ids of the tuned model's vocabulary.
        pieces: prompt and response as the vocabulary spells their tokens; a BOS counts if it is written in the prompt,
            which may be the BOS of one model and an ordinary token of the other.
        shared_ids: the response's tokens, as indices into the pair's shared tokens.
    """

    prompt: Prompt
    given: str | Response
    tuned: Encoded
    pieces: tuple[str, ...]
    shared_ids: Int[Tensor, " out_pos"]

    @property
    def response(self) -> str:
        return self.given.text if isinstance(self.given, Response) else self.given.strip()


def force_tuned(
    pair: ModelPair, view: ModelView, prompt: Prompt, response: str | Response, *, prepend_bos: bool | None
) -> Forced:
    """Return a text as the tuned model (`view`) reads it.

    Raises:
        InputError: a token of the response is not in both vocabularies, or the text cannot be tokenised (see `encode`).
    """
    if isinstance(response, Response) and _is_of_the_base(pair, response):
        response = replace(
            response, token_ids=translated(pair, prompt, response.token_ids, source=0), tokenizer=pair.digests[1]
        )
    encoded = encode(view, prompt, response, prepend_bos=prepend_bos)
    pieces = _pieces(view, encoded)
    where = _places(pair, 1)
    said = pieces[len(pieces) - encoded.n_response :]
    missing = [p for p, i in zip(said, encoded.response_ids, strict=True) if i not in where]
    if missing:
        raise InputError(
            f"the response to prompt {_name(prompt)} has the token {missing[0]!r}, which the base does not have: "
            "it cannot be forced on both models"
        )
    shared_ids = torch.tensor([where[i] for i in encoded.response_ids], dtype=torch.int64)
    return Forced(prompt, response, encoded, pieces, shared_ids)


def force_base(pair: ModelPair, view: ModelView, text: Forced, *, prepend_bos: bool | None) -> Encoded:
    """Return the same text as the base (`view`) reads it.

    Raises:
        InputError: the base reads prompt or response as other tokens, or cannot read them.
    """
    response = text.given
    if isinstance(response, Response):
        ids = translated(pair, text.prompt, response.token_ids, source=1)
        response = replace(response, token_ids=ids, tokenizer=pair.digests[0])
    encoded = encode(view, text.prompt, response, prepend_bos=prepend_bos)
    pieces = _pieces(view, encoded)
    if pieces != text.pieces or encoded.n_response != text.tuned.n_response:
        boundary = len(pieces) - encoded.n_response
        n = next((i for i, (a, b) in enumerate(zip_longest(pieces, text.pieces)) if a != b), boundary)
        seen = " but ".join(repr(side[n]) if n < len(side) else "no token" for side in (pieces, text.pieces))
        raise InputError(
            f"the models read the prompt {_name(text.prompt)} or its response as different "
            f"tokens, {seen} at position {n}: the same text cannot be forced on both"
        )
    return encoded


def as_base_reads(pair: ModelPair, prompt: Prompt, response: Response) -> Response:
    """Return a generated response with the ids that its tokens have in the base's vocabulary.

    Raises:
        InputError: one of its tokens is not in both vocabularies.
    """
    base = pair.digests[0]
    if response.tokenizer == base or (not response.tokenizer and _is_of_the_base(pair, response)):
        return response
    return replace(response, token_ids=translated(pair, prompt, response.token_ids, source=1), tokenizer=base)


def _pieces(view: ModelView, encoded: Encoded) -> tuple[str, ...]:
    return pieces_of(view.tokenizer, encoded.ids[encoded.n_added :])


def _name(prompt: Prompt) -> str:
    return repr(prompt.id or prompt.stripped[:40])


def _is_of_the_base(pair: ModelPair, response: Response) -> bool:
    if response.tokenizer:  # that decides what its ids mean, whoever said it
        base, tuned = pair.digests
        return response.tokenizer == base and base != tuned
    return response.model == pair.ids[0]


def _places(pair: ModelPair, side: int) -> dict[int, int]:
    """Return where each id of one model stands among the shared tokens."""
    return {i: place for place, i in enumerate(pair.shared_tokens[side].tolist())}


def translated(pair: ModelPair, prompt: Prompt, ids: tuple[int, ...], *, source: int) -> tuple[int, ...]:
    """Return the ids that tokens of one model (0 the base, 1 the tuned one) have in the other.

    Raises:
        InputError: a token is not in both vocabularies.
    """
    where, other = _places(pair, source), pair.shared_tokens[1 - source]
    missing = [i for i in ids if i not in where]
    if missing:
        raise InputError(
            f"token {missing[0]} of the response to prompt {_name(prompt)} is not in both vocabularies: "
            "it cannot be forced on both models"
        )
    return tuple(int(other[where[i]]) for i in ids)
