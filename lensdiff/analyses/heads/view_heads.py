"""Heads as a grid of layers and heads: how much each changed, and for the chosen one its word pairs or OV words.

Every grid is one widget: a value from 0 to 1 per head, a sentence per head, and lists of words that belong to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs
from lensdiff.analyses.heads.ov_reading import POLES, SIDES, OVReading, ov_changes
from lensdiff.analyses.heads.pair_overlap import PairOverlap
from lensdiff.analyses.heads.qk_reading import QKReading
from lensdiff.results import Diff
from lensdiff.views.fallback import table_html
from lensdiff.views.show import register_diff, register_view
from lensdiff.views.widget import Widget

SHOWN_DIMS = 5  # of a head, in the view of word pairs
SHOWN_PAIRS = 8  # of a dimension
PAIR_LEGEND = "query → key: the query word's score for the key word is raised"
IGNORED = (
    "Read from weights alone: biases, positions, query-key norms and what earlier layers do to a word are left out."
)

Items = list[list[int]]  # indices of words, or of two words and a count
Block = tuple[str, list[Items]]  # a heading, and lists beside each other


@dataclass
class _Words:
    """The words that a widget mentions, each once."""

    index: dict[str, int] = field(default_factory=dict)

    def __call__(self, word: str) -> int:
        return self.index.setdefault(word, len(self.index))


@dataclass(frozen=True)
class _Side:
    role: str  # "base", "tuned" or "control": the colour
    name: str
    heads: list[list[Block]]  # layer by layer


def _widget(
    title: str,
    shape: tuple[Sequence[int], Sequence[int]],
    values: Sequence[float],
    *,
    meaning: str,
    lines: list[str],
    sides: list[_Side],
    words: _Words,
    notes: list[str],
    top: pd.DataFrame,
    marked: list[bool] | None = None,
) -> Widget:
    data: dict[str, Any] = {
        "layers": list(shape[0]),
        "heads": list(shape[1]),
        "values": [float(f"{v:.3g}") for v in values],
        "meaning": meaning,
        "lines": lines,
        "sides": [{"role": s.role, "name": s.name, "heads": s.heads} for s in sides],
        "words": list(words.index),
        "notes": notes,
        "marked": marked or [],
    }
    return Widget("heads", data, title, height=760, fallback=table_html(top, meaning))


@register_view
def show_overlap(result: PairOverlap) -> Widget:
    """Return the grid of how much each head's word pairs changed; a head shows the pairs gained and lost."""
    words, frame = _Words(), result.to_df()
    place = {index: words(result.words[index]) for index in _used(result)}
    sides = [
        _Side(role, name, [_changed_pairs(result, side, place, i, j) for i, j in _places(result)])
        for side, (role, name) in enumerate((("tuned", "Pairs gained"), ("base", "Pairs lost")))
    ]
    below = (frame.jaccard < frame.jaccard_control_low).tolist()
    lines = [_overlap_line(row, beyond) for row, beyond in zip(frame.itertuples(), below, strict=True)]
    known = frame.jaccard_control_low.notna().any()
    beside = (
        "A ring marks heads that changed more than control models, meaningless changes of the same size, explain."
        if known
        else "Too few control models to tell how much a meaningless change of the same size would change."
    )
    claim = [f"Whole model, mean Jaccard of all heads: {result.whole}."] if result.whole else []
    return _widget(
        f"Word pairs of heads: {result.provenance.model}",
        (result.layers, result.heads),
        (1 - frame.jaccard).tolist(),
        meaning="part of the word pairs that changed (1 - Jaccard)",
        lines=lines,
        sides=sides,
        words=words,
        notes=[*claim, beside, f"{PAIR_LEGEND}. × says in how many dimensions. {IGNORED}"],
        top=result.top(10),
        marked=below,
    )


def _used(result: PairOverlap) -> list[int]:
    both = np.concatenate([result.changed_key.numpy().ravel(), result.changed_query.numpy().ravel()])
    return [int(index) for index in np.unique(both) if index >= 0]


def _places(result: PairOverlap | OVReading | HeadWordPairs | QKReading) -> list[tuple[int, int]]:
    return [(i, j) for i in range(len(result.layers)) for j in range(len(result.heads))]


def _changed_pairs(result: PairOverlap, side: int, place: dict[int, int], i: int, j: int) -> list[Block]:
    fields = (result.changed_query, result.changed_key, result.changed_dims)
    rows = zip(*(x[side, i, j].tolist() for x in fields), strict=True)
    items = [[place[query], place[key], dims] for query, key, dims in rows if key >= 0]
    total = int(result.counts[2 + side, i, j])
    return [(f"first {len(items)} of {total}" if len(items) < total else f"all {total}", [items])]


def _overlap_line(row: Any, beyond: bool) -> str:
    line = f"Jaccard {row.jaccard:.3f}: {row.gained} pairs gained, {row.lost} lost, {row.n_base - row.lost} kept"
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


def _pairs_widget(runs: list[tuple[str, str, HeadWordPairs]]) -> Widget:
    words, last = _Words(), runs[-1][2]
    sides = [_Side(role, name, [_strongest(run, words, *place) for place in _places(run)]) for role, name, run in runs]
    counts = last.counts.sum(dim=-1).flatten()
    lines = [f"{n} word pairs over {last.dims.shape[-1]} dimensions" for n in counts.tolist()]
    options = last.provenance.options
    return _widget(
        f"Word pairs of heads: {' and '.join(run.provenance.model for *_, run in runs)}",
        (last.layers, last.heads),
        (counts / counts.max().clamp_min(1)).tolist(),
        meaning=f"word pairs of the head, as a share of the largest number, {int(counts.max())}",
        lines=lines,
        sides=sides,
        words=words,
        notes=[f"{PAIR_LEGEND}. Cosines: {options.get('word_vectors', 'given vectors')}. {IGNORED}"],
        top=last.top(10).loc[:, ["layer", "head_index", "dim", "key_word", "query_word", "cosine"]],
    )


def _strongest(result: HeadWordPairs, words: _Words, i: int, j: int) -> list[Block]:
    pairs = result.of_head(result.layers[i], result.heads[j])
    share, blocks = result.energy[i, j] / result.energy[i, j].sum().clamp_min(1e-30), []
    for rank in range(min(SHOWN_DIMS, len(share))):
        first, last = pairs.starts[rank : rank + 2].tolist()
        shown = slice(first, min(last, first + SHOWN_PAIRS))
        rows = zip(pairs.query[shown].tolist(), pairs.key[shown].tolist(), strict=True)
        items = [[words(result.words[query]), words(result.words[key])] for query, key in rows]
        dim = int(result.dims[i, j, rank])
        blocks.append((f"dimension {dim}, {share[rank]:.0%} of the energy, {last - first} pairs", [items]))
    return blocks


@register_view
def show_ov(result: OVReading) -> Widget:
    """Return the grid of one model's OV components; a head shows what it reads and writes."""
    words, share = _Words(), result.share[..., 0].flatten()
    return _ov_widget(
        [("control", result.provenance.model, result)],
        words,
        share,
        [f"its first component holds {value:.0%} of W_OV" for value in share.tolist()],
        "share of the first component in W_OV",
    )


@register_diff(OVReading)
def show_ov_of_both(result: Diff) -> Widget:
    """Return both models' OV components, head by head, coloured by the part of their words that changed."""
    changes = ov_changes(result.base, result.tuned)
    components = result.base.share.shape[-1]
    shared = changes["shared"].to_numpy(dtype=np.float64).reshape(-1, components).mean(axis=1)
    lines = [f"{value:.0%} of the listed words are the same in both models" for value in shared]
    sides = [("base", "base", result.base), ("tuned", "tuned", result.tuned)]
    return _ov_widget(sides, _Words(), 1 - shared, lines, "part of the listed words that changed")


def _ov_widget(
    runs: list[tuple[str, str, OVReading]],
    words: _Words,
    values: Tensor | np.ndarray,
    lines: list[str],
    meaning: str,
) -> Widget:
    last = runs[-1][2]
    sides = [_Side(role, name, [_components(run, words, *place) for place in _places(run)]) for role, name, run in runs]
    return _widget(
        f"What heads read and write: {' and '.join(run.provenance.model for *_, run in runs)}",
        (last.layers, last.heads),
        values.tolist(),
        meaning=meaning,
        lines=lines,
        sides=sides,
        words=words,
        notes=[
            "Leading singular directions of W_OV: a head that attends to a word on the left writes the words on its "
            "right and suppresses those of the other pole. Signs and the order of near-equal components are arbitrary.",
            "The direct path from head to logits, from weights alone; later layers are left out.",
        ],
        top=last.top(10),
    )


def _components(result: OVReading, words: _Words, i: int, j: int) -> list[Block]:
    blocks = []
    for component, share in enumerate(result.share[i, j].tolist()):
        for p, pole in enumerate(POLES):
            reads, writes = (
                [[words(result.words[w])] for w in result.word_index[i, j, component, s, p].tolist()]
                for s in range(len(SIDES))
            )
            name = f"component {component} ({share:.0%} of W_OV), pole {'+' if pole > 0 else '−'}: reads, writes"
            blocks.append((name, [reads, writes]))
    return blocks


@register_view
def show_qk(result: QKReading) -> Widget:
    """Return the grid of the first token's share against the pairs' keys; a head shows its pairs by it."""
    words = _Words()
    pairs = [(words(q), words(k)) for q, k in zip(result.query_words, result.key_words, strict=True)]
    mean = result.sink_share.mean(dim=(-2, -1)).flatten()
    heads = [
        [
            (
                f"distance {distance}, least taken by the first token first",
                [[list(pairs[p]) for p in result.sink_share[i, j, :, d].argsort(stable=True).tolist()]],
            )
            for d, distance in enumerate(result.distances)
        ]
        for i, j in _places(result)
    ]
    return _widget(
        f"Query-key scores of word pairs: {result.provenance.model}",
        (result.layers, result.heads),
        mean.tolist(),
        meaning="first token's share against the key word, mean over pairs and distances",
        lines=[
            f"the first token would take {value:.0%} of it, mean over pairs and distances" for value in mean.tolist()
        ],
        sides=[_Side("control", result.provenance.model, heads)],
        words=words,
        notes=[
            f"Real scores before softmax with norms, biases and positions, the query at position {result.query_pos} "
            f"after the first token {result.first_token!r}; words stand for themselves in every layer."
        ],
        top=result.top(10),
    )
