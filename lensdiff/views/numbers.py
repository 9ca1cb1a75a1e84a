"""Numbers as a page's script is given them: a few significant digits, and None for what JSON has no number for.

`rounded` leaves NaN and infinity as they are, and a page that would hold them is refused; `known` is for values that
may be missing, where a script shows a gap.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

DIGITS = 4  # more than a picture or its caption shows

Numbers = Sequence[float] | Tensor | np.ndarray | pd.Series  # of one axis


def rounded(value: float, digits: int = DIGITS) -> float:
    """Return a number with that many significant digits."""
    return float(f"{value:.{digits}g}")


def rounded_all(values: Numbers, digits: int = DIGITS) -> list[float]:
    """Return numbers with that many significant digits."""
    return [rounded(value, digits) for value in _listed(values)]


def known(value: float, digits: int = DIGITS) -> float | None:
    """Return a number with that many significant digits, None where it is not finite."""
    return rounded(value, digits) if math.isfinite(value) else None


def known_all(values: Numbers, digits: int = DIGITS) -> list[float | None]:
    """Return numbers with that many significant digits, None where one is not finite."""
    return [known(value, digits) for value in _listed(values)]


def _listed(values: Numbers) -> Sequence[float]:
    return values if isinstance(values, Sequence) else values.tolist()
