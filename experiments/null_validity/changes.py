"""Changes of a checkpoint's weights as state dicts, tuned - base by parameter: how they are taken, added and sized."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lensdiff.results import InputError

Change = dict[str, Tensor]


def change_of(tuned: PreTrainedModel, base: PreTrainedModel) -> Change:
    """Return tuned - base of every parameter that moved."""
    mine = dict(base.named_parameters())
    found = {name: p.detach() - mine[name].detach() for name, p in tuned.named_parameters()}
    return {name: d for name, d in found.items() if bool(d.any())}


def changed(base: PreTrainedModel, change: Mapping[str, Tensor]) -> PreTrainedModel:
    """Return a copy of the base with a change added.

    Raises:
        InputError: the change names a parameter that the base does not have.
    """
    model = copy.deepcopy(base)
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    if unknown := sorted(change.keys() - parameters.keys()):
        raise InputError(f"the change names {unknown[0]!r}, which the base does not have")
    with torch.no_grad():
        for name, d in change.items():
            parameters[name] += d.to(parameters[name].dtype)
    return model


def rescaled(change: Change, like: Change) -> Change:
    """Return the change with the norms of another, by parameter; what only one moves is left out."""
    return {name: d * (like[name].norm() / d.norm()) for name, d in change.items() if name in like}


def relative_sizes(change: Change, base: PreTrainedModel) -> dict[str, float]:
    """Return ||change|| / ||base|| of every matrix that moved."""
    mine = dict(base.named_parameters())
    return {name: float(d.norm() / mine[name].detach().norm()) for name, d in change.items() if d.ndim > 1}
