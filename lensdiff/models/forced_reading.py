"""Log-probabilities of a forced response after several prompts, in one model or in both models of a pair.

The response's tokens are those it has after the prompt as it was given; after every other prompt the same ids are
forced. Both models of a pair read the same token strings (see `forced_text`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView
from lensdiff.models.forced_text import Forced, force_base, force_tuned
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.text import Encoded, encode

MAX_BYTES = 2**28  # of logits in float32, at a time
MAX_TOKENS = 2**13  # read at a time
MOST_PADDING = 1.25  # times the length of the shortest sequence that is read with others


class Reading(NamedTuple):
    """Token ids that end with the response's."""

    ids: tuple[int, ...]
    n_response: int


def readings_of(
    view: ModelView,
    prompt: Prompt,
    response: str | Response,
    others: Sequence[Prompt | None],
    *,
    prepend_bos: bool | None,
) -> list[Reading | None]:
    """Return what one model reads: the response after its prompt, then after each of the others.

    A prompt of which nothing is left (None) is the BOS alone; without a BOS its reading is None.

    Raises:
        InputError: a text cannot be tokenised (see `encode`).
    """
    first = encode(view, prompt, response, prepend_bos=prepend_bos)
    said = Response("", first.response_ids)
    rest = [None if other is None else encode(view, other, said, prepend_bos=prepend_bos) for other in others]
    return _readings(view, first, rest)


@dataclass(frozen=True)
class BothForced:
    """A response after its prompt and after the others, as the tuned model reads them."""

    first: Forced
    others: list[Forced | None]


def force_on_tuned(
    pair: ModelPair,
    view: ModelView,
    prompt: Prompt,
    response: str | Response,
    others: Sequence[Prompt | None],
    *,
    prepend_bos: bool | None,
) -> BothForced:
    """Return the texts as the tuned model (`view`) reads them.

    Raises:
        InputError: a token of the response is not in both vocabularies, or a text cannot be tokenised.
    """
    first = force_tuned(pair, view, prompt, response, prepend_bos=prepend_bos)
    said = Response(first.response, first.tuned.response_ids, pair.ids[1], pair.digests[1])
    rest = [None if x is None else force_tuned(pair, view, x, said, prepend_bos=prepend_bos) for x in others]
    return BothForced(first, rest)


def tuned_readings(view: ModelView, texts: BothForced) -> list[Reading | None]:
    """Return what the tuned model reads, as `readings_of` does."""
    return _readings(view, texts.first.tuned, [None if x is None else x.tuned for x in texts.others])


def base_readings(
    pair: ModelPair, view: ModelView, texts: BothForced, *, prepend_bos: bool | None
) -> list[Reading | None]:
    """Return what the base (`view`) reads, as `readings_of` does.

    Raises:
        InputError: the base reads a text as other tokens than the tuned model, or cannot read it.
    """
    first = force_base(pair, view, texts.first, prepend_bos=prepend_bos)
    rest = [None if x is None else force_base(pair, view, x, prepend_bos=prepend_bos) for x in texts.others]
    return _readings(view, first, rest)


def _readings(view: ModelView, first: Encoded, others: Sequence[Encoded | None]) -> list[Reading | None]:
    out, bos = first.response_ids, view.tokenizer.bos_token_id
    alone = Reading((bos, *out), len(out)) if isinstance(bos, int) and bos < view.d_vocab else None
    return [alone if found is None else Reading(found.ids, found.n_response) for found in (first, *others)]


def mean_log_probs(view: ModelView, readings: Sequence[Reading | None]) -> Float[Tensor, " reading"]:
    """Return each response's mean log-probability per token, in nats; NaN for no reading."""
    found = torch.full((len(readings),), torch.nan, dtype=torch.float64)
    for i, logits in response_logits(view, readings):
        reading = readings[i]
        assert reading is not None
        said = torch.tensor(reading.ids[len(reading.ids) - reading.n_response :], device=logits.device)
        log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
        found[i] = log_probs.gather(-1, said[:, None])[:, 0].double().mean()
    return found


def response_logits(view: ModelView, readings: Sequence[Reading | None]) -> Iterator[tuple[int, Tensor]]:
    """Yield, by its place, the logits of each reading that predict its response, [out_pos, d_vocab], on the device.

    Sequences of about one length are read together, padded on the right: no token sees what follows it. There is
    nothing of a place without a reading.
    """
    given = {i: reading for i, reading in enumerate(readings) if reading is not None}
    order = sorted(given, key=lambda i: (len(given[i].ids), given[i].n_response))
    start = 0
    while start < len(order):
        some = [order[start]]
        for i in order[start + 1 :]:
            rows = len(some) + 1
            scored = sum(given[j].n_response for j in some) + given[i].n_response
            longest, shortest = len(given[i].ids), len(given[some[0]].ids)
            if (
                4 * scored * view.d_vocab > MAX_BYTES
                or rows * longest > MAX_TOKENS
                or longest > MOST_PADDING * shortest
            ):
                break
            some.append(i)
        yield from zip(some, _logits(view, [given[i] for i in some]), strict=True)
        start += len(some)


@torch.no_grad()
def _logits(view: ModelView, readings: Sequence[Reading]) -> Sequence[Float[Tensor, "_ d_vocab"]]:
    longest = max(len(reading.ids) for reading in readings)
    padded = [(*reading.ids, *(0,) * (longest - len(reading.ids))) for reading in readings]
    ids = torch.tensor(padded, device=view.device)
    hidden = view.forward.final(ids[:, :-1])  # the last token is only predicted, never read
    ends = [(row, len(reading.ids) - 1, reading.n_response) for row, reading in enumerate(readings)]
    chosen = torch.cat([hidden[row, end - n : end] for row, end, n in ends])
    return view.forward.unembed(chosen[None])[0].split([n for _, _, n in ends])
