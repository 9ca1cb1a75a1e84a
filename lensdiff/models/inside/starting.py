"""Passes that begin at a layer: the blocks before it hand on what they are given, so that only the rest is computed.

That is the same as a whole pass only where nothing but the stream leads from block to block; a model whose later layers
use keys and values of earlier ones is not like that. So it is measured, once: every block, entered with noise behind
blocks that are passed over, must give what it gives with the same noise in a whole pass.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from lensdiff.models.inside.meaning import Meaning
from lensdiff.models.inside.points import Point, Site
from lensdiff.models.inside.tape import CLOSE, first_tensor, probe, same
from lensdiff.models.inside.wrappers import Wrapper
from lensdiff.results.memory import is_lack_of_memory

Extra = int | None  # how many values a block returns behind the stream, in a tuple; None where it returns a tensor


class _Enough(Exception):
    """Ends a pass behind the block that is looked at."""


class _Fault(Exception):
    """An error of a hook of ours: no property of the model, and never taken for one."""


def starts(wrapper: Wrapper, meaning: Meaning) -> list[Extra] | None:
    """Return what each block returns beside the stream, for `passed_over`; None where no pass can begin at a layer."""
    sizes = wrapper.sizes()
    found = [meaning.points[Point("resid_pre", layer)] for layer in range(sizes.n_layers)]
    entrances = [site.module for site in found if isinstance(site, Site) and site.scale == 1.0]
    if len(entrances) < sizes.n_layers:
        return None
    tokens = probe(sizes.d_vocab, sizes.n_ctx, sizes.device)
    generator = torch.Generator().manual_seed(3)
    shape = (sizes.n_layers, *tokens.shape, sizes.d_model)
    noise = torch.randn(shape, generator=generator).to(sizes.device, sizes.dtype)
    with torch.no_grad(), wrapper.lock, wrapper.precision():
        whole: dict[int, Any] = {}
        with ExitStack() as stack:
            for layer, entrance in enumerate(entrances):
                _look(stack, wrapper, layer, entrance, noise[layer], whole)
            wrapper(tokens)
        extras: list[Extra] = [
            len(out) - 1 if isinstance(out, tuple) else None for out in map(whole.__getitem__, range(sizes.n_layers))
        ]
        wrapper(
            tokens.flip(1)
        )  # what blocks kept from the whole pass is gone, and those below a layer are not run again
        for layer, entrance in reversed([*enumerate(entrances)]):
            alone: dict[int, Any] = {}
            with ExitStack() as stack:
                stack.enter_context(passed_over(wrapper, extras[:layer]))
                _look(stack, wrapper, layer, entrance, noise[layer], alone, ends=True)
                if not _runs(wrapper, tokens):
                    return None
            if not same(first_tensor((alone.get(layer),)), first_tensor((whole[layer],)), CLOSE[sizes.dtype]):
                return None
    return extras


def _look(
    stack: ExitStack,
    wrapper: Wrapper,
    layer: int,
    entrance: nn.Module,
    noise: Tensor,
    made: dict[int, Any],
    *,
    ends: bool = False,
) -> None:
    """Let noise enter a block and keep what leaves it, as long as the stack lasts."""

    def entered(module: nn.Module, args: tuple, out: Any) -> Tensor:
        try:
            return noise.reshape(out.shape)
        except Exception as error:
            raise _Fault(f"noise cannot enter layer {layer}: {error}") from error

    def left(module: nn.Module, args: tuple, out: Any) -> None:
        made[layer] = out
        if ends:
            raise _Enough

    stack.callback(entrance.register_forward_hook(entered).remove)
    stack.callback(wrapper.model.blocks[layer].register_forward_hook(left).remove)


def _runs(wrapper: Wrapper, tokens: Tensor) -> bool:
    # a model that stumbles over a block that did nothing is run whole instead; want of memory is no such thing, nor is
    # a fault of ours, which is not among these errors
    try:
        with suppress(_Enough):
            wrapper(tokens)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        if is_lack_of_memory(error):
            raise
        return False
    return True


@contextmanager
def passed_over(wrapper: Wrapper, extras: list[Extra]) -> Iterator[None]:
    """Let the first blocks hand on what they are given while the context lasts, as many as there are `extras`."""
    # in the block's own dictionary: a bridge hands an attribute that is set on to the module that it wraps
    own = [vars(block) for block in list(wrapper.model.blocks)[: len(extras)]]
    before = [{name: space[name] for name in ("forward",) if name in space} for space in own]
    try:
        for space, extra in zip(own, extras, strict=True):
            space["forward"] = _handing_on(extra)
        yield
    finally:
        for space, kept in zip(own, before, strict=True):
            space.pop("forward", None)
            space.update(kept)


def _handing_on(extra: Extra) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        stream = args[0] if args else kwargs["hidden_states"]
        return stream if extra is None else (stream, *(None,) * extra)

    return forward
