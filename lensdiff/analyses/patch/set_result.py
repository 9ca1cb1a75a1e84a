"""What heads do that are patched all together, beside random sets and controls; `sets` says what is patched."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.patch.defaults import LEAST_TOTAL, METRIC
from lensdiff.analyses.patch.set_choice import Head
from lensdiff.analyses.patch.shares import share_of
from lensdiff.results import InputError, Provenance, Result
from lensdiff.results.diff import SIDES

RANDOM = "random heads"
COLUMNS = ["into", "n_heads", "clean", "patched", "donor", "effect", "share", "random_low", "random_high"]
COLUMNS += ["control_low", "control_high"]


@dataclass(frozen=True, eq=False)
class SetPatch(Result):
    """Effects of a set of heads in both directions, beside random sets and controls; see the module.

    Axis `side` is the model that is patched, as `SIDES`.

    Attributes:
        metric: what is moved.
        prompt_id: the prompts.
        heads: the set, as (layer, head); none where there was none to patch. random_heads: those of each draw.
        clean, effect: the metric in the model left alone, and how far the set moves it. The total is the other
            model's `clean` less its own.
        random_effect: of the random sets; control_effect: of control models' activations in the base, in the order of
            `provenance.controls`.
        failures: why a prompt is not among them.
        level: of the bands.
    """

    calls = ("means()", "top()", "to_df()", "show()")

    heads: tuple[Head, ...]
    metric: str
    prompt_id: tuple[str, ...]
    clean: Float[Tensor, "prompt side"]
    effect: Float[Tensor, "prompt side"]
    random_heads: Int[Tensor, "draw head 2"]
    random_effect: Float[Tensor, "draw prompt side"]
    control_effect: Float[Tensor, "control prompt"]
    failures: dict[str, str]
    level: float

    def effects(self, into: str = "base") -> tuple[float, dict[str, list[float]]]:
        """Return the set's effect, mean over prompts, and that of random sets and of each kind of control, by name.

        Controls are of the base alone.

        Args:
            into: the model that is patched, "base" or "tuned".

        Raises:
            InputError: there is no such model.
        """
        if into not in SIDES:
            raise InputError(f"into={into!r} is none of {', '.join(SIDES)}")
        if not self.heads:
            return float("nan"), {}
        side = SIDES.index(into)
        beside = {RANDOM: self.random_effect[:, :, side].mean(dim=1).tolist()}
        if into == "base":
            beside |= stats.by_kind(self.control_effects(), self.provenance.control_kinds)
        return float(self.effect[:, side].mean()), beside

    def control_effects(self) -> list[float]:
        """Return the effect of every control's activations in the base, mean over prompts, in their order."""
        return self.control_effect.mean(dim=1).tolist()

    def beside(self, into: str = "base") -> stats.Envelope | None:
        """Return the effect beside random sets and every kind of control; None of no heads.

        Args:
            into: the model that is patched, "base" or "tuned".

        Raises:
            InputError: there is no such model.
        """
        effect, beside = self.effects(into)
        return stats.against_controls(effect, beside, level=self.level).envelope if beside else None

    def to_df(self) -> pd.DataFrame:
        """Return a row per prompt and direction.

        Columns: prompt_id, into, n_heads, clean, patched, donor, effect, share (see `shares`), random_low, random_high,
        control_low, control_high: limits within which one more random set, or control, lies.
        """
        rows = []
        for p, name in enumerate(self.prompt_id):
            for side, into in enumerate(SIDES):
                numbers = self._numbers(self.clean[p : p + 1], float(self.effect[p, side]), side)
                draws, controls = self.random_effect[:, p, side], self.control_effect[:, p]
                rows.append({"prompt_id": name, "into": into, **numbers, **self._limits(draws, controls, side)})
        return pd.DataFrame(rows, columns=["prompt_id", *COLUMNS])

    def means(self) -> pd.DataFrame:
        """Return the same, the mean over prompts, a row per direction."""
        rows = []
        for side, into in enumerate(SIDES if self.heads else ()):
            numbers = self._numbers(self.clean, float(self.effect[:, side].mean()), side)
            draws, controls = self.random_effect[:, :, side].mean(dim=1), self.control_effect.mean(dim=1)
            rows.append({"into": into, **numbers, **self._limits(draws, controls, side)})
        return pd.DataFrame(rows, columns=COLUMNS)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k rows with the largest effects, of either sign."""
        frame = self.to_df()
        first = frame.iloc[np.argsort(-frame["effect"].abs().to_numpy(), kind="stable")[:k]].reset_index(drop=True)
        limits = ["random_low", "random_high", "control_low", "control_high"]
        return first.loc[:, ["prompt_id", "into", "effect", "share", *limits]]

    def with_controls(self, controls: Sequence["SetPatch"]) -> "SetPatch":
        """Return the same beside what each control's activations do (the `effect` of a result of its own).

        Args:
            controls: results of `control_set`.

        Raises:
            InputError: a control has other heads or prompts.
        """
        for control in controls:
            if control.heads != self.heads or control.prompt_id != self.prompt_id:
                raise InputError(f"control {control.provenance.model} has other heads or prompts, expected the pair's")
        effects = [control.effect[:, 0] for control in controls]
        beside = self.provenance.beside([control.provenance for control in controls])
        return replace(self, provenance=beside, control_effect=stacked(effects, len(self.prompt_id)))

    def told(self) -> list[str]:
        """Return the heads, and each direction's effect beside random sets and controls."""
        listed = ", ".join(f"{layer}.{head}" for layer, head in self.heads)
        lines = [f"heads {listed}; {len(self.prompt_id)} prompt(s)"]
        return lines + [f"into {into}: {self.beside(into)}" for into in SIDES if self.heads]

    def _numbers(self, clean: Float[Tensor, "prompt side"], effect: float, side: int) -> dict[str, Any]:
        own, donor = clean[:, side].numpy(), clean[:, 1 - side].numpy()
        share = share_of(np.array(effect), own, donor, least=LEAST_TOTAL, level=self.level)
        found = {"n_heads": len(self.heads), "clean": own.mean(), "patched": own.mean() + effect}
        return found | {"donor": donor.mean(), "effect": effect, "share": float(share)}

    def _limits(self, draws: Tensor, controls: Tensor, side: int) -> dict[str, float]:
        of_draws = stats.against_controls(None, {RANDOM: draws.numpy()} if len(draws) else {}, level=self.level).band
        kinds = stats.by_kind(controls.tolist(), self.provenance.control_kinds) if side == 0 else {}
        band = stats.against_controls(None, kinds, level=self.level).band
        limits = (*of_draws, *band)
        return dict(zip(("random_low", "random_high", "control_low", "control_high"), map(float, limits), strict=True))


def no_set(provenance: Provenance) -> SetPatch:
    """Return the result of no heads, where none rose: no prompt was read, and there is no effect."""
    nothing = torch.zeros(0, 2, dtype=torch.float64)
    draws = torch.zeros(0, 0, 2, dtype=torch.int64), torch.zeros(0, 0, 2, dtype=torch.float64)
    return SetPatch(provenance, (), METRIC, (), nothing, nothing.clone(), *draws, stacked([], 0), {}, 0.95)


def stacked(effects: Sequence[Tensor], n_prompts: int) -> Float[Tensor, "control prompt"]:
    """Return the effects of controls on one axis; none of none."""
    if not effects:
        return torch.zeros(0, n_prompts, dtype=torch.float64)
    return torch.stack([effect.double() for effect in effects])
