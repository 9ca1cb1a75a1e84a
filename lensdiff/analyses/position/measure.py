"""Where in a prompt the importance lies: normalised density over relative position, base against tuned.

    a^(x)    the normalised density of the token at relative position x in [0, 1]: token i of N covers [i/N, (i+1)/N]
    profile  mean of a^(x) over each of `n_bins` equal parts of the prompt: every prompt has a value in every part
    U        (mean of a^ over the first `ends` of the prompt + over the last) / 2 - mean over what lies between

U > 0: the ends matter more than the middle. A slope alone gives U = 0, but one high end gives U > 0, so both ends are
tested too ("first - middle", "last - middle"): a U shape needs both. Differences are tuned - base, paired by prompt;
the p-values of the parts are one family with false-discovery control, and so are those of the two models' shapes.

A density takes fewer different values for a short response (with one token it is 0 or 1), so `equal_length` cuts both
responses of a prompt to the shorter one's length. Prompts where a model has no importance at all (an empty response)
are left out and counted. Ignored: what stands at a position (prompts that begin with their instruction and end with a
cue have high ends for that reason). Memory: one number per prompt and part.

Reference: Wu et al., NAACL 2024, appendix (importance over positions); Liu et al., "Lost in the middle", TACL 2024;
doi 10.18653/v1/2024.naacl-long.130. Intervals and tests are lensdiff's own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.density import (
    EPS,
    NORM,
    SPARSITY,
    importance_density,
    importance_levels,
    normalised_density,
)
from lensdiff.analyses.published.tables import EPS as RELEASED_EPS
from lensdiff.inputs.published import ReleasedAttribution
from lensdiff.models.given import check_results
from lensdiff.results import InputError, Provenance, Result
from lensdiff.results.numbers import check_count, n_of

Map = Attribution | ReleasedAttribution
BINS = 10
ENDS = 0.2
SHAPES = ("U", "first - middle", "last - middle")


def position_means(values: Float[Tensor, " in_pos"], edges: Float[np.ndarray, " edge"]) -> Float[np.ndarray, " part"]:
    """Return the mean of a prompt's values between each two edges (0 to 1); token i of N covers [i/N, (i+1)/N]."""
    sums = np.concatenate([[0.0], np.cumsum(values.double().numpy())])
    places = np.linspace(0.0, 1.0, len(sums))
    return np.diff(np.interp(edges, places, sums / len(values))) / np.diff(edges)


def shape_of(values: Float[Tensor, " in_pos"], *, ends: float = ENDS) -> Float[np.ndarray, " shape"]:
    """Return U, first - middle and last - middle of a prompt's values."""
    first, middle, last = position_means(values, np.array([0.0, ends, 1.0 - ends, 1.0]))
    return np.array([(first + last) / 2 - middle, first - middle, last - middle])


class Shapes(NamedTuple):
    """Tests of one statistic of the profile: in the base, in the tuned model, and of the difference, paired."""

    base: stats.Test
    tuned: stats.Test
    difference: stats.Test


@dataclass(frozen=True, eq=False)
class PositionProfile(Result):
    """Profiles of both models over the same prompts; see the module.

    Attributes:
        prompt_ids: prompts in both; left_out: those without any importance in one of the models.
        edges: of the parts, from 0 to 1.
        base, tuned: each prompt's profile.
        base_shape, tuned_shape: each prompt's U, first - middle and last - middle.
        parts: the paired test of each part.
        shapes: those of U and of both ends; the models' own are one-sided ("greater").
    """

    calls = ("summary()", "top()", "to_df()", "show()")

    prompt_ids: tuple[str, ...]
    left_out: tuple[str, ...]
    edges: tuple[float, ...]
    base: Float[Tensor, "prompt part"]
    tuned: Float[Tensor, "prompt part"]
    base_shape: Float[Tensor, "prompt shape"]
    tuned_shape: Float[Tensor, "prompt shape"]
    parts: tuple[stats.Test, ...]
    shapes: dict[str, Shapes]

    def told(self) -> list[str]:
        """Return the difference of U and of both ends, over prompts."""
        left = f", {len(self.left_out)} left out" if self.left_out else ""
        lines = [f"importance by place in the prompt, {n_of(len(self.prompt_ids), 'prompt')}{left}; tuned - base:"]
        return lines + [f"{name} {shapes.difference}" for name, shapes in self.shapes.items()]

    def to_df(self) -> pd.DataFrame:
        """Return a row per part of the prompt.

        Columns: part, start, end, base, tuned (means over prompts), base_low, base_high, tuned_low, tuned_high (their
        t intervals), difference (tuned - base), low, high, p, p_adjusted.
        """
        frame = pd.DataFrame({"part": range(len(self.parts)), "start": self.edges[:-1], "end": self.edges[1:]})
        sides = {name: getattr(self, name).numpy() for name in ("base", "tuned")}
        for name, values in sides.items():
            frame[name] = values.mean(axis=0)
        for name, values in sides.items():
            band = stats.mean_interval(values, level=self.parts[0].level)
            frame[f"{name}_low"], frame[f"{name}_high"] = band.low, band.high
        frame["difference"] = [test.estimate for test in self.parts]
        for name in ("low", "high", "p", "p_adjusted"):
            frame[name] = [getattr(test, name) for test in self.parts]
        return frame

    def summary(self) -> pd.DataFrame:
        """Return a row per statistic and model: statistic, model, estimate, low, high, p, p_adjusted, test, n.

        Models: base, tuned, and "tuned - base".
        """
        rows = []
        for statistic, tests in self.shapes.items():
            for model, test in zip(("base", "tuned", "tuned - base"), tests, strict=True):
                numbers = [getattr(test, name) for name in ("estimate", "low", "high", "p", "p_adjusted", "name")]
                rows.append((statistic, model, *numbers, test.n[0]))
        columns = ["statistic", "model", "estimate", "low", "high", "p", "p_adjusted", "test", "n"]
        return pd.DataFrame(rows, columns=columns)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k parts that differ most between the models."""
        frame = self.to_df()
        order = np.argsort(-np.abs(frame["difference"].to_numpy()), kind="stable")[:k]
        columns = ["part", "start", "end", "base", "tuned", "difference", "p_adjusted"]
        return frame.iloc[order].reset_index(drop=True).loc[:, columns]


def position_profile(
    base: Iterable[Map],
    tuned: Iterable[Map],
    *,
    n_bins: int = BINS,
    ends: float = ENDS,
    b: int = SPARSITY,
    p: float = NORM,
    equal_length: bool = False,
    level: float = 0.95,
) -> PositionProfile:
    """Return how importance is spread over the prompt in both models, on the prompts that both have.

    Args:
        base, tuned: attributions of `attribute`, or released ones (`load_published(...).attributions[model]`).
        n_bins: equal parts of the prompt.
        ends: share of the prompt that is its beginning, and its end; below 0.5.
        b, p: of the density.
        equal_length: cut both responses of a prompt to the shorter one's length.
        level: of the intervals.

    Raises:
        InputError: a number is out of range, or fewer than two prompts have importance in both models.
    """
    for given in (base, tuned):
        check_results(given, (), "position_profile", "attribute", many=True)
    check_count("n_bins", n_bins, least=2)
    if not 0 < ends < 0.5:
        raise InputError(f"ends={ends} given, expected a share of the prompt between 0 and 0.5")
    sides = [{_id(one): one for one in given} for given in (base, tuned)]
    shared = [name for name in sides[0] if name in sides[1]]
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name in shared:
        maps = sides[0][name], sides[1][name]
        length = min(len(one.out_tokens) for one in maps) if equal_length else None
        before, after = (_density(one, length, b=b, p=p) for one in maps)
        if all(len(a) and float(a.max()) > 0 for a in (before, after)):
            found[name] = before, after
    if len(found) < stats.FEWEST_PAIRS:
        raise InputError(
            f"{len(found)} of {len(shared)} shared prompts have importance in both models, "
            f"expected at least {stats.FEWEST_PAIRS}"
        )
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    profiles = [np.stack([position_means(pair[i], edges) for pair in found.values()]) for i in (0, 1)]
    forms = [np.stack([shape_of(pair[i], ends=ends) for pair in found.values()]) for i in (0, 1)]
    options = {"n_bins": n_bins, "ends": ends, "b": b, "p": p, "equal_length": equal_length, "level": level}
    return PositionProfile(
        _provenance(sides[0][shared[0]], sides[1][shared[0]], options),
        tuple(found),
        tuple(name for name in shared if name not in found),
        tuple(edges.tolist()),
        *(torch.from_numpy(values) for values in (*profiles, *forms)),
        parts=_part_tests(*profiles, level=level),
        shapes=_shape_tests(*forms, level=level),
    )


def _id(one: Map) -> str:
    return one.id if isinstance(one, ReleasedAttribution) else one.prompt_id


def _density(one: Map, length: int | None, *, b: int, p: float) -> Float[Tensor, " in_pos"]:
    """Return the normalised density; released files hold levels already, and have an e of their own."""
    if isinstance(one, ReleasedAttribution):
        eps, levels = RELEASED_EPS, one.levels[:, :length]
    else:
        eps, levels = EPS, importance_levels(one.scores[:, :length])
    return normalised_density(importance_density(levels, b=b, p=p, eps=eps), eps=eps)


def _provenance(base: Map, tuned: Map, options: dict[str, object]) -> Provenance:
    models = [
        "released attributions" if isinstance(one, ReleasedAttribution) else one.provenance.model
        for one in (base, tuned)
    ]
    return Provenance("position_profile", " -> ".join(dict.fromkeys(models)), options=options)


def _part_tests(
    base: Float[np.ndarray, "prompt part"], tuned: Float[np.ndarray, "prompt part"], *, level: float
) -> tuple[stats.Test, ...]:
    both = zip(base.T, tuned.T, strict=True)
    tests = [_had(stats.paired_difference(after, before, level=level)) for before, after in both]
    return tuple(stats.adjust(tests, family="parts of the prompt"))


def _shape_tests(
    base: Float[np.ndarray, "prompt shape"], tuned: Float[np.ndarray, "prompt shape"], *, level: float
) -> dict[str, Shapes]:
    tests = []
    for before, after in zip(base.T, tuned.T, strict=True):
        own = [stats.mean_difference(values, alternative="greater", level=level) for values in (before, after)]
        tests += [_had(test) for test in (*own, stats.paired_difference(after, before, level=level))]
    adjusted = stats.adjust(tests, family="shapes of the profile")
    return {name: Shapes(*adjusted[3 * i : 3 * i + 3]) for i, name in enumerate(SHAPES)}


def _had(test: stats.Test | None) -> stats.Test:
    assert test is not None  # too few prompts were refused
    return test
