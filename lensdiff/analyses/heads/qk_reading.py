"""What a head's query-key circuit makes of chosen word pairs at a distance: scores with rotary positions and norms.

For key word k and query word q, `distance` tokens apart, in a head:

    score      the attention score before softmax: norms, biases, query-key norms, scale, rotary or learned positions
               and soft cap as in a forward pass
    sink       the same query's score for the first token, `query_pos` tokens back
    sink_share exp(sink) / ( exp(sink) + exp(score) ): how much the first token would take if there were but the two

Words stand for themselves: in every layer their input is their embedding (the mean over sub-tokens), with learned
positions where there are any, whatever earlier layers would have added. In layer 0 that is a real forward pass; deeper
it is the reading that the word pairs of `heads` take. The first token is real in every layer: it sees only itself.
It is the token that the checkpoint puts before a text, else its BOS or EOS, else the one that is given.

Where a sliding window hides the key from the query the score is -inf; where it hides both, the share is 0.

Memory: [chunk, query_pos + 1] tokens go through the layers at a time. Control models are made whole for it.
Reference: ours; Su et al., RoFormer, 2021 (rotary positions); Xiao et al., ICLR 2024 (attention sinks).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from lensdiff.models import Model, ModelView
from lensdiff.models.given import one_model
from lensdiff.models.layers import chosen_indices
from lensdiff.models.progress import tracked
from lensdiff.models.words import WordTokens, word_tokens
from lensdiff.results import InputError, Result
from lensdiff.results.numbers import check_count
from lensdiff.results.tidy import tidy


@dataclass(frozen=True, eq=False)
class QKReading(Result):
    """Scores of word pairs at distances, and what the first token takes of them; see the module.

    Attributes:
        layers, heads: which ones were read, counted from 0.
        key_words, query_words: the pairs.
        distances: tokens from the key to the query.
        first_token, query_pos: the first token, and how far the query stands from it.
        score: before the softmax; sink_score: of the same query with the first token; sink_share: what that would
            take of the two.
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    key_words: tuple[str, ...]
    query_words: tuple[str, ...]
    distances: tuple[int, ...]
    first_token: str
    query_pos: int
    score: Float[Tensor, "layer head_index pair distance"]
    sink_score: Float[Tensor, "layer head_index pair"]
    sink_share: Float[Tensor, "layer head_index pair distance"]

    def told(self) -> list[str]:
        """Return the pair that takes most from the first token."""
        first: Any = next(iter(self.top(1).itertuples()), None)
        if first is None:
            return ["no pair has a score"]
        where = f"layer {first.layer}, head {first.head_index}, distance {first.distance}"
        pair = f"{first.query_word!r} looking at {first.key_word!r}"
        return [f"least of the first token: {pair}, {where} (share {first.sink_share:.3g})"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per head, pair and distance.

        Columns: layer, head_index, key_word, query_word, distance, score, sink_share.
        """
        axes = {"layer": self.layers, "head_index": self.heads, "pair": range(len(self.key_words))}
        columns = {"score": self.score, "sink_share": self.sink_share}
        frame = tidy(axes | {"distance": self.distances}, columns)
        pair = frame.pop("pair").to_numpy()
        for place, name in ((2, "key"), (3, "query")):
            frame.insert(place, f"{name}_word", np.array(getattr(self, f"{name}_words"), dtype=object)[pair])
        return frame

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k rows that take most from the first token: the smallest `sink_share` of those with a score."""
        frame = self.to_df()
        frame = frame.loc[np.isfinite(frame["score"])]
        return frame.nsmallest(k, columns="sink_share").reset_index(drop=True)


def qk_reading(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    *,
    distances: Sequence[int] = (1,),
    query_pos: int | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    first: str | None = None,
    chunk: int = 64,
) -> QKReading:
    """Return the scores of (key word, query word) pairs at relative distances, with the first token's share.

    Args:
        pairs: of a key word and a query word each.
        model: one model; for a pair `pair.compare(qk_reading, ...)`.
        distances: tokens from the key to the query, 1 for neighbours.
        query_pos: the query's position; by default one beyond the largest distance. With rotary positions it matters
            to the first token's score only.
        layers, heads: which to read, counted from 0; None for all.
        first: the first token, as the tokenizer writes it.
        chunk: pairs at a time.

    Raises:
        InputError: no pairs, a word maps to no token, a distance or position is out of range, the first token is
            unknown, or there is none.
    """
    view = one_model(model, "qk_reading")
    if not pairs:
        raise InputError("expected at least one pair of words, given none")
    check_count("chunk", chunk)
    steps, at = _positions(view, distances, query_pos)
    chosen = (
        chosen_indices(layers, range(view.n_layers), "layers"),
        chosen_indices(heads, range(view.n_heads), "heads"),
    )
    tokens = word_tokens(view, list(dict.fromkeys(word for pair in pairs for word in pair)))
    if tokens.excluded:
        raise InputError(f"the word {tokens.excluded[0]!r} maps to no token of {view.info.id}")
    begin = _first_token(view, first)
    starts = tracked(range(0, len(pairs), chunk), f"reading heads of {view.info.id}")
    scores = torch.cat([_scores(view, tokens, pairs[i : i + chunk], begin, at, chosen[0]) for i in starts], dim=1)[
        :, :, list(chosen[1])
    ].transpose(1, 2)
    found, sink = scores[..., [at - step for step in steps]], scores[..., 0]
    margin = torch.where(sink[..., None].isneginf(), -torch.inf, sink[..., None] - found)
    options = {
        "distances": list(steps),
        "query_pos": at,
        "first": first,
        "layers": list(chosen[0]),
        "heads": list(chosen[1]),
    }
    return QKReading(
        view.provenance("qk_reading", options),
        *chosen,
        tuple(key for key, _ in pairs),
        tuple(query for _, query in pairs),
        steps,
        str(view.tokenizer.convert_ids_to_tokens(begin)),
        at,
        found.contiguous(),
        sink.contiguous(),
        margin.sigmoid(),
    )


def _positions(view: ModelView, distances: Sequence[int], query_pos: int | None) -> tuple[tuple[int, ...], int]:
    steps = tuple(distances)
    if not steps or len(set(steps)) < len(steps) or min(steps) < 1:
        raise InputError(f"distances={list(steps)} are not distinct numbers of at least 1")
    at = max(steps) + 1 if query_pos is None else query_pos
    if not max(steps) < at < view.n_ctx:
        raise InputError(
            f"query_pos is {at}, expected more than the largest distance, {max(steps)}, and less than the model's "
            f"{view.n_ctx} positions"
        )
    return steps, at


def _first_token(view: ModelView, first: str | None) -> int:
    tokenizer = view.tokenizer
    if first is not None:
        found = tokenizer.get_vocab().get(first)
        if found is None:
            raise InputError(f"{view.info.id} has no token {first!r}, expected one as its tokenizer writes it")
        return found
    plain = tokenizer.encode("a", add_special_tokens=False)
    added = tokenizer.encode("a", add_special_tokens=True)
    usual = added[0] if added[:1] != plain[:1] else None
    for token in (usual, tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise InputError(f"{view.info.id} has neither BOS nor EOS: give the first token as first=...")


def _scores(
    view: ModelView,
    tokens: WordTokens,
    pairs: Sequence[tuple[str, str]],
    begin: int,
    at: int,
    layers: tuple[int, ...],
) -> Float[Tensor, "layer pair head_index key_pos"]:
    """Return the query's scores for the first token at 0 and for the key word at every position before its own."""
    index = {word: i for i, word in enumerate(tokens.words)}
    of_pairs = [(tokens.of(index[key]), tokens.of(index[query])) for key, query in pairs]
    with torch.no_grad():
        key, query = (
            torch.stack([view.forward.embed(torch.tensor([ids], device=view.device))[0].mean(dim=0) for ids in side])
            for side in zip(*of_pairs, strict=True)
        )
        start = view.forward.embed(torch.tensor([[begin]], device=view.device))[0]
        embedded = torch.cat(
            [
                repeat(start, "one d_model -> pair one d_model", pair=len(pairs)),
                repeat(key, "pair d_model -> pair pos d_model", pos=at - 1),
                query[:, None],
            ],
            dim=1,
        )
        # ids only stand for positions; those of the words, lest one is taken for padding
        ids = torch.tensor([[begin, *[k[0]] * (at - 1), q[0]] for k, q in of_pairs], device=view.device)
        found = torch.stack(view.forward.static_scores(ids, embedded, layers)).cpu()
    lowest = torch.finfo(found.dtype).min / 2  # some models mask with the lowest number there is
    scores = found.to(torch.promote_types(found.dtype, torch.float32))
    return torch.where(found < lowest, -torch.inf, scores)
