"""Whether an error tells of a lack of memory: that says nothing of what a user gave, and passes as it is."""

import errno

import torch
from safetensors import SafetensorError

# of the machine's own memory torch speaks in a plain RuntimeError, and safetensors in its own error of everything
WORDS = ("can't allocate memory", "not enough memory: you tried to allocate", "Cannot allocate memory")


def is_lack_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no memory left, of a device or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):  # numpy's and Arrow's are the former
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError | SafetensorError) and any(words in str(error) for words in WORDS)
