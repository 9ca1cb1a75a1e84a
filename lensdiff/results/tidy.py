"""Arrays with named axes as tidy tables: a row for every place of an array."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd


def tidy(axes: Mapping[str, Sequence[Any]], values: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row for every place of arrays, the last axis running fastest: a column per axis, then one per array.

    Args:
        axes: by name, what each axis counts: a label per place.
        values: arrays (NumPy's, or tensors on the CPU) of that shape, or of one that is broadcast to it: an array of
            fewer axes is about the last ones, and says the same along an axis of size 1.

    Raises:
        ValueError: an array does not fit the axes.
    """
    frame = pd.MultiIndex.from_product(list(axes.values()), names=list(axes)).to_frame(index=False)
    shape = tuple(len(labels) for labels in axes.values())
    return frame.assign(
        **{name: np.broadcast_to(np.asarray(array), shape).reshape(-1) for name, array in values.items()}
    )
