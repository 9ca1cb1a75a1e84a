"""What `directions` finds: directions of base, tuned model and controls by layer, and what they do to responses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff import stats
from lensdiff.results import InputError, Result
from lensdiff.results.diff import SIDES

CURVES = ("cosine", "auroc_tuned", "auroc_base_in_tuned", "auroc_tuned_in_base")  # those that controls have, too
LIMITS = {name: (-1.0, 1.0) if name == "cosine" else (0.0, 1.0) for name in CURVES}
HOW = ("add", "project")


@dataclass(frozen=True, eq=False)
class Directions(Result):
    """See `measure`. Axis `model` is the tuned model, then the controls of the provenance, in its place.

    Axis `side` is base and tuned; of effects, `side` is the model that is changed and `whose` whose direction it is.

    Attributes:
        n_a, n_b, n_folds: texts of both sets, and parts that were held out.
        paired: whether each text of B is one of A's without its instruction.
        length_auroc: how well the number of tokens alone tells the sets apart.
        same_last: the share of A's texts whose last token also ends one of B's.
        vectors: v of base and tuned model (or of a control) at each layer.
        cosine, auroc_tuned, auroc_base_in_tuned, auroc_tuned_in_base: see `measure`; auroc_base: of the base alone.
        permuted_low, permuted_high: where one more AUROC with permuted labels lies.
        layer: at which streams were changed.
        prompt_id: whose responses were read with changed streams; none where no effect was measured.
        effect: of each change on each prompt's response, nats per token (how: add, project).
        random_effect: the same with random vectors of the same length, means over prompts.
        failures: why a prompt is left out.
        level: of intervals and bands.
    """

    calls = ("effects()", "top()", "to_df()", "show()")

    n_a: int
    n_b: int
    n_folds: int
    paired: bool
    length_auroc: float
    same_last: float
    vectors: Float[Tensor, "side layer d_model"]
    cosine: Float[Tensor, "model layer"]
    auroc_base: Float[Tensor, " layer"]
    auroc_tuned: Float[Tensor, "model layer"]
    auroc_base_in_tuned: Float[Tensor, "model layer"]
    auroc_tuned_in_base: Float[Tensor, "model layer"]
    permuted_low: Float[Tensor, " layer"]
    permuted_high: Float[Tensor, " layer"]
    layer: int
    prompt_id: tuple[str, ...]
    effect: Float[Tensor, "side whose how prompt"]
    random_effect: Float[Tensor, "side whose how draw"]
    failures: dict[str, str]
    level: float

    def band(self, name: str) -> stats.Band:
        """Return by layer where one more control lies; NaN with fewer than 19 of a kind.

        Args:
            name: of a column of `to_df`.

        Raises:
            InputError: there is no such column, or controls do not have it.
        """
        if name not in CURVES:
            raise InputError(f"name={name!r} is none of {', '.join(CURVES)}")
        own, *controls = getattr(self, name).numpy()
        of_kinds = stats.by_kind(controls, self.provenance.control_kinds)
        return stats.against_controls(own, of_kinds, level=self.level, limits=LIMITS[name]).band

    def beside(self) -> stats.Envelope | None:
        """Return the cosine's mean over layers beside that of each kind of control; None without any."""
        own, *controls = self.cosine.mean(dim=1).tolist()
        of_kinds = stats.by_kind(controls, self.provenance.control_kinds)
        return stats.against_controls(own, of_kinds, level=self.level, limits=(-1.0, 1.0)).envelope

    def with_controls(self, controls: Sequence["Directions"]) -> "Directions":
        """Return the same beside controls that read the same texts.

        Raises:
            InputError: a control read another number of texts or layers.
        """
        for control in controls:
            mine, theirs = ((one.n_a, one.n_b, one.n_folds, one.cosine.shape[1]) for one in (self, control))
            if mine != theirs:
                raise InputError(
                    f"{control.provenance.model} was read on other texts than {self.provenance.model}, expected "
                    "the same"
                )
        arrays = {name: torch.cat([getattr(one, name) for one in (self, *controls)]) for name in CURVES}
        return replace(self, provenance=self.provenance.beside(one.provenance for one in controls), **arrays)

    def to_df(self) -> pd.DataFrame:
        """Return a row per layer.

        Columns: layer, cosine, auroc_base, auroc_tuned, auroc_base_in_tuned, auroc_tuned_in_base, permuted_low,
        permuted_high; all but auroc_base with _control_low, _control_high.
        """
        columns: dict[str, Any] = {"layer": range(self.cosine.shape[1]), "cosine": self.cosine[0]}
        columns |= {"auroc_base": self.auroc_base} | {name: getattr(self, name)[0] for name in CURVES[1:]}
        columns |= {"permuted_low": self.permuted_low, "permuted_high": self.permuted_high}
        for name in CURVES:
            band = self.band(name)
            columns |= {f"{name}_control_low": band.low, f"{name}_control_high": band.high}
        return pd.DataFrame(columns)

    def effects(self) -> pd.DataFrame:
        """Return a row per changed model, direction and change; none where no effect was measured.

        Columns: into, direction (whose), how, layer, n (prompts), effect, low, high (over prompts), random_low,
        random_high (where one more random vector of the same length lies).
        """
        rows = []
        for i, into in enumerate(SIDES if self.prompt_id else ()):
            for j, whose in enumerate(SIDES):
                for k, how in enumerate(HOW):
                    own, draws = self.effect[i, j, k].numpy(), self.random_effect[i, j, k].numpy()
                    limits = stats.mean_interval(own, level=self.level)
                    beside = (np.nan, np.nan)
                    if len(draws) >= stats.FEWEST_FOR_RANK:
                        beside = stats.against_controls(None, {"random": draws}, level=self.level).band
                    numbers = (own.mean(), *map(float, limits), *map(float, beside))
                    rows.append((into, whose, how, self.layer, len(own), *numbers))
        columns = ["into", "direction", "how", "layer", "n", "effect", "low", "high", "random_low", "random_high"]
        return pd.DataFrame(rows, columns=columns)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k layers in which the two directions differ most."""
        columns = ["layer", "cosine", "cosine_control_low", "cosine_control_high", "auroc_base_in_tuned"]
        return self.to_df().sort_values("cosine", kind="stable").head(k).reset_index(drop=True).loc[:, columns]

    def told(self) -> list[str]:
        """Return the cosine and the AUROC by layer, and the effects of the tuned model's direction in either model."""
        beside = self.beside()
        lines = [] if beside is None else [f"cosine, mean over layers, beside controls: {beside}"]
        for name in ("cosine", "auroc_base_in_tuned"):
            lines.append(
                f"{name} by layer, {self.n_a} texts against {self.n_b}: "
                + ", ".join(f"{x:.3g}" for x in getattr(self, name)[0].tolist())
            )
        rows: Any = self.effects().itertuples()
        for row in rows:
            said = f"{row.how} {row.direction}'s in {row.into}, layer {row.layer}: {row.effect:+.3g} nats per token"
            known = not np.isnan(row.random_low)
            lines.append(f"{said}, random {row.random_low:.3g} to {row.random_high:.3g}" if known else said)
        return lines
