"""Controls: models made from the base by a meaningless change of the size of the real one, weight by weight.

A difference means little until a meaningless change of the same size has been shown beside it. Three kinds:

    spectrum   base + U' S V'^T: the real change's singular values S, random orthonormal U' and V' (the headline)
    norm       base + Gaussian noise of the real change's Frobenius norm
    self       the base itself: no change

What is treated how (`change` has the formulas):
- matrices: each of the checkpoint's own, all heads of W_Q as one, keys and values with their key-value heads;
- vectors (norm gains, biases): a random direction with the norm of the real change, which is the same for both kinds;
- embeddings: as matrices; where the base ties its unembedding to its embedding, so does the control; where the
  vocabularies differ only the rows of shared tokens change;
- what did not change in the tuned model stays exactly as it is in the base.
The change is added in float64 and rounded to the base's dtype. A control of models in half precision is read in
float32 and cannot be run: rounding would take away the part of the change that is below half a unit in the last place,
and a smaller change makes the real one look large.

A control is lazy: a weight is computed when it is read and never kept, so 99 of them cost a weights-only analysis the
memory of one weight. A forward pass needs a whole model: it is made on first use, and `free` lets go of it. Biases and
position embeddings are read from the whole model.

A weight depends on the control's kind and seed, its name and its layer alone, not on what was read before it. The two
kinds of one seed draw from the same random numbers, so they are not independent of each other.
"""

import copy
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor

from lensdiff.models.change import KINDS, PARAMETER, Kind, RealChange
from lensdiff.models.info import ModelInfo
from lensdiff.models.inside.meaning import Meaning
from lensdiff.models.inside.norms import Unknown
from lensdiff.models.inside.parts import Sizes, Weight
from lensdiff.models.inside.weights import ModelWeights, Weights
from lensdiff.models.inside.wrappers import Model, wrapper_of
from lensdiff.models.view import ModelView, forget, register
from lensdiff.results import Control, InputError

NAMES = {"spectrum": "spectrum-matched change", "norm": "norm-matched change"}
_OF_THE_WHOLE = ("b_", "W_pos")


class ChangedWeights(Weights):
    """The base's weights with a meaningless change, computed as they are read."""

    def __init__(self, change: RealChange, control: Control, name: str, whole: Callable[[], Weights]):
        self._change, self._control, self._title, self._whole = change, control, name, whole

    @property
    def name(self) -> str:
        return self._title

    @property
    def sizes(self) -> Sizes:
        return self._change.base.sizes

    @property
    def meaning(self) -> Meaning:
        """What parts of the model mean: a change of weights leaves that as it is in the base."""
        return self._change.base.meaning

    @property
    def attention_soft_cap(self) -> float | None:
        return self._change.base.attention_soft_cap

    def has(self, weight: Weight) -> bool:
        return self._change.base.has(weight)

    def stored(self, weight: Weight) -> Tensor | None:
        base = self._change.base
        if self._control.kind == "self":
            return base.stored(weight)
        if weight.name.startswith(_OF_THE_WHOLE):
            return self._whole().stored(weight) if base.has(weight) else None
        if weight.name == "W_U" and self._change.tied:
            return self.W_E.T
        if weight.name == "mlp_gain" and self.meaning.shared(weight.layer or 0):
            weight = Weight("attn_gain", weight.layer)
        old = base.stored(weight)
        if old is None:
            return None
        changed = self._change.apply(self._control, weight, old, self._change.singular_values(weight))
        return changed.to(torch.promote_types(changed.dtype, torch.float32))  # as those that did change


def control_view(
    base: ModelView, tuned: ModelView, change: RealChange, kind: Kind | str = "spectrum", seed: int = 0
) -> ModelView:
    """Return the base with a meaningless change, read as any model is.

    Raises:
        InputError: `kind` is none of "spectrum", "norm" and "self".
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r} is none of {', '.join(KINDS)}")
    control = Control(kind, seed)
    info = _info(base.info, control)
    weights = ChangedWeights(change, control, info.id, lambda: _there(itself()).whole().weights)
    found = ModelView(
        info,
        base._tokenizer,
        weights=weights,
        make=lambda: base if kind == "self" else _materialise(base, tuned, change, info, control),
        control=control,
    )
    itself = weakref.ref(found)  # weights that held their view would keep it until a collection
    return found


def _there(view: ModelView | None) -> ModelView:
    if view is None:
        raise InputError("biases and positions of a control are read from its whole model: keep the control itself")
    return view


def _info(base: ModelInfo, control: Control) -> ModelInfo:
    made = "no change" if control.kind == "self" else f"{NAMES[control.kind]} (seed {control.seed})"
    return replace(base, id=f"{base.id} + {made}")


def _materialise(base: ModelView, tuned: ModelView, change: RealChange, info: ModelInfo, control: Control) -> ModelView:
    """Return the view of a whole model with a control's weights: a copy of the base, the changed parameters written in.

    Parameters that no weight covers (biases, position embeddings, norms after a layer) change by the same rule, named
    as in the wrapper.

    Raises:
        InputError: the models are in half precision, the pair holds one as a HookedTransformer and the other as a
            TransformerBridge, or a folded TransformerBridge, whose parameters are not all of its weights.
    """
    if base.dtype.itemsize < torch.float32.itemsize:
        raise InputError(
            f"a control cannot be run in {str(base.dtype).removeprefix('torch.')}, whose rounding takes away a part of "
            "the change: load the pair with dtype='float32'"
        )
    if base.info.wrapper != tuned.info.wrapper:
        raise InputError("a control's forward pass needs both models in one wrapper: give wrapper=... to load_pair")
    if base.info.wrapper == "bridge" and base.info.weights == "folded":
        raise InputError("a control's forward pass needs weights='raw' where the models are TransformerBridges")
    # a wrapper keeps tensors of its last pass; only those without a graph can be copied
    base.forward.logits(torch.zeros(1, 1, dtype=torch.int64, device=base.device))
    forget(base.model)  # its view is not the copy's
    copies: dict[int, Any] = {}
    try:
        model = copy.deepcopy(base.model, copies)
    finally:
        register(base)
    _bind_to_the_copy(model, copies)
    # as the base means them; what the copy means is measured once they are written
    weights = ModelWeights(wrapper_of(model), lambda: info.id, lambda: base.meaning)
    written: list[Tensor] = []
    with torch.no_grad():
        _share_again(base.model, model)
        drawn = ChangedWeights(change, control, info.id, lambda: weights)
        for weight in base.weights.known():
            into, old, new = weights.stored(weight), base.weights.stored(weight), drawn.stored(weight)
            assert into is not None
            assert old is not None
            assert new is not None
            into.copy_(new)
            again = weights.stored(weight)
            if again is None or not torch.equal(into, again):
                raise RuntimeError(f"{weight} of the model cannot be written")
            written.append(old)
        _write_the_rest(change, control, (base.model, tuned.model, model), written)
    made = ModelView(info, base._tokenizer, wrapper_of(model), control=control)
    _check_made(base.meaning, made)
    register(made)
    return made


def _bind_to_the_copy(model: Model, copies: dict[int, Any]) -> None:
    # a wrapper puts functions on modules (Falcon's forward passes) that hold the modules which they were made for;
    # copying leaves functions as they are, and the copy would go on computing with the base's weights
    for module in model.modules():
        for name, value in list(vars(module).items()):
            cells = getattr(value, "__closure__", None)
            if not isinstance(value, FunctionType) or not cells:
                continue
            held = [CellType(copies.get(id(cell.cell_contents), cell.cell_contents)) for cell in cells]
            bound = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(held))
            bound.__kwdefaults__ = value.__kwdefaults__
            vars(module)[name] = bound


def _check_made(meaning: Meaning, made: ModelView) -> None:
    """Refuse a copy whose parts no longer mean what those of the base do: it computes with other weights than its own.

    Raises:
        InputError: a matrix, gain or hook of the base is none of the copy's.
    """
    found = made.meaning
    lost = [f"{name} of layer {layer}" for name, layer in found.matrices.keys() - meaning.matrices.keys()]
    lost += [f"the {place[0]} gain" for place, gain in found.gains.items() if _known(meaning.gains[place], gain)]
    lost += [str(point) for point, site in found.points.items() if _known(meaning.points[point], site)]
    if lost:
        raise InputError(
            f"a control of {made.info.architecture} cannot be run: in a copy of the model {lost[0]} is not what it was"
        )


def _known(before: object, after: object) -> bool:
    return isinstance(after, Unknown) and not isinstance(before, Unknown)


def _write_the_rest(
    change: RealChange, control: Control, models: tuple[Model, Model, Model], written: list[Tensor]
) -> None:
    base, tuned, made = (dict(model.named_parameters()) for model in models)
    # parts first: a fused parameter of which a part is written is written with it
    for name, parameter in sorted(base.items(), key=lambda item: item[1].numel()):
        if name not in tuned or any(_covers(parameter, other) for other in written):
            continue
        weight = Weight(PARAMETER + name)
        values = change.values_of(weight.name, parameter.detach(), tuned[name].detach())
        made[name].copy_(change.apply(control, weight, parameter.detach(), values))
        written.append(parameter)


def _share_again(base: Model, model: Model) -> None:
    # copying separates a parameter from the fused one that it is a part of (queries, keys and values; gate and up)
    copies, parameters = dict(model.named_parameters()), list(base.named_parameters())
    for name, part in parameters:
        for other, whole in parameters:
            if whole.numel() > part.numel() and _covers(whole, part):
                offset = (part.data_ptr() - whole.data_ptr()) // part.itemsize
                copies[name].data = copies[other].data.as_strided(part.shape, part.stride(), offset)


def _covers(parameter: Tensor, other: Tensor) -> bool:
    # one tensor seen twice, or a fused one and its part; queries, keys and values that lie interleaved are neither
    if parameter.data_ptr() == other.data_ptr():
        return True
    (start, end), (first, last) = _span(parameter), _span(other)
    return parameter.numel() > other.numel() and start <= first and last <= end


def _span(tensor: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.itemsize
