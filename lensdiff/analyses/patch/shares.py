"""Which part of the difference between two models an effect is.

total   donor - clean: the metric in the model that gives, less that in the model that is patched
share   effect / total; NaN where the total is about 0: on one prompt where it is at most `least`, over several
        where its interval over prompts holds 0 as well
"""

import numpy as np
from jaxtyping import Float

from lensdiff import stats


def share_of(
    effect: Float[np.ndarray, "..."],
    clean: Float[np.ndarray, "prompt ..."],
    donor: Float[np.ndarray, "prompt ..."],
    *,
    least: float,
    level: float = 0.95,
) -> Float[np.ndarray, "..."]:
    """Return an effect, mean over prompts, over the mean total of these prompts; NaN is no prompt."""
    told = stats.told_apart(donor, clean, least=least, level=level)
    return np.divide(effect, mean_of(donor - clean), out=np.full(np.shape(effect), np.nan), where=told)


def mean_of(values: Float[np.ndarray, "..."], axis: int = 0) -> Float[np.ndarray, "..."]:
    """Return the mean over an axis of what is there; NaN where nothing is."""
    known = ~np.isnan(values)
    n = known.sum(axis=axis)
    return np.divide(np.where(known, values, 0.0).sum(axis=axis), n, out=np.full(n.shape, np.nan), where=n > 0)
