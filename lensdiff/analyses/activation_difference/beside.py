"""A pair's difference beside controls that were read apart."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lensdiff.analyses.activation_difference.control import ControlDifference
from lensdiff.analyses.activation_difference.directions import READINGS
from lensdiff.analyses.activation_difference.words import indexed
from lensdiff.results import InputError

if TYPE_CHECKING:
    from lensdiff.analyses.activation_difference.result import ActivationDifference


def with_controls(alone: "ActivationDifference", given: Sequence[ControlDifference]) -> "ActivationDifference":
    """Return a pair's result beside controls that were read apart, and beside no others.

    Raises:
        InputError: a control was read in other layers, or on other texts.
    """
    own = len(READINGS)
    for control in given:
        if control.layers != alone.layers or not torch.equal(control.n, alone.n):
            raise InputError(
                f"{control.provenance.model} was read in layers {list(control.layers)} on {control.n.tolist()} "
                f"texts by position, expected {list(alone.layers)} on {alone.n.tolist()}"
            )
    k = min([alone.read_ids.shape[-1], *(control.read_ids.shape[-1] for control in given)])
    words, places = indexed([*alone.words, *(word for control in given for word in control.words)])
    starts = np.cumsum([len(alone.words), *(len(control.words) for control in given)]).tolist()
    moved = [places[one.read_words + start] for one, start in zip(given, starts, strict=False)]

    def beside(mine: Tensor, theirs: Sequence[Tensor]) -> Tensor:
        return torch.cat([mine[:own], *(one[None] for one in theirs)])[..., :k]

    empty = alone.control_difference[:0], alone.control_size[:0]
    return replace(
        alone,
        provenance=alone.provenance.beside(control.provenance for control in given),
        readings=(*READINGS, *(control.provenance.model for control in given)),
        words=words,
        read_words=beside(places[alone.read_words], moved),
        read_ids=beside(alone.read_ids, [one.read_ids for one in given]),
        read_logits=beside(alone.read_logits, [one.read_logits for one in given]),
        control_difference=torch.stack([one.difference for one in given]).to(alone.difference) if given else empty[0],
        control_size=torch.stack([one.size for one in given]) if given else empty[1],
    )
