"""True double precision through modules that cast to float32.

`transformers` computes norms and rotary angles in float32 whatever the weights' type. That is right for half
precision and wrong for double: a float64 model would carry float32 noise of 1e-8, where exactness is what float64 was
asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def as_double(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on the CPU where its device has none (Apple's)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


_CASTS = {torch.Tensor.float, torch.Tensor.to, torch.Tensor.type}


class _NoSingle(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.float:
            return args[0].double()
        if func in _CASTS:
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            kwargs = {k: torch.float64 if a is torch.float32 else a for k, a in kwargs.items()}
        elif kwargs.get("dtype") is torch.float32:  # softmax(..., dtype=torch.float32)
            kwargs = kwargs | {"dtype": torch.float64}
        return func(*args, **kwargs)


@contextmanager
def double_precision(active: bool = True) -> Iterator[None]:
    """Turn every cast to float32 into one to float64 while the context lasts."""
    if not active:
        yield
        return
    with _NoSingle():
        yield
