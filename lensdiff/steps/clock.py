"""How long something takes: what is short is repeated, so that a busy moment counts for little."""

import time
from collections.abc import Callable
from statistics import median

import torch

LEAST = 0.1  # seconds that a measurement takes
TURNS, ENOUGH = 3, 2.0  # turns of works whose difference counts, and seconds after which no other turn begins


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes, the first time apart: that allocates."""
    _done(work())
    start, times = time.perf_counter(), 0
    while not times or time.perf_counter() - start < LEAST:
        _done(work())
        times += 1
    return (time.perf_counter() - start) / times


def alternately(*works: Callable[[], object]) -> tuple[float, ...]:
    """Return how long each of several works takes, where their differences count, the first time apart.

    They take turns, and what one takes is the median of its times: a busy moment falls on all of them alike.
    """
    for work in works:
        _done(work())
    times: list[list[float]] = [[] for _ in works]
    began = time.perf_counter()
    while len(times[0]) < TURNS or time.perf_counter() - began < LEAST * len(works):
        for work, own in zip(works, times, strict=True):
            start = time.perf_counter()
            _done(work())
            own.append(time.perf_counter() - start)
        if time.perf_counter() - began > ENOUGH:
            break
    return tuple(median(own) for own in times)


def _done(result: object) -> None:
    if isinstance(result, torch.Tensor) and result.is_cuda:
        torch.cuda.synchronize()
