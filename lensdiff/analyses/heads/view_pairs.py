"""The word pairs of heads: how many changed in each head and which, or the strongest of one model or of both."""

from typing import Any

import numpy as np

from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs
from lensdiff.analyses.heads.pair_overlap import PairOverlap
from lensdiff.analyses.heads.view_grid import IGNORED, Block, HeadsData, SideData, grid_widget, places
from lensdiff.results import Diff
from lensdiff.results.numbers import n_of
from lensdiff.views.numbers import rounded_all
from lensdiff.views.show import register_diff, register_view
from lensdiff.views.widget import Role, Widget
from lensdiff.views.words import WordIndex

SHOWN_DIMS = 5  # of a head
SHOWN_PAIRS = 8  # of a dimension
PAIR_LEGEND = "query → key: the query word's score for the key word is raised"
COLUMNS = ("layer", "head_index", "dim", "key_word", "query_word", "cosine")  # for readers without scripts
CHANGES: tuple[tuple[Role, str], ...] = (("tuned", "Pairs gained"), ("base", "Pairs lost"))


@register_view
def show_overlap(result: PairOverlap) -> Widget:
    """Return the grid of how much each head's word pairs changed; a head shows the pairs gained and lost."""
    words, frame = WordIndex(), result.to_df()
    place = {index: words(result.words[index]) for index in _used(result)}
    sides = [
        SideData(role, name, [[_changed_pairs(result, side, place, i, j)] for i, j in places(result)])
        for side, (role, name) in enumerate(CHANGES)
    ]
    below = (frame.jaccard < frame.jaccard_control_low).tolist()
    known = frame.jaccard_control_low.notna().any()
    beside = (
        "A filled corner marks heads that changed more than meaningless changes of the same size explain."
        if known
        else "Too few control models to tell how much a meaningless change of the same size would change."
    )
    claim = [f"Whole model, mean Jaccard of all heads: {result.whole}."] if result.whole else []
    data = HeadsData(
        result.layers,
        result.heads,
        values=rounded_all(1 - frame.jaccard, 3),
        meaning="part of the word pairs that changed (1 - Jaccard)",
        lines=[_overlap_line(row, beyond) for row, beyond in zip(frame.itertuples(), below, strict=True)],
        sides=sides,
        words=words.words(),
        notes=[*claim, beside, f"{PAIR_LEGEND}. × says in how many dimensions. {IGNORED}"],
        marked=below,
    )
    return grid_widget(f"Word pairs of heads: {result.provenance.model}", data, result.top(10))


def _used(result: PairOverlap) -> list[int]:
    both = np.concatenate([result.changed_key.numpy().ravel(), result.changed_query.numpy().ravel()])
    return [int(index) for index in np.unique(both) if index >= 0]


def _changed_pairs(result: PairOverlap, side: int, place: dict[int, int], i: int, j: int) -> Block:
    fields = (result.changed_query, result.changed_key, result.changed_dims)
    rows = zip(*(x[side, i, j].tolist() for x in fields), strict=True)
    items = [[place[query], place[key], dims] for query, key, dims in rows if key >= 0]
    total = int(result.counts[2 + side, i, j])
    return Block(f"first {len(items)} of {total}" if len(items) < total else f"all {total}", [items])


def _overlap_line(row: Any, beyond: bool) -> str:
    line = (
        f"Jaccard {row.jaccard:.3f}: {n_of(row.gained, 'pair')} gained, {row.lost} lost, {row.n_base - row.lost} kept"
    )
    if np.isnan(row.jaccard_control_low):
        return line
    verdict = "changed more than" if beyond else "no more than"
    band = f"{row.jaccard_control_low:.3f} to {row.jaccard_control_high:.3f}"
    return f"{line}. Controls: Jaccard {band}; {verdict} a meaningless change"


@register_view
def show_pairs(result: HeadWordPairs) -> Widget:
    """Return the grid of one model's word pairs; a head shows its strongest dimensions."""
    return _pairs_widget([("control", result.provenance.model, result)])


@register_diff(HeadWordPairs)
def show_pairs_of_both(result: Diff) -> Widget:
    """Return both models' word pairs, head by head."""
    return _pairs_widget([("base", "base", result.base), ("tuned", "tuned", result.tuned)])


def _pairs_widget(runs: list[tuple[Role, str, HeadWordPairs]]) -> Widget:
    words, last = WordIndex(), runs[-1][2]
    sides = [
        SideData(role, name, [_strongest(run, words, *place) for place in places(run)]) for role, name, run in runs
    ]
    counts = last.counts.sum(dim=-1).flatten()
    cosines = last.provenance.options.get("word_vectors", "given vectors")
    data = HeadsData(
        last.layers,
        last.heads,
        values=rounded_all(counts / counts.max().clamp_min(1), 3),
        meaning=f"word pairs of the head, as a share of the largest number, {int(counts.max())}",
        lines=[f"{n_of(n, 'word pair')} over {n_of(last.dims.shape[-1], 'dimension')}" for n in counts.tolist()],
        sides=sides,
        words=words.words(),
        notes=[f"{PAIR_LEGEND}. Cosines: {cosines}. {IGNORED}"],
    )
    title = f"Word pairs of heads: {' and '.join(run.provenance.model for *_, run in runs)}"
    return grid_widget(title, data, last.top(10).loc[:, list(COLUMNS)])


def _strongest(result: HeadWordPairs, words: WordIndex, i: int, j: int) -> list[Block]:
    pairs = result.of_head(result.layers[i], result.heads[j])
    share, blocks = result.energy[i, j] / result.energy[i, j].sum().clamp_min(1e-30), []
    for rank in range(min(SHOWN_DIMS, len(share))):
        first, last = pairs.starts[rank : rank + 2].tolist()
        shown = slice(first, min(last, first + SHOWN_PAIRS))
        rows = zip(pairs.query[shown].tolist(), pairs.key[shown].tolist(), strict=True)
        items = [[words(result.words[query]), words(result.words[key])] for query, key in rows]
        dim = int(result.dims[i, j, rank])
        blocks.append(Block(f"dimension {dim}, {share[rank]:.0%} of the energy, {n_of(last - first, 'pair')}", [items]))
    return blocks
