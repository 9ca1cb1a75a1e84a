"""Floating-point operations of matrix products, by torch's own counter."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from torch.utils.flop_counter import FlopCounterMode


class Everywhere(AbstractContextManager):
    """Counts operations of no module in particular: the counter's own tracker knows no `torch.autograd.grad`."""

    parents: ClassVar = {"Global"}

    def __exit__(self, *_: object) -> None:
        return None


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count what is computed while the context lasts: `get_total_flops()` of what it gives."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = Everywhere()  # pyright: ignore[reportAttributeAccessIssue]
    with counter:
        yield counter
