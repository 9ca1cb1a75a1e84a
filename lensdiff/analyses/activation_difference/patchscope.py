"""What models say when a direction stands at the last token of prompts that repeat: "red -> red ... x".

After such a prompt a model goes on with the last thing that stood there. A direction d of length 1 is written into the
stream that enters a layer at the last position, in the place of the stream ("put") or added to it ("add"):

    s L d        s a scale, L the mean length of the tuned model's stream at the place that d is of

Too small a scale leaves the model with nothing, too large a one drowns what follows, and where between words appear
differs by model: the whole curve is given. Random directions of the same length stand beside: what any vector there
makes the model say.

Reference: Ghandeharioun et al., arXiv 2401.06102; Minder et al., arXiv 2510.13900 (of activation differences).
"""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.analyses.activation_difference.directions import (
    Directions,
    check_choice,
    check_texts,
    token_ids,
)
from lensdiff.analyses.activation_difference.starts import final_from, streams
from lensdiff.models import ModelView, view_of
from lensdiff.models.pair import ModelPair
from lensdiff.models.text import encode_start, token_strings
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import check_count, check_numbers, check_seed

PROMPTS = (
    "red -> red\n42 -> 42\nwindow -> window\nx",
    "tree -> tree; seven -> seven; slowly -> slowly; x",
    "old = old, 19 = 19, river = river, x",
)
WRITES = ("put", "add")
COLUMNS = ("reading", "model", "draw", "scale", "rank", "token", "prob", "prob_before", "prob_read", "prob_read_before")


def table(
    pair: ModelPair,
    directions: Directions,
    *,
    scales: Sequence[float],
    prompts: Sequence[str],
    write: str,
    tokens: Sequence[str] | None,
    k: int,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Return the table of `ActivationDifference.patchscope`."""
    scales, prompts = check_numbers("scales", scales), check_texts("prompts", prompts)
    check_choice("write", write, WRITES)
    check_count("k", k)
    check_count("draws", draws, least=0)
    check_seed(seed)
    rows = []
    for side in reversed(SIDES):
        view = view_of(getattr(pair, side))
        wanted = None if tokens is None else token_ids(view, tokens)
        # of the base the difference alone: how it reads what it does not have
        every = [*directions.units(), *directions.random(draws, seed)]
        units = every if side == SIDES[1] else every[:1]
        read = directions.words(pair, SIDES.index(side))
        before, after = _said(view, directions, [vector for _, _, vector in units], scales, prompts, write)
        for (name, draw, _), curve in zip(units, after, strict=True):
            for scale, probs in zip(scales, curve, strict=True):
                ids = probs.topk(min(k, len(probs))).indices if wanted is None else wanted
                words = token_strings(view, tuple(ids.tolist()))
                found = zip(words, probs[ids].tolist(), before[ids].tolist(), strict=True)
                all_read = [float(p[read].sum()) if len(read) else float("nan") for p in (probs, before)]
                rows += [(name, side, draw, scale, rank, *row, *all_read) for rank, row in enumerate(found, start=1)]
    return pd.DataFrame(rows, columns=[*COLUMNS])


def _said(
    view: ModelView,
    directions: Directions,
    units: Sequence[Float[Tensor, " d_model"]],
    scales: Sequence[float],
    prompts: Sequence[str],
    write: str,
) -> tuple[Float[Tensor, " d_vocab"], Float[Tensor, "direction scale d_vocab"]]:
    """Return the next token's probabilities, means over prompts, with nothing written and with each direction."""
    vectors = torch.stack([scale * directions.length * unit for unit in units for scale in scales])
    vectors = vectors.to(view.device, view.dtype)
    before = torch.zeros(view.d_vocab, dtype=torch.float64)
    after = torch.zeros(len(vectors), view.d_vocab, dtype=torch.float64)
    for ids, stream in _read(view, directions.layer, prompts):
        before += _next(view, ids, directions.layer, stream)[0]
        many = stream.repeat(len(vectors), 1, 1)
        many[:, -1] = vectors if write == "put" else many[:, -1] + vectors
        after += _next(view, ids.expand(len(vectors), -1), directions.layer, many)
    n = len(prompts)
    return before / n, (after / n).reshape(len(units), len(scales), -1)


def _read(view: ModelView, layer: int, prompts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
    for prompt in prompts:
        ids = torch.tensor([encode_start(view, prompt, view.n_ctx).ids])
        yield ids, streams(view, ids, [layer])[0]


@torch.no_grad()
def _next(
    view: ModelView, ids: Tensor, layer: int, stream: Float[Tensor, "row pos d_model"]
) -> Float[Tensor, "row d_vocab"]:
    logits = view.forward.unembed(final_from(view.forward, ids, layer, stream)[:, -1])
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=-1).double().cpu()
