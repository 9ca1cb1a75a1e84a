"""How far one model's attention lies from another's: kernels; the formulas are in `shift`."""

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from lensdiff.analyses.attention.patterns import AttentionPatterns

DISTANCES = ("js_distance", "js_distance_no_sink")


def js_distances(
    base: Float[np.ndarray, "*batch key_pos"], tuned: Float[np.ndarray, "*batch key_pos"]
) -> Float[np.ndarray, "*batch"]:
    """Return the Jensen-Shannon distance of each pair of rows, log base 2, in [0, 1]; equal rows give exactly 0.

    Rows are normalised first. Where either is all zero there is nothing to compare: 0.
    """
    empty = (base.sum(axis=-1) == 0) | (tuned.sum(axis=-1) == 0)
    p, q = (np.where(empty[..., None], 1.0, side.astype(np.float64)) for side in (base, tuned))
    with np.errstate(invalid="ignore"):  # the divergence of nearly equal rows can round to below zero
        distances = jensenshannon(p, q, base=2, axis=-1)  # pyright: ignore[reportCallIssue] (stubs without axis)
    return np.nan_to_num(distances)


def head_distances(
    base: Float[Tensor, "head_index query_pos key_pos"],
    tuned: Float[Tensor, "head_index query_pos key_pos"],
    *,
    first_query: int = 0,
) -> Float[np.ndarray, "distance head_index"]:
    """Return each head's mean distance over the queries from `first_query` on: with the first key, and without it."""
    rest = max(first_query, 1)
    with_sink, without = [], []
    for p, q in zip(base.numpy(), tuned.numpy(), strict=True):  # one head at a time: float64 copies stay small
        with_sink.append(js_distances(p[first_query:], q[first_query:]).mean())
        without.append(js_distances(p[rest:, 1:], q[rest:, 1:]).mean())
    return np.array([with_sink, without])


def distances_of(base: AttentionPatterns, other: AttentionPatterns) -> Float[np.ndarray, "distance layer head_index"]:
    """Return each head's mean distances between two models' patterns of one text, special tokens left out."""
    layers = zip(base.patterns, other.patterns, strict=True)
    return np.stack([head_distances(p, q, first_query=base.n_special) for p, q in layers], axis=1)
