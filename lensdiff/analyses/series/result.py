"""What a series is: one number at each of its models, with the interval over prompts where it reads any."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.results import InputError, Result
from lensdiff.results.numbers import n_of
from lensdiff.stats.t_tests import mean_interval

NOTHING = "all models of the series have equal weights: every change below is zero by construction"
SHOWN = 2  # steps that are told beside the first


@dataclass(frozen=True, eq=False)
class SeriesPoint(Result):
    """The number of one model of a series, as it is kept: one more model costs one more of these.

    Attributes:
        prompt_id: of the prompts that have a number; empty where the measure reads none.
        values: a number for each prompt, or the only one.
        measure, unit, of: what is measured.
        texts: the responses that all models of the series read, by the prompt's id.
        failures: why a prompt has no number.
        equal: whether all weights are those of the first model.
    """

    measure: str
    unit: str
    of: str
    prompt_id: tuple[str, ...]
    values: Float[Tensor, " value"]
    texts: dict[str, str]
    failures: dict[str, str]
    equal: bool

    def told(self) -> list[str]:
        """Return the number, and of how many prompts it is the mean."""
        over = f", mean over {n_of(len(self.prompt_id), 'prompt')}" if self.prompt_id else ""
        return [f"{self.measure}: {float(self.values.mean()):.3g}{f' {self.unit}' if self.unit else ''}{over}"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per prompt (or the only one): model, measure, prompt_id, value."""
        ids = self.prompt_id or (pd.NA,)
        about = {"model": self.provenance.model, "measure": self.measure}
        return pd.DataFrame({"prompt_id": list(ids), "value": self.values.numpy()}).assign(**about)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k prompts with the largest number."""
        return self.to_df().nlargest(k, "value").reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class Series(Result):
    """One number along a list of models; see the module `measure`.

    Attributes:
        models: their names, in order; the first is what the others are set against.
        measure, unit, of: what is measured; of "model", "pair" (against the first model) or "own" (a function).
        prompt_id: the prompts that have a number in every model; empty where the measure reads none.
        values: of each model a number for each of these prompts, or the only one.
        failures: why a prompt is in none.
        equal: whether a model's weights are all those of the first.
        level: of the intervals over prompts.
    """

    calls = ("changes()", "top()", "to_df()", "show()")

    models: tuple[str, ...]
    measure: str
    unit: str
    of: str
    prompt_id: tuple[str, ...]
    values: Float[Tensor, "step value"]
    failures: dict[str, str]
    equal: tuple[bool, ...]
    level: float

    @classmethod
    def of_points(cls, points: Sequence[SeriesPoint], names: Sequence[str], level: float) -> "Series":
        """Return the series of models that were measured one by one.

        A prompt that one of them lacks is in none, so that all means are over the same.

        Args:
            points: of each model, in order.
            names: what the models are called.
            level: of the intervals over prompts.

        Raises:
            InputError: no prompt has a number in every model.
        """
        first = points[0]
        reads, failures = bool(first.texts), dict[str, str]()
        for name, point in zip(names, points, strict=True):
            numbers = zip(point.prompt_id, point.values.tolist(), strict=False)
            lacking = {prompt: f"{name}: it has no number" for prompt, value in numbers if value != value}
            failures |= {prompt: why for prompt, why in (point.failures | lacking).items() if prompt not in failures}
        ids = [prompt for prompt in first.prompt_id if all(prompt in point.prompt_id for point in points)]
        ids = [prompt for prompt in ids if prompt not in failures]
        if reads and first.prompt_id and not ids:
            raise InputError(f"no prompt has {first.measure} in every model: {next(iter(failures.values()), '')}")
        rows = [
            [point.values[point.prompt_id.index(name)] for name in ids] if ids else [point.values[0]]
            for point in points
        ]
        provenance = first.provenance  # of the first beside itself: that is a notice of the series where all are equal
        about = {k: v for k, v in provenance.options.items() if k not in ("base", "notice")}
        options = about | {"models": list(names), "level": level}
        if provenance.notice and all(point.equal for point in points):
            options["notice"] = NOTHING
        return cls(
            replace(provenance, model=f"{names[0]} -> {names[-1]}", options=options),
            tuple(names),
            first.measure,
            first.unit,
            first.of,
            tuple(ids),
            torch.stack([torch.stack(row) for row in rows]).double(),
            failures,
            tuple(point.equal for point in points),
            level,
        )

    def to_df(self) -> pd.DataFrame:
        """Return a row per model: step (from 0), model, measure, value, low, high.

        The value is the mean over prompts, with the limits of its t interval; without prompts there are none.
        """
        return self._rows(self.values, range(len(self.models)), "value")

    def changes(self) -> pd.DataFrame:
        """Return a row per model but the first: step, model, measure, change (model - first), low, high; paired."""
        steps = range(1, len(self.models))
        return self._rows(self.values[1:] - self.values[:1], steps, "change")

    def _rows(self, values: Float[Tensor, "step value"], steps: Sequence[int], name: str) -> pd.DataFrame:
        low = high = np.full(len(values), np.nan)
        if self.prompt_id:
            low, high = mean_interval(values.T.numpy(), level=self.level)
        return pd.DataFrame(
            {
                "step": list(steps),
                "model": [self.models[step] for step in steps],
                "measure": self.measure,
                name: values.mean(dim=1).numpy(),
                "low": low,
                "high": high,
            }
        )

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k models that are furthest from the first."""
        frame = self.changes()
        order = np.argsort(-frame["change"].abs().to_numpy(), kind="stable")
        return frame.iloc[order[:k]].reset_index(drop=True)

    def told(self) -> list[str]:
        """Return the number of the first model and of the last few."""
        of = {"pair": ", each against the first", "model": ""}.get(self.of, "")
        over = f", mean over {n_of(len(self.prompt_id), 'prompt')}" if self.prompt_id else ""
        unit = f" ({self.unit})" if self.unit else ""
        rows: list[Any] = list(self.to_df().itertuples())
        said = [rows[0], *rows[1:][-SHOWN:]]
        lines = [f"{self.measure}{unit}{of}, along {n_of(len(self.models), 'model')}{over}"]
        lines += [f"{row.step} {row.model}: {row.value:.3g}{_limits(row)}" for row in said]
        said_of_all = bool(self.provenance.notice)
        equal = [str(step) for step, same in enumerate(self.equal) if same and step]
        return lines + (
            [f"the same weights as the first: step {', '.join(equal)}"] if equal and not said_of_all else []
        )


def _limits(row: Any) -> str:
    return "" if row.low != row.low else f" [{row.low:.3g}, {row.high:.3g}]"
