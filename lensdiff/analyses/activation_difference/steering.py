"""What a model says when a direction is added to its stream at all positions.

    h <- h + s |d| u        u a direction of length 1, d the difference: for it, h + s d

Texts are read as they are; what is measured is the mean over their own tokens (the special ones in front of them are
changed too, but not measured). Numbers beside: other directions of the same length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax

from lensdiff.analyses.activation_difference.directions import (
    N_TARGETS,
    NONE,
    Directions,
    check_choice,
    token_ids,
)
from lensdiff.analyses.activation_difference.starts import Batch, batches, changed, starts_of, streams
from lensdiff.inputs.texts import Texts, texts_of
from lensdiff.models import ModelView, view_of
from lensdiff.models.pair import ModelPair
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import check_count, check_numbers, check_seed

MAX_BYTES = 2**27  # of logits at a time


@dataclass(frozen=True)
class Reading:
    """Into which model is written, and on which texts; see `ActivationDifference.steer`.

    Raises:
        InputError: `into` is unknown, or a count is none.
    """

    into: str
    texts: Texts
    max_texts: int
    max_tokens: int
    prepend_bos: bool | None

    def __post_init__(self) -> None:
        check_choice("into", self.into, SIDES)
        check_count("max_texts", self.max_texts, least=2)
        check_count("max_tokens", self.max_tokens, least=2)

    def batches(self, pair: ModelPair) -> Iterator[Batch]:
        """Yield the texts as both models read them.

        Raises:
            InputError: as `ActivationDifference.steer`.
        """
        views = [view_of(getattr(pair, side)) for side in SIDES]
        n_ctx = min(view.n_ctx for view in views) - 2  # special tokens
        starts = starts_of(pair, texts_of(self.texts)[: self.max_texts], min(self.max_tokens, n_ctx), self.prepend_bos)
        yield from batches(starts, 8 * max(view.d_vocab for view in views), MAX_BYTES)

    @property
    def side(self) -> int:
        return SIDES.index(self.into)


def shared_log_probs(
    view: ModelView, final: Float[Tensor, "*row text pos d_model"], shared: Int[Tensor, " shared"]
) -> Float[Tensor, "*row text pos shared"]:
    """Return log-probabilities over the tokens that both models have, in float32 or finer, on the CPU."""
    logits = view.forward.unembed(final)
    every = torch.equal(shared, torch.arange(logits.shape[-1]))
    kept = logits if every else logits[..., shared.to(logits.device)]
    return log_softmax(kept.to(torch.promote_types(kept.dtype, torch.float32)), dim=-1).cpu()


@torch.no_grad()
def table(
    pair: ModelPair,
    directions: Directions,
    read: Reading,
    *,
    scales: Sequence[float],
    tokens: Sequence[str] | None,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Return the table of `ActivationDifference.steer`."""
    scales = check_numbers("scales", scales)
    check_count("draws", draws, least=0)
    check_seed(seed)
    views, shared = [view_of(getattr(pair, side)) for side in SIDES], pair.shared_tokens
    view, length = views[read.side], float(directions.difference.double().norm())
    targets = _targets(pair, directions, tokens, read.side)
    units = [*directions.units(), *directions.random(draws, seed)]
    # the difference at 1 is itself, to the last bit
    added = [(name, draw, scale, scale * (directions.difference if i == 0 else length * unit))
             for i, (name, draw, unit) in enumerate(units) for scale in scales]  # fmt: skip
    vectors = torch.stack([vector for _, _, _, vector in added])
    sums, n = torch.zeros(1 + len(added), 3, dtype=torch.float64), 0
    for batch in read.batches(pair):
        ends = [
            shared_log_probs(one, one.forward.final(ids)[:, batch.first :], own)
            for one, ids, own in zip(views, batch.ids, shared, strict=True)
        ]
        ids, n = batch.ids[read.side], n + ends[0].shape[0] * ends[0].shape[1]
        stream = streams(view, ids, [directions.layer])[0]
        sums[0] += _measures(ends[read.side][None], ends, targets)[0]

        def steered(some: Tensor, stream: Tensor = stream) -> Tensor:
            return stream + some.to(stream)[:, None, None]

        for some, final in changed(view, ids, directions.layer, vectors, steered):
            said = shared_log_probs(view, final[:, :, batch.first :], shared[read.side])
            sums[1:][some] += _measures(said, ends, targets)
    rows = [(read.into, NONE, 0, 0.0), *((read.into, *row[:3]) for row in added)]
    frame = pd.DataFrame(rows, columns=["into", "reading", "draw", "scale"])
    return frame.assign(**dict(zip(("prob", "kl_to_base", "kl_to_tuned"), (sums / n).T.numpy(), strict=True)))


def _measures(
    said: Float[Tensor, "row text pos shared"],
    ends: Sequence[Float[Tensor, "text pos shared"]],
    targets: Int[Tensor, " target"],
) -> Float[Tensor, "row measure"]:
    """Return sums over texts and positions: the targets' probability, KL to the base and to the tuned model."""
    p = said.exp()
    kl = [(p * (said - end)).sum(dim=-1, dtype=torch.float64).clamp(min=0).sum(dim=(1, 2)) for end in ends]
    return torch.stack([p[..., targets].double().sum(dim=(1, 2, 3)), *kl], dim=1)


def _targets(
    pair: ModelPair, directions: Directions, tokens: Sequence[str] | None, side: int
) -> Int[Tensor, " target"]:
    """Return the places of the target tokens among those that both models have; of the words that d speaks for, those.

    Raises:
        InputError: a token that is named is not among them, or none of these words is.
    """
    if tokens is None:
        ids, side, names = directions.targets[:N_TARGETS].tolist(), 1, None
    else:
        ids, names = token_ids(view_of(getattr(pair, SIDES[side])), tokens).tolist(), tokens
    places = {token: place for place, token in enumerate(pair.shared_tokens[side].tolist())}
    lacking = [token for token in ids if token not in places]
    if names is not None and lacking:
        raise InputError(f"the token {names[ids.index(lacking[0])]!r} is not one that both models have")
    if len(lacking) == len(ids):
        raise InputError("no word that the difference speaks for is a token of both models: name tokens that are")
    return torch.tensor([places[token] for token in ids if token in places], dtype=torch.int64)
