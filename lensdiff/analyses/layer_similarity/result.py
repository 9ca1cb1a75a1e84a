"""What `layer_similarity` finds: four numbers per layer and group of positions, of the tuned model and of controls."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.layer_similarity.passes import ALL
from lensdiff.results import InputError, Result

MEASURES = ("cka", "relative_change", "cosine", "mean_shift_share")
LIMITS = {"cka": (0.0, 1.0), "relative_change": (0.0, np.inf), "cosine": (-1.0, 1.0), "mean_shift_share": (0.0, 1.0)}
OVER_PROMPTS = ("relative_change", "cosine")  # means over positions, which have an interval over prompts
NONE = 0.0  # in place of a number that does not exist, where a band is made of others


@dataclass(frozen=True, eq=False)
class LayerSimilarity(Result):
    """How alike the streams of the base and other models are; see `measure`.

    Axis `model` is the tuned model, then the controls of the provenance; or one control alone.

    Attributes:
        prompt_id: the prompts whose texts were read.
        groups: of positions: "all", and what the prompts mark.
        d_model: dimensions of the streams.
        layers: that were compared; `n_layers` stands for what leaves the last layer.
        positions: how many were compared of each prompt.
        cka, relative_change, cosine, mean_shift_share: see `measure`; cka is NaN where it is not defined.
        prompt_relative_change, prompt_cosine: of the first model, means over each prompt's positions; NaN without any.
        failures: why a prompt is not among them.
        level: of intervals and bands.
    """

    prompt_id: tuple[str, ...]
    groups: tuple[str, ...]
    n_layers: int
    d_model: int
    layers: tuple[int, ...]
    positions: Int[Tensor, "prompt group"]
    cka: Float[Tensor, "model group layer"]
    relative_change: Float[Tensor, "model group layer"]
    cosine: Float[Tensor, "model group layer"]
    mean_shift_share: Float[Tensor, "model group layer"]
    prompt_relative_change: Float[Tensor, "prompt group layer"]
    prompt_cosine: Float[Tensor, "prompt group layer"]
    failures: dict[str, str]
    level: float

    def curve(self, measure: str, group: str = ALL) -> dict[str, Float[np.ndarray, " layer"]]:
        """Return by layer value, low, high (over prompts), control_low and control_high.

        Limits over prompts are NaN of cka and mean_shift_share, which are of all prompts together, and with one prompt;
        the controls' are NaN with fewer than 19 of a kind.

        Raises:
            InputError: there is no such measure or group.
        """
        value, *controls = self._of(measure, group)
        low, high = self._interval(measure, group)
        unknown = np.isnan(value)
        for control in controls:
            unknown |= np.isnan(control)
        known = [np.where(unknown, NONE, one) for one in (value, *controls)]
        of_kinds = stats.by_kind(known[1:], self.provenance.control_kinds)
        band = stats.against_controls(known[0], of_kinds, level=self.level, limits=LIMITS[measure]).band
        limits = {"control_low": band.low, "control_high": band.high}
        return {
            "value": value,
            "low": low,
            "high": high,
            **{name: np.where(unknown, np.nan, limit) for name, limit in limits.items()},
        }

    def controls(self, measure: str, group: str = ALL) -> Float[np.ndarray, "control layer"]:
        """Return the same number of every control.

        Raises:
            InputError: there is no such measure or group.
        """
        return self._of(measure, group)[1:]

    def beside(self, measure: str = "relative_change", group: str = ALL) -> stats.Envelope | None:
        """Return a measure's mean over layers beside that of each kind of control; None without any, or undefined.

        Raises:
            InputError: there is no such measure or group.
        """
        means = self._of(measure, group).mean(axis=1)
        if np.isnan(means).any():
            return None
        of_kinds = stats.by_kind(means[1:].tolist(), self.provenance.control_kinds)
        return stats.against_controls(float(means[0]), of_kinds, level=self.level, limits=LIMITS[measure]).envelope

    def with_controls(self, controls: Sequence["LayerSimilarity"]) -> "LayerSimilarity":
        """Return the same beside controls, which were compared with the base on the same positions.

        Raises:
            InputError: a control was compared on other prompts, positions or layers.
        """
        for control in controls:
            for name in ("prompt_id", "groups", "layers"):
                if getattr(control, name) != getattr(self, name) or not torch.equal(control.positions, self.positions):
                    raise InputError(
                        f"{control.provenance.model} was compared on other prompts, positions or layers than "
                        f"{self.provenance.model}, expected the same"
                    )
        arrays = {name: torch.cat([getattr(one, name) for one in (self, *controls)]) for name in MEASURES}
        return replace(self, provenance=self.provenance.beside(one.provenance for one in controls), **arrays)

    @cached_property
    def _frame(self) -> pd.DataFrame:
        frames = []
        for place, group in enumerate(self.groups):
            curves = {measure: self.curve(measure, group) for measure in MEASURES}
            columns: dict[str, Any] = {"group": group, "layer": list(self.layers)}
            columns["n"] = int(self.positions[:, place].sum())
            columns |= {measure: found["value"] for measure, found in curves.items()}
            for measure in OVER_PROMPTS:
                columns |= {f"{measure}_{limit}": curves[measure][limit] for limit in ("low", "high")}
            for measure, found in curves.items():
                columns |= {f"{measure}_{limit}": found[limit] for limit in ("control_low", "control_high")}
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def to_df(self) -> pd.DataFrame:
        """Return a row per group and layer.

        Columns: group, layer, n (positions), cka, relative_change, cosine, mean_shift_share; relative_change and
        cosine with _low, _high over prompts; all four with _control_low, _control_high.
        """
        return self._frame.copy()

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k layers whose streams changed most over all positions."""
        frame: Any = self.to_df()
        some = frame[frame["group"] == ALL]
        columns = ["layer", "relative_change", "relative_change_control_low", "relative_change_control_high", "cka"]
        found = some.sort_values("relative_change", ascending=False, kind="stable")
        return found.head(k).reset_index(drop=True).loc[:, columns]

    def told(self) -> list[str]:
        """Return relative change beside controls, and three measures by layer, all positions."""
        beside = self.beside()
        lines = [] if beside is None else [f"relative_change, mean over layers, beside controls: {beside}"]
        for measure in MEASURES[:3]:
            values = ", ".join(f"{value:.3g}" for value in getattr(self, measure)[0, 0].tolist())
            lines.append(f"{measure} by layer: {values}")
        return lines

    def _of(self, measure: str, group: str) -> Float[np.ndarray, "model layer"]:
        if measure not in MEASURES:
            raise InputError(f"measure={measure!r} is none of {', '.join(MEASURES)}")
        if group not in self.groups:
            raise InputError(f"group={group!r} is none of {', '.join(self.groups)}")
        return getattr(self, measure)[:, self.groups.index(group)].numpy()

    def _interval(self, measure: str, group: str) -> tuple[np.ndarray, np.ndarray]:
        """Return limits of a mean over positions by prompts: t limits of each prompt's influence on it.

        The mean is R = sum_p n_p r_p / sum_p n_p; a prompt counts as R + n_p (r_p - R) / mean n, whose mean is R.
        """
        nothing = np.full(len(self.layers), np.nan)
        if measure not in OVER_PROMPTS:
            return nothing, nothing
        place = self.groups.index(group)
        counts = self.positions[:, place].numpy().astype(float)
        own = getattr(self, f"prompt_{measure}")[:, place].numpy()[counts > 0]
        counts = counts[counts > 0]
        if not len(counts):
            return nothing, nothing
        whole = getattr(self, measure)[0, place].numpy()
        influence = whole + (counts / counts.mean())[:, None] * (own - whole)
        low, high = stats.mean_interval(influence, level=self.level)
        return low.clip(*LIMITS[measure]), high.clip(*LIMITS[measure])
