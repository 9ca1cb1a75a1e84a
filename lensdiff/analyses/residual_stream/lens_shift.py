"""How tuning moved what the layers say: the lens of base, tuned model and controls on the same texts, by layer.

Each prompt counts once: its numbers are means over its response's tokens.

    kl          KL of a layer's lens to the model's own output, nats
    prob        probability of the response's token in a layer's lens
    committed   the layer from which the most probable token stays, one number for all layers

Differences are tuned - base, paired over prompts; beside them stands the same difference of each control model, which
read the same text. A smaller `committed` means that tuning made the model decide earlier.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.residual_stream.lens import LogitLens
from lensdiff.results import InputError, Provenance, Result

MEASURES = ("kl", "prob")


@dataclass(frozen=True, eq=False)
class LensCurves(Result):
    """The lens of one model over prompts, means over each response's tokens; see `lens` for the measures.

    Attributes:
        prompt_id: the prompts; n_out: tokens of each one's response.
        layers: that were read, the last the model's own output.
        kl, prob: of each prompt and layer; committed: of each prompt.
    """

    calls = ("top()", "to_df()")

    prompt_id: tuple[str, ...]
    n_out: tuple[int, ...]
    layers: tuple[int, ...]
    kl: Float[Tensor, "prompt layer"]
    prob: Float[Tensor, "prompt layer"]
    committed: Float[Tensor, " prompt"]

    @classmethod
    def of(cls, lenses: Iterable[LogitLens]) -> "LensCurves":
        """Return the curves of one model's results, each prompt's read once.

        Args:
            lenses: of one model, a prompt each.

        Raises:
            InputError: there is none.
        """
        rows = [
            (one.provenance, one.prompt_id, len(one.out_tokens), one.layers, one.kl.mean(dim=1), one.prob.mean(dim=1),
             one.committed.double().mean())
            for one in lenses
        ]  # fmt: skip
        if not rows:
            raise InputError("there is no prompt whose layers were read, expected at least one")
        origins, ids, n_out, layers, kl, prob, committed = zip(*rows, strict=True)
        return cls(origins[0], ids, n_out, layers[0], torch.stack(kl), torch.stack(prob), torch.stack(committed))

    def to_df(self) -> pd.DataFrame:
        """Return a row per layer: layer, kl, prob; means over prompts."""
        return pd.DataFrame({"layer": self.layers, "kl": self.kl.mean(dim=0), "prob": self.prob.mean(dim=0)})

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the first k layers."""
        return self.to_df().head(k)


@dataclass(frozen=True, eq=False)
class LensShift(Result):
    """The lens of both models and of controls, by layer; see the module.

    Axis `model` is base, tuned, then the controls of the provenance.

    Attributes:
        prompt_id: the prompts.
        kl, prob: of each model, prompt and layer.
        layers: the last is the models' own output.
        committed: mean over each response's tokens.
        level: of intervals and bands.
    """

    prompt_id: tuple[str, ...]
    layers: tuple[int, ...]
    kl: Float[Tensor, "model prompt layer"]
    prob: Float[Tensor, "model prompt layer"]
    committed: Float[Tensor, "model prompt"]
    level: float

    def differences(self, measure: str) -> dict[str, Float[np.ndarray, " layer"]]:
        """Return by layer base and tuned (means over prompts), difference, low, high, control_low and control_high.

        Limits are NaN with one prompt, or with fewer than 19 controls of a kind.

        Args:
            measure: "kl" or "prob".

        Raises:
            InputError: there is no such measure.
        """
        if measure not in MEASURES:
            raise InputError(f"measure={measure!r} is none of {', '.join(MEASURES)}")
        return differences(getattr(self, measure).numpy(), self.provenance.control_kinds, self.level)

    def commitment(self) -> stats.Test | None:
        """Return the paired difference of the layer of commitment over prompts; None with one prompt."""
        base, tuned = self.committed[:2].numpy()
        return stats.paired_difference(tuned, base, level=self.level)

    def beside(self) -> stats.Envelope | None:
        """Return tuned - base of the layer of commitment beside that of each kind of control; None without any."""
        _, tuned, *controls = (self.committed - self.committed[0]).mean(dim=1).tolist()
        of_kinds = stats.by_kind(controls, self.provenance.control_kinds)
        return stats.against_controls(tuned, of_kinds, level=self.level).envelope

    def to_df(self) -> pd.DataFrame:
        """Return a row per measure and layer, and one of the layer of commitment, which has no layer.

        Columns: measure, layer, base, tuned, difference, low, high, control_low, control_high.
        """
        frames = []
        for measure in MEASURES:
            layers = pd.array(list(self.layers), dtype="Int64")
            frames.append(pd.DataFrame({"measure": measure, "layer": layers, **self.differences(measure)}))
        whole = differences(self.committed[:, :, None].numpy(), self.provenance.control_kinds, self.level)
        none = pd.array([None], dtype="Int64")
        return pd.concat([*frames, pd.DataFrame({"measure": "committed", "layer": none, **whole})], ignore_index=True)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k layers in which the probability of the token moved most."""
        frame: Any = self.to_df()
        some = frame[frame.measure == "prob"]
        order = some.difference.abs().sort_values(ascending=False, kind="stable").index[:k]
        columns = ["measure", "layer", "base", "tuned", "difference", "control_low", "control_high"]
        return some.loc[order].reset_index(drop=True).loc[:, columns]

    def told(self) -> list[str]:
        """Return the layer of commitment of both models, beside controls."""
        base, tuned = self.committed[:2].mean(dim=1).tolist()
        beside = self.beside()
        lines = [f"committed at layer: base {base:.3g}, tuned {tuned:.3g}"]
        return lines + ([] if beside is None else [f"beside controls: {beside}"])


def differences(
    values: Float[np.ndarray, "model prompt what"], kinds: Sequence[str], level: float
) -> dict[str, Float[np.ndarray, " what"]]:
    """Return base, tuned, difference, low, high, control_low and control_high of numbers over prompts, in order."""
    base, tuned, *controls = values
    difference = (tuned - base).mean(axis=0)
    band = stats.against_controls(
        difference, stats.by_kind([(one - base).mean(axis=0) for one in controls], kinds), level=level
    ).band
    low, high = stats.mean_interval(tuned - base, level=level)
    return {
        "base": base.mean(axis=0),
        "tuned": tuned.mean(axis=0),
        "difference": difference,
        "low": low,
        "high": high,
        "control_low": band.low,
        "control_high": band.high,
    }


def same_prompts(first: Any, others: Iterable[Any], *names: str) -> None:
    """Refuse results of other prompts, layers or parts than the first's, by the names of fields that have to be equal.

    Raises:
        InputError: they differ.
    """
    for other in others:
        for name in names:
            if getattr(other, name) != getattr(first, name):
                raise InputError(
                    f"{other.provenance.model} was read with another {name} than {first.provenance.model}, expected "
                    "the same texts in every model"
                )


def lens_shift(
    base: LensCurves,
    tuned: LensCurves,
    controls: Sequence[LensCurves] = (),
    *,
    provenance: Provenance | None = None,
    level: float = 0.95,
) -> LensShift:
    """Return the lens of two models beside controls, all read on the same texts.

    Args:
        provenance: of the pair; by default the tuned model's, with the base in its name.
        level: of intervals and bands.

    Raises:
        InputError: they were read on other prompts, on other tokens, or in other layers.
    """
    same_prompts(base, [tuned, *controls], "prompt_id", "n_out", "layers")
    every = [base, tuned, *controls]
    arrays = {name: torch.stack([getattr(one, name) for one in every]) for name in (*MEASURES, "committed")}
    origin = (provenance or tuned.provenance).beside(one.provenance for one in controls)
    return LensShift(origin, base.prompt_id, base.layers, **arrays, level=level)
