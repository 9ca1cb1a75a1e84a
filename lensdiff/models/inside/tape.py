"""A recording of one forward pass over a few tokens: what went into modules and hook points, and what came out."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

PROBE_TOKENS = 8
# largest difference, as a share of the largest value, that rounding explains
CLOSE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 1e-2}


@dataclass
class Tape:
    """The last input and output of each recorded module, by its identity."""

    ins: dict[int, Tensor] = field(default_factory=dict)
    outs: dict[int, Tensor] = field(default_factory=dict)

    def read(self, module: Any) -> Tensor | None:
        """Return what went into a module, or None where it was not passed through."""
        return self.ins.get(id(module))

    def made(self, module: Any) -> Tensor | None:
        """Return what came out of a module, or None where it was not passed through."""
        return self.outs.get(id(module))


@contextmanager
def recorded(modules: Iterable[nn.Module]) -> Iterator[Tape]:
    """Record the modules' first floating tensors while the context lasts."""
    tape = Tape()

    def keep(module: nn.Module, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        into, made = first_tensor((*args, *kwargs.values())), first_tensor((out,))
        for kept, value in ((tape.ins, into), (tape.outs, made)):
            if value is not None:
                kept[id(module)] = value

    with ExitStack() as stack:
        for module in {id(module): module for module in modules}.values():
            stack.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
        yield tape


def first_tensor(values: tuple) -> Tensor | None:
    """Return the first floating tensor in nested tuples, or None."""
    for value in values:
        found = first_tensor(tuple(value)) if isinstance(value, tuple | list) else value
        if isinstance(found, Tensor) and found.is_floating_point():
            return found
    return None


def same(a: Tensor | None, b: Tensor | None, close: float) -> bool:
    """Whether two tensors are there and differ by no more than rounding explains."""
    if a is None or b is None or a.shape != b.shape:
        return False
    return bool(agree(a, b, close))


def agree(a: Tensor, b: Tensor, close: float) -> Tensor:
    """Return the same of two tensors of one shape as a tensor: nobody waits for the device that holds it."""
    here = (one.cpu() if one.device.type == "mps" else one for one in (a, b))  # which has no float64
    mine, theirs = (one.double() for one in here)
    return (mine - theirs).abs().max() <= close * theirs.abs().max().clamp(min=1e-30)


def probe(d_vocab: int, n_ctx: int, device: torch.device) -> Tensor:
    """Return a few random tokens, [1, pos]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(d_vocab, (1, min(PROBE_TOKENS, n_ctx)), generator=generator).to(device)
