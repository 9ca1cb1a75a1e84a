"""The step that compares all weights of both models."""

from typing import Any

import torch

from lensdiff.analyses.weights import WeightOptions
from lensdiff.analyses.weights.weight_shift import WeightShift, weight_shift
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.probe import DECOMPOSED, Probe
from lensdiff.steps.step import Step, one_unit
from lensdiff.steps.tables import TableDoc, of_one
from lensdiff.steps.unit import Unit

VALUES = 0.33  # of the time of a decomposition of width DECOMPOSED
MEASURES = ("relative_norm", "cosine", "effective_rank", "top_share")


def work(inputs: Inputs, unit: Unit, options: WeightOptions) -> WeightShift:
    """Measure how far every weight moved."""
    return weight_shift(inputs.pair)


def cost(probe: Probe, unit: Unit, options: WeightOptions) -> float:
    # the singular values of every matrix and its heads, in float64, raw and folded: as squares of its smaller side,
    # whose time grows by the power 2.5 of the width, where that of a decomposition grows by the cube
    d_model = probe.sizes.d_model
    share = VALUES * min(1.0, DECOMPOSED / d_model) ** 0.5
    return share * probe.parameters / d_model**2 * probe.decompose(d_model, torch.float64)


STEPS: tuple[Step[Any, Any], ...] = (
    Step(
        name="weights",
        title="weights",
        options=WeightOptions,
        result=WeightShift,
        units=one_unit,
        work=work,
        cost=cost,
        needs=frozenset({"pair", "both"}),
    ),
)
TABLES: tuple[TableDoc[Any], ...] = (
    TableDoc(
        "weights",
        "a weight matrix, one head's part of it, a bias, position embeddings, or whatever else a checkpoint holds",
        {
            "matrix": "its name: W_ a matrix, b_ a bias, _gain and _norm_bias of a norm, W_pos the positions; else the "
            "checkpoint's own",
            "relative_norm": "||tuned - base|| / ||base||",
            "cosine": "of the two as vectors",
            "effective_rank": "of the change: exp of the entropy of its singular values' shares",
            "top_share": "share of the change's energy in its leading directions",
            **{f"folded_{name}": "the same with the gain of the norm before it" for name in MEASURES},
        },
        of=("weights",),
        build=of_one("weights", WeightShift),
    ),
)
