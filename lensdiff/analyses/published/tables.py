"""Tables 1 and 2 of the paper from the attributions its authors released, and how far they depend on the choices made.

    score     s = sum over instruction tokens of a^[n] / log2(2 + their number)     (see `density`), levels read as
    stored Table 1   s of the tuned model's responses that follow their instruction (rated 2 to 4) against those that
    do not (1) Table 2   s of the base model's against the tuned model's own responses to the same prompts

An instruction token belongs to a sentence that the annotators marked a part of; each sentence is located once, at its
first hit in the joined token pieces. Table 1 drops unrated responses and those under 5 tokens; in Table 2 an empty
response scores 0. Differences are followed - unfollowed and tuned - base; Welch's test is one-sided ("greater").
Standard deviations are those of the population, as published.

Beside them stands what the paper does not show: Table 1 at equal response length (regression on following and length
in tokens, two-sided), and Table 2 paired by prompt (one-sided).

Reference: Wu et al., NAACL 2024, section 4; doi 10.18653/v1/2024.naacl-long.130.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int
from torch import Tensor

from lensdiff.analyses.attribute.density import NORM, SPARSITY, importance_density, instruction_score
from lensdiff.inputs.published import FOLDERS, Model, Published, set_of
from lensdiff.results import InputError, Provenance, Result
from lensdiff.stats import NotTestable, Test, covariate, paired, welch

EPS = 1e-9  # e of the released files' own reading; scores computed here use 1e-7
FEWEST_TOKENS = 5
RATED_MODEL = "vicuna_7B"  # as the ratings name the tuned model
UNFOLLOWED = 1  # this rating; those above it (2 to 4) follow, those below are no rating

VARIANTS: dict[str, dict[str, Any]] = {
    "as released": {},
    "b = 0": {"b": 0},
    "b = 5": {"b": 5},
    "p = 2": {"p": 2.0},
    "p = 8": {"p": 8.0},
    "equal lengths": {"equal_length": True},
    "no max-normalisation": {"normalise": False},
    "spans not widened": {"widen": False},
}


def level_score(
    levels: Int[Tensor, "in_pos out_pos"],
    instruction: Bool[Tensor, " in_pos"],
    *,
    b: int = SPARSITY,
    p: float = NORM,
    normalise: bool = True,
    eps: float = EPS,
) -> float:
    """Return the instruction score of a map that holds levels already; 0 for an empty response or instruction."""
    density = importance_density(levels, b=b, p=p, eps=eps)
    return instruction_score(density, instruction, eps=eps, normalise=normalise)


@dataclass(frozen=True)
class Sample:
    """Mean and population standard deviation of n scores."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Following:
    """A row of Table 1. A test is None where a group has too few responses for it."""

    followed: Sample
    unfollowed: Sample
    welch: Test | None
    equal_length: Test | None
    """The effect of following at equal response length in tokens."""


@dataclass(frozen=True)
class Recognition:
    """A row of Table 2. A test is None where there are too few prompts for it."""

    base: Sample
    tuned: Sample
    welch: Test | None
    paired: Test | None


@dataclass(frozen=True, eq=False)
class PublishedTables(Result):
    """Tables 1 and 2 for the sets that are present, by set (LIMA, Self-Instruct, MT-Bench).

    Attributes:
        table1, table2: a row each, by set.
        not_found: instruction spans that a prompt's token pieces do not contain, over both models.
    """

    calls = ("top()", "to_df()", "to_json()")

    table1: dict[str, Following]
    table2: dict[str, Recognition]
    not_found: int
    """Instruction spans that a prompt's token pieces do not contain, over both models."""

    def told(self) -> list[str]:
        """Return what each table says of each set."""
        rows: Any = self.to_df().itertuples()
        return [f"table {row.table}, {row.set}, {row.group}: {row.mean:.3g}, n = {row.n}" for row in rows]

    def to_df(self) -> pd.DataFrame:
        """Return one row per table, set and group.

        Columns: table, set, group, mean, std, n; p of Welch's test between the set's two groups; beside (name of the
        test that the paper does not show), its t and its p, beside_p.
        """
        rows = []
        for name, row in self.table1.items():
            groups = {"followed": row.followed, "unfollowed": row.unfollowed}
            rows += _rows(1, name, groups, row.welch, "equal length", row.equal_length)
        for name, row in self.table2.items():
            rows += _rows(2, name, {"base": row.base, "tuned": row.tuned}, row.welch, "paired", row.paired)
        return pd.DataFrame(rows, columns=["table", "set", "group", "mean", "std", "n", "p", "beside", "t", "beside_p"])

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the first k rows of both tables, in the paper's order."""
        return self.to_df().head(k).loc[:, ["table", "set", "group", "mean", "std", "n", "p"]]

    def to_json(self) -> str:
        """Return both tables as JSON: set -> groups with mean, std and n, and p (null where no test was possible)."""
        table1 = {
            name: {"followed": vars(row.followed), "unfollowed": vars(row.unfollowed), "p": _p(row.welch)}
            for name, row in self.table1.items()
        }
        table2 = {
            name: {"base": vars(row.base), "tuned": vars(row.tuned), "n": row.base.n, "p": _p(row.welch)}
            for name, row in self.table2.items()
        }
        return json.dumps({"table1": table1, "table2": table2}, indent=2)


def _p(test: Test | None) -> float | None:
    return test.p if test else None


def _rows(
    table: int, name: str, groups: Mapping[str, Sample], test: Test | None, beside: str, other: Test | None
) -> list[tuple[Any, ...]]:
    shown = _p(test), beside, other.statistic if other else None, _p(other)
    return [(table, name, group, s.mean, s.std, s.n, *shown) for group, s in groups.items()]


def _sample(scores: Iterable[float]) -> Sample:
    values = np.fromiter(scores, dtype=np.float64)
    return Sample(float(values.mean()), float(values.std()), len(values))


def _attempt(test: Callable[..., Test], *data: Any, **options: Any) -> Test | None:
    try:
        return test(*data, **options)
    except NotTestable:  # too few observations, or none that vary: the row stands without this test
        return None


def instruction_spans(published: Published, prompt_id: str, *, widen: bool = True) -> tuple[str, ...]:
    """Return a prompt's instruction: its sentences that the annotators marked a part of, or the marked parts."""
    if widen:
        prompt = published.prompts[prompt_id]
        return tuple(prompt.stripped[slice(*span)] for span in prompt.ranges("instruction"))
    return tuple(span.strip() for span in published.spans[prompt_id])


def published_tables(
    published: Published,
    *,
    b: int = SPARSITY,
    p: float = NORM,
    normalise: bool = True,
    equal_length: bool = False,
    widen: bool = True,
    eps: float = EPS,
) -> PublishedTables:
    """Return Tables 1 and 2 of the sets that are present.

    Args:
        b: levels of at most b do not count.
        p: the norm in the density's denominator.
        normalise: divide each prompt's densities by their largest.
        equal_length: in Table 2, cut both responses to a prompt to the shorter one's length.
        widen: the instruction is the sentences that the annotated spans touch; otherwise the spans alone.
        eps: e of the density and of its normalisation.

    Raises:
        InputError: no released attributions are present, or a file of them is unusable.
    """
    maps = published.attributions
    if not maps["tuned"]:
        raise InputError(f"{published.path} holds no released attributions, expected results/attribution_interpret")
    both = [key for key in maps["tuned"] if key in maps["base"]]
    shorter = {key: min(len(maps["base"][key].out_tokens), len(maps["tuned"][key].out_tokens)) for key in both}
    masks = {model: _masks(published, model, widen=widen) for model in FOLDERS}

    def score(model: Model, key: str, length: int | None = None) -> float:
        mask, _ = masks[model][key]
        return level_score(maps[model][key].levels[:, :length], mask, b=b, p=p, normalise=normalise, eps=eps)

    tuned = {key: score("tuned", key) for key in maps["tuned"]}
    cut = shorter if equal_length else {}
    paired_scores = {key: (score("base", key, cut.get(key)), score("tuned", key, cut.get(key))) for key in both}
    options = {"b": b, "p": p, "normalise": normalise, "equal_length": equal_length, "widen": widen, "eps": eps}
    return PublishedTables(
        Provenance("published_tables", "LLaMA-7B / Vicuna-7B-v1.1", weights="released levels", options=options),
        {name: row for name in published.sets() if (row := _following(published, name, tuned))},
        {name: row for name in published.sets() if (row := _recognition(name, paired_scores))},
        sum(missing for by_prompt in masks.values() for _, missing in by_prompt.values()),
    )


def _masks(published: Published, model: Model, *, widen: bool) -> dict[str, tuple[Bool[Tensor, " in_pos"], int]]:
    return {
        key: released.mask(instruction_spans(published, key, widen=widen))
        for key, released in published.attributions[model].items()
    }


def _following(published: Published, name: str, scores: Mapping[str, float]) -> Following | None:
    maps, ratings = published.attributions["tuned"], published.ratings
    rated = ratings[(ratings.model == RATED_MODEL) & (ratings.rating >= UNFOLLOWED)]
    own = {
        key: rating
        for key, rating in zip(rated.prompt_id, rated.rating, strict=True)
        if set_of(key) == name and key in maps and len(maps[key].out_tokens) >= FEWEST_TOKENS
    }
    lengths = [len(maps[key].out_tokens) for key in own]
    return following([scores[key] for key in own], [bool(rating > UNFOLLOWED) for rating in own.values()], lengths)


def following(scores: Sequence[float], followed: Sequence[bool], lengths: Sequence[int]) -> Following | None:
    """Return a row of Table 1: the scores of responses that follow their instruction, and of those that do not.

    Args:
        lengths: of the responses, in tokens. None is returned where no response follows, or all do.
    """
    groups = [[score for score, yes in zip(scores, followed, strict=True) if yes == which] for which in (True, False)]
    if not all(groups):
        return None
    return Following(
        _sample(groups[0]),
        _sample(groups[1]),
        _attempt(welch, *groups, alternative="greater"),
        _attempt(covariate, scores, [float(yes) for yes in followed], lengths),
    )


def _recognition(name: str, scores: Mapping[str, tuple[float, float]]) -> Recognition | None:
    rows = [pair for key, pair in scores.items() if set_of(key) == name]
    return recognition([base for base, _ in rows], [tuned for _, tuned in rows]) if rows else None


def recognition(base: Sequence[float], tuned: Sequence[float]) -> Recognition:
    """Return a row of Table 2: the scores of both models' own responses to the same prompts."""
    return Recognition(
        _sample(base),
        _sample(tuned),
        _attempt(welch, tuned, base, alternative="greater"),
        _attempt(paired, tuned, base, alternative="greater"),
    )


def robustness(published: Published) -> pd.DataFrame:
    """Return Table 2 under each of `VARIANTS`: how much of it depends on choices.

    Columns: variant, set, n, base and tuned (means), difference (tuned - base), p (Welch, one-sided), paired_p. Where
    the comparison reverses, the difference is negative and p close to 1.

    Raises:
        InputError: as `published_tables`.
    """
    rows = []
    for variant, options in VARIANTS.items():
        for name, row in published_tables(published, **options).table2.items():
            base, tuned = row.base.mean, row.tuned.mean
            rows.append((variant, name, row.base.n, base, tuned, tuned - base, _p(row.welch), _p(row.paired)))
    return pd.DataFrame(rows, columns=["variant", "set", "n", "base", "tuned", "difference", "p", "paired_p"])
