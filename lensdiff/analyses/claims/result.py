"""What the claims are answered with: a verdict, a sentence, and the numbers that both follow from."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from lensdiff import stats
from lensdiff.analyses.claims.cause import Cause
from lensdiff.analyses.claims.words import Made, Name
from lensdiff.results import Result

Verdict = Literal[
    "shown",
    "opposite",
    "beyond, too few",
    "within controls",
    "not shown",
    "depends",
    "too few controls",
    "not testable",
]
NAMES: tuple[Name, ...] = ("instruction", "heads", "rotation")
PAPER: dict[Name, str] = {
    "instruction": "Tuning makes the model recognise the instruction and condition its response on it.",
    "heads": "Self-attention heads encode more word relations with instruction verbs.",
    "rotation": "Feed-forward layers rotate pre-trained knowledge toward user-oriented tasks.",
}


@dataclass(frozen=True)
class Way:
    """The same question asked in another way: where its answer lies elsewhere, the claim depends on `of`.

    Attributes:
        name: of the way; effect: its number, in `unit`, by default the claim's.
        of: what the answer depends on if this way disagrees.
        beside: the effect beside the controls', or None: then its sign counts.
    """

    name: str
    effect: float
    of: str
    beside: stats.Envelope | None = None
    unit: str | None = None

    def agrees(self, direction: stats.Direction | None) -> bool:
        """Return whether this way points where the headline does."""
        own = self.beside.direction if self.beside else ("above" if self.effect > 0 else "below")
        return own == direction


def unit_of(way: Way, unit: str) -> str:
    """Return the unit of a way of asking, the claim's own where it has none."""
    return unit if way.unit is None else way.unit


@dataclass(frozen=True)
class Claim:
    """One claim and its answer.

    Attributes:
        paper: what the paper says.
        verdict: the answer in a word; statement: in a sentence.
        effect: the number, None where there is none; unit: as it follows a number.
        p, p_adjusted: None where there are too few controls.
        beside: the effect beside each kind of control; controls: their effects; made: how many.
        interval, ways, facts, also: as in `Evidence`.
        replication: what the paper's own statistic shows, without a verdict.
        cause: what an intervention shows, without a verdict; None where none was made.
    """

    name: Name
    paper: str
    verdict: Verdict
    statement: str
    effect: float | None = None
    unit: str = ""
    p: float | None = None
    p_adjusted: float | None = None
    beside: stats.Envelope | None = None
    controls: dict[str, list[float]] = field(default_factory=dict)
    made: tuple[Made, ...] = ()
    interval: tuple[float, float] | None = None
    ways: tuple[Way, ...] = ()
    facts: tuple[str, ...] = ()
    also: tuple[tuple[str, stats.Test], ...] = ()
    replication: tuple[str, ...] = ()
    cause: Cause | None = None


@dataclass(frozen=True, eq=False)
class Claims(Result):
    """The answers, in the order of the paper.

    Attributes:
        claims: a `Claim` each: instruction, heads, rotation.
    """

    calls = ("top()", "controls()", "to_df()", "show()")

    claims: tuple[Claim, ...]

    def told(self) -> list[str]:
        """Return each claim's verdict, and the number that it follows from."""
        return [f"{c.name}: {c.verdict}" + (f" ({c.beside or c.effect}{c.unit})" if c.effect is not None else "")
                for c in self.claims]  # fmt: skip

    def to_df(self) -> pd.DataFrame:
        """Return a row per claim.

        Columns: claim, verdict, statement, effect, unit, p, p_adjusted, control_low, control_high (of all kinds
        together; missing with fewer than 19 of one), n_controls (of the smallest kind), cause (in words, "" without
        one), cause_effect, cause_control_low, cause_control_high.
        """
        return pd.DataFrame([_row(claim) for claim in self.claims])

    def controls(self) -> pd.DataFrame:
        """Return a row per claim and kind of control.

        Columns: claim, kind, n (valid ones), made, checked, invalid, median, low, high, p.
        """
        columns = ["claim", "kind", "n", "made", "checked", "invalid", "median", "low", "high", "p"]
        rows = [row for claim in self.claims for row in _control_rows(claim)]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[6:], float))

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the first k claims, in the order of the paper."""
        return self.to_df().head(k).loc[:, ["claim", "verdict", "effect", "control_low", "control_high", "p_adjusted"]]


def _row(claim: Claim) -> dict[str, object]:
    beside = claim.beside
    low, high = (beside.band if beside else None) or (np.nan, np.nan)
    cause = claim.cause
    caused = cause.beside if cause else None
    cause_low, cause_high = (caused.band if caused else None) or (np.nan, np.nan)
    return {
        "claim": claim.name,
        "verdict": claim.verdict,
        "statement": claim.statement,
        "effect": claim.effect,
        "unit": claim.unit.strip(),
        "p": claim.p,
        "p_adjusted": claim.p_adjusted,
        "control_low": low,
        "control_high": high,
        "n_controls": beside.n if beside else 0,
        "cause": cause.statement if cause else "",
        "cause_effect": cause.effect if cause else np.nan,
        "cause_control_low": cause_low,
        "cause_control_high": cause_high,
    }


def _control_rows(claim: Claim) -> list[tuple[object, ...]]:
    beside = {kind.kind: kind for kind in claim.beside.kinds} if claim.beside else {}
    rows = []
    for made in claim.made:
        kind = beside.get(made.kind)
        numbers = (kind.median, kind.low, kind.high, kind.p) if kind else (None,) * 4
        n = kind.n if kind else 0
        rows.append((claim.name, made.kind, n, made.made, made.checked, made.invalid, *numbers))
    return rows
