"""The steps that ask how much of the values' change is a rotation: of the pair, of controls, and both together."""

from collections.abc import Iterable
from typing import Any

import torch

from lensdiff.analyses.value_rotation import ValueRotationOptions
from lensdiff.analyses.value_rotation.measure import ControlRotation, ValueRotation, control_rotation, value_rotation
from lensdiff.results import InputError
from lensdiff.steps.beside import of_controls
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import NotPossible, Read, Step, no_cost, no_units, none_kept, one_unit
from lensdiff.steps.tables import TableDoc, of_one
from lensdiff.steps.unit import Unit
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE


def of_pair(inputs: Inputs, unit: Unit, options: ValueRotationOptions) -> ValueRotation:
    """Measure the pair's share.

    Raises:
        NotPossible: a mixture of experts, or weights that cannot be compared.
    """
    try:
        return value_rotation(inputs.pair, layers=options.layers)
    except InputError as error:
        raise NotPossible(str(error)) from None


def of_control(inputs: Inputs, unit: Unit, options: ValueRotationOptions) -> ControlRotation:
    """Measure the share of a control."""
    return control_rotation(inputs.base, inputs.model, layers=options.layers)


def control_reads(plan: Plan, unit: Unit, options: ValueRotationOptions) -> Iterable[Read]:
    return [Read("value_rotation_pair")]  # what cannot be asked of the pair is not asked of a control


def cost(probe: Probe, unit: Unit, options: ValueRotationOptions) -> float:
    # the assignment of neurons, and the decomposition of one product, with and without a change of basis; a control's
    # three matrices of every layer
    sizes = probe.sizes
    n_layers = probe.n_layers(unit, options.layers)
    assigned = (6 * sizes.d_mlp**2 * sizes.d_model + 40 * sizes.d_mlp**2) / probe.rate
    drawn = 3 * n_layers * probe.drawing(unit, sizes.d_mlp)
    return (2 * n_layers + 1) * probe.decompose(sizes.d_model, torch.float64) + 2 * n_layers * assigned + drawn


def both_reads(plan: Plan, unit: Unit, options: ValueRotationOptions) -> Iterable[Read]:
    return [Read("value_rotation_pair"), *of_controls(plan, "value_rotation", "value_rotation_control")]


def both(inputs: Inputs, unit: Unit, options: ValueRotationOptions) -> ValueRotation:
    """Set the controls' shares beside the pair's."""
    alone = inputs.found.one("value_rotation_pair", ValueRotation)
    return alone.with_controls(inputs.found.each("value_rotation_control", ControlRotation))


STEPS: tuple[Step[Any, Any], ...] = (
    VALIDITY,
    Step(
        name="value_rotation_pair",
        title="rotation of values",
        options=ValueRotationOptions,
        result=ValueRotation,
        units=no_units,
        work=of_pair,
        cost=cost,
        needs=frozenset({"pair", "both"}),
        keys=("layers",),
        kept=none_kept,
    ),
    Step(
        name="value_rotation_control",
        title="rotation of controls' values",
        options=ValueRotationOptions,
        result=ControlRotation,
        units=no_units,
        work=of_control,
        cost=cost,
        reads=control_reads,
        needs=frozenset({"model", "base"}),
        keys=("layers",),
        kept=none_kept,
    ),
    Step(
        name="value_rotation",
        title="rotation of values beside controls",
        options=ValueRotationOptions,
        result=ValueRotation,
        units=one_unit,
        work=both,
        cost=no_cost,
        reads=both_reads,
    ),
)
TABLES: tuple[TableDoc[Any], ...] = (
    VALIDITY_TABLE,
    TableDoc(
        "value_rotation",
        "a layer and a kind of control",
        {
            "share": "share of the change of the layer's values that one orthogonal map explains",
            "kind": "of the controls; missing without any",
            "control_low": "limits within which one more control of the kind lies; missing with fewer than 19",
            "control_high": "as control_low",
            "neurons_moved": "neurons that are matched with another than themselves",
            "change": "norm of the values' change, relative to the base's",
        },
        of=("value_rotation",),
        build=of_one("value_rotation", ValueRotation),
    ),
    TableDoc(
        "value_rotation_controls",
        "a control and a layer",
        {"control": "its name", "share": "as in value_rotation, of the control"},
        of=("value_rotation",),
        build=of_one("value_rotation", ValueRotation, ValueRotation.controls),
    ),
)
