"""A copy of a model that computes with its own weights, so that a change can be written into it."""

import copy
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from lensdiff.models.info import ModelInfo
from lensdiff.models.inside.meaning import Meaning
from lensdiff.models.inside.norms import Unknown
from lensdiff.models.inside.storage import covers
from lensdiff.models.inside.weights import ModelWeights
from lensdiff.models.inside.wrappers import Model, wrapper_of
from lensdiff.models.view import ModelView, forget, register
from lensdiff.results import Control, InputError


@dataclass(frozen=True, eq=False)
class Copied:
    """A copy of a base; what its parts mean is taken from the base until it is `viewed`."""

    base: ModelView
    model: Model
    weights: ModelWeights

    def viewed(self, info: ModelInfo, control: Control | None = None) -> ModelView:
        """Return the view of the copy, its parts measured again, registered with the model.

        Raises:
            InputError: a matrix, gain or hook of the base is none of the copy's.
        """
        made = ModelView(info, self.base._tokenizer, wrapper_of(self.model), control=control)
        _check_made(self.base.meaning, made)
        register(made)
        return made


def check_runs(base: ModelView) -> None:
    """Refuse to make a whole model of a base in half precision.

    Raises:
        InputError: it is.
    """
    if base.dtype.itemsize < torch.float32.itemsize:
        raise InputError(
            f"a control cannot be run in {str(base.dtype).removeprefix('torch.')}, whose rounding takes away a part of "
            "the change: load the pair with dtype='float32'"
        )


def copied(base: ModelView, *, half: bool = False) -> Copied:
    """Return a copy of a model.

    Args:
        half: copy a model in half precision too, whatever rounding does to what is written.

    Raises:
        InputError: the model is in half precision, or a folded TransformerBridge, whose parameters are not all of its
            weights.
    """
    if not half:
        check_runs(base)
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
    bind_to_the_copy(model, copies)
    with torch.no_grad():
        _share_again(base.model, model)
    # as the base means them; what the copy means is measured once they are written
    return Copied(base, model, ModelWeights(wrapper_of(model), lambda: base.info.id, lambda: base.meaning))


def uncovered(model: Model, written: Iterable[Tensor], among: Container[str]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters with some names that are neither among given tensors nor parts of them.

    Biases, position embeddings, norms behind a layer, experts. Parts come first: a fused parameter of which a part was
    yielded is covered by it.
    """
    covered = list(written)
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[1].numel()):
        if name in among and not any(covers(parameter, other) for other in covered):
            covered.append(parameter)
            yield name, parameter


def bind_to_the_copy(model: Model, copies: dict[int, Any]) -> None:
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


def _share_again(base: Model, model: Model) -> None:
    # copying separates a parameter from the fused one that it is a part of (queries, keys and values; gate and up)
    copies, parameters = dict(model.named_parameters()), list(base.named_parameters())
    for name, part in parameters:
        for other, whole in parameters:
            if whole.numel() > part.numel() and covers(whole, part):
                offset = (part.data_ptr() - whole.data_ptr()) // part.itemsize
                copies[name].data = copies[other].data.as_strided(part.shape, part.stride(), offset)
