"""How much of what a head relates survived tuning: the overlap of its word pairs, and the pairs gained and lost.

    pairs of a head   its (key word, query word) pairs, over all its dimensions
    Jaccard           pairs in both models / pairs in either                        1: the same, 0: none shared
                      two heads without pairs agree: 1

Dimensions are not matched: a rotation of a head's dimensions that leaves W_Q W_K^T as it is can change its pairs. A
meaningless change of the weights also changes them, so the Jaccard of control models stands beside: the band is the
largest of those of all kinds of controls, each of which holds one more control with `level`, and a head below it
changed more than such changes explain. There is one p for the whole model (`whole`): the mean Jaccard of all heads
beside that of the controls, two-sided.

Gained and lost pairs are listed by the number of dimensions that hold them, then by cosine.

Memory: the results of base, tuned and one control at a time, and 8 bytes per distinct pair of the base.
Reference: ours; the pairs are those of Wu et al., NAACL 2024, section 5; doi 10.18653/v1/2024.naacl-long.130.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.heads.defaults import TABLE_TOP
from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs, check_comparable
from lensdiff.models.given import check_results, results_on_controls
from lensdiff.models.progress import tracked
from lensdiff.results import InputError, Provenance, Result
from lensdiff.results.numbers import check_count
from lensdiff.results.tidy import tidy

CHANGES = ("gained", "lost")


class PairSet(NamedTuple):
    """A head's distinct pairs: key * words + query in ascending order, how many dimensions hold each, its cosine."""

    codes: Int[np.ndarray, " pair"]
    dims: Int[np.ndarray, " pair"]
    cosine: Float[np.ndarray, " pair"]


def pair_set(result: HeadWordPairs, layer: int, head_index: int) -> PairSet:
    """Return the distinct pairs of one head."""
    pairs = result.of_head(layer, head_index)
    codes = pairs.key.numpy().astype(np.int64) * len(result.words) + pairs.query.numpy()
    unique, first, dims = np.unique(codes, return_index=True, return_counts=True)
    return PairSet(unique, dims, pairs.cosine.numpy()[first])


def jaccard(one: Int[np.ndarray, " pair"], other: Int[np.ndarray, " other_pair"]) -> float:
    """Return the shared part of two sets of distinct codes, in [0, 1]; two empty sets agree."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    either = len(one) + len(other) - shared
    return shared / either if either else 1.0


@dataclass(frozen=True, eq=False)
class PairOverlap(Result):
    """Each head's overlap before and after tuning, beside that of control models; see the module.

    Attributes:
        layers, heads: which ones were read, counted from 0.
        words: the word list that `changed_key` and `changed_query` point into.
        jaccard: of base and tuned; band: limits (low, high) of one more control's of any kind, NaN with fewer than 19
            controls of a kind.
        counts: distinct pairs on axis `count`: in the base, in the tuned model, gained, lost.
        changed_key, changed_query: the first pairs gained and lost (axis `side`), -1 where there are no more.
        changed_dims: how many dimensions hold each.
        whole: the mean Jaccard of all heads beside that of the controls; None without controls.
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    words: tuple[str, ...]
    jaccard: Float[Tensor, "layer head_index"]
    band: Float[Tensor, "limit layer head_index"]
    counts: Int[Tensor, "count layer head_index"]
    changed_key: Int[Tensor, "side layer head_index rank"]
    changed_query: Int[Tensor, "side layer head_index rank"]
    changed_dims: Int[Tensor, "side layer head_index rank"]
    whole: stats.Envelope | None

    def told(self) -> list[str]:
        """Return the mean Jaccard beside controls, and the head whose pairs changed most."""
        where: Any = self.top(1).iloc[0]
        beside = f"{float(self.jaccard.mean()):.3g}" if self.whole is None else str(self.whole)
        most = f"layer {where.layer:.0f}, head {where.head_index:.0f}: {where.jaccard:.3g}"
        return [f"Jaccard of the pairs, mean of all heads: {beside}", f"changed most: {most}"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per head.

        Columns: layer, head_index, jaccard, jaccard_control_low, jaccard_control_high, n_base, n_tuned, gained, lost.
        """
        low, high = self.band
        columns = {"jaccard": self.jaccard, "jaccard_control_low": low, "jaccard_control_high": high}
        columns |= dict(zip(("n_base", "n_tuned", "gained", "lost"), self.counts, strict=True))
        return tidy({"layer": self.layers, "head_index": self.heads}, columns)

    def changes(self, layer: int, head_index: int) -> pd.DataFrame:
        """Return one head's listed pairs, first gained then lost: change, rank, key_word, query_word, dims.

        Args:
            layer, head_index: which, counted from 0.

        Raises:
            InputError: the layer or the head was not compared.
        """
        if layer not in self.layers or head_index not in self.heads:
            raise InputError(
                f"layer {layer}, head {head_index} was not compared, available: layers "
                f"{', '.join(map(str, self.layers))}, heads {', '.join(map(str, self.heads))}"
            )
        place = self.layers.index(layer), self.heads.index(head_index)
        rows = []
        for side, name in enumerate(CHANGES):
            keys, queries, dims = (
                x[side, *place].tolist() for x in (self.changed_key, self.changed_query, self.changed_dims)
            )
            rows += [
                (name, rank, self.words[key], self.words[query], n)
                for rank, (key, query, n) in enumerate(zip(keys, queries, dims, strict=True), start=1)
                if key >= 0
            ]
        return pd.DataFrame(rows, columns=["change", "rank", "key_word", "query_word", "dims"])

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k heads whose pairs changed most, by Jaccard."""
        columns = ["layer", "head_index", "jaccard", "jaccard_control_low", "jaccard_control_high", "gained", "lost"]
        return self.to_df().nsmallest(k, "jaccard").reset_index(drop=True).loc[:, columns]


def pair_overlap(
    base: HeadWordPairs,
    tuned: HeadWordPairs,
    *,
    controls: Iterable[HeadWordPairs] = (),
    table_top: int = TABLE_TOP,
    level: float = 0.95,
) -> PairOverlap:
    """Return how much of every head's word pairs base and tuned model share.

    Args:
        base, tuned, controls: word pairs found with the same words, vectors and options; controls are those of
            `pair.control(kind, seed)`, at least 19 of each kind for a band. A generator saves memory.
        table_top: how many of the gained and of the lost pairs to list per head.
        level: of the controls' band.

    Raises:
        InputError: the results are not comparable, or table_top is below 0.
    """
    for given in (base, tuned):
        check_results(given, HeadWordPairs, "pair_overlap", "head_word_pairs")
    controls = results_on_controls(controls, HeadWordPairs, "pair_overlap", "head_word_pairs")
    check_count("table_top", table_top, least=0)
    check_comparable(base, tuned, "tuned")
    shape = len(base.layers), len(base.heads)
    places = [(layer, head) for layer in base.layers for head in base.heads]
    before, overlap, changes = [], [], []
    for place in tracked(
        places, "comparing word pairs"
    ):  # of the base only the codes are kept, of the tuned model nothing
        mine, theirs = pair_set(base, *place), pair_set(tuned, *place)
        before.append(mine.codes)
        overlap.append(jaccard(mine.codes, theirs.codes))
        changes.append(_changes(mine, theirs, len(base.words), table_top))
    origins, others = _control_overlaps(base, before, controls, places)
    listed = np.stack([change.listed for change in changes]).reshape(*shape, 2, 3, table_top)
    key, query, dims = (torch.from_numpy(listed[:, :, :, i].transpose(2, 0, 1, 3).copy()) for i in range(3))
    options = {
        "base": base.provenance.model,
        "heads": base.provenance.options,
        "table_top": table_top,
        "level": level,
    }
    provenance = replace(tuned.provenance, analysis="pair_overlap", options=options).beside(origins)
    of_kinds = stats.by_kind(others, provenance.control_kinds)
    of_heads = stats.against_controls(np.array(overlap), of_kinds, level=level, limits=(0.0, 1.0))
    means = {kind: [own.mean() for own in some] for kind, some in of_kinds.items()}
    return PairOverlap(
        provenance,
        base.layers,
        base.heads,
        base.words,
        torch.from_numpy(np.array(overlap).reshape(shape)),
        torch.from_numpy(np.stack(of_heads.band).reshape(2, *shape)),
        torch.from_numpy(np.array([change.counts for change in changes]).T.reshape(4, *shape).copy()),
        key,
        query,
        dims,
        stats.against_controls(np.array(overlap).mean(), means, level=level).envelope,
    )


def _control_overlaps(
    base: HeadWordPairs,
    before: list[Int[np.ndarray, " _"]],
    controls: Iterable[HeadWordPairs],
    places: list[tuple[int, int]],
) -> tuple[list[Provenance], list[Float[np.ndarray, " head"]]]:
    """Return where the controls' pairs come from, and the Jaccard of each one's heads with the base's."""
    origins, overlaps = [], []
    for i, control in enumerate(tracked(controls, "comparing controls")):
        check_comparable(base, control, f"control {i}")
        own = (pair_set(control, *place).codes for place in places)
        overlaps.append(np.array([jaccard(codes, theirs) for codes, theirs in zip(before, own, strict=True)]))
        origins.append(control.provenance)
    return origins, overlaps


class _Changes(NamedTuple):
    counts: tuple[int, int, int, int]
    listed: Int[np.ndarray, "side field rank"]  # key, query, dims; -1 where there are no more


def _changes(base: PairSet, tuned: PairSet, n_words: int, table_top: int) -> _Changes:
    listed, sizes = np.full((2, 3, table_top), -1, dtype=np.int32), []
    for side, (mine, theirs) in enumerate(((tuned, base), (base, tuned))):
        only = np.flatnonzero(~np.isin(mine.codes, theirs.codes, assume_unique=True))
        sizes.append(len(only))
        best = only[np.lexsort((-mine.cosine[only], -mine.dims[only]))][:table_top]
        listed[side, :, : len(best)] = mine.codes[best] // n_words, mine.codes[best] % n_words, mine.dims[best]
    return _Changes((len(base.codes), len(tuned.codes), sizes[0], sizes[1]), listed)
