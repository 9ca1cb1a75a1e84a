"""A group's effect on an outcome at equal covariate, by ordinary least squares.

    outcome = a + effect * group + c . covariate + error

By the theorem of Frisch and Waugh the effect is that of g, the group without what intercept and covariates explain of
it, on y, the outcome without the same: effect = g.y / g.g. With residuals e and leverages h, its variance is

    classical   sum(e^2) / (n - k - 2) / g.g                     k covariates; errors of equal variance
    HC3         sum( g^2 e^2 / (1 - h)^2 ) / (g.g)^2             errors of any variance
    clusters    sum over clusters of (effect without it - effect)^2        HC3 where each observation is a cluster

Rows of one prompt, once from each model, are related: errors that take them for independent have a level of 0.001
instead of 0.05 where prompts differ more than models. Name them by `clusters`; only the caller knows.

It says nothing about causes, and takes the covariate's influence as linear.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from lensdiff.analyses.stats.result import Test, from_standard_error, no_change
from lensdiff.analyses.stats.samples import (
    ROUNDING,
    NoVariation,
    check_alternative,
    check_level,
    magnitude,
    numbers,
    observations,
)
from lensdiff.results.errors import InputError

ERRORS = ("classical", "HC3")
COLLINEAR = 1e-10  # share of a column that others leave unexplained
FULL_LEVERAGE = 1e-10
FEWEST_CLUSTERS = 5


def covariate(
    outcome: ArrayLike,
    group: ArrayLike,
    covariate: ArrayLike,
    *,
    errors: str = "classical",
    clusters: Sequence[Hashable] | None = None,
    alternative: str = "two-sided",
    level: float = 0.95,
) -> Test:
    """Test the effect of a group (1 against 0) on an outcome with a covariate beside it, for example response length.

    Args:
        outcome: [n] in the units of the estimate.
        group: [n] of 0 and 1 (or booleans); 1 is tuned, or followed.
        covariate: [n], or [n, k] for several; k = 0 gives the t test with pooled variance.
        errors: "classical" (equal variances) or "HC3" (any variances).
        clusters: [n] which observations belong together, for example prompt ids where both models' rows of a prompt
            are given; the degrees of freedom are then at most those of the clusters, and errors must be "HC3".

    Raises:
        InputError: lengths differ, a group is empty, too few observations or clusters, or the columns are collinear.
        NoVariation: the fit leaves no residual and the groups differ.
    """
    check_alternative(alternative)
    check_level(level)
    if errors not in ERRORS:
        raise InputError(f"unknown errors {errors!r}, expected one of {', '.join(ERRORS)}")
    y, treated, known = _columns(outcome, group, covariate)
    n, df = len(y), len(y) - known.shape[1] - 1.0
    labels = _cluster_labels(clusters, n, errors)
    basis, _ = np.linalg.qr(known)
    g, centred = _residual(treated, basis), _residual(y, basis)
    gg = float(g @ g)
    if gg <= COLLINEAR * n:
        raise InputError("group and covariate are collinear: the covariate alone tells the groups apart")
    effect = float(g @ centred) / gg
    residuals = centred - effect * g
    rounding = ROUNDING * magnitude(y) * np.sqrt(n)
    sizes = (int(treated.sum()), int(n - treated.sum()))
    name = "regression" if errors == "classical" else "regression, HC3"
    note = f"{known.shape[1] - 1} covariate(s)"
    if np.linalg.norm(residuals) <= rounding:
        if abs(effect) * np.sqrt(gg) > rounding:
            raise NoVariation(
                f"{name}: the fit leaves no residual and the groups differ by {effect:g}, no test is possible"
            )
        return no_change(name, effect, level=level, n=sizes, alternative=alternative, note=f"{note}, no variation")
    if errors == "classical":
        variance = float(residuals @ residuals) / df / gg
    elif labels is not None:
        count = int(labels.max()) + 1
        df, note = min(df, count - 1.0), f"{note}, {count} clusters"
        variance = _variance_between(labels, np.column_stack([basis, g / np.sqrt(gg)]), residuals) / gg
    else:
        room = 1 - (basis**2).sum(axis=1) - g**2 / gg
        if room.min() < FULL_LEVERAGE:
            raise InputError(f"HC3: observation {int(room.argmin())} determines its own fit, use errors='classical'")
        variance = float(((g * residuals / room) ** 2).sum()) / gg**2
    return from_standard_error(
        name, effect, float(np.sqrt(variance)), df, level=level, n=sizes, alternative=alternative, note=note
    )


def _cluster_labels(clusters: Sequence[Hashable] | None, n: int, errors: str) -> Int[np.ndarray, " n"] | None:
    if clusters is None:
        return None
    if errors != "HC3":
        raise InputError(f"errors={errors!r} given with clusters, expected 'HC3': classical errors know no clusters")
    if len(clusters) != n:
        raise InputError(f"lengths differ: {n} outcomes and {len(clusters)} cluster labels")
    index = {label: i for i, label in enumerate(dict.fromkeys(clusters))}
    if len(index) < FEWEST_CLUSTERS:
        raise InputError(f"{len(index)} clusters, expected at least {FEWEST_CLUSTERS}")
    return np.array([index[label] for label in clusters])


def _variance_between(
    labels: Int[np.ndarray, " n"], basis: Float[np.ndarray, "n column"], residuals: Float[np.ndarray, " n"]
) -> float:
    """Return the sum of squared changes of the last column's coefficient when each cluster is left out in turn."""
    total = 0.0
    for label in range(int(labels.max()) + 1):
        own = basis[labels == label]
        room = np.eye(len(own)) - own @ own.T
        if np.linalg.eigvalsh(room)[0] < FULL_LEVERAGE:
            raise InputError(f"HC3: without cluster {label} the effect is unknown, use fewer covariates")
        total += float(own[:, -1] @ np.linalg.solve(room, residuals[labels == label])) ** 2
    return total


def _columns(
    outcome: ArrayLike, group: ArrayLike, covariate: ArrayLike
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, "n known"]]:
    """Return outcome, group, and the intercept beside the standardised covariates, checked."""
    y, treated = observations(outcome, "outcome"), observations(group, "group")
    values = numbers(covariate, "covariate")
    if values.ndim not in (1, 2):
        raise InputError(f"covariate has shape {values.shape}, expected [n] or [n, k]")
    values = values[:, None] if values.ndim == 1 else values
    if not len(y) == len(treated) == len(values):
        raise InputError(
            f"lengths differ: {len(y)} outcomes, {len(treated)} group labels and {len(values)} covariate values"
        )
    if set(np.unique(treated)) != {0.0, 1.0}:
        raise InputError(f"group holds {np.unique(treated).tolist()[:5]}, expected both 0 and 1 and nothing else")
    n, k = values.shape
    if n < k + 3:
        raise InputError(f"{n} observations, expected at least {k + 3} for {k} covariate(s)")
    spread = values.std(axis=0)
    if (spread <= ROUNDING * np.abs(values).max(axis=0)).any():
        raise InputError(f"covariate {int(spread.argmin())} does not vary")
    known = np.column_stack([np.ones(n), (values - values.mean(axis=0)) / spread])
    if np.linalg.svd(known, compute_uv=False)[-1] ** 2 <= COLLINEAR * n:
        raise InputError(f"the {k} covariates are collinear")
    return y, treated, known


def _residual(values: Float[np.ndarray, " n"], basis: Float[np.ndarray, "n known"]) -> Float[np.ndarray, " n"]:
    return values - basis @ (basis.T @ values)
