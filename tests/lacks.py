"""What torch raises where memory is short: of a device, and of the machine, for which it has no class."""

import torch

# torch 2.8 has a class for what a device's driver says
OF_A_DRIVER = getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory")
LACKS = (
    torch.OutOfMemoryError("out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    OF_A_DRIVER,
)
