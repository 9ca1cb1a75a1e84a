"""Log-probabilities of a forced response after several prompts, in one model or in both models of a pair.

The response's tokens are those it has after the prompt as it was given; after every other prompt the same ids are
forced. Both models of a pair read the same token strings (see `forced_text`). Sequences of one length are read
together, without padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.analyses.forced_text import Forced, force_base, force_tuned
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView
from lensdiff.models.pair import ModelPair
from lensdiff.models.text import Encoded, Response, encode

MAX_BYTES = 2**28  # of logits in float32, at a time


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
    by_shape: dict[tuple[int, int], list[int]] = {}
    for i, reading in enumerate(readings):
        if reading is not None:
            by_shape.setdefault((len(reading.ids), reading.n_response), []).append(i)
    for (_, n), places in by_shape.items():
        at_once = max(1, MAX_BYTES // (4 * n * view.d_vocab))
        for start in range(0, len(places), at_once):
            some = places[start : start + at_once]
            ids = [reading.ids for reading in (readings[i] for i in some) if reading is not None]
            found[some] = _means(view, torch.tensor(ids, device=view.device), n)
    return found


@torch.no_grad()
def _means(view: ModelView, ids: Tensor, n: int) -> Float[Tensor, " reading"]:
    hidden = view.forward.final(ids[:, :-1])[:, -n:]  # the last token is only predicted, never read
    logits = view.forward.unembed(hidden)
    log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
    return log_probs.gather(-1, ids[:, -n:, None])[..., 0].double().mean(dim=1).cpu()
