"""A unit per model, controls among them, and one that sets them side by side."""

from collections.abc import Iterable
from typing import Any

import torch

from embedding_norms import NormOptions
from embedding_norms.measure import Norms, NormShift, embedding_norms
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import Read, Step, one_unit
from lensdiff.steps.tables import TableDoc, of_one
from lensdiff.steps.unit import SIDES, Unit, split_control

SECONDS = 100.0  # of a model: more than it takes, so that the estimate names the step


def units(plan: Plan, options: NormOptions) -> list[Unit]:
    return [Unit(model) for model in (*SIDES, *plan.controls.get("embedding_norms", ()))]


def work(inputs: Inputs, unit: Unit, options: NormOptions) -> Norms:
    return embedding_norms(
        inputs.model, power=options.power, parts=options.parts, scales=options.scales, first=options.first
    )


def cost(probe: Probe, unit: Unit, options: NormOptions) -> float:
    return SECONDS * len(options.parts)


def reads(plan: Plan, unit: Unit, options: NormOptions) -> Iterable[Read]:
    return [Read("norms_of_a_model", unit) for unit in units(plan, options)]


def compare(inputs: Inputs, unit: Unit, options: NormOptions) -> NormShift:
    found = inputs.found.units("norms_of_a_model")
    norms = [inputs.found.one("norms_of_a_model", Norms, unit) for unit in found]
    models = tuple(str(unit.model) for unit in found)
    kinds = tuple(split_control(unit.control)[0] if unit.control else "" for unit in found)
    return NormShift(norms[1].provenance, norms[0].parts, models, kinds, torch.stack([one.norms for one in norms]))


def no_cost(probe: Probe, unit: Unit, options: NormOptions) -> float:
    return 0.0


STEPS: tuple[Step[Any, Any], ...] = (
    Step(
        name="norms_of_a_model",
        title="norms of embeddings",
        options=NormOptions,
        result=Norms,
        units=units,
        work=work,
        cost=cost,
        needs=frozenset({"model"}),
        keys=("power", "parts", "scales", "first"),
    ),
    Step(
        name="embedding_norms",
        title="norms beside controls",
        options=NormOptions,
        result=NormShift,
        units=one_unit,
        work=compare,
        cost=no_cost,
        reads=reads,
    ),
)
TABLES: tuple[TableDoc[Any], ...] = (
    TableDoc(
        "embedding_norms",
        "a model and a matrix",
        {"model": "base, tuned, or a control's name", "part": "the matrix", "norm": "mean norm of its rows"},
        of=("embedding_norms",),
        build=of_one("embedding_norms", NormShift),
    ),
)
