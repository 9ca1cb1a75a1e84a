"""What a model's cross-entropy loses when its stream's component along a direction is the other model's.

    h <- h + ((h_other - h) . u) u        at all positions of a text, u of length 1

in the stream that enters a layer. Cross-entropy is of each text's own tokens, the first of them only where a special
token stands before it; a text counts once. Random directions hold next to nothing of what the models differ by, and
next to nothing of the stream; a difference of two random places of the stream is a direction that the stream itself
varies along.
"""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.activation_difference.directions import NONE, Directions
from lensdiff.analyses.activation_difference.starts import Batch, changed, streams
from lensdiff.analyses.activation_difference.steering import Reading
from lensdiff.analyses.activation_difference.words import unit
from lensdiff.models import ModelView, view_of
from lensdiff.models.pair import ModelPair
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import check_count, check_seed

OTHER, RANDOM_DIFFERENCE = "other", "random difference"
TRIES = 4  # for each random difference


@torch.no_grad()
def table(
    pair: ModelPair, directions: Directions, read: Reading, *, draws: int, seed: int, level: float
) -> pd.DataFrame:
    """Return the table of `ActivationDifference.causal`."""
    check_count("draws", draws, least=0)
    check_seed(seed)
    views, layer = [view_of(getattr(pair, side)) for side in SIDES], directions.layer
    given = [batch for batch in read.batches(pair) if batch.ids[0].shape[1] > max(1, batch.first)]
    if not given:
        raise InputError("no text has two tokens: there is none to predict")
    own, other = views[read.side], views[1 - read.side]
    named = [*directions.units(), *directions.random(draws, seed)]
    named += [(RANDOM_DIFFERENCE, i, u) for i, u in enumerate(_random(views[1], given, layer, draws, seed))]
    units = torch.stack([unit for _, _, unit in named])
    found: list[Float[Tensor, "row text"]] = []
    for batch in given:
        ids, theirs = batch.ids[read.side], batch.ids[1 - read.side]
        stream, wanted = (streams(v, i, [layer])[0] for v, i in ((own, ids), (other, theirs)))
        gap = wanted.to(stream) - stream
        rows = [
            _losses(own, ids, own.forward.final(ids)[None], batch.first),
            _losses(other, theirs, other.forward.final(theirs)[None], batch.first),
        ]

        def replaced(some: Tensor, stream: Tensor = stream, gap: Tensor = gap) -> Tensor:
            u = some.to(stream)
            along = einsum(gap, u, "text pos d_model, row d_model -> row text pos")
            return stream + along[..., None] * u[:, None, None]

        for _, final in changed(own, ids, layer, units, replaced):
            rows.append(_losses(own, ids, final, batch.first))
        found.append(torch.cat(rows))
    losses = torch.cat(found, dim=1)
    names = [(NONE, 0), (OTHER, 0), *((name, draw) for name, draw, _ in named)]
    frame = pd.DataFrame([(read.into, *name) for name in names], columns=["into", "reading", "draw"])
    return frame.assign(**_compared(losses, level))


def _compared(losses: Float[Tensor, "row text"], level: float) -> dict[str, Sequence[float]]:
    """Return means over texts, and the change from the first row with its interval."""
    change = (losses - losses[0]).T
    low, high = stats.mean_interval(change.numpy(), level=level)
    return {
        "cross_entropy": losses.mean(dim=1).tolist(),
        "change": change.mean(dim=0).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def _losses(
    view: ModelView, ids: Int[Tensor, "text pos"], final: Float[Tensor, "row text pos d_model"], first: int
) -> Float[Tensor, "row text"]:
    """Return each text's mean cross-entropy, nats per token."""
    at = max(first, 1)  # the first token that something stands before
    logits = view.forward.unembed(final[:, :, at - 1 : -1])
    log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
    said = ids[:, at:, None].to(log_probs.device).expand(len(final), -1, -1, -1)
    return -log_probs.gather(-1, said)[..., 0].double().mean(dim=-1).cpu()


def _random(
    view: ModelView, given: Sequence[Batch], layer: int, draws: int, seed: int
) -> Iterator[Float[Tensor, " d_model"]]:
    """Yield directions of length 1 between places of the tuned model's stream in two texts, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    texts = [(batch, row) for batch in given for row in range(len(batch.numbers))]

    def drawn(bound: int) -> int:
        return int(torch.randint(bound, (1,), generator=generator))

    def at(text: int) -> Float[Tensor, " d_model"]:
        batch, row = texts[text]
        stream = streams(view, batch.ids[1][row : row + 1], [layer])[0, 0, batch.first :]
        return stream[drawn(len(stream))]

    found = 0
    for _ in range(TRIES * draws if len(texts) > 1 else 0):  # two texts may have the same token there
        if found == draws:
            return
        one = drawn(len(texts))
        other = (one + 1 + drawn(len(texts) - 1)) % len(texts)
        between = at(one) - at(other)
        if bool(between.any()):
            found += 1
            yield unit(between)
