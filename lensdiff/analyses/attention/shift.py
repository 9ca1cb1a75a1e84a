"""How far tuning moved each head's attention: distances between the patterns, and differences of the shares.

Base and tuned model read the same tokens. With P and Q a query's attention in the base and in the tuned model:

    JS distance   sqrt( (KL(P || M) + KL(Q || M)) / 2 ),  M = (P + Q) / 2,  log base 2      in [0, 1], mean over queries
    without sink  the same after dropping the first key and renormalising the rest, query 0 skipped
    difference    tuned - base of each measure of `attention`, mean over prompts

Queries are prompt and response tokens. Distances are means over the queries of a prompt, then over prompts. A query
that gives the first key all it has, in either model, says nothing of the rest: it adds 0 to the distance without sink.

What the numbers can say and what not:
- A distance is never negative, so an interval around it cannot exclude zero. It stands beside the same distance of
  control models, and so does each difference: the band is the largest of those of all kinds of controls, each of which
  holds one more control with probability `level`; with fewer than 19 of a kind there is none. There is one p-value for
  the whole model (`whole`): the mean distance of all heads beside that of the controls.
- Intervals and p-values of the differences are over prompts: is the difference steady from prompt to prompt? That of
  a meaningless change can be steady too; the band tells.

Memory: one text's patterns of all models at a time, if the results come from generators. Ignored: the values that are
attended to; a head that moves its attention between equal values does the same as before.

Reference: Lin, IEEE Trans. Inf. Theory 37, 1991 (divergence); Endres and Schindelin, ibid. 49, 2003 (its root).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.attention.patterns import MEASURES, AttentionPatterns
from lensdiff.results import InputError, Result
from lensdiff.results.tidy import tidy

Patterns = AttentionPatterns | Iterable[AttentionPatterns]
FEWEST_PROMPTS = 2  # that an interval can be had from
DISTANCES = ("js_distance", "js_distance_no_sink")
STATISTICS = ("base", "tuned", "difference", "low", "high", "control_low", "control_high", "p", "p_adjusted")


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


@dataclass(frozen=True, eq=False)
class AttentionShift(Result):
    """What changed in every head's attention, tuned - base, over prompts; see the module for what each number says.

    Attributes:
        layers: the layers that were compared, counted from 0.
        n_prompts: how many prompts each measure was had from, in the order of `MEASURES`.
        distances: the mean distance with and without the first key (axis `distance`, as `DISTANCES`).
        distance_band: limits (axis `limit`: low, high) within which one more control's distance lies.
        measures: axis `statistic` as `STATISTICS`, axis `measure` as `MEASURES`.
        whole: the mean distance of all heads beside that of the controls; None without controls.

    NaN where a number cannot be had: bands with fewer than 19 controls of a kind, intervals and p from fewer than two
    prompts, shares of a part that no prompt marks.
    """

    layers: tuple[int, ...]
    n_prompts: tuple[int, ...]
    distances: Float[Tensor, "distance layer head_index"]
    distance_band: Float[Tensor, "distance limit layer head_index"]
    measures: Float[Tensor, "measure statistic layer head_index"]
    whole: stats.Envelope | None

    def to_df(self) -> pd.DataFrame:
        """Return a row per head: layer, head_index, each distance with its band, each measure with its statistics.

        Distances: js_distance, js_distance_control_low, js_distance_control_high; the same for js_distance_no_sink.
        Measures: sink_share_base and so on, each of `MEASURES` with each of `STATISTICS`.
        """
        columns: dict[str, Tensor] = {}
        for name, values, (low, high) in zip(DISTANCES, self.distances, self.distance_band, strict=True):
            columns |= {name: values, f"{name}_control_low": low, f"{name}_control_high": high}
        for name, statistics in zip(MEASURES, self.measures, strict=True):
            columns |= {f"{name}_{s}": values for s, values in zip(STATISTICS, statistics, strict=True)}
        return tidy({"layer": self.layers, "head_index": range(self.distances.shape[-1])}, columns)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k heads whose attention moved most, by `js_distance`."""
        return self.to_df().nlargest(k, "js_distance").reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class ControlAttention(Result):
    """What `attention_shift` needs of one control model, without its patterns: see `control_attention`.

    Attributes:
        layers: as in the patterns; texts: a name for each text, its tokens.
        distances: from the base's patterns (axis `distance` as `DISTANCES`).
        measures: the control's own (axis `measure` as `MEASURES`).
    """

    layers: tuple[int, ...]
    texts: tuple[tuple[str, ...], ...]
    distances: Float[Tensor, "text distance layer head_index"]
    measures: Float[Tensor, "text measure layer head_index"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per head: layer, head_index, and the mean of each distance and measure over texts."""
        columns: dict[str, Tensor] = {}
        for names, values in ((DISTANCES, self.distances), (MEASURES, self.measures)):
            columns |= dict(zip(names, values.nanmean(dim=0), strict=True))
        return tidy({"layer": self.layers, "head_index": range(self.distances.shape[-1])}, columns)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k heads whose attention moved most, by `js_distance`."""
        return self.to_df().nlargest(k, "js_distance").reset_index(drop=True)


def control_attention(base: Patterns, control: Patterns) -> ControlAttention:
    """Return how far one control's attention lies from the base's on the same texts, patterns left out.

    Raises:
        InputError: as `attention_shift`.
    """
    distances, values, texts, last = [], [], [], None
    for mine, theirs in _texts(("base", "control"), (base, control)):
        distances.append(_distances(mine, theirs))
        values.append(_measured(theirs))
        texts.append(tuple(mine.tokens))
        last = theirs
    if last is None:
        raise InputError("there are no attention results to compare, expected at least one of base and of the control")
    return ControlAttention(
        replace(last.provenance, analysis="control_attention", options={"attention": last.provenance.options}),
        last.layers,
        tuple(texts),
        torch.from_numpy(np.stack(distances)),
        torch.from_numpy(np.stack(values)),
    )


def attention_shift(
    base: Patterns,
    tuned: Patterns,
    controls: Sequence[Patterns | ControlAttention] = (),
    *,
    level: float = 0.95,
    adjustment: str = "bh",
    seed: int = 0,
) -> AttentionShift:
    """Return how far each head's attention moved from base to tuned, over one text or many.

    Args:
        base, tuned: results of `attention` on the same texts in the same order; lists, or generators to save memory.
        controls: results of `attention` on the same texts, one entry per control model, or of `control_attention`.
        level: of the intervals over prompts (paired t) and of the controls' bands.
        adjustment: false-discovery control over all p-values of the table, "bh" or "by" (see `stats.adjust`). They come
            from paired t tests, or from sign flips where all prompts differ by the same amount.
        seed: of the sign flips.

    Raises:
        InputError: no results, unequal numbers of them, patterns that were not kept, base and tuned (or a control) read
            other tokens, layers or heads, measured parts differently, or an unusable option.
    """
    given = [control for control in controls if not isinstance(control, ControlAttention)]
    names = ("base", "tuned", *(f"control {i}" for i in range(len(given))))
    distances, values, origins, layers, texts = [], [], [], (), []
    for group in _texts(names, (base, tuned, *given)):
        origins, layers = [result.provenance for result in group], group[0].layers
        distances.append([_distances(group[0], other) for other in group[1:]])
        values.append([_measured(result) for result in group])
        texts.append(tuple(group[0].tokens))
    if not values:
        raise InputError("there are no attention results to compare, expected at least one of base and of tuned")
    apart = [control for control in controls if isinstance(control, ControlAttention)]
    for control in apart:
        _check_apart(control, layers, tuple(texts))
    origins += [control.provenance for control in apart]
    moved = np.concatenate(  # [model distance layer head_index], without base
        [np.mean(distances, axis=0), *(control.distances.numpy().mean(axis=0)[None] for control in apart)]
    )
    read = np.concatenate(  # [model prompt measure layer head_index]
        [np.stack(values, axis=1), *(control.measures.numpy()[None] for control in apart)]
    )
    kinds = [origin.control_kind for origin in origins[2:]]
    measures = _measures(read, kinds, level=level, adjustment=adjustment, seed=seed)
    options = {
        "base": origins[0].model,
        "controls": [origin.model for origin in origins[2:]],
        "control_kinds": kinds,
        "attention": origins[0].options,
        "n_prompts": len(values),
        "level": level,
        "adjustment": adjustment,
    }
    return AttentionShift(
        replace(origins[1], analysis="attention_shift", options=options, seed=seed),
        layers,
        tuple(int(n) for n in (~np.isnan(read[0, :, :, 0, 0])).sum(axis=0)),
        torch.from_numpy(moved[0]),
        torch.from_numpy(np.maximum(_band(moved[1:], kinds, level), 0.0)),  # no distance is negative
        torch.from_numpy(measures),
        _whole(moved, kinds, level),
    )


def _measured(result: AttentionPatterns) -> Float[np.ndarray, "measure layer head_index"]:
    return torch.stack([getattr(result, name) for name in MEASURES]).numpy()


def _check_apart(control: ControlAttention, layers: tuple[int, ...], texts: tuple[tuple[str, ...], ...]) -> None:
    if control.layers != layers or control.texts != texts:
        raise InputError(
            f"the control {control.provenance.model} was read on {len(control.texts)} texts in layers "
            f"{list(control.layers)}, expected the same {len(texts)} texts and layers {list(layers)} as base and tuned"
        )


def _texts(names: Sequence[str], runs: Sequence[Patterns]) -> Iterator[tuple[AttentionPatterns, ...]]:
    """Yield the results of one text after the other, those of all models, checked to be comparable."""
    many = [(run,) if isinstance(run, AttentionPatterns) else run for run in runs]
    shape = None
    for i, group in enumerate(zip_longest(*many)):
        for name, result in zip(names, group, strict=True):
            if result is None:
                raise InputError(f"{name} has {i} attention results, another model has more: expected the same texts")
            if not isinstance(result, AttentionPatterns):
                raise InputError(f"{name} holds a {type(result).__name__}, expected results of attention()")
            _check(group[0], result, f"text {i}: {name}")
        shape = shape or _shape(group[0])
        if _shape(group[0]) != shape:
            raise InputError(f"text {i} has {_shape(group[0])}, text 0 has {shape}: expected the same")
        yield group


def _shape(result: AttentionPatterns) -> str:
    return f"layers {list(result.layers)} of {result.sink_share.shape[1]} heads"


def _check(base: AttentionPatterns, other: AttentionPatterns, name: str) -> None:
    if other.tokens != base.tokens:
        n = next(i for i, (a, b) in enumerate(zip_longest(base.tokens, other.tokens)) if a != b)
        seen = " but ".join(repr(r.tokens[n]) if n < len(r.tokens) else "no token" for r in (other, base))
        raise InputError(f"{name} read other tokens than base, {seen} at position {n}: expected the same text in both")
    if _shape(other) != _shape(base):
        raise InputError(f"{name} has {_shape(other)}, base has {_shape(base)}: expected the same")
    # a BOS that is written in the prompt may be special in one model and an ordinary token of the other
    same_boundary = other.n_special + other.n_prompt == base.n_special + base.n_prompt
    if not same_boundary or not torch.equal(other.parts, base.parts):
        raise InputError(f"{name} was read with another prompt, other spans or another sink= than base")
    if not (base.patterns.numel() and other.patterns.numel()):
        raise InputError(f"{name} or base was made with keep_patterns=False, expected kept patterns")


def _distances(base: AttentionPatterns, other: AttentionPatterns) -> Float[np.ndarray, "distance layer head_index"]:
    layers = zip(base.patterns, other.patterns, strict=True)
    return np.stack([head_distances(p, q, first_query=base.n_special) for p, q in layers], axis=1)


def _band(
    controls: Float[np.ndarray, " control *shape"], kinds: Sequence[str], level: float
) -> Float[np.ndarray, "..."]:
    """Return the limits on a new axis 1, NaN without enough controls."""
    return np.stack(stats.kinds_band(controls, kinds, level=level), axis=1)


def _whole(
    moved: Float[np.ndarray, "model distance layer head_index"], kinds: Sequence[str], level: float
) -> stats.Envelope | None:
    effect, *controls = moved[:, 0].mean(axis=(1, 2)).tolist()
    return stats.envelope(effect, stats.by_kind(controls, kinds), level=level) if controls else None


def _measures(
    read: Float[np.ndarray, "model prompt measure layer head_index"],
    kinds: Sequence[str],
    *,
    level: float,
    adjustment: str,
    seed: int,
) -> Float[np.ndarray, "measure statistic layer head_index"]:
    shape = read.shape[3:]
    out = np.full((len(MEASURES), len(STATISTICS), *shape), np.nan)
    tests = {}
    for m in range(len(MEASURES)):
        per_prompt = read[:, ~np.isnan(read[0, :, m, 0, 0]), m]
        if not per_prompt.shape[1]:
            continue
        base, tuned = per_prompt[:2]
        out[m, :3] = base.mean(axis=0), tuned.mean(axis=0), (tuned - base).mean(axis=0)
        out[m, 5:7] = _band((per_prompt[2:] - base).mean(axis=1)[:, None], kinds, level)[0]
        if len(base) < FEWEST_PROMPTS:
            continue
        out[m, 3:5] = stats.paired_interval(tuned, base, level=level)
        for head in np.ndindex(shape):
            tests[m, *head] = _paired(tuned[:, *head], base[:, *head], seed)
            out[m, 7, *head] = tests[m, *head].p
    family = f"attention_shift, {len(tests)} differences"
    for (m, *head), test in zip(
        tests, stats.adjust(list(tests.values()), family=family, method=adjustment), strict=True
    ):
        out[m, 8, *head] = test.p_adjusted
    return out


def _paired(tuned: Float[np.ndarray, " prompt"], base: Float[np.ndarray, " prompt"], seed: int) -> stats.Test:
    try:
        return stats.paired(tuned, base)
    except stats.NoVariation:  # every prompt differs by the same amount: no t statistic
        return stats.sign_flip(tuned - base, seed=seed)
