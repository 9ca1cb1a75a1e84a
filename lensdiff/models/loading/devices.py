"""Which devices this machine computes on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lensdiff.inputs.spans import shorten
from lensdiff.results.errors import InputError
from lensdiff.results.memory import is_lack_of_memory


def default_device() -> str:
    """Return "cuda" or "mps" where present, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def usable_device(device: str) -> str:
    """Return the name of a device on which this machine can compute.

    Raises:
        InputError: torch does not know it, the machine has none, or it holds shapes alone ("meta").
    """
    try:
        held = torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if is_lack_of_memory(error):  # it is there, and full
            raise
        what = shorten(str(error).strip().split("\n", 1)[0], 200)
        raise InputError(f"device {shorten(device)} cannot be used here: {what}") from error
    if held.is_meta:
        raise InputError(
            f"device {device!r} holds no numbers, expected one that computes, such as {default_device()!r}"
        )
    return device


@contextmanager
def whole_products() -> Iterator[None]:
    """Keep products of float32 in float32 while the context lasts: no TF32, whatever the program has set before."""
    before, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions


def rounded_products(dtype: torch.dtype) -> str | None:
    """Return what is said where products of float32 are rounded, and a model is of that type; else None."""
    set_to = torch.get_float32_matmul_precision()
    if dtype != torch.float32 or set_to == "highest":
        return None
    return (
        f"products of float32 may be rounded (torch.set_float32_matmul_precision is {set_to!r}), and what is said to "
        "be exact is not: set it to 'highest'"
    )
