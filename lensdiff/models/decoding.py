"""Greedy decoding: the tokens of an uncached argmax, at the cost of a key-value cache where that is proven equal.

A wrapper's cached generation depends on three packages agreeing on how a cache is handed down; where they stop to, the
model forgets its prompt and goes on writing. So the loop is ours, and a cached draft is only believed after one
uncached pass over prompt and draft: every drafted token must have the largest logit there, up to rounding, and the
prompt alone must give the same first logits (it does not where rotary embeddings stretch with the length). The first
draft that fails switches off for good what it was made with, and decoding goes on from the last token that held: behind
the steps of `plain.stepping` by the model's own cached passes, behind those, with a warning that says why, by whole
passes.

Prompts of one batch may differ in length: a cached batch is padded on the left under an explicit mask, so that a token
which happens to be the padding's is read like any other. The check of such a row reads its prompt once more without
padding, and so does that of a row that is drafted again; else the draft's own first pass has read it. Checks read rows
of one length together, never with padding, and whole passes take one row at a time. A response ends before the first
of the model's end-of-sequence tokens, or where its context is full.

Memory: the cache, [batch, pos, n_key_value_heads, d_head] twice a layer; the check holds one row's logits.
Cost: a pass a new token, and for the check one over the whole row, and over the prompt of a padded one; once more of
what is left where a draft fails.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from lensdiff.models.plain.stepping import Cached
from lensdiff.models.view import ModelView
from lensdiff.results import InputError
from lensdiff.results.memory import is_lack_of_memory

T = TypeVar("T")
# what somebody else's code may end in, and steps that do not know it
_STUMBLES = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError, NotImplementedError)
BATCH_SIZE = 8
# a drafted token may stay this share of the largest logit below the best one: rounding of cached against whole passes
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


class Decoded(NamedTuple):
    """A continuation, and the end-of-sequence token that ended it: None where it was cut off."""

    ids: Int[Tensor, " _"]
    end: int | None


def greedy(
    view: ModelView,
    prompts: Sequence[Int[Tensor, " _"]],
    *,
    max_new_tokens: int,
    batch_size: int = BATCH_SIZE,
    stops: Sequence[int] | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[Int[Tensor, " _"]]:
    """Return each prompt's greedy continuation, as `greedy_to_the_end`, without what ended it."""
    options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "stops": stops, "advance": advance}
    return [decoded.ids for decoded in greedy_to_the_end(view, prompts, **options)]


def greedy_to_the_end(
    view: ModelView,
    prompts: Sequence[Int[Tensor, " _"]],
    *,
    max_new_tokens: int,
    batch_size: int = BATCH_SIZE,
    stops: Sequence[int] | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[Decoded]:
    """Return each prompt's greedy continuation, and the end-of-sequence token that ended it.

    Args:
        max_new_tokens: the longest continuation; a full context ends it earlier.
        batch_size: rows that are decoded together; prompts of similar length share a batch.
        stops: tokens that end a continuation; None for the model's own end-of-sequence tokens.
        advance: called with how many prompts of a batch are done.

    Raises:
        InputError: a logit is not finite.
    """
    ends = set(view.info.eos_token_ids if stops is None else stops)
    found: list[Decoded] = [Decoded(torch.empty(0, dtype=torch.int64), None)] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = [_Row(prompts[i].tolist(), min(max_new_tokens, view.n_ctx - len(prompts[i])), ends) for i in rows]
            _decode(view, batch)
            for i, row in zip(rows, batch, strict=True):
                new, end = (row.new[:-1], row.new[-1]) if row.ended else (row.new, None)
                found[i] = Decoded(torch.tensor(new, dtype=torch.int64), end)
            if advance is not None:
                advance(len(rows))
    return found


class _Row:
    """One prompt and what has been decoded of its continuation, the token that ends it included."""

    def __init__(self, prompt: list[int], limit: int, ends: set[int]):
        self.prompt, self.limit, self.ends = prompt, limit, ends
        self.new: list[int] = []
        self.first: Float[Tensor, " d_vocab"] | None = None  # the logits behind the prompt alone, read without padding

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.new

    @property
    def ended(self) -> bool:
        return bool(self.new) and self.new[-1] in self.ends

    @property
    def done(self) -> bool:
        return self.ended or len(self.new) >= self.limit


def _decode(view: ModelView, rows: list[_Row]) -> None:
    held = False
    while not held and (live := [row for row in rows if not row.done]):
        longest = max(len(row.ids) for row in live)
        length = min(view.n_ctx, longest + max(row.limit - len(row.new) for row in live))
        drawn = with_cache(view, len(live), length, partial(_draft, live, [len(row.new) for row in live]))
        held = True
        for row, agreed in _agreeing(view, [row for row in live if row.new]):
            held = held and agreed == len(row.new)
            del row.new[agreed:]
        if drawn is None:
            break
        if not held:
            distrust(drawn[1], "its tokens are not those of a whole pass")
    _decode_uncached(view, rows)


def with_cache(view: ModelView, batch: int, length: int, draw: Callable[[Cached], T]) -> tuple[T, Cached] | None:
    """Return what is drawn with a key-value cache, and the cache; None where that is off, or stumbles and is dropped.

    Args:
        batch, length: of the texts that are drawn, as `Cached` has them.
    """
    while view.forward.cache_fault is None:
        cached = Cached(view, batch, length)
        try:
            return draw(cached), cached
        except _STUMBLES as error:
            if is_lack_of_memory(error):
                raise
            # somebody else's cache: whatever it stumbles over (logits that are not finite, too), whole passes do not
            distrust(cached, f"{type(error).__name__}: {str(error).strip().split(chr(10), 1)[0][:200]}")
    return None


def distrust(cached: Cached, why: str) -> None:
    """Switch off for good what a draft was made with: steps, or the model's cache, with a warning that says why."""
    view, forward = cached.view, cached.view.forward
    if cached.stepped:
        forward.step_fault = why
        logging.getLogger(__name__).info("%s is decoded by its own cached passes: %s", view.info.id, why)
    elif forward.cache_fault is None:
        forward.cache_fault = why
        logging.getLogger(__name__).warning("%s", uncached_note(view))


def uncached_note(view: ModelView) -> str:
    """Return the sentence that says why a model is decoded without its key-value cache, which takes longer."""
    return f"{view.info.id} is decoded without its key-value cache, a whole pass a token: {view.forward.cache_fault}"


def _draft(rows: list[_Row], held: list[int], cached: Cached) -> None:
    for row, n in zip(rows, held, strict=True):
        del row.new[n:]  # what steps that stumbled had drawn
    view, longest = cached.view, max(len(row.ids) for row in rows)
    padding = [longest - len(row.ids) for row in rows]
    tokens = torch.tensor([[row.ids[0]] * pad + row.ids for row, pad in zip(rows, padding, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * len(row.ids) for row, pad in zip(rows, padding, strict=True)])
    tokens, mask = tokens.to(view.device), mask.to(view.device)
    logits = cached.logits(tokens, mask)
    for row, pad, own in zip(rows, padding, logits, strict=True):
        row.first = None if pad or row.new else own
    while True:
        chosen = _choose(view, logits)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if not row.done:
                row.new.append(token)
        if all(row.done for row in rows) or mask.shape[1] >= view.n_ctx:  # a padded batch fills the context early
            return
        tokens, mask = chosen[:, None], F.pad(mask, (0, 1), value=1)
        logits = cached.logits(tokens, mask)


def _agreeing(view: ModelView, rows: Sequence[_Row]) -> Iterator[tuple[_Row, int]]:
    """Yield each row with how many of its drafted tokens, from the first on, have the largest logit in whole passes."""
    for _, alike in groupby(sorted(rows, key=lambda row: len(row.ids)), key=lambda row: len(row.ids)):
        some = list(alike)
        final = view.forward.final(torch.tensor([row.ids[:-1] for row in some], device=view.device))
        for row, hidden in zip(some, final, strict=True):
            yield row, _agreed(view, row, view.forward.unembed(hidden[len(row.prompt) - 1 :]))


def _agreed(view: ModelView, row: _Row, logits: Float[Tensor, "new d_vocab"]) -> int:
    alone, largest = row.first, logits.abs().amax(dim=1)
    if alone is None:
        alone = view.forward.unembed(view.forward.final(torch.tensor([row.prompt], device=view.device))[0, -1])
    if not bool((alone - logits[0]).abs().max() <= ROUNDING[view.dtype] * alone.abs().max()):
        return 0
    drafted = logits.gather(1, torch.tensor(row.new, device=view.device)[:, None])[:, 0]
    wrong = ~(logits.amax(dim=1) - drafted <= ROUNDING[view.dtype] * largest)  # NaN is wrong
    return int(wrong.nonzero()[0]) if wrong.any() else len(row.new)


def _decode_uncached(view: ModelView, rows: list[_Row]) -> None:
    for row in rows:
        while not row.done:
            hidden = view.forward.final(torch.tensor([row.ids], device=view.device))
            row.new.append(int(_choose(view, view.forward.unembed(hidden[:, -1]))))


def _choose(view: ModelView, logits: Float[Tensor, "batch d_vocab"]) -> Int[Tensor, " batch"]:
    if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
        raise InputError(f"{view.info.id}: a logit is not finite, so no token is the most likely; try dtype='float32'")
    return logits.argmax(dim=-1)
