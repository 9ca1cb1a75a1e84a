"""Which words each attention head relates: word pairs of every dimension of its query and key weights.

For head h, dimension d of W_Q^h and W_K^h, and words w with mean input embedding E_w (see `words`):

    q[w,d] = (E (W_Q^h scaled by the attention norm's gain))[w,d]        k[w,d] likewise; grouped keys are shared
    energy[d] = sum_w q[w,d]^2 + k[w,d]^2                                orders the dimensions
    candidates: the K words with the largest |q[.,d]| and the K with the largest |k[.,d]|
    keep (w_k, w_q) if  cos(w_q, w_k) > theta(w_q) and > theta(w_k) and > 0,  q[w_q,d] k[w_k,d] > 0,  w_q != w_k
    theta(w) = mean + 1.96 std (population) of the cosine between w and the first 3000 words of the list
    order by cosine, highest first

cos is between static word vectors and stands for "occurs in one local context"; a word without a vector can be a
candidate but forms no pair. q k > 0 means that the dimension raises the attention score of query word w_q for key
word w_k.

Read: weights alone, with the gain of the norm in front (RMSNorm or LayerNorm). Ignored: biases, LayerNorm's centring,
the norm's scale per input, the embedding's scale (Gemma), rotary and learned positions, query-key norms and their
gains, the soft cap, and whatever earlier layers do to a word. `qk_reading` respects all but the last for chosen pairs.

Memory: word embeddings and vectors, then `chunk` heads at a time (about 50 MB each for 26,000 words and 64 dimensions);
the result takes 12 bytes per pair (270 MB for the 22.7 million pairs of SmolLM2-135M).

Reference: Wu et al., NAACL 2024, section 5 and appendix; doi 10.18653/v1/2024.naacl-long.130.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensdiff.analyses.heads.defaults import TABLE_TOP, THRESHOLD_STD, THRESHOLD_WORDS, TOP_K
from lensdiff.analyses.heads.head_weights import scaled
from lensdiff.analyses.heads.word_pairs import (
    Candidates,
    Pairs,
    candidates,
    cosine_thresholds,
    related_pairs,
    unit_vectors,
)
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.given import one_model
from lensdiff.models.layers import chosen_indices
from lensdiff.models.memory import available_memory
from lensdiff.models.progress import tracked
from lensdiff.models.words import WordList, listed, vectors_for, word_embeddings, word_tokens
from lensdiff.results import InputError, Result
from lensdiff.results.numbers import check_count, check_counts

SAME_ARGUMENTS = "word pairs made with the same arguments"
BYTES_OF_PAIR = 12  # of two candidates: their cosine, the threshold it has to pass, and what is kept
COMPARED_OPTIONS = ("top_k", "threshold_words", "threshold_std", "word_vectors", "words_without_vector")


@dataclass(frozen=True, eq=False)
class HeadWordPairs(Result):
    """The word pairs of every head, dimensions by falling energy; indices in memory, words only when shown.

    Attributes:
        layers, heads: which ones were read, counted from 0.
        words: the word list, without the words that map to no token.
        dims, energy: each head's dimensions by falling energy, and that energy.
        starts: where the pairs of each (layer, head, rank of the dimension) begin; one entry more than those.
        key, query, cosine: the pairs, indices into `words`, best first within their dimension.
    """

    layer_by_layer: ClassVar[bool] = True
    ragged: ClassVar[Mapping[str, str]] = {"pair": "starts"}

    calls = ("top()", "table()", "to_df()", "show()")

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    words: tuple[str, ...]
    dims: Int[Tensor, "layer head_index d_head"]
    energy: Float[Tensor, "layer head_index d_head"]
    starts: Int[Tensor, " dims_plus_one"]
    key: Int[Tensor, " pair"]
    query: Int[Tensor, " pair"]
    cosine: Float[Tensor, " pair"]

    @property
    def counts(self) -> Int[Tensor, "layer head_index d_head"]:
        """The number of pairs of each dimension, in the order of `dims`."""
        return self.starts.diff().reshape(self.dims.shape)

    def of_head(self, layer: int, head_index: int) -> Pairs:
        """Return one head's pairs as indices.

        Args:
            layer, head_index: which, counted from 0.

        Raises:
            InputError: the layer or the head was not read.
        """
        row = _place(self.layers, layer, "layer") * len(self.heads) + _place(self.heads, head_index, "head")
        d_head = self.dims.shape[-1]
        starts = self.starts[row * d_head : (row + 1) * d_head + 1]
        first, last = int(starts[0]), int(starts[-1])
        return Pairs(starts - first, self.key[first:last], self.query[first:last], self.cosine[first:last])

    def told(self) -> list[str]:
        """Return how many pairs there are, and the best of the dimension with the largest share of energy."""
        of = f"{len(self.layers)} layers, {len(self.heads)} heads, {len(self.words)} words"
        first: Any = next(iter(self.top(1).itertuples()), None)
        lines = [f"{len(self.key)} word pairs of {of}"]
        if first is None:
            return lines
        where = f"layer {first.layer}, head {first.head_index}, dimension {first.dim}"
        return [*lines, f"{where}: {first.key_word} - {first.query_word} (cosine {first.cosine:.2f})"]

    def to_df(self, *, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None) -> pd.DataFrame:
        """Return all pairs of the layers and heads asked for, one row each.

        Columns: layer, head_index, dim, dim_rank, energy, rank, key_word, query_word, cosine.

        Raises:
            InputError: no layer or head is asked for, one twice, or one that was not read.
        """
        return self._rows(None, layers, heads)

    def table(self, table_top: int = TABLE_TOP) -> pd.DataFrame:
        """Return the `table_top` best pairs of every dimension, with the columns of `to_df` and `pairs_in_dim`.

        pairs_in_dim counts all pairs of the dimension, so those left out are pairs_in_dim - table_top where it is
        larger.

        Raises:
            InputError: table_top is below 1.
        """
        check_count("table_top", table_top)
        return self._rows(table_top, None, None)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the best pair of each of the k dimensions that hold the largest share of their head's energy."""
        share = self.energy / self.energy.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        share = torch.where(self.counts > 0, share, -torch.ones_like(share)).flatten()
        best = share.topk(min(k, int((share > 0).sum())))
        columns = ["layer", "head_index", "dim", "energy", "key_word", "query_word", "cosine"]
        return self._frame(self.starts[:-1][best.indices], best.indices, torch.zeros_like(best.indices)).loc[:, columns]

    def _rows(self, table_top: int | None, layers: Sequence[int] | None, heads: Sequence[int] | None) -> pd.DataFrame:
        chosen = torch.zeros(self.dims.shape[:2], dtype=torch.bool)
        rows = [self.layers.index(x) for x in chosen_indices(layers, self.layers, "layers")]
        columns = [self.heads.index(x) for x in chosen_indices(heads, self.heads, "heads")]
        chosen[torch.tensor(rows)[:, None], torch.tensor(columns)[None, :]] = True
        dims = repeat(chosen, "layer head -> (layer head dim)", dim=self.dims.shape[-1]).nonzero().squeeze(1)
        counts = self.counts.flatten()[dims]
        shown = counts if table_top is None else counts.clamp_max(table_top)
        owner = dims.repeat_interleave(shown)
        before = torch.repeat_interleave(shown.cumsum(0) - shown, shown)
        rank = torch.arange(len(owner)) - before
        frame = self._frame(self.starts[:-1][owner] + rank, owner, rank)
        return frame if table_top is None else frame.assign(pairs_in_dim=self.counts.flatten()[owner].numpy())

    def _frame(self, pair: Int[Tensor, " row"], dim: Int[Tensor, " row"], rank: Int[Tensor, " row"]) -> pd.DataFrame:
        """Return table rows from indices into the pairs and into the flattened dimensions, and ranks from 0."""
        n_heads, d_head = self.dims.shape[1:]
        head, layer = dim // d_head % n_heads, dim // (d_head * n_heads)
        names = pd.Index(self.words)
        return pd.DataFrame(
            {
                "layer": np.array(self.layers, dtype=np.int32)[layer.numpy()],
                "head_index": np.array(self.heads, dtype=np.int32)[head.numpy()],
                "dim": self.dims.flatten()[dim].int().numpy(),
                "dim_rank": (dim % d_head + 1).int().numpy(),
                "energy": self.energy.flatten()[dim].numpy(),
                "rank": (rank + 1).int().numpy(),
                "key_word": pd.Categorical.from_codes(self.key[pair].numpy(), names),
                "query_word": pd.Categorical.from_codes(self.query[pair].numpy(), names),
                "cosine": self.cosine[pair].numpy(),
            }
        )


def _place(available: tuple[int, ...], wanted: int, what: str) -> int:
    if wanted not in available:
        raise InputError(f"{what} {wanted} was not read, available: {', '.join(map(str, available))}")
    return available.index(wanted)


def check_comparable(base: HeadWordPairs, other: HeadWordPairs, name: str) -> None:
    """Raise InputError unless two results hold the same heads and words, found with the same options."""
    for what, mine, theirs in (
        ("layers", base.layers, other.layers),
        ("heads", base.heads, other.heads),
        ("dimensions per head", base.dims.shape[-1], other.dims.shape[-1]),
        *((x, base.provenance.options.get(x), other.provenance.options.get(x)) for x in COMPARED_OPTIONS),
    ):
        if mine != theirs:
            raise InputError(f"{name} has {what} {theirs}, base {mine}: expected {SAME_ARGUMENTS}")
    if base.words != other.words:
        sizes = f"{len(other.words)} words, base {len(base.words)}"
        raise InputError(f"{name} has other words ({sizes}): expected {SAME_ARGUMENTS}")


def _layer_pairs(
    view: ModelView,
    layer: int,
    heads: tuple[int, ...],
    words: Float[Tensor, "word d_model"],
    unit: Float[Tensor, "word dim"],
    thresholds: Float[Tensor, " word"],
    *,
    top_k: int,
    chunk: int,
) -> list[tuple[Int[Tensor, "head_index d_head"], Float[Tensor, "head_index d_head"], Pairs]]:
    W_Q, W_K = scaled(view, layer, "W_Q"), scaled(view, layer, "W_K")
    repeats = W_Q.shape[0] // W_K.shape[0]
    groups = sorted({head // repeats for head in heads})
    parts = [candidates(words, W_K[groups[i : i + chunk]], top_k=top_k) for i in range(0, len(groups), chunk)]
    keys = Candidates(*(torch.cat(x) for x in zip(*parts, strict=True)))
    found = []
    for i in range(0, len(heads), chunk):
        some = list(heads[i : i + chunk])
        query = candidates(words, W_Q[some], top_k=top_k)
        key = Candidates(*(x[[groups.index(head // repeats) for head in some]] for x in keys))
        energy = query.energy + key.energy
        dims = energy.argsort(dim=-1, descending=True, stable=True)

        def by_energy(given: Candidates, dims: Tensor = dims) -> Candidates:
            wide = repeat(dims, "head dim -> head dim k", k=given.words.shape[-1])
            return Candidates(given.words.gather(1, wide), given.values.gather(1, wide), given.energy)

        pairs = related_pairs(by_energy(query), by_energy(key), unit, thresholds)
        found.append((dims.int().cpu(), energy.gather(-1, dims).cpu(), Pairs(*(x.cpu() for x in pairs))))
    return found


def head_word_pairs(
    model: Model,
    vocabulary: WordList | None = None,
    word_vectors: WordVectors | None = None,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    top_k: int = TOP_K,
    threshold_words: int = THRESHOLD_WORDS,
    threshold_std: float = THRESHOLD_STD,
    chunk: int = 4,
) -> HeadWordPairs:
    """Return the word pairs that each head's query and key weights relate, in float32; see the module.

    Words are kept apart by their place in the list, so "=" or white space in a word is harmless. Words that map to no
    token are left out before anything is counted; `provenance.options` says how many, and how many words have no
    vector.

    Args:
        model: one model; for a pair `pair.compare(head_word_pairs, ...)`, which gives both one list and one source
            of cosines.
        vocabulary: the word list, the most frequent first; None for the shipped one.
        word_vectors: where cosines come from; the same for both models of a comparison. None for the model's own input
            embeddings, in `pair.compare` the base's for both.
        layers, heads: which to read, counted from 0; None for all.
        top_k: candidates per dimension and side.
        threshold_words, threshold_std: the background words of theta, and its standard deviations.
        chunk: heads at a time.

    Raises:
        InputError: a number is out of range, a word comes twice, no word maps to a token, under two have a vector, or
            the candidates' pairs do not fit the memory.
    """
    view = one_model(model, "head_word_pairs")
    check_counts(top_k=top_k, threshold_words=threshold_words, chunk=chunk)
    if not math.isfinite(threshold_std):
        raise InputError(f"threshold_std is {threshold_std}, expected a finite number")
    chosen = (
        chosen_indices(layers, range(view.n_layers), "layers"),
        chosen_indices(heads, range(view.n_heads), "heads"),
    )
    vocabulary = listed(vocabulary)
    tokens = word_tokens(view, vocabulary)
    if len(set(tokens.words)) < len(tokens.words):
        repeated = next(word for i, word in enumerate(tokens.words) if word in tokens.words[:i])
        raise InputError(f"the word {repeated!r} comes twice in the word list, expected distinct words")
    _check_room(view, min(top_k, len(tokens.words)), min(chunk, len(chosen[1])))
    word_vectors = vectors_for(view, word_vectors, vocabulary)
    unit, thresholds, found = _compared(word_vectors, tokens.words, view.device, threshold_words, threshold_std)
    embedded = word_embeddings(view.weights.W_E, tokens)
    parts = [
        part
        for layer in tracked(chosen[0], f"reading heads of {view.info.id}")
        for part in _layer_pairs(view, layer, chosen[1], embedded, unit, thresholds, top_k=top_k, chunk=chunk)
    ]
    options = {
        "layers": list(chosen[0]),
        "heads": list(chosen[1]),
        "top_k": min(top_k, len(tokens.words)),
        "threshold_words": threshold_words,
        "threshold_std": threshold_std,
        "vocabulary": getattr(vocabulary, "source", "given words"),
        "word_vectors": word_vectors.source,
        "words_without_token": len(tokens.excluded),
        "words_without_vector": int((~found).sum()),
    }
    return _assembled(view, options, chosen, tokens.words, parts)


def _in_pair(
    pair: Any, vocabulary: WordList | None = None, word_vectors: WordVectors | None = None, **options: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what both models of a pair are read with: one word list, and the base's vectors where none are given."""
    vocabulary = listed(vocabulary)
    return (vocabulary, vectors_for(view_of(pair.base), word_vectors, vocabulary)), options


vars(head_word_pairs)["in_pair"] = _in_pair  # see `ModelPair.compare`


def _check_room(view: ModelView, top_k: int, chunk: int) -> None:
    """Refuse so many candidates that the cosines of all their pairs, a chunk of heads at a time, fill the memory."""
    needed, free = BYTES_OF_PAIR * top_k**2 * view.d_head * chunk, available_memory(view.device)
    if needed > free:
        raise InputError(
            f"top_k={top_k} of {chunk} heads at a time takes about {needed / 2**30:.0f} GiB of {free / 2**30:.1f} GiB: "
            "expected a smaller top_k or chunk"
        )


_Compared = tuple[Float[Tensor, "word dim"], Float[Tensor, " word"], Bool[np.ndarray, " word"]]
_last: WeakKeyDictionary[WordVectors, tuple[object, _Compared]] = WeakKeyDictionary()  # controls ask for the same again


def _compared(
    vectors: WordVectors, words: tuple[str, ...], device: torch.device, threshold_words: int, threshold_std: float
) -> _Compared:
    """Return the words' unit vectors, their thresholds, and which words have a vector.

    Raises:
        InputError: under two have one.
    """
    key = words, device, threshold_words, threshold_std
    kept = _last.get(vectors)
    if kept is not None and kept[0] == key:
        return kept[1]
    rows, found = vectors.lookup(words)
    if found.sum() < 2:
        raise InputError(f"{vectors.source} has vectors of {found.sum()} of the {len(found)} words, expected 2 or more")
    unit = unit_vectors(torch.from_numpy(rows).to(device))
    thresholds = cosine_thresholds(unit, threshold_words=threshold_words, threshold_std=threshold_std)
    _last[vectors] = key, (unit, thresholds, found)
    return unit, thresholds, found


def _assembled(
    view: ModelView,
    options: dict,
    chosen: tuple[tuple[int, ...], tuple[int, ...]],
    words: tuple[str, ...],
    parts: list[tuple[Tensor, Tensor, Pairs]],
) -> HeadWordPairs:
    shape = "(layer head) dim -> layer head dim"
    counts = torch.cat([pairs.starts.diff() for *_, pairs in parts])
    return HeadWordPairs(
        view.provenance("head_word_pairs", options),
        layers=chosen[0],
        heads=chosen[1],
        words=words,
        dims=rearrange(torch.cat([dims for dims, *_ in parts]), shape, layer=len(chosen[0])),
        energy=rearrange(torch.cat([energy for _, energy, _ in parts]), shape, layer=len(chosen[0])),
        starts=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        key=torch.cat([pairs.key for *_, pairs in parts]),
        query=torch.cat([pairs.query for *_, pairs in parts]),
        cosine=torch.cat([pairs.cosine for *_, pairs in parts]),
    )
