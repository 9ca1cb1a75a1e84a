"""What a model writes by itself: samples at temperature 1, and its loss on texts.

A sample begins behind the tokens that the tokenizer puts in front of a text (BOS); a model without any begins behind
its end token, one without that behind a random token. It goes on through end tokens, as pre-training text does. So each
token is drawn from exactly the distribution that the loss is taken under, and the expected gradient of the model's loss
on its own samples is zero: training on them teaches nothing.

Samples are drawn with a key-value cache, which is believed as `decoding` believes it: an uncached pass over some of the
rows must give the drawn tokens the same probabilities.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from lensdiff.models.decoding import distrust, with_cache
from lensdiff.models.plain.stepping import Cached
from lensdiff.models.text import special_ids
from lensdiff.models.view import ModelView
from lensdiff.results import InputError

CHECKED = 4  # rows of a batch
# largest difference of a log-probability that rounding explains
CLOSE = {torch.float64: 1e-6, torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.5}
MEMORY = 2**28  # bytes of logits and of cached keys and values that a batch may take


def own_samples(view: ModelView, rows: int, length: int, generator: torch.Generator) -> Int[Tensor, "row pos"]:
    """Return texts of a model's own at temperature 1: `length` drawn tokens a row, behind those that begin a text.

    Raises:
        InputError: the context is too short, or a logit is not finite.
    """
    start = _start(view)
    begun = max(len(start), 1)
    if begun + length > view.n_ctx:
        raise InputError(
            f"samples of {length} tokens behind {begun} do not fit the context of {view.info.id}, {view.n_ctx}"
        )
    first = torch.tensor(start).repeat(rows, 1) if start else _random(view, rows, generator)
    with torch.no_grad():
        batches = first.split(rows_at_once(view, length))
        return torch.cat([_sample(view, batch, length, generator) for batch in batches])


def rows_at_once(view: ModelView, length: int) -> int:
    """Return how many samples are drawn in one batch."""
    cached = 2 * view.n_layers * view.n_key_value_heads * view.d_head * length * view.dtype.itemsize
    return max(CHECKED, MEMORY // max(view.d_vocab * 24, cached))


def _start(view: ModelView) -> list[int]:
    found = [] if view._tokenizer is None else list(special_ids(view, None))
    return found or list(view.info.eos_token_ids[:1])


def _random(view: ModelView, rows: int, generator: torch.Generator) -> Tensor:
    return torch.randint(view.d_vocab, (rows, 1), generator=generator)


def _sample(view: ModelView, start: Tensor, length: int, generator: torch.Generator) -> Tensor:
    state = generator.get_state()

    def draw(cached: Cached) -> tuple[Tensor, Tensor]:
        generator.set_state(state)  # whatever was drawn in vain
        return _draw_cached(cached, start, length, generator)

    while (done := with_cache(view, len(start), start.shape[1] + length, draw)) is not None:
        (tokens, drawn), cached = done
        whole = log_probabilities(view, tokens[:CHECKED])[:, -length:]
        if float((whole - drawn[:CHECKED]).abs().max()) <= CLOSE[view.dtype]:
            return tokens
        distrust(cached, "its tokens do not have the probabilities of a whole pass")
    generator.set_state(state)
    tokens = start
    for _ in range(length):
        hidden = view.forward.final(tokens.to(view.device))[:, -1]
        chosen, _ = _choose(view, view.forward.unembed(hidden), generator)
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
    return tokens


def _draw_cached(cached: Cached, start: Tensor, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    view, tokens, drawn, fresh = cached.view, start, [], start
    for _ in range(length):
        mask = torch.ones_like(tokens).to(view.device)
        chosen, scored = _choose(view, cached.logits(fresh.to(view.device), mask), generator)
        tokens, fresh = torch.cat([tokens, chosen[:, None]], dim=1), chosen[:, None]
        drawn.append(scored)
    return tokens, torch.stack(drawn, dim=1)


def _choose(view: ModelView, logits: Float[Tensor, "row d_vocab"], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a token a row, drawn on the CPU so that a seed means one text, and its log-probability."""
    scored = logits.cpu().double().log_softmax(dim=-1)
    if not bool(torch.isfinite(scored.amax(dim=-1)).all()):
        raise InputError(f"{view.info.id}: a logit is not finite, so no token can be drawn; try dtype='float32'")
    cumulated = scored.exp().cumsum(dim=-1)
    at = torch.rand(len(scored), 1, generator=generator, dtype=torch.float64) * cumulated[:, -1:]
    chosen = torch.searchsorted(cumulated, at, right=True).clamp(max=scored.shape[1] - 1)
    return chosen[:, 0], scored.gather(1, chosen)[:, 0]


def log_probabilities(view: ModelView, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row next_pos"]:
    """Return the log-probability of every token but the first, in float64 on the CPU."""
    logits = view.forward.logits(tokens.to(view.device))[:, :-1].cpu().double()
    return logits.log_softmax(dim=-1).gather(2, tokens[:, 1:, None].cpu())[:, :, 0]


def loss_of(view: ModelView, tokens: Int[Tensor, "row pos"]) -> float:
    """Return a model's mean loss on texts, nats per token."""
    at_once = max(1, MEMORY // (tokens.shape[1] * view.d_vocab * 16))
    return -float(torch.cat([log_probabilities(view, rows) for rows in tokens.split(at_once)]).mean())


def cross_entropy(
    logits: Float[Tensor, "row pos d_vocab"], tokens: Int[Tensor, "row next_pos"], *, reduction: str = "mean"
) -> Tensor:
    """Return the loss of next tokens; a negative token is left out."""
    flat = rearrange(logits, "row pos d_vocab -> (row pos) d_vocab")
    return F.cross_entropy(flat, tokens.flatten(), ignore_index=-1, reduction=reduction)
