"""Which devices this machine computes on."""

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
