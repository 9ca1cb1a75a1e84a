"""The texts that every dose is read on, and what a model makes of them.

A text is a response after its prompt, and after the prompt without its instruction. All log-probabilities are over the
tokens that both models have; with equal vocabularies that is all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.instruction_use.other_instructions import deleted
from lensdiff.analyses.outputs.distributions import kl_divergence
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView
from lensdiff.models.change import SharedTokens
from lensdiff.models.forced_reading import Reading, base_readings, force_on_tuned, response_logits, tuned_readings
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.view import view_of
from lensdiff.results.diff import SIDES

MEASURES = ("base_response_log_prob", "tuned_response_log_prob", "kl_to_base", "kl_to_tuned", "instruction_use")
GIVEN = "given"  # the name of a text that takes the place of both models' own
ROWS = 64  # response tokens that are compared at once, in float64


@dataclass(frozen=True, eq=False)
class Forced:
    """One text of one prompt.

    Attributes:
        text: "base", "tuned" or "given".
        base, tuned: what each model reads: the response after its prompt, then after the prompt without its
            instruction; None where there is none, or nothing is left.
        places: the response's tokens among those that both models have.
    """

    prompt: Prompt
    text: str
    base: tuple[Reading, Reading | None]
    tuned: tuple[Reading, Reading | None]
    places: Int[Tensor, " out_pos"]


class Distributions(NamedTuple):
    """Log-probabilities [out_pos, shared] of one model for one text, with and without the instruction."""

    first: Tensor
    without: Tensor | None


def forced(
    pair: ModelPair, prompt: Prompt, text: str, response: str | Response, rows: SharedTokens | None, bos: bool | None
) -> Forced | None:
    """Return one text as both models read it; None for a response without a token.

    Raises:
        InputError: the models do not read it as the same tokens, or it cannot be tokenised.
    """
    base, tuned = view_of(pair.base), view_of(pair.tuned)
    others = [deleted(prompt)] if prompt.instruction else []
    both = force_on_tuned(pair, tuned, prompt, response, others, prepend_bos=bos)
    if not both.first.tuned.n_response:
        return None
    sides = base_readings(pair, base, both, prepend_bos=bos), tuned_readings(tuned, both)
    mine, theirs = (_two(readings) for readings in sides)
    own = torch.tensor(mine[0].ids[-mine[0].n_response :])
    return Forced(prompt, text, mine, theirs, own if rows is None else both.first.shared_ids)


def _two(readings: Sequence[Reading | None]) -> tuple[Reading, Reading | None]:
    first, *rest = readings
    assert first is not None
    return first, rest[0] if rest else None


def shared_log_probs(
    logits: Float[Tensor, "out_pos d_vocab"], shared: Int[Tensor, " shared"] | None
) -> Float[Tensor, "out_pos shared"]:
    """Return the log-probabilities over the tokens that both models have, in float32 or finer."""
    kept = logits if shared is None else logits[:, shared.to(logits.device)]
    return kept.to(torch.promote_types(kept.dtype, torch.float32)).log_softmax(dim=-1)


def distributions(
    view: ModelView, readings: Sequence[Reading | None], shared: Int[Tensor, " shared"] | None
) -> Iterator[tuple[int, Float[Tensor, "out_pos shared"]]]:
    """Yield, by its place, what a model gives each response token; nothing where there is no reading."""
    for i, logits in response_logits(view, readings):
        yield i, shared_log_probs(logits, shared)


def read_ends(
    view: ModelView, texts: Sequence[Forced], side: int, rows: SharedTokens | None, *, both: bool
) -> list[Distributions]:
    """Return one end's distributions on all texts, those without the instruction only if `both`."""
    readings = [(text.base, text.tuned)[side] for text in texts]
    shared = None if rows is None else rows[side]
    found: dict[int, Tensor] = dict(distributions(view, [first for first, _ in readings], shared))
    rest = dict(distributions(view, [without for _, without in readings], shared)) if both else {}
    return [Distributions(found[i], rest.get(i)) for i in range(len(texts))]


def mean_log_prob(log_probs: Float[Tensor, "out_pos shared"], places: Int[Tensor, " out_pos"]) -> float:
    """Return the mean log-probability of a response's tokens, nats."""
    return float(log_probs.gather(-1, places.to(log_probs.device)[:, None]).double().mean())


def mean_kl(p: Float[Tensor, "out_pos shared"], q: Float[Tensor, "out_pos shared"]) -> float:
    """Return KL(p || q), mean over response tokens, nats."""
    parts = [kl_divergence(a, b.to(a.device)) for a, b in zip(p.split(ROWS), q.split(ROWS), strict=True)]
    return float(torch.cat(parts).mean())


class Scores:
    """What one model makes of the texts, gathered text by text: [text, (log-prob, kl base, kl tuned, without)]."""

    def __init__(self, texts: Sequence[Forced], ends: tuple[Sequence[Distributions], Sequence[Distributions]]):
        self.texts, self.ends = texts, ends
        self.found = torch.full((len(texts), 4), torch.nan, dtype=torch.float64)

    def add(self, i: int, log_probs: Float[Tensor, "out_pos shared"]) -> None:
        """Take a text after its prompt."""
        base, tuned = (side[i].first for side in self.ends)
        self.found[i, 0] = mean_log_prob(log_probs, self.texts[i].places)
        self.found[i, 1], self.found[i, 2] = mean_kl(log_probs, base), mean_kl(log_probs, tuned)

    def add_without(self, i: int, log_probs: Float[Tensor, "out_pos shared"]) -> None:
        """Take a text after the prompt without its instruction."""
        self.found[i, 3] = mean_log_prob(log_probs, self.texts[i].places)

    def by_prompt(self, prompts: Sequence[str]) -> Float[Tensor, "prompt measure"]:
        """Return the measures of each prompt, those of both texts averaged; NaN for what it does not have."""
        found = torch.full((len(prompts), len(MEASURES)), torch.nan, dtype=torch.float64)
        for row, prompt in enumerate(prompts):
            own = [i for i, text in enumerate(self.texts) if text.prompt.id == prompt]
            for column, side in enumerate(SIDES):
                said = [i for i in own if self.texts[i].text in (side, GIVEN)]
                found[row, column] = self.found[said, 0].mean()
            log_prob, to_base, to_tuned, without = self.found[own].T
            found[row, 2:] = torch.stack([to_base.mean(), to_tuned.mean(), (log_prob - without).mean()])
        return found


def read_model(
    view: ModelView,
    texts: Sequence[Forced],
    ends: tuple[Sequence[Distributions], Sequence[Distributions]],
    rows: SharedTokens | None,
    side: int = 0,
) -> Scores:
    """Return what a model makes of all texts, which it reads as the base does (or, `side` 1, as the tuned model)."""
    scores, shared = Scores(texts, ends), None if rows is None else rows[side]
    readings = [(text.base, text.tuned)[side] for text in texts]
    for i, log_probs in distributions(view, [first for first, _ in readings], shared):
        scores.add(i, log_probs)
    for i, log_probs in distributions(view, [without for _, without in readings], shared):
        scores.add_without(i, log_probs)
    return scores


def logit_dose(
    texts: Sequence[Forced], ends: tuple[Sequence[Distributions], Sequence[Distributions]], amount: float
) -> Scores:
    """Return what z_b + amount (z_t - z_b) makes of all texts: log-probabilities differ from logits by a constant."""
    scores = Scores(texts, ends)

    def mixed(base: Tensor, tuned: Tensor) -> Tensor:
        if amount in (0, 1) or torch.equal(base, tuned.to(base.device)):
            return tuned if amount == 1 else base  # exactly
        return (base + amount * (tuned.to(base.device) - base)).log_softmax(dim=-1)

    for i, (base, tuned) in enumerate(zip(*ends, strict=True)):
        scores.add(i, mixed(base.first, tuned.first))
        if base.without is not None and tuned.without is not None:
            scores.add_without(i, mixed(base.without, tuned.without))
    return scores


def log_probs_of(
    view: ModelView, texts: Sequence[Forced], rows: SharedTokens | None, prompts: Mapping[str, int]
) -> Float[Tensor, " prompt"]:
    """Return the mean log-probability of each prompt's text in a model that reads as the base does; NaN without one."""
    found = torch.full((len(prompts),), torch.nan, dtype=torch.float64)
    shared = None if rows is None else rows[0]
    for i, log_probs in distributions(view, [text.base[0] for text in texts], shared):
        found[prompts[texts[i].prompt.id]] = mean_log_prob(log_probs, texts[i].places)
    return found
