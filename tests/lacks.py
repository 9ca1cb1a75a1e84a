"""What torch raises where memory is short: of a device, and of the machine, for which it has no class."""

import torch

LACKS = (
    torch.OutOfMemoryError("out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
)
