"""What patching finds: effects of rows (a component at some positions, in one direction) on prompts, and their shares.

Shares are of the total, and missing where that is about 0; see `shares`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.patch.shares import mean_of, share_of
from lensdiff.analyses.patch.sites import NO_HEAD
from lensdiff.results import InputError, Provenance, Result

NOT_ADDED = "Effects of single parts do not add up to the whole."


@dataclass(frozen=True, eq=False)
class ControlPatch(Result):
    """The effects of one control model's activations on the base, read apart from the pair's.

    Attributes:
        prompt_id: the prompts.
        effect: of every row that patches the base, in the pair's order; NaN where the pair has none.
    """

    calls = ("top()", "to_df()")
    row_is = "component that is exchanged"

    prompt_id: tuple[str, ...]
    effect: Float[Tensor, "prompt row"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per prompt and row: prompt_id, row, effect."""
        index = pd.MultiIndex.from_product([self.prompt_id, range(self.effect.shape[1])], names=["prompt_id", "row"])
        return pd.DataFrame({"effect": self.effect.flatten().numpy()}, index=index).reset_index()

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k largest effects."""
        return self.to_df().nlargest(k, "effect").reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class Patched(Result):
    """Effects of exchanging single components between two models; see the module and `measure`.

    Axis `row` is a component at some positions, in one direction.

    Attributes:
        metric: what is moved.
        prompt_id: the prompts (axis `prompt`).
        component, layer, head_index, at, into: what a row is about; head_index -1 is no head.
        clean, donor: the metric in the patched model left alone, and in the model that gives.
        effect: patched - clean; NaN where it was not run, or the prompt lacks the positions.
        estimate: gradient times difference; NaN where none was asked for.
        other_effect: of a random other head of the layer; NaN of what is no head.
        control_effect: of a control's activation in place of the tuned model's, in the order of
            `provenance.controls`; NaN of what is not put into the base.
        failures: why a prompt is not among them.
        least_total, level: below which a total is about 0; of bands and intervals.
    """

    calls = ("means()", "top()", "to_df()", "show()")
    row_is = "component that is exchanged"

    metric: str
    prompt_id: tuple[str, ...]
    component: tuple[str, ...]
    layer: Int[Tensor, " row"]
    head_index: Int[Tensor, " row"]
    at: tuple[str, ...]
    into: tuple[str, ...]
    clean: Float[Tensor, "prompt row"]
    donor: Float[Tensor, "prompt row"]
    effect: Float[Tensor, "prompt row"]
    estimate: Float[Tensor, "prompt row"]
    other_effect: Float[Tensor, "prompt row"]
    control_effect: Float[Tensor, "control prompt row"]
    failures: dict[str, str]
    least_total: float
    level: float

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.component)

    @property
    def estimated(self) -> bool:
        """Whether rows were ranked by an estimate, and only the first of them run."""
        return not bool(self.estimate.isnan().all())

    def to_df(self) -> pd.DataFrame:
        """Return a row per prompt and row of which anything is known.

        Columns: prompt_id, component, layer, head_index (missing of what is no head), at, into, clean, patched, donor,
        effect (patched - clean), share, estimate, other_effect, control_low, control_high (limits within which one
        more control's effect lies; missing with fewer than 19 of a kind, and of rows into the tuned model).
        """
        n = len(self.prompt_id)
        columns: dict[str, Any] = {"prompt_id": np.repeat(np.array(self.prompt_id, dtype=object), self.n_rows)}
        columns |= {name: np.tile(values, n) for name, values in self._rows().items()}
        effect, clean, donor = (values.numpy() for values in (self.effect, self.clean, self.donor))
        band = _band(self.effect, self.control_effect, self.provenance, self.level)
        numbers = {
            "clean": clean,
            "patched": clean + effect,
            "donor": donor,
            "effect": effect,
            "share": share_of(effect, clean[None], donor[None], least=self.least_total),
            "estimate": self.estimate.numpy(),
            "other_effect": self.other_effect.numpy(),
            "control_low": band.low,
            "control_high": band.high,
        }
        frame: Any = pd.DataFrame(columns | {name: values.reshape(-1) for name, values in numbers.items()})
        known = frame["effect"].notna() | frame["estimate"].notna()
        return _with_heads(frame[known].reset_index(drop=True))

    def means(self) -> pd.DataFrame:
        """Return a row per row, the mean over the prompts that have it.

        Columns: component, layer, head_index, at, into, n (prompts), effect, low, high (its interval over prompts;
        missing with fewer than two), total (donor - clean), share, estimate, other_effect, control_low, control_high.
        """
        effect = self.effect.numpy()
        known = ~np.isnan(effect)
        clean, donor = (np.where(known, values.numpy(), np.nan) for values in (self.clean, self.donor))
        low, high = stats.mean_interval(effect, level=self.level)
        control = torch.from_numpy(mean_of(self.control_effect.numpy(), axis=1))
        band = _band(torch.from_numpy(mean_of(effect)), control, self.provenance, self.level)
        columns = {
            "n": known.sum(axis=0),
            "effect": mean_of(effect),
            "low": low,
            "high": high,
            "total": mean_of(donor - clean),
            "share": share_of(mean_of(effect), clean, donor, least=self.least_total, level=self.level),
            "estimate": mean_of(self.estimate.numpy()),
            "other_effect": mean_of(self.other_effect.numpy()),
            "control_low": band.low,
            "control_high": band.high,
        }
        return _with_heads(pd.DataFrame(self._rows() | columns))

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k rows with the largest mean effect, of either sign."""
        columns = ["component", "layer", "head_index", "at", "into", "effect", "share", "other_effect"]
        return self.ranked(k).loc[:, columns]

    def ranked(self, k: int = 10) -> pd.DataFrame:
        """Return the same rows with every column of `means`.

        Args:
            k: how many.
        """
        frame = self.means()
        order = np.argsort(-frame["effect"].abs().to_numpy(), kind="stable")  # NaN last
        return frame.iloc[order[:k]].reset_index(drop=True)

    def one(self, row: int = 0) -> pd.Series:
        """Return the means of one row."""
        return self.means().iloc[row]

    def agreement(self) -> pd.DataFrame:
        """Return how well the estimate does on the rows that were run: a row per direction.

        Columns: into, n (rows run), correlation (of estimate and effect), largest_error, same_sign (share of rows).
        """
        frame: Any = self.to_df().dropna(subset=["effect", "estimate"])
        rows = []
        for into, own in frame.groupby("into", sort=False):
            effect, estimate = own["effect"].to_numpy(), own["estimate"].to_numpy()
            varies = len(own) > 1 and effect.std() > 0 and estimate.std() > 0
            correlation = float(np.corrcoef(effect, estimate)[0, 1]) if varies else np.nan
            error, sign = np.abs(estimate - effect).max(), (np.sign(estimate) == np.sign(effect)).mean()
            rows.append((into, len(own), correlation, error, sign))
        return pd.DataFrame(rows, columns=["into", "n", "correlation", "largest_error", "same_sign"])

    def with_controls(self, controls: Sequence[ControlPatch]) -> "Patched":
        """Return the same beside controls that were read apart.

        Raises:
            InputError: a control has other rows, or lacks a prompt.
        """
        effects = []
        for control in controls:
            if control.effect.shape[1] != self.n_rows or not set(self.prompt_id) <= set(control.prompt_id):
                raise InputError(
                    f"control {control.provenance.model} has {control.effect.shape[1]} rows of prompts "
                    f"{', '.join(control.prompt_id)}, expected {self.n_rows} of {', '.join(self.prompt_id)}"
                )
            effects.append(control.effect[[control.prompt_id.index(name) for name in self.prompt_id]])
        beside = self.provenance.beside([control.provenance for control in controls])
        return replace(self, provenance=beside, control_effect=_stacked(effects, self.effect))

    @classmethod
    def together(cls, parts: Sequence["Patched"]) -> "Patched":
        """Return the results of several prompts as one; each has the same rows, and no controls.

        Raises:
            InputError: there are no parts, or they differ in rows or metric.
        """
        if not parts:
            raise InputError("there are no results of prompts to put together")
        first = parts[0]
        for part in parts[1:]:
            mine, theirs = ((p.metric, p.component, p.at, p.into, p.layer.tolist()) for p in (first, part))
            if mine != theirs or not torch.equal(first.head_index, part.head_index):
                raise InputError("results of prompts differ in what was patched, expected the same rows of each")
        names = ("clean", "donor", "effect", "estimate", "other_effect")
        joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return replace(
            first,
            prompt_id=tuple(name for part in parts for name in part.prompt_id),
            control_effect=torch.zeros(0, *joined["effect"].shape, dtype=torch.float64),
            failures={name: reason for part in parts for name, reason in part.failures.items()},
            **joined,
        )

    def told(self) -> list[str]:
        """Return the totals, and in each direction the row with the largest effect."""
        lines = []
        frame: Any = self.means()
        for into in dict.fromkeys(self.into):
            own = frame[frame["into"] == into]
            order = np.argsort(-own["effect"].abs().to_numpy(), kind="stable")[:1]
            what = f"{len(own)} rows, which do not add up; the largest effect:" if len(own) > 1 else "of it"
            lines.append(f"{self.metric} into {into}: total {own['total'].max():.3g}; {what}")
            lines += [f"  {name(row)} {row.effect:+.3g}{self._beside(row)}" for row in own.iloc[order].itertuples()]
        return lines

    def _beside(self, row: Any) -> str:
        """Return what stands beside a row of `means`, in brackets: another head, and the range of the controls."""
        said = [] if np.isnan(row.other_effect) else [f"another head {row.other_effect:+.3g}"]
        means = mean_of(self.control_effect[:, :, row.Index].numpy(), axis=1)
        if means.size and not np.isnan(means).any():
            said.append(f"{len(means)} control(s) {means.min():+.3g} to {means.max():+.3g}")
        return f" ({', '.join(said)})" if said else ""

    def _rows(self) -> dict[str, Any]:
        names = {name: np.array(getattr(self, name), dtype=object) for name in ("component", "at", "into")}
        columns = {"component": names["component"], "layer": self.layer.numpy(), "head_index": self.head_index.numpy()}
        return columns | {"at": names["at"], "into": names["into"]}


def name(row: Any) -> str:
    """Return a row of `means` in words: `layer 3, head 2` or `layer 3, MLP`."""
    what = {"head": f"head {row.head_index}", "mlp": "MLP", "attention": "attention", "resid": "residual stream"}
    where = "" if row.at == "all" else f", {row.at}"
    return f"layer {row.layer}, {what[row.component]}{where}"


def _band(effect: Tensor, controls: Float[Tensor, "control ..."], provenance: Provenance, level: float) -> stats.Band:
    """Return the controls' band of each effect; NaN where there are too few, or an effect is not known."""
    low, high = np.full((2, *effect.shape), np.nan)
    there = (~effect.isnan() & ~controls.isnan().any(dim=0)).numpy() if len(controls) else np.zeros(effect.shape, bool)
    if there.any():
        of_kinds = stats.by_kind(controls.numpy()[:, there], provenance.control_kinds)
        low[there], high[there] = stats.against_controls(effect.numpy()[there], of_kinds, level=level).band
    return stats.Band(low, high)


def _stacked(effects: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.stack(list(effects)) if effects else torch.zeros(0, *like.shape, dtype=torch.float64)


def _with_heads(frame: pd.DataFrame) -> pd.DataFrame:
    heads = frame["head_index"].astype("Int64")
    return frame.assign(head_index=heads.mask(heads == NO_HEAD))
