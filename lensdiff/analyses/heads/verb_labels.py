"""Do instruction verbs move more than verbs like them? Labels permuted; formulas in `verb_shift`.

A verb's base count decides how far it can fall, and its frequency how steady its embedding is, so labels are permuted
among verbs with about the same of both:

    stratum     base count 0, 1-2, 3-5, 6-10, 11-20, 21-50, 51 and more  x  quartile of word-list frequency

Quartiles are of the listed verbs that the heads' word list holds; a verb to which the frequency list gives no number
goes into a fifth part, "unknown". A verb outside the heads' word list is never counted, so it takes no part.

The unit is the verb: one changed row of the embedding moves its verb in all heads at once, and a test over heads would
take that for as many observations as there are heads.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from lensdiff import stats
from lensdiff.analyses.heads.verb_groups import Counts, GroupShift
from lensdiff.inputs.vocabulary import Vocabulary

COUNT_STEPS = (1, 3, 6, 11, 21, 51)  # the first base count of each stratum but the first
QUARTERS = (0.25, 0.5, 0.75)
UNKNOWN = 4  # the frequency's part after the quartiles 0 to 3
TESTS = ("paper_test", "test", "head_test", "label_test", "log_label_test")


class Labels(NamedTuple):
    """What the permutation needs to know of every verb: its label, whether it can be counted, how frequent it is."""

    instruction: Bool[np.ndarray, " verb"]
    countable: Bool[np.ndarray, " verb"]
    quarter: Int[np.ndarray, " verb"]


class Movement(NamedTuple):
    """Means over all heads of sign(c_tuned - c_base) and of log(1 + c_tuned) - log(1 + c_base), zeros included."""

    sign: Float[np.ndarray, " verb"]
    log: Float[np.ndarray, " verb"]


def movement(base: Counts, tuned: Counts) -> Movement:
    """Return how far each verb moved over a group of heads."""
    sign = np.sign(tuned.astype(np.int64) - base).mean(axis=0)
    return Movement(sign, (np.log1p(tuned) - np.log1p(base)).mean(axis=0))


def labels_of(listed: tuple[str, ...], n_instruction: int, words: tuple[str, ...], frequencies: Vocabulary) -> Labels:
    """Return the labels of the verbs, by the heads' words and a list of frequencies; compared in lower case."""
    known = {word.lower() for word in words}
    countable = np.array([verb in known for verb in listed])
    counted: dict[str, float] = {}
    for word, frequency in zip(frequencies.words, frequencies.frequencies.tolist(), strict=True):
        counted[word.lower()] = counted.get(word.lower(), 0.0) + frequency
    frequency = np.array([counted.get(verb, np.nan) for verb in listed])
    return Labels(np.arange(len(listed)) < n_instruction, countable, frequency_quarters(frequency, countable))


def frequency_quarters(
    frequency: Float[np.ndarray, " verb"], countable: Bool[np.ndarray, " verb"]
) -> Int[np.ndarray, " verb"]:
    """Return the quartile, 0 to 3, of each frequency among those of countable verbs; `UNKNOWN` for NaN."""
    given = frequency[countable & ~np.isnan(frequency)]
    edges = np.quantile(given, QUARTERS) if len(given) else np.zeros(len(QUARTERS))
    return np.where(np.isnan(frequency), UNKNOWN, np.searchsorted(edges, frequency))


def verb_strata(base_count: Int[np.ndarray, " verb"], quarter: Int[np.ndarray, " verb"]) -> Int[np.ndarray, " verb"]:
    """Return the number of each verb's stratum, from its base count over the heads in question and its quarter."""
    return np.searchsorted(COUNT_STEPS, base_count, side="right") * (UNKNOWN + 1) + quarter


def label_effects(base: Counts, tuned: Counts, labels: Labels) -> tuple[float, float]:
    """Return T of sign_mean and of log_mean: how much further the instruction verbs rose than their strata; or NaN."""
    sign, log = stats.stratified_effects(*_of_countable(base, tuned, labels))
    return float(sign), float(log)


def with_label_tests(group: GroupShift, base: Counts, tuned: Counts, labels: Labels, *, seed: int) -> GroupShift:
    """Return the group with the permutation tests of both statistics, or with why there are none."""
    if np.isnan(label_effects(base, tuned, labels)[0]):
        return replace(group, label_note="not testable: no instruction verb has a control verb in its stratum")
    sign, log = stats.stratified_permutations(*_of_countable(base, tuned, labels), seed=seed)
    return replace(group, label_test=sign, log_label_test=log)


def with_family(group: GroupShift) -> GroupShift:
    """Return the group with its p-values adjusted over one another: they stand side by side, and so are one family."""
    found = {name: test for name in TESTS if (test := getattr(group, name)) is not None}
    adjusted = stats.adjust(list(found.values()), family=f"layers {group.group}")
    return replace(group, **dict(zip(found, adjusted, strict=True)))


def _of_countable(
    base: Counts, tuned: Counts, labels: Labels
) -> tuple[Float[np.ndarray, "statistic n"], Bool[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    own = labels.countable
    values = np.stack(movement(base[:, own], tuned[:, own]))
    return values, labels.instruction[own], verb_strata(base[:, own].sum(axis=0), labels.quarter[own])
