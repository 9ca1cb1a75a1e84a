"""What `dose` finds: measures of every group at every amount, by prompt, beside the same dose of controls' W_out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.dose.reading import MEASURES
from lensdiff.results import InputError, Result
from lensdiff.results.numbers import n_of

HEADLINE = "W_out"  # the group that controls stand beside, at amount 1
WHOLE = "all"
LOGITS = "logits"  # a dose of the logits, and of no weight
GAIN = "tuned_response_log_prob"
COLUMNS = ["group", "measure", "n", "effect", "low", "high", "p", "share", "half"]


@dataclass(frozen=True, eq=False)
class ControlDose(Result):
    """The log-probability of the tuned model's response in the base with a control's W_out.

    Attributes:
        prompt_id: the prompts; n_out: tokens of each one's response.
        log_prob: mean over them, nats; NaN where the control's W_out is the base's.
        changed: whether it is another one.
    """

    calls = ("top()", "to_df()")

    prompt_id: tuple[str, ...]
    n_out: Int[Tensor, " prompt"]
    log_prob: Float[Tensor, " prompt"]
    changed: bool

    def to_df(self) -> pd.DataFrame:
        """Return a row per prompt: prompt_id, n_out, log_prob."""
        columns = {"prompt_id": list(self.prompt_id), "n_out": self.n_out.numpy(), "log_prob": self.log_prob.numpy()}
        return pd.DataFrame(columns)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k prompts whose response is likeliest."""
        return self.to_df().nlargest(k, "log_prob").reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class Dose(Result):
    """What parts of the change do alone, at several amounts; see `measure` for the quantities.

    Axis `point` is a group of weights at an amount, `measure` as `MEASURES`, `model` is base, tuned.

    Attributes:
        prompt_id: the prompts; texts: "base" and "tuned" (the models' own responses), or "given".
        group, amount: what each point is.
        values: of each point and prompt; NaN where a prompt lacks a text or an instruction.
        ends: the two models themselves.
        energy: of each point, the share of the change's squared norm that its group holds; NaN for logits.
        n_out: tokens of each text, 0 where there is none.
        control_log_prob: the log-probability of the tuned model's response with each control's W_out.
        failures: why a prompt is not among them.
        level: of the intervals.
    """

    calls = ("summary()", "top()", "to_df()", "show()")

    prompt_id: tuple[str, ...]
    texts: tuple[str, ...]
    group: tuple[str, ...]
    amount: Float[Tensor, " point"]
    values: Float[Tensor, "point prompt measure"]
    ends: Float[Tensor, "model prompt measure"]
    energy: Float[Tensor, " point"]
    n_out: Int[Tensor, "prompt text"]
    control_log_prob: Float[Tensor, "control prompt"]
    failures: dict[str, str]
    level: float

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups, in order."""
        return tuple(dict.fromkeys(self.group))

    def amounts(self, group: str) -> list[float]:
        """Return the amounts of a group, rising."""
        self._check(group)
        return self._amounts[group]

    @cached_property
    def _amounts(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for name, amount in sorted(zip(self.group, self.amount.tolist(), strict=True), key=lambda both: both[1]):
            found.setdefault(name, []).append(amount)
        return found

    def to_df(self) -> pd.DataFrame:
        """Return a row per group, amount and prompt.

        Columns: prompt_id, group, amount, base_response_log_prob, tuned_response_log_prob, kl_to_base, kl_to_tuned,
        instruction_use.
        """
        n = len(self.prompt_id)
        columns: dict[str, object] = {
            "prompt_id": list(self.prompt_id) * len(self.group),
            "group": [name for name in self.group for _ in range(n)],
            "amount": self.amount.repeat_interleave(n).numpy(),
        }
        columns |= {name: self.values[:, :, i].flatten().numpy() for i, name in enumerate(MEASURES)}
        return pd.DataFrame(columns)

    def point(self, group: str, amount: float = 1.0) -> Float[Tensor, "prompt measure"]:
        """Return the measures of a group at an amount.

        Raises:
            InputError: it was not dosed, or not by that amount.
        """
        self._check(group)
        for i, name in enumerate(self.group):
            if name == group and float(self.amount[i]) == amount:
                return self.values[i]
        given = ", ".join(f"{a:g}" for a in self.amounts(group))
        raise InputError(f"{group} was not dosed by {amount:g}, expected one of {given}")

    def curve(self, group: str, measure: str = GAIN) -> pd.DataFrame:
        """Return a measure's mean over prompts by the amount of a group.

        Columns: amount, mean, low, high (limits of the mean over prompts, NaN with fewer than two).

        Raises:
            InputError: there is no such group or measure.
        """
        column = self._column(measure)
        rows = []
        for amount in self.amounts(group):
            values = _finite(self.point(group, amount)[:, column])
            test = stats.mean_difference(values, level=self.level)
            low, high = (test and test.interval) or (np.nan, np.nan)
            rows.append((amount, float(values.mean()) if len(values) else np.nan, low, high))
        return pd.DataFrame(rows, columns=["amount", "mean", "low", "high"])

    def effect(self, group: str = HEADLINE, amount: float = 1.0, measure: str = GAIN) -> stats.Test:
        """Return what a group at an amount does to a measure: the paired difference to the base, over prompts.

        Args:
            group: one that was dosed, or "tuned": the tuned model itself.

        Raises:
            InputError: there is no such group, amount or measure.
            TooFew: fewer than two prompts have it.
        """
        dosed, base = self._both(group, amount, measure)
        test = stats.paired_difference(dosed, base, level=self.level)
        if test is None:
            n, needed = len(dosed), stats.FEWEST_PAIRS
            raise stats.TooFew(f"{n} prompt(s) have {measure}, a difference needs {needed}")
        return test

    def share(self, group: str = HEADLINE, amount: float = 1.0, measure: str = GAIN) -> float:
        """Return a group's effect over that of the whole change, the tuned model's own.

        NaN where the whole effect is about 0 (its interval over prompts holds 0). Shares of groups do not add up to 1.

        Raises:
            InputError: there is no such group, amount or measure.
        """
        whole, base = self._both("tuned", 1.0, measure)
        dosed, own = self._both(group, amount, measure)
        if not len(dosed) or not stats.told_apart(whole, base, level=self.level):
            return float("nan")
        return float((dosed - own).mean() / (whole - base).mean())

    def half(self, group: str, measure: str = GAIN) -> float:
        """Return the amount at which a measure has gone half of its way from amount 0 to amount 1 of a group.

        The smallest such amount from 0 on, on straight lines between the amounts of the mean over prompts: 0.5 where
        the measure follows the dose evenly. NaN without an amount between 0 and 1 (and both), and where the effect at 1
        is about 0.

        Raises:
            InputError: there is no such group or measure.
        """
        column, amounts = self._column(measure), [a for a in self.amounts(group) if 0 <= a <= 1]
        if len(amounts) < 3 or amounts[0] != 0 or amounts[-1] != 1:
            return float("nan")
        points = torch.stack([self.point(group, amount)[:, column] for amount in amounts]).numpy()
        points = points[:, np.isfinite(points).all(axis=0)]
        if not points.shape[1] or not stats.told_apart(points[-1], points[0], level=self.level):
            return float("nan")
        means = points.mean(axis=1)
        return crossing(amounts, means.tolist(), (means[0] + means[-1]) / 2)

    def summary(self, measures: Sequence[str] = MEASURES) -> pd.DataFrame:
        """Return a row per group and measure: what the group at amount 1 does alone.

        Columns: group, measure, n (prompts), effect (less the base, mean over prompts), low, high, p, share (of the
        tuned model's own effect; NaN where that is about 0), half (the amount that does half of it).

        Args:
            measures: which of `MEASURES`.
        """
        rows = []
        for group in self.groups:
            if 1.0 not in self.amounts(group):
                continue
            for measure in measures:
                dosed, base = self._both(group, 1.0, measure)
                test = stats.paired_difference(dosed, base, level=self.level)
                p = np.nan if test is None or test.p is None else test.p
                effect = float((dosed - base).mean()) if len(dosed) else np.nan
                share = self.share(group, measure=measure)
                low, high = (test and test.interval) or (np.nan, np.nan)
                found = (len(dosed), effect, low, high, p, share, self.half(group, measure))
                rows.append((group, measure, *found))
        return pd.DataFrame(rows, columns=COLUMNS)

    def effects(self) -> tuple[float, list[float]]:
        """Return the gain of W_out at amount 1, and that of every control's W_out, in the order of the controls.

        The log-probability of the tuned model's response, less the base's, nats per token, mean over prompts;
        `provenance.controls` names the controls.

        Raises:
            InputError: W_out was not dosed by 1, or no prompt has a response of the tuned model.
        """
        dosed, base = self.point(HEADLINE)[:, MEASURES.index(GAIN)], self.ends[0, :, MEASURES.index(GAIN)]
        kept = (dosed - base).isfinite() & self.control_log_prob.isfinite().all(dim=0)
        if not bool(kept.any()):
            raise InputError("no prompt has a response of the tuned model in every model")
        controls = (self.control_log_prob - base)[:, kept].mean(dim=1)
        return float((dosed - base)[kept].mean()), controls.tolist()

    @property
    def has_gains(self) -> bool:
        """Whether W_out was dosed by 1 and a prompt has a response of the tuned model."""
        return 1.0 in self._amounts.get(HEADLINE, []) and bool(self.control_log_prob.isfinite().any())

    def beside(self) -> stats.Envelope | None:
        """Return the gain of W_out at amount 1 beside that of each kind of controls' W_out; None without any.

        Raises:
            InputError: as `effects`.
        """
        if not self.provenance.controls:
            return None
        effect, controls = self.effects()
        of_kinds = stats.by_kind(controls, self.provenance.control_kinds)
        return stats.against_controls(effect, of_kinds, level=self.level).envelope

    def controls(self) -> pd.DataFrame:
        """Return a row per control: control (its name), kind, gain (of its W_out, as `effects`; NaN without one)."""
        names = [(control.name, control.kind) for control in self.provenance.controls]
        gains = self.effects()[1] if names and self.has_gains else [np.nan] * len(names)
        rows = [(*name, gain) for name, gain in zip(names, gains, strict=True)]
        return pd.DataFrame(rows, columns=["control", "kind", "gain"]).astype({"gain": float})

    def with_controls(self, controls: "Sequence[ControlDose]") -> "Dose":
        """Return the same beside controls that were read apart, each on the same responses.

        Raises:
            InputError: W_out was not dosed by 1, or a control was read on other prompts or tokens.
        """
        if controls:
            self.point(HEADLINE)
        n_out = dict(zip(self.prompt_id, self.n_out[:, -1].tolist(), strict=True))
        rows = [self.control_log_prob]
        for control in controls:
            own = dict(zip(control.prompt_id, control.n_out.tolist(), strict=True))
            row = self.ends[0, :, MEASURES.index(GAIN)].clone()  # the base's, to the last bit, where W_out is
            log_probs = dict(zip(control.prompt_id, control.log_prob.tolist(), strict=True))
            for i, prompt in enumerate(self.prompt_id):
                name, n = control.provenance.model, n_out[prompt]
                if n and prompt not in own:
                    raise InputError(f"{name} did not read prompt {prompt!r}, which the pair did")
                if n and own[prompt] != n:
                    raise InputError(f"{name} read {own[prompt]} tokens of prompt {prompt!r}, expected {n} as the pair")
                if n and control.changed:
                    row[i] = log_probs[prompt]
            rows.append(row[None])
        beside = (*self.provenance.controls, *(control.provenance.as_control for control in controls))
        return replace(self, provenance=replace(self.provenance, controls=beside), control_log_prob=torch.cat(rows))

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k groups that change the tuned model's response most at amount 1, as `summary`."""
        frame = self.summary([GAIN])
        order = np.argsort(-frame["effect"].abs().to_numpy(), kind="stable")
        columns = ["group", "n", "effect", "low", "high", "share"]
        return frame.iloc[order[:k]].reset_index(drop=True).loc[:, columns]

    def told(self) -> list[str]:
        """Return what each group does to the tuned model's response, and W_out beside controls."""
        lines = [f"gain of the tuned response, nats per token, {n_of(len(self.prompt_id), 'prompt')}:"]
        lines += [f"W_out beside controls: {self.beside()}"] if self.has_gains and self.provenance.controls else []
        rows: Any = self.summary([GAIN]).itertuples()
        for row in rows:
            share = "" if np.isnan(row.share) else f", {row.share:.0%} of the whole"
            limits = "" if np.isnan(row.low) else f" ({row.low:.3f} to {row.high:.3f})"
            lines.append(f"{row.group} alone: {row.effect:+.3f}{limits}{share}")
        return lines

    def _check(self, group: str) -> None:
        if group not in self.group:
            raise InputError(f"group={group!r} was not dosed, expected one of {', '.join(self.groups)}")

    def _column(self, measure: str) -> int:
        if measure not in MEASURES:
            raise InputError(f"measure={measure!r} is none of {', '.join(MEASURES)}")
        return MEASURES.index(measure)

    def _both(self, group: str, amount: float, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a measure at a point and in the base, of the prompts that have both."""
        column = self._column(measure)
        dosed = (self.ends[1] if group == "tuned" else self.point(group, amount))[:, column].numpy()
        base = self.ends[0, :, column].numpy()
        kept = np.isfinite(dosed) & np.isfinite(base)
        return dosed[kept], base[kept]


def crossing(amounts: Sequence[float], values: Sequence[float], level: float) -> float:
    """Return the first amount at which straight lines between values reach a level; NaN where they never do."""
    for (a, b), (v, w) in zip(pairwise(amounts), pairwise(values), strict=True):
        if v == level:
            return a
        if (v - level) * (w - level) <= 0:
            return a + (level - v) / (w - v) * (b - a)
    return float("nan")


def _finite(values: Tensor) -> np.ndarray:
    found = values.numpy()
    return found[np.isfinite(found)]
