"""A model in half precision, computed in float32 a part at a time.

    while a pass is in a block (or in a module outside of all blocks), its weights are float32 copies of what is stored;
    behind it they are what is stored again, and the copies go

Widening is exact, so this is the float32 model of the stored weights, whose other numbers (norms, angles, activations)
are float32 too. A HookedTransformer rounds its rotary tables to the type of its weights: where a table is the rounding
of what its layer makes in float32, the latter is used.

Memory: the model as it is stored, and its largest part in float32 (a block, or the unembedding). A backward pass keeps
weights as they are stored and widens them again on its way: what autograd saves and is exact in half precision is saved
in that.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lensdiff.models.inside.parts import BiasName, MatrixName, Sizes
from lensdiff.models.inside.wrapper import Wrapper

HALF = (torch.bfloat16, torch.float16)
WIDE = torch.float32
Tables = dict[tuple, dict[str, Tensor]]  # rotary tables by what they are made of
SAMPLE = 64  # numbers that are looked at before all are: what was computed is hardly ever exact in half precision


class Widened(Wrapper):
    """A wrapper of a model in half precision, as if its weights were float32.

    Attributes:
        stored: the wrapper of the model as it is.
    """

    def __init__(self, stored: Wrapper):
        super().__init__(stored.model)
        self.stored, self.kind = stored, stored.kind
        self._tables: Tables = {}

    def sizes(self) -> Sizes:
        """As `Wrapper.sizes`."""
        return replace(self.stored.sizes(), dtype=WIDE)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.stored.W_E.to(WIDE)

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self.stored.W_U.to(WIDE)

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"] | None:
        return _wide(self.stored.b_U)

    @property
    def embeddings(self) -> list[nn.Module]:
        return self.stored.embeddings

    def matrix(self, layer: int, name: MatrixName) -> Tensor | None:
        return _wide(self.stored.matrix(layer, name))

    def bias(self, layer: int, name: BiasName) -> Tensor | None:
        return _wide(self.stored.bias(layer, name))

    def W_pos(self) -> Float[Tensor, "pos d_model"] | None:
        return _wide(self.stored.W_pos())

    def attention_soft_cap(self) -> float | None:
        return self.stored.attention_soft_cap()

    def final_soft_cap(self) -> float | None:
        return self.stored.final_soft_cap()

    def __call__(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        return self.stored(tokens, mask)

    def new_cache(self, batch: int) -> Any:
        with _configured(self.model):
            return self.stored.new_cache(batch)

    def cached_logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch total_pos"], cache: Any
    ) -> Float[Tensor, "batch d_vocab"]:
        return self.stored.cached_logits(tokens, mask, cache)

    @contextmanager
    def precision(self) -> Iterator[None]:
        with in_float32(self.model, self._tables):
            yield


@contextmanager
def in_float32(model: nn.Module, tables: Tables | None = None) -> Iterator[None]:
    """Let the passes of any model of blocks in half precision be made in float32 while the context lasts.

    Args:
        tables: rotary tables that are known already; those that are made are added.
    """
    parts = _Parts({} if tables is None else tables)
    with ExitStack() as stack:
        stack.enter_context(_configured(model))
        stack.callback(parts.restore)  # a pass may end within a part
        above, found = _parts(model)
        parts.replace(above)
        for part in found:
            stack.callback(part.register_forward_pre_hook(parts.enter).remove)
            stack.callback(part.register_forward_hook(parts.leave).remove)
        if torch.is_grad_enabled():
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(parts.saved, _unsaved))
        yield


def _wide(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.to(WIDE)


def _is_half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in HALF


def _parts(model: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the modules above blocks, and the blocks (the members of lists of modules) with all other modules."""
    # a bridge leaves out what it has no name for (Gemma 4's embeddings of layers)
    whole = getattr(model, "original_model", None)
    roots = [model, whole] if isinstance(whole, nn.Module) else [model]
    every = {id(module): module for root in roots for module in root.modules()}
    listed = {id(one): one for module in every.values() if isinstance(module, nn.ModuleList) for one in module}
    inside = {id(module) for block in listed.values() for module in block.modules()}
    above, beside = [], []
    for module in (module for key, module in every.items() if key not in inside):
        (above if any(id(one) in inside for one in module.modules()) else beside).append(module)
    return above, [*beside, *listed.values()]


@contextmanager
def _configured(model: nn.Module) -> Iterator[None]:
    """Let TransformerLens's modules know in what they compute: they cast to what their config says."""
    configs: dict[int, Any] = {id(cfg): cfg for module in model.modules() if (cfg := vars(module).get("cfg"))}
    known = [(cfg, cfg.dtype) for cfg in configs.values() if getattr(cfg, "dtype", None) in HALF]
    try:
        for cfg, _ in known:
            cfg.dtype = WIDE
        yield
    finally:
        for cfg, dtype in known:
            cfg.dtype = dtype


class _Replaced(NamedTuple):
    """A weight or buffer while another stands in its place: a copy of it, or a table that it is the rounding of."""

    owner: dict[str, Any]
    name: str
    stored: Tensor
    wide: Tensor
    is_copy: bool


class _Parts:
    """The parts that a pass is in, innermost last, with what was replaced in each."""

    def __init__(self, tables: Tables):
        self.entered: list[list[_Replaced]] = []
        self.tables = tables

    def enter(self, part: nn.Module, args: tuple) -> None:
        self.replace(part.modules())

    def replace(self, modules: Iterable[nn.Module]) -> None:
        """Put float32 in the place of what modules hold themselves."""
        found = []
        for module in modules:
            tables = self._rotary(module)
            # a folded bridge computes with matrices that are plain attributes
            for owner in (module._parameters, module._buffers, vars(module)):
                halves: dict[str, Any] = {name: value for name, value in owner.items() if _is_half(value)}
                for name, value in halves.items():
                    wide = tables[name] if name in tables else value.detach().to(WIDE)
                    found.append(_Replaced(owner, name, value, wide, name not in tables))
        for one in found:
            one.owner[one.name] = one.wide
        self.entered.append(found)

    def leave(self, part: nn.Module, args: tuple, out: Any) -> None:
        self._put_back()

    def restore(self) -> None:
        """Put back whatever is replaced."""
        while self.entered:
            self._put_back()

    def _put_back(self) -> None:
        for one in self.entered.pop():
            now = one.owner.get(one.name)
            if now is one.wide:
                one.owner[one.name] = one.stored
            elif isinstance(now, Tensor):  # the pass made it anew: a longer table, a pattern
                one.owner[one.name] = now.to(one.stored.dtype)

    def _rotary(self, attn: Any) -> dict[str, Tensor]:
        """Return the rotary tables of a layer of a HookedTransformer, where it holds them rounded."""
        held = {name: attn._buffers.get(name) for name in ("rotary_sin", "rotary_cos")}
        stored = [table for table in held.values() if table is not None and table.dtype in HALF]
        if len(stored) < len(held):
            return {}
        key = id(attn.cfg), attn._rotary_base(), attn.attn_type, len(stored[0]), stored[0].device
        if key not in self.tables:
            made = attn.calculate_sin_cos_rotary(attn.cfg.rotary_dim, key[3], base=key[1], dtype=WIDE)
            self.tables[key] = {name: table.to(key[4]) for name, table in zip(held, made, strict=True)}
        found = self.tables[key]
        rounded = (torch.equal(table.to(one.dtype), one) for table, one in zip(found.values(), stored, strict=True))
        return found if all(rounded) else {}

    def saved(self, value: Tensor) -> "Tensor | _View | _Narrowed":
        """Return what autograd keeps of a tensor: of a weight what is stored, of another what half precision holds."""
        if value.dtype != WIDE or not self.entered:
            return value
        value = value.detach()
        place, dtypes = value.untyped_storage().data_ptr(), set()
        for one in (one for part in self.entered for one in part if one.is_copy):
            if one.wide.untyped_storage().data_ptr() == place and one.wide.stride() == one.stored.stride():
                return _View(one.stored.detach(), value.shape, value.stride(), int(value.storage_offset()))
            dtypes.add(one.stored.dtype)
        # some modules multiply by a weight's copy in another order
        return next((half for dtype in dtypes if (half := _narrowed(value, dtype)) is not None), value)


class _View(NamedTuple):
    """A part of a stored weight."""

    stored: Tensor
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int

    def wide(self) -> Tensor:
        return self.stored.to(WIDE).as_strided(self.shape, self.stride, self.offset)


class _Narrowed(NamedTuple):
    """A tensor that half precision holds."""

    half: Tensor

    def wide(self) -> Tensor:
        return self.half.to(WIDE)


def _narrowed(value: Tensor, dtype: torch.dtype) -> _Narrowed | None:
    """Return a tensor in half precision, or None where that is another."""
    for some in (value.flatten()[:SAMPLE], value):
        half = some.to(dtype)
        if not torch.equal(half.to(WIDE), some):
            return None
    return _Narrowed(half)


def _unsaved(kept: Tensor | _View | _Narrowed) -> Tensor:
    return kept if isinstance(kept, Tensor) else kept.wide()
