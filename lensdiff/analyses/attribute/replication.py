"""The paper's own score for a pair of ours: a replication beside the claims, without a verdict.

    difference of instruction scores (see `density`), tuned - base, paired by prompt, in these ways:
    own responses                   each model on its own, as in the paper's Table 2
    own responses, one length       both cut to the shorter one's length
    same text                       both models on the same forced responses, where those were attributed
    ..., log-probability            the same with the target log p: the scores divided by p, since d log p = d p / p

The score says how widely importance spreads over a model's own text, which grows with the text: so the ways are shown
beside each other, and where they do not answer alike the difference depends on the responses' length. The answer of a
way is "rose" or "fell" where its p is at most 1 - level, else "no change shown".

A prompt counts where it marks an instruction and both responses have at least `min_tokens` tokens: an empty response
scores 0 whatever the model does, one of a token 0 or 1 a prompt token. The reproduction of the published tables keeps
the paper's rule, an empty response scores 0 (`published`). Levels do not depend on a column's scale, so the log-
probability differs by what e takes: columns whose largest score is below about 2e-7, which it keeps.

Reference: Wu et al., NAACL 2024, section 4 and Table 2; doi 10.18653/v1/2024.naacl-long.130. Lengths are ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.attribute import density as importance
from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.results import InputError
from lensdiff.results.numbers import check_count

MIN_TOKENS = 5
OWN = "own responses"
ONE_LENGTH = "own responses, one length"
LOG = ", log-probability"
DEPENDS = "depends on the responses' length"
ANSWERS = {1: "rose", -1: "fell", 0: "no change shown"}
Sides = tuple[Iterable[Attribution], Iterable[Attribution]]


@dataclass(frozen=True)
class ScoreWay:
    """The paper's score in one way.

    Attributes:
        way: which; see the module.
        n: prompts in it.
        n_left_out: prompts with an instruction of which a response was shorter than `min_tokens`.
        n_empty: those of them of which a response was empty.
        base, tuned: mean scores; NaN without a prompt.
        test: of tuned - base, paired by prompt; None with fewer than two prompts.
    """

    way: str
    n: int
    n_left_out: int
    n_empty: int
    base: float
    tuned: float
    test: stats.Test | None

    @property
    def answer(self) -> str | None:
        """Return "rose", "fell" or "no change shown"; None without a test."""
        if self.test is None or self.test.p is None:
            return None
        significant = self.test.p <= 1 - self.test.level + 1e-12
        return ANSWERS[int(np.sign(self.test.estimate)) if significant else 0]


@dataclass(frozen=True)
class Replication:
    """The paper's score of a pair in several ways; no verdict rests on it.

    Attributes:
        ways: own responses first.
        min_tokens: of both responses of a prompt.
    """

    ways: tuple[ScoreWay, ...]
    min_tokens: int

    @property
    def depends_on_length(self) -> bool:
        """Whether the ways do not all answer alike: one rises where another falls or shows nothing.

        Of those with a test, and of the paper's target alone.
        """
        answers = {way.answer for way in self.ways if way.answer is not None and not way.way.endswith(LOG)}
        return len(answers) > 1

    def __str__(self) -> str:
        """Return the ways in a line each, and whether they answer alike."""
        lines = [self._line(way) for way in self.ways]
        return "\n".join([*lines, *([f"The difference {DEPENDS}."] if self.depends_on_length else [])])

    def _line(self, way: ScoreWay) -> str:
        left = f"{way.n_left_out} left out, {way.n_empty} of them empty" if way.n_left_out else "none left out"
        what = f"{way.n} prompt(s), too few to test" if way.test is None else f"{way.test}, {way.answer}"
        return f"{way.way}: base {way.base:.3g}, tuned {way.tuned:.3g}, {what} ({left})"

    def to_df(self) -> pd.DataFrame:
        """Return a row per way.

        Columns: way, n, n_left_out, n_empty, base, tuned, difference, low, high, p, answer, depends_on_length; without
        a test the last but one are missing.
        """
        rows = []
        for way in self.ways:
            test = way.test
            found = (None,) * 3 if test is None else (test.low, test.high, test.p)
            numbers = (way.n, way.n_left_out, way.n_empty, way.base, way.tuned, way.tuned - way.base, *found)
            rows.append((way.way, *numbers, way.answer, self.depends_on_length))
        columns = ["way", "n", "n_left_out", "n_empty", "base", "tuned", "difference", "low", "high", "p", "answer"]
        frame = pd.DataFrame(rows, columns=[*columns, "depends_on_length"])
        return frame.astype(dict.fromkeys(("base", "tuned", "difference", "low", "high", "p"), float))


def replication(
    base: Iterable[Attribution],
    tuned: Iterable[Attribution],
    *,
    same_text: Mapping[str, Sides] | None = None,
    min_tokens: int = MIN_TOKENS,
    level: float = 0.95,
) -> Replication:
    """Return the paper's score of both models on their own responses, at one length, and on the same texts.

    Args:
        base, tuned: attributions of each model's own responses, target "probability".
        same_text: by a name ("the reference", "the tuned model's response"), attributions of base and tuned model of
            one and the same response to each prompt.
        min_tokens: of both responses of a prompt; others are left out and counted.
        level: of the intervals.

    Raises:
        InputError: `min_tokens` is not positive, an attribution has another target, an id comes twice, or what is given
            as the same text is not.
    """
    check_count("min_tokens", min_tokens)
    own = _Shared.of(base, tuned, min_tokens)
    ways = []
    for log in (False, True):
        for name, cut in ((OWN, False), (ONE_LENGTH, True)):
            ways.append(own.way(name, cut=cut, log=log, level=level))
    for name, sides in (same_text or {}).items():
        shared = _Shared.of(*sides, min_tokens)
        shared.check_same_text(name)
        ways += [shared.way(f"same text, {name}", cut=True, log=log, level=level) for log in (False, True)]
    return Replication(tuple(ways), min_tokens)


def of_own(base: Sequence[Attribution], tuned: Sequence[Attribution]) -> Replication | None:
    """Return the paper's score of both models' own responses; None where its target was not attributed, or no
    instruction is marked."""
    found = [*base, *tuned]
    targets = {one.provenance.options.get("target", "probability") for one in found}
    if targets != {"probability"} or not any(bool(one.instruction.any()) for one in found):
        return None
    return replication(base, tuned)


@dataclass(frozen=True)
class _Shared:
    """The prompts that both models have: those with responses that are long enough, and how many were left out."""

    pairs: list[tuple[Attribution, Attribution]]
    n_left_out: int
    n_empty: int

    @classmethod
    def of(cls, base: Iterable[Attribution], tuned: Iterable[Attribution], min_tokens: int) -> "_Shared":
        mine, theirs = _by_prompt(base), _by_prompt(tuned)
        found = [(one, theirs[name]) for name, one in mine.items() if name in theirs and bool(one.instruction.any())]
        shortest = [min(one.scores.shape[1] for one in pair) for pair in found]
        kept = [pair for pair, n in zip(found, shortest, strict=True) if n >= min_tokens]
        return cls(kept, len(found) - len(kept), shortest.count(0))

    def check_same_text(self, name: str) -> None:
        for one, other in self.pairs:
            if one.response.strip() != other.response.strip():
                raise InputError(
                    f"same_text {name!r}: the models have different responses to prompt {one.prompt_id!r}, expected one"
                )

    def way(self, name: str, *, cut: bool, log: bool, level: float) -> ScoreWay:
        rows = []
        for pair in self.pairs:
            n_out = min(one.scores.shape[1] for one in pair) if cut else None
            rows.append([_score(one, n_out, log=log) for one in pair])
        scores = np.array(rows, dtype=np.float64).reshape(-1, 2)
        means = scores.mean(axis=0) if len(scores) else np.full(2, np.nan)
        test = stats.paired_difference(scores[:, 1], scores[:, 0], level=level)
        counts = len(scores), self.n_left_out, self.n_empty
        return ScoreWay(name + LOG * log, *counts, float(means[0]), float(means[1]), test)


def _by_prompt(results: Iterable[Attribution]) -> dict[str, Attribution]:
    found: dict[str, Attribution] = {}
    for one in results:
        if one.prompt_id in found:
            raise InputError(f"the id {one.prompt_id!r} comes twice among the attributions, expected each once")
        target = one.provenance.options.get("target", "probability")
        if target != "probability":
            raise InputError(f"the attribution of {one.prompt_id!r} has the target {target!r}, expected 'probability'")
        found[one.prompt_id] = one
    return found


def _score(one: Attribution, n_out: int | None, *, log: bool) -> float:
    scores = one.scores[:, :n_out]
    if log:
        scores = log_probability_scores(scores, one.probabilities[:n_out])
    return importance.instruction_score(
        importance.importance_density(importance.importance_levels(scores)), one.instruction
    )


def log_probability_scores(
    scores: Float[Tensor, "in_pos out_pos"], probabilities: Float[Tensor, " out_pos"]
) -> Float[Tensor, "in_pos out_pos"]:
    """Return scores of the target log p from those of p: divided by p, and 0 where p is too small for a float."""
    return torch.where(probabilities > 0, scores / probabilities, torch.zeros_like(scores))
