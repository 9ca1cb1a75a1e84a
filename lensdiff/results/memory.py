"""Whether an error tells of a lack of memory: that says nothing of what a user gave, and passes as it is."""

import errno

import torch
from safetensors import SafetensorError

WORDS = (
    # of the machine's own memory torch speaks in a plain RuntimeError, and safetensors in its own error of everything
    *("can't allocate memory", "not enough memory: you tried to allocate", "Cannot allocate memory"),
    # of a device's where another than torch's own allocator finds none: the driver, cuBLAS and its kin, Metal
    *("CUDA error: out of memory", "HIP error: out of memory", "_STATUS_ALLOC_FAILED", "MPS backend out of memory"),
)


def is_lack_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no memory left, of a device or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):  # numpy's and Arrow's are the former
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError | SafetensorError) and any(words in str(error) for words in WORDS)


def is_of_one_alone(error: BaseException) -> bool:
    """Return whether an error that was not foreseen tells of one prompt or unit alone, so that others can go on.

    That is a RuntimeError of no class of its own, such as torch raises where shapes do not fit, and no lack of memory.
    """
    return type(error) is RuntimeError and not is_lack_of_memory(error)
