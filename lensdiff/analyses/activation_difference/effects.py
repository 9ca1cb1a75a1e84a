"""What the difference of one place does, beside what other directions do there: three interventions in one result.

    patchscope   the words that the difference reads, as the models say them at the last token of prompts that repeat
    steer        the base with s times the difference added: KL to both models, and the probability of those words
    causal       the cross-entropy of either model with its component along the difference set to the other's

Beside each stand random vectors of the same length, the tuned model's own mean, the difference of every control model,
and, beside the replaced component, differences of random places of the stream. A band says where one more of them
would lie. The place is fixed before anything is read: half of the layers and the last position that every text has.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.activation_difference.causal import OTHER, RANDOM_DIFFERENCE
from lensdiff.analyses.activation_difference.directions import DIFFERENCE, NONE, RANDOM, TUNED_MEAN
from lensdiff.results import Result
from lensdiff.results.diff import SIDES

LABELS = {
    "patchscope": ("reading", "model", "draw", "token"),
    "steering": ("into", "reading", "draw"),
    "causal": ("into", "reading", "draw"),
}
NUMBERS = {
    "patchscope": ("scale", "rank", "prob", "prob_before", "prob_read", "prob_read_before"),
    "steering": ("scale", "prob", "kl_to_base", "kl_to_tuned"),
    "causal": ("cross_entropy", "change", "low", "high"),
}
STEERED = ("kl_to_tuned", "kl_to_base", "prob")
NO_LIMITS = (-np.inf, np.inf)
LIMITS = {"prob_read": (0.0, 1.0), "prob": (0.0, 1.0), "kl_to_tuned": (0.0, np.inf), "kl_to_base": (0.0, np.inf)}
Said = tuple[str, str, int, str]
Written = tuple[str, str, int]


@dataclass(frozen=True, eq=False)
class DifferenceEffects(Result):
    """See the module; the rows of each table are labels and numbers, named in `LABELS` and `NUMBERS`.

    Attributes:
        n_layers: of the model; layer, position: where the difference is of.
        chosen: whether somebody named layer or position.
        words: the first that the difference reads, as far as both models have them: those whose probability is
            measured.
        level: of bands and intervals.
        patchscope_labels, patchscope_numbers: rows of the patchscope, their labels and their numbers.
        steering_labels, steering_numbers: of steering; causal_labels, causal_numbers: of the replaced component.
    """

    n_layers: int
    layer: int
    position: int
    chosen: bool
    words: tuple[str, ...]
    patchscope_labels: tuple[Said, ...]
    patchscope_numbers: Float[Tensor, "said said_number"]
    steering_labels: tuple[Written, ...]
    steering_numbers: Float[Tensor, "steered steered_number"]
    causal_labels: tuple[Written, ...]
    causal_numbers: Float[Tensor, "replaced replaced_number"]
    level: float

    @staticmethod
    def rows(name: str, frame: Any) -> dict[str, Any]:
        """Return a table, as the calls of `ActivationDifference` give it, as fields.

        Args:
            name: of the table: "patchscope", "steering" or "causal".
            frame: a table.
        """
        numbers = frame[list(NUMBERS[name])].to_numpy(dtype=float)
        labels = tuple(frame[list(LABELS[name])].itertuples(index=False, name=None))
        return {f"{name}_labels": labels, f"{name}_numbers": torch.from_numpy(numbers.copy())}

    def table(self, name: str) -> pd.DataFrame:
        """Return "patchscope", "steering" or "causal": the table that the call of that name gives."""
        frame = pd.DataFrame(list(getattr(self, f"{name}_labels")), columns=list(LABELS[name]))
        numbers = getattr(self, f"{name}_numbers").numpy()
        frame = frame.assign(**dict(zip(NUMBERS[name], numbers.T, strict=True)))
        return frame.astype({"rank": int}) if "rank" in frame else frame

    def beside(self, frame: Any, measure: str) -> dict[str, float]:
        """Return one measure of the difference, of what stands beside it, and the bands of those that are several.

        Args:
            frame: rows of one table, of one scale and one model.
        """
        by = frame.groupby("reading")[measure].apply(list)
        of_draws = {"random": RANDOM, "random_difference": RANDOM_DIFFERENCE}
        given = {name: {drawn: by.get(drawn, [])} for name, drawn in of_draws.items()}
        known = [(one.kind, by[one.name][0]) for one in self.provenance.controls if one.name in by]
        given["control"] = stats.by_kind([value for _, value in known], [kind for kind, _ in known])
        found = {"difference": float(by[DIFFERENCE][0]), "tuned_mean": float(by.get(TUNED_MEAN, [np.nan])[0])}
        for name, of_kinds in given.items():
            low, high = self._band(of_kinds, LIMITS.get(measure, NO_LIMITS))
            found |= {f"{name}_low": low, f"{name}_high": high}
        return found

    def _band(self, of_kinds: dict[str, list[float]], limits: tuple[float, float]) -> tuple[float, float]:
        given = {kind: values for kind, values in of_kinds.items() if values}
        if not given or not np.isfinite(np.concatenate([*given.values()])).all():
            return float("nan"), float("nan")
        band = stats.against_controls(None, given, level=self.level, limits=limits).band
        return float(band.low), float(band.high)

    def to_df(self) -> pd.DataFrame:
        """Return a row per intervention, changed model, scale and measure.

        Columns: intervention, into (the model that is changed), scale (missing of causal), measure, unchanged,
        difference, low, high (interval of it over texts, of causal), tuned_mean, random_low, random_high,
        random_difference_low, random_difference_high, control_low, control_high (where one more of them would lie;
        missing with fewer than 19, and with fewer than 19 controls of a kind).
        """
        rows: list[dict[str, Any]] = []
        said: Any = self.table("patchscope")
        said = said[(said["rank"] == 1) & (said["model"] == SIDES[1])]
        for scale, own in said.groupby("scale", sort=False):
            unchanged = own["prob_read_before"].iloc[0]
            rows.append({"intervention": "patchscope", "into": SIDES[1], "scale": scale, "measure": "prob_read",
                         "unchanged": unchanged, **self.beside(own, "prob_read")})  # fmt: skip
        steered: Any = self.table("steering")
        none = steered[steered["reading"] == NONE].iloc[0]
        for measure in STEERED:
            for scale, own in steered[steered["reading"] != NONE].groupby("scale", sort=False):
                rows.append({"intervention": "steer", "into": none["into"], "scale": scale, "measure": measure,
                             "unchanged": none[measure], **self.beside(own, measure)})  # fmt: skip
        causal: Any = self.table("causal")
        for into, own in causal.groupby("into", sort=False):
            difference = own[own["reading"] == DIFFERENCE].iloc[0]
            rows.append({"intervention": "causal", "into": into, "scale": np.nan, "measure": "change",
                         "unchanged": 0.0, **self.beside(own, "change"),
                         "low": difference["low"], "high": difference["high"]})  # fmt: skip
        ends = [f"{name}_{end}" for name in ("random", "random_difference", "control") for end in ("low", "high")]
        columns = ["intervention", "into", "scale", "measure", "unchanged", "difference", "low", "high", "tuned_mean"]
        return pd.DataFrame(rows, columns=[*columns, *ends])

    def other(self, into: str) -> float:
        """Return the change of a model's cross-entropy if the whole other model stood in its place.

        Args:
            into: "base" or "tuned", the model whose cross-entropy is meant.
        """
        frame: Any = self.table("causal")
        return float(frame[(frame["into"] == into) & (frame["reading"] == OTHER)]["change"].iloc[0])

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the first k rows of steering and of the replaced component."""
        frame: Any = self.to_df()
        columns = ["intervention", "into", "scale", "measure", "difference", "random_low", "random_high"]
        first = frame[frame["intervention"] != "patchscope"].head(k).reset_index(drop=True)
        return first.loc[:, columns]

    def told(self) -> list[str]:
        """Return the place, and replaced component and steering beside random vectors."""
        lines = [f"layer {self.layer}, position {self.position}:"]
        frame: Any = self.to_df()
        told = frame[frame["measure"].isin(["kl_to_tuned", "change"])].sort_values("intervention", kind="stable")
        for row in told.to_dict("records"):
            scale = "" if np.isnan(row["scale"]) else f" by {row['scale']:g}"
            said = f"{row['intervention']}{scale}, {row['into']}: {row['measure']} {row['difference']:.3g}"
            known = not np.isnan(row["random_low"])
            beside = f", random {row['random_low']:.3g} to {row['random_high']:.3g}" if known else ""
            lines.append(f"{said} (unchanged {row['unchanged']:.3g}){beside}")
        return lines
