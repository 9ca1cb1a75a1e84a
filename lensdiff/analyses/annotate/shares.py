"""Shares of labels among annotations: which annotations carry a label, counted per component and per seed.

    share = sum over components of x_c / sum over components of n_c
    value of a component  z_c = share + (x_c - share n_c) / mean(n)        mean(z) = share

x_c of component c's n_c annotations carry the label; the n_c are one annotation per seed that was answered. The spread
of the z_c is that of the share (delta method for a ratio), so a test of means of the z_c is a test of shares.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.annotate.annotations import STATUSES, Annotations

EXPLAINABLE, NO_TASK = "explainable", "no task"
Marks = Bool[np.ndarray, "component seed"]
Label = tuple[str, str, Callable[[Annotations], Tensor]]


def labels_of(annotations: Annotations) -> list[Label]:
    """Return the labels with their kind and with what marks an explained annotation as carrying them."""

    def of_tasks(names: tuple[str, ...]) -> Callable[[Annotations], Tensor]:
        index = [annotations.tasks.index(name) for name in names]
        return lambda a: a.task[..., index].any(dim=-1)

    def of_level(index: int) -> Callable[[Annotations], Tensor]:
        return lambda a: a.level == index

    return [
        (EXPLAINABLE, "explainable", lambda a: a.status == 0),
        *((task, "task", of_tasks((task,))) for task in annotations.tasks),
        (NO_TASK, "task", lambda a: ~a.task.any(dim=-1)),
        *((name, "task group", of_tasks(tasks)) for name, tasks in annotations.groups.items()),
        *((name, "level", of_level(i)) for i, name in enumerate(annotations.levels)),
    ]


def marks_of(annotations: Annotations, side: int, layers: list[int]) -> list[tuple[Marks, Marks]]:
    """Return, per label, which annotations carry it and which count: components of some layers times seeds."""
    found = []
    explained = annotations.status == STATUSES.index("explained")
    answered = annotations.status <= STATUSES.index("unexplained")
    for name, _, marked in labels_of(annotations):
        total = answered if name == EXPLAINABLE else explained
        pair = (marked(annotations) & total, total)
        found.append(tuple(x[layers, side].flatten(0, 1).numpy() for x in pair))
    return found


def counts_of(marked: Marks, total: Marks) -> Float[np.ndarray, "counted 2"]:
    """Return how many of a component's annotations carry the label, and how many count; without those of none."""
    counts = np.stack([marked.sum(axis=1), total.sum(axis=1)], axis=1).astype(np.float64)
    return counts[counts[:, 1] > 0]


def share_values(counts: Float[np.ndarray, "component 2"]) -> Float[np.ndarray, " component"]:
    """Return a number per component whose mean is the share, and whose spread is that of the share (delta method)."""
    share = counts[:, 0].sum() / counts[:, 1].sum()
    return share + (counts[:, 0] - share * counts[:, 1]) / counts[:, 1].mean()


def shares_over_seeds(marked: Marks, total: Marks) -> Float[np.ndarray, " answered"]:
    """Return each seed's share, of the seeds that were answered for any component."""
    counted = total.sum(axis=0)
    return marked.sum(axis=0)[counted > 0] / counted[counted > 0]


def share_interval(counts: Float[np.ndarray, "component 2"], level: float) -> tuple[float, float, float]:
    """Return the share with its t interval over components within [0, 1]; NaN where there are too few components."""
    if len(counts) < 2:
        return (float(counts[0, 0] / counts[0, 1]) if len(counts) else np.nan), np.nan, np.nan
    values = share_values(counts)
    share = float(values.mean())
    try:
        found = stats.one_sample(values, level=level)
    except stats.NoVariation:  # components that all agree
        return share, share, share
    assert found.low is not None
    assert found.high is not None
    return share, max(0.0, found.low), min(1.0, found.high)
