"""An analysis beside its rivals: the same numbers by each, asserted, then rounds over all of them, and one table.

A way gives its result and the seconds that it took by the clock that it is given: `here` makes one of a function. A
round asks every way once, so that a slow moment meets all of them, and the best of its times is a way's. A ratio is the
rival's seconds over lensdiff's: above 1, lensdiff is faster.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Clock = Callable[[], float]
Way = Callable[[Clock], tuple[Any, float]]
CLOCKS: dict[str, Clock] = {"processor": time.process_time, "wall": time.perf_counter}
HEADINGS = ("analysis", "case", "lensdiff, s", "rival", "rival, s", "ratio", "difference")


@dataclass(frozen=True)
class Comparison:
    """One analysis on one case.

    Attributes:
        analysis, case: what is computed, and on what.
        ours, rivals: ways by name; the first of ours is held against every other one.
        gap: how far two results are apart, and `bound` what is taken for the same numbers.
        what: what a gap is of, and its unit.
    """

    analysis: str
    case: str
    ours: Mapping[str, Way]
    rivals: Mapping[str, Way]
    gap: Callable[[Any, Any], float]
    bound: float
    what: str


def here(run: Callable[[], Any]) -> Way:
    """Return a way that is timed in this process."""

    def way(clock: Clock) -> tuple[Any, float]:
        start = clock()
        found = run()
        return found, clock() - start

    return way


def measured(comparison: Comparison, clock: Clock, *, repeats: int, most: float) -> list[dict[str, Any]]:
    """Return a row for each of ours and each rival.

    Args:
        repeats: rounds, of which as many are made as `most` seconds allow, and at least one.

    Raises:
        SystemExit: a way's numbers are not those of the first.
    """
    ways = {**comparison.ours, **comparison.rivals}
    times: dict[str, list[float]] = {name: [] for name in ways}
    gaps: dict[str, float] = {}
    first = next(iter(ways))
    while len(times[first]) < repeats and (not gaps or sum(map(sum, times.values())) < most):
        found = {}
        for name, way in ways.items():
            found[name], seconds = way(clock)
            times[name].append(seconds)
        gaps = {name: comparison.gap(found[first], result) for name, result in found.items() if name != first}
        for name, gap in gaps.items():
            if not gap < comparison.bound:
                where = f"{comparison.analysis}, {comparison.case}"
                raise SystemExit(f"{where}: {name} differs from {first} by {gap:.1e} {comparison.what}")
    return [
        {
            "analysis": mine,
            "case": comparison.case,
            "seconds": min(times[mine]),
            "rival": rival,
            "rival_seconds": min(times[rival]),
            "ratio": min(times[rival]) / min(times[mine]),
            "difference": gaps[rival],
            "of": comparison.what,
            "rounds": len(times[mine]),
        }
        for mine in comparison.ours
        for rival in comparison.rivals
    ]


def markdown(report: Mapping[str, Any]) -> str:
    """Return the table of what `table.py` writes as JSON, with the rivals that were left out below it."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in report["rows"]]
    left = [f"- {rival}: left out, {reason}" for rival, reason in report["left_out"].items()]
    return "\n".join([*lines, *([""] if left else []), *left])


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row as it is printed."""
    seconds, theirs = (f"{row[name]:#.3g}".rstrip(".") for name in ("seconds", "rival_seconds"))
    ratio = f"{row['ratio']:.2f}" if row["ratio"] < 10 else f"{row['ratio']:.0f}"
    return row["analysis"], row["case"], seconds, row["rival"], theirs, ratio, f"{row['difference']:.0e} {row['of']}"
