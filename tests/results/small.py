"""Small results and states of units, for directories that no run made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.results import Provenance, Result, ResultStore, StepState
from lensdiff.results.manifest import UnitState
from lensdiff.results.store import LOCK


@dataclass(frozen=True, eq=False)
class Numbers(Result):
    values: Float[Tensor, " n"]

    def to_df(self) -> pd.DataFrame:
        return pd.DataFrame({"value": self.values.numpy()})

    def top(self, k: int = 10) -> pd.DataFrame:
        return self.to_df().nlargest(k, "value")

    @classmethod
    def join(cls, parts: Sequence["Numbers"]) -> "Numbers":
        return cls(parts[0].provenance, torch.cat([part.values for part in parts]))


@dataclass(frozen=True, eq=False)
class Others(Numbers):
    pass


def numbers(*values: float) -> Numbers:
    return Numbers(Provenance("test", "model"), torch.tensor(values))


def values(store: ResultStore, name: str) -> list[float]:
    return store.load_result(name, Numbers).values.tolist()


def done(**fields: object) -> UnitState:
    return UnitState(**({"digest": "d"} | fields))


def ask(store: ResultStore, step: str, *units: str) -> None:
    """Set what a run asks for of a step."""
    state = StepState(wanted=list(units), units=store.step(step).units)
    store.update(steps=store.manifest.steps | {step: state})


def files(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} - {LOCK}
