"""How many threads a run uses: for matrices as small as a toy model's one thread is the fastest, several are slow."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

SMALL = 20_000_000  # parameters; below that one thread


@contextmanager
def threads_for(parameters: int | None) -> Iterator[None]:
    """Use one thread while the context lasts if the model is small, else as many as before."""
    if parameters is None or parameters >= SMALL:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)
