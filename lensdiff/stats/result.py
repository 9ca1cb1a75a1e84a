"""What a statistic is: estimate, interval, test, sample sizes, p; and false-discovery control over several of them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from lensdiff.results.errors import InputError

SMALLEST_P = 1e-16  # what a sentence still tells apart from zero
USUAL_LEVEL = 0.95  # of an interval; a sentence names every other one
ADJUSTMENTS = {"bh": "Benjamini-Hochberg", "by": "Benjamini-Yekutieli", "holm": "Holm"}


class Band(NamedTuple):
    """Lower and upper limit, arrays of equal shape."""

    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]


@dataclass(frozen=True)
class Test:
    """One estimate (tuned - base, or effect - controls) with its two-sided interval at `level`, its test and its p.

    `n` counts the observations of each sample: (tuned, base), (pairs,) or (controls,). `low`, `high`, `statistic` or
    `p` is None where the procedure has none: a permutation test gives no interval, a bootstrap no p. `warning` says
    where the procedure is known to be wrong on data like these, and by how much. `str(test)` is a sentence fragment.

    Raises:
        InputError: p or p_adjusted is not a number between 0 and 1.
    """

    __test__ = False  # a statistic, which pytest must not collect

    name: str
    estimate: float
    low: float | None
    high: float | None
    level: float
    statistic: float | None
    n: tuple[int, ...]
    p: float | None
    p_adjusted: float | None = None
    family: str | None = None
    adjustment: str | None = None
    alternative: str = "two-sided"
    note: str = ""
    warning: str = ""

    def __post_init__(self) -> None:
        for field, value in (("p", self.p), ("p_adjusted", self.p_adjusted)):
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{field} of {self.name!r} is {value}, expected a number between 0 and 1")

    @property
    def interval(self) -> tuple[float, float] | None:
        """The limits of the estimate; None where the procedure gives none."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self) | {"n": list(self.n)}

    def numbers(self) -> str:
        """Return estimate and interval alone, for example `+0.29 [0.22, 0.36]`."""
        return _estimate_and_interval(self.estimate, self.low, self.high, self.level)

    def __str__(self) -> str:
        """Return for example `+0.29 [0.22, 0.36], p = 2e-14 (Welch, n = 300 + 300)`."""
        p = "" if self.p is None else f", {format_p(self.p)}"
        if self.p_adjusted is not None:
            p += f", adjusted {format_p(self.p_adjusted)}"
        sided = ["one-sided"] if self.alternative in ("greater", "less") else []
        sizes = "n = " + " + ".join(str(n) for n in self.n)
        notes = [self.note] if self.note else []
        if self.p_adjusted is not None:
            notes.append(f"{self.adjustment} in {self.family}")
        notes += [self.warning] if self.warning else []
        how = "; ".join([", ".join([self.name, *sided, sizes]), *notes])
        return f"{self.numbers()}{p} ({how})"


def from_standard_error(
    name: str,
    estimate: float,
    error: float,
    df: float,
    *,
    level: float,
    n: tuple[int, ...],
    alternative: str,
    note: str = "",
) -> Test:
    """Return the t test of an estimate against zero: t = estimate / error, error above 0, `df` degrees of freedom."""
    t = estimate / error
    tail = {"two-sided": 2 * stats.t.sf(abs(t), df), "greater": stats.t.sf(t, df), "less": stats.t.cdf(t, df)}
    low, high = stats.t.interval(level, df, loc=estimate, scale=error)
    p = min(1.0, float(tail[alternative]))
    return Test(name, estimate, float(low), float(high), level, float(t), n, p, alternative=alternative, note=note)


def no_change(
    name: str, estimate: float, *, level: float, n: tuple[int, ...], alternative: str, note: str = "no variation"
) -> Test:
    """Return the test of data that neither vary nor differ: 0/0 is "no change", p = 1 and the interval one point."""
    return Test(name, estimate, estimate, estimate, level, 0.0, n, 1.0, alternative=alternative, note=note)


def format_p(p: float) -> str:
    """Return `p = 0.032`, `p = 2e-14`, or `p < 1e-16` for anything smaller."""
    if p < SMALLEST_P:
        return f"p < {SMALLEST_P:.0e}"
    return f"p = {p:.0e}" if p < 0.001 else f"p = {p:.2g}"


def _estimate_and_interval(estimate: float, low: float | None, high: float | None, level: float) -> str:
    if low is None or high is None:
        return _signed(f"{estimate:.3g}")
    width, size = high - low, max(abs(low), abs(high))
    if width == 0:
        digits = ".3g"
    elif size < 1e-4:
        digits = ".2e"
    else:  # two digits of the width: more would be noise
        digits = f".{min(9, max(0, 1 - math.floor(math.log10(width))))}f"
    limits = "" if level == USUAL_LEVEL else f"{100 * level:g}% "
    return f"{_signed(f'{estimate:{digits}}')} {limits}[{_plain(f'{low:{digits}}')}, {_plain(f'{high:{digits}}')}]"


def _plain(number: str) -> str:
    return number.removeprefix("-") if float(number) == 0 else number  # no -0.00


def _signed(number: str) -> str:
    return f"+{number}" if float(number) > 0 else _plain(number)


def adjust(tests: Sequence[Test], *, family: str, method: str = "bh") -> list[Test]:
    """Return the tests, in order, with adjusted p-values over this one family (one displayed table).

    method "bh" (Benjamini-Hochberg: false discoveries) holds for independent and positively dependent tests, "by"
    (Benjamini-Yekutieli: false discoveries) and "holm" (any false rejection) for all.

    Raises:
        InputError: the method is unknown, the family has no name, or a test has no p.
    """
    if method not in ADJUSTMENTS:
        raise InputError(f"unknown adjustment {method!r}, expected one of {', '.join(ADJUSTMENTS)}")
    if not family.strip():
        raise InputError("a family of tests needs a name, given an empty one")
    values: list[float] = []
    for i, test in enumerate(tests):
        if test.p is None:
            raise InputError(f"test {i} of family {family!r} ({test.name}) has no p-value to adjust")
        values.append(test.p)
    if not values:
        return []
    given = np.array(values)
    adjusted = holm(given) if method == "holm" else stats.false_discovery_control(given, method=method)
    how = f"{ADJUSTMENTS[method]} over {len(values)}"
    return [
        replace(test, p_adjusted=float(p), family=family, adjustment=how)
        for test, p in zip(tests, adjusted, strict=True)
    ]


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Return Holm's adjusted p-values: max over i up to k of min(1, (n - i) p_(i)) for the k-th smallest, i from 0.

    Reference: Holm, Scand. J. Stat. 6, 1979.
    """
    order = np.argsort(p, kind="stable")
    scaled = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(scaled)
    adjusted[order] = np.maximum.accumulate(scaled)
    return adjusted
