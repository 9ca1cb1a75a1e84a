"""Changes of a checkpoint's weights as state dicts: tuned - base by parameter, and how they are added, sized and kept.

A change is kept in half precision after scaling to its base's size, so that a pool of hundreds fits on a disk. A null
pair is measured as it comes back from there: what is tested is the change that is stored.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from lensdiff.results import InputError

Change = dict[str, Tensor]
SCALE = "scale of "  # prefix of the largest absolute value of each parameter's change


def change_of(tuned: PreTrainedModel, base: PreTrainedModel) -> Change:
    """Return tuned - base of every parameter that moved."""
    mine = dict(base.named_parameters())
    found = {name: (p - mine[name]).detach().clone() for name, p in tuned.named_parameters()}
    return {name: d for name, d in found.items() if bool(d.any())}


def changed(base: PreTrainedModel, change: Mapping[str, Tensor]) -> PreTrainedModel:
    """Return a copy of the base with a change added.

    Raises:
        InputError: the change names a parameter that the base does not have.
    """
    model = copy.deepcopy(base)
    parameters = dict(model.named_parameters())
    if unknown := sorted(change.keys() - parameters.keys()):
        raise InputError(f"the change names {unknown[0]!r}, which the base does not have")
    with torch.no_grad():
        for name, d in change.items():
            parameters[name] += d.to(parameters[name].dtype)
    return model


def rescaled(change: Change, like: Change) -> Change:
    """Return the change with the norms of another, parameter by parameter; a parameter that only one moves is left out."""
    return {name: d * (like[name].norm() / d.norm()) for name, d in change.items() if name in like}


def relative_sizes(change: Change, base: PreTrainedModel) -> dict[str, float]:
    """Return ||change|| / ||base|| of every matrix that moved."""
    mine = dict(base.named_parameters())
    return {name: float(d.norm() / mine[name].norm()) for name, d in change.items() if d.ndim > 1}


def store(change: Change, path: Path) -> None:
    """Write a change in half precision, each parameter as a share of its largest value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    largest = {name: d.abs().max() for name, d in change.items()}
    parts = {name: (d / largest[name]).half().contiguous() for name, d in change.items()}
    waiting = path.with_suffix(".part")  # a run that is stopped while it writes leaves no half of a file
    save_file(parts | {SCALE + name: value.reshape(1).float() for name, value in largest.items()}, waiting)
    waiting.rename(path)


def stored(path: Path) -> Change:
    """Read a change that `store` wrote."""
    parts = load_file(path)
    return {name: d.float() * parts[SCALE + name] for name, d in parts.items() if not name.startswith(SCALE)}
