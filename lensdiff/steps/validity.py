"""Whether each control still is a language model: its loss on the base's own samples."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lensdiff.models import view_of
from lensdiff.models.validity import validity
from lensdiff.results import Result
from lensdiff.steps.found import Found
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.options import Options
from lensdiff.steps.plan import Plan
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import Read, Step
from lensdiff.steps.tables import TableDoc, model_columns
from lensdiff.steps.unit import Unit

VALIDITY_STEP = "control_validity"
CHECK_TOKENS = 1024  # of the base's own samples that a control is run on


@dataclass(frozen=True, eq=False)
class ControlValidity(Result):
    """The loss of a control on the base's own samples, nats per token; see `lensdiff.models.validity`.

    Attributes:
        loss: the control's; limit: the largest that is valid; base_loss, tuned_loss: the two models' own.
        valid: whether the loss is at most the limit.
    """

    calls = ("top()", "to_df()")

    loss: float
    limit: float
    base_loss: float
    tuned_loss: float
    valid: bool

    def told(self) -> list[str]:
        """Return the loss, and whether it is valid."""
        return [f"loss {self.loss:.3g}, {'at most' if self.valid else 'above'} the limit {self.limit:.3g}"]

    def to_df(self) -> pd.DataFrame:
        """Return one row: control, model, kind, seed, loss, limit, base_loss, tuned_loss, valid."""
        row = {"control": self.provenance.model, **model_columns("", self.provenance.control), "loss": self.loss}
        row |= {"limit": self.limit, "base_loss": self.base_loss, "tuned_loss": self.tuned_loss, "valid": self.valid}
        return pd.DataFrame([row]).astype({"seed": "Int64"})

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the only row.

        Args:
            k: no matter: there is one row.
        """
        return self.to_df().loc[:, ["kind", "seed", "loss", "limit", "valid"]]


def check(inputs: Inputs, unit: Unit, options: Options) -> ControlValidity:
    """Read the base's own samples with a control."""
    found = validity(inputs.pair, inputs.model)
    provenance = view_of(inputs.model).provenance("control_validity", {})
    return ControlValidity(provenance, found.loss, found.limit, found.base, found.tuned, found.valid)


def _units(plan: Plan, options: Options) -> list[Unit]:
    return [Unit(control) for control in plan.checked]


def _cost(probe: Probe, unit: Unit, options: Options) -> float:
    return probe.read(CHECK_TOKENS)


def of_all(plan: Plan) -> list[Read]:
    """Return the reads of every control's validity, as far as it was looked at."""
    return [Read(VALIDITY_STEP, Unit(control), required=False) for control in plan.checked]


def of_unit(plan: Plan, unit: Unit) -> list[Read]:
    """Return the read of the validity of a unit's control: what cannot be run on plain text is not asked anything."""
    return [Read(VALIDITY_STEP, Unit(unit.control))] if unit.control in plan.checked else []


def validity_table(found: Found) -> pd.DataFrame | None:
    """Return a row per control that was looked at, or None without any."""
    parts = [result.to_df() for result in found.each(VALIDITY_STEP, ControlValidity)]
    return pd.concat(parts, ignore_index=True) if parts else None


def _table(found: Found, options: Any) -> Iterable[pd.DataFrame]:
    frame = validity_table(found)
    return () if frame is None else (frame,)


VALIDITY = Step(
    name=VALIDITY_STEP,
    title="controls",
    options=Options,
    result=ControlValidity,
    units=_units,
    work=check,
    cost=_cost,
    needs=frozenset({"model", "pair"}),
)
VALIDITY_TABLE = TableDoc(
    "control_validity",
    "a control that was run on the base's own samples",
    {
        "control": "its name",
        "model": "control",
        "loss": "its cross-entropy there, nats per token",
        "limit": "the larger of a uniform guess's and the tuned model's",
        "base_loss": "the base's own",
        "tuned_loss": "the tuned model's",
        "valid": "whether its loss is at most the limit",
    },
    of=(VALIDITY_STEP,),
    build=_table,
)
