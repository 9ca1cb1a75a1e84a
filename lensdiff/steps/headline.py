"""A headline: one thing that tuning shifted, in a sentence, with its control beside it.

An analysis gives its own (`headlines` of its module `section`), of each kind the most shifted first; the report puts
those of all analyses together, and the page, the terminal and `Report.summary` show the same ones. No number is
computed for a headline: it is one that the analysis has, and its control is the band that stands beside it there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from lensdiff import stats

Kind = Literal["responses", "tokens", "words", "heads", "matrices", "layers"]
Side = Literal["above", "below", "either"]
NO_CONTROL = "no control"
MOST = 5  # of a kind


@dataclass(frozen=True)
class Headline:
    """See the module.

    Attributes:
        kind: of what was shifted.
        text: a sentence without its full stop, the number in it.
        number: how far, in `unit`; tuned - base where it has a sign.
        unit: as it follows the number.
        control: what stands beside it, in words; "no control" where nothing does.
        beyond: whether it lies beyond every kind of control, on the side of more change; None where no band tells.
        link: the id of the section of the report that it comes from; the report fills it in.
    """

    kind: Kind
    text: str
    number: float
    unit: str = ""
    control: str = NO_CONTROL
    beyond: bool | None = None
    link: str = ""

    def __str__(self) -> str:
        """Return the sentence, then its control."""
        return f"{self.text}; {self.control}"


def beside_band(low: float | None, high: float | None, counts: Mapping[str, int], unit: str = "") -> str:
    """Return what stands beside a number: the band of controls, or why there is none.

    Args:
        low, high: limits of all kinds of controls together; None or NaN where one kind has too few for a band.
        counts: how many controls of each kind were made.
    """
    if not counts:
        return NO_CONTROL
    made = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return f"too few controls for a band ({made}; {stats.FEWEST_FOR_RANK} of each kind are needed)"
    return f"controls {low:.3g} to {high:.3g}{unit} ({made})"


def band_of(found: stats.Envelope | None) -> tuple[float | None, float | None]:
    """Return the limits of all kinds of controls together; None where there is no band."""
    return (found.band if found else None) or (None, None)


def beside_envelope(found: stats.Envelope | None, unit: str = "") -> str:
    """Return the same of one number that stands beside every kind of control."""
    if found is None:
        return NO_CONTROL
    return beside_band(*band_of(found), {kind.kind: kind.n for kind in found.kinds}, unit)


def is_beyond(value: float, low: float | None, high: float | None, side: Side = "either") -> bool | None:
    """Return whether a number lies outside a band, on the side that means more change; None without a band."""
    if low is None or high is None or pd.isna(low) or pd.isna(high) or pd.isna(value):
        return None
    return bool((side != "below" and value > high) or (side != "above" and value < low))


def most_shifted(
    frame: pd.DataFrame,
    number: str,
    *,
    limits: tuple[str, str] = ("control_low", "control_high"),
    side: Side = "either",
    k: int = MOST,
) -> Iterator[tuple[Any, bool | None]]:
    """Yield the first rows of a table that begins with what moved most, those beyond the controls before the others.

    Args:
        frame: in the analysis' own order.
        number, limits: columns; side: on which side of the limits more change lies.

    Yields:
        (row, beyond), the row as a named tuple.
    """
    frame = frame.assign(**{name: np.nan for name in limits if name not in frame})  # a short table leaves them out
    rows = [
        (row, is_beyond(getattr(row, number), getattr(row, limits[0]), getattr(row, limits[1]), side))
        for row in frame.itertuples(index=False)
    ]
    yield from sorted(rows, key=lambda found: not found[1])[:k]
