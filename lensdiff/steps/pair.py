"""The first step of every run: both models are loaded, checked to be comparable, and described."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from lensdiff.models import view_of
from lensdiff.models.facts import n_parameters
from lensdiff.models.pair import ModelPair
from lensdiff.results import Provenance, Result
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.options import Options
from lensdiff.steps.step import Step, no_cost, one_unit
from lensdiff.steps.tables import TableDoc, of_one
from lensdiff.steps.unit import SIDES, Unit


@dataclass(frozen=True, eq=False)
class PairFacts(Result):
    """What the two models are, and in what they differ beside their weights.

    Attributes:
        base, tuned: of each model: name, revision, architecture, sizes, dtype, device.
        differences: what, base, tuned, meaning; a row per thing.
    """

    calls = ("top()", "to_df()")

    base: dict[str, Any]
    tuned: dict[str, Any]
    differences: list[dict[str, str]]

    def told(self) -> list[str]:
        """Return what differs beside the weights."""
        return ["differ beside their weights in: " + (", ".join(row["what"] for row in self.differences) or "nothing")]

    def to_df(self) -> pd.DataFrame:
        """Return a row per difference: what, base, tuned, meaning."""
        return pd.DataFrame(self.differences, columns=["what", "base", "tuned", "meaning"])

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the first k differences."""
        return self.to_df().head(k).loc[:, ["what", "base", "tuned"]]


def describe(inputs: Inputs, unit: Unit, options: Options) -> PairFacts:
    """Describe the pair."""
    pair = inputs.pair
    names = " -> ".join(view_of(getattr(pair, side)).info.id for side in SIDES)
    provenance = Provenance("pair", names, options={"notice": pair.notice} if pair.notice else {})
    rows = pair.differences().astype(str).to_dict("records")
    facts = {side: model_facts(pair, side) for side in SIDES}
    return PairFacts(provenance, facts["base"], facts["tuned"], [{str(k): v for k, v in row.items()} for row in rows])


def model_facts(pair: ModelPair, side: str) -> dict[str, Any]:
    """Return what a page says of a model."""
    view = view_of(getattr(pair, side))
    return {
        "model": view.info.id,
        "revision": view.info.revision,
        "architecture": view.info.architecture,
        "wrapper": view.info.wrapper,
        "weights": view.info.weights,
        "dtype": str(view.dtype).removeprefix("torch."),
        "device": str(view.device),
        "n_layers": view.n_layers,
        "n_heads": view.n_heads,
        "d_model": view.d_model,
        "d_vocab": view.d_vocab,
        "parameters": n_parameters(view),
    }


PAIR = Step(
    name="pair",
    title="loading both models",
    options=Options,
    result=PairFacts,
    units=one_unit,
    work=describe,
    cost=no_cost,
    needs=frozenset({"pair"}),
)
DIFFERENCES = TableDoc(
    "differences",
    "something in which the models differ beside their weights",
    {"what": "the thing", "base": "in the base", "tuned": "in the tuned model", "meaning": "what follows from it"},
    of=("pair",),
    build=of_one("pair", PairFacts),
)
