"""What `attention_shift` needs of a control model, read apart and without its patterns."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.analyses.attention.distances import DISTANCES, distances_of
from lensdiff.analyses.attention.patterns import MEASURES, AttentionPatterns
from lensdiff.analyses.attention.same_texts import Patterns, same_texts
from lensdiff.results import InputError, Result
from lensdiff.results.tidy import tidy


@dataclass(frozen=True, eq=False)
class ControlAttention(Result):
    """What `attention_shift` needs of one control model, without its patterns: see `control_attention`.

    Attributes:
        layers: as in the patterns; texts: a name for each text, its tokens.
        distances: from the base's patterns (axis `distance` as `DISTANCES`).
        measures: the control's own (axis `measure` as `MEASURES`).
    """

    calls = ("top()", "to_df()")

    layers: tuple[int, ...]
    texts: tuple[tuple[str, ...], ...]
    distances: Float[Tensor, "text distance layer head_index"]
    measures: Float[Tensor, "text measure layer head_index"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per head, means over texts.

        Columns: layer, head_index; js_distance, js_distance_no_sink (from the base); sink_share, entropy,
        instruction_share, context_share, rest_share, template_share.
        """
        columns: dict[str, Tensor] = {}
        for names, values in ((DISTANCES, self.distances), (MEASURES, self.measures)):
            columns |= dict(zip(names, values.nanmean(dim=0), strict=True))
        return tidy({"layer": self.layers, "head_index": range(self.distances.shape[-1])}, columns)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k heads whose attention moved most, by `js_distance`."""
        found = self.to_df().nlargest(k, "js_distance").reset_index(drop=True)
        return found.loc[:, ["layer", "head_index", *DISTANCES]]


def control_attention(base: Patterns, control: Patterns) -> ControlAttention:
    """Return how far one control's attention lies from the base's on the same texts, patterns left out.

    Raises:
        InputError: as `attention_shift`.
    """
    distances, values, texts, last = [], [], [], None
    for mine, theirs in same_texts(("base", "control"), (base, control)):
        distances.append(distances_of(mine, theirs))
        values.append(measures_of(theirs))
        texts.append(tuple(mine.tokens))
        last = theirs
    if last is None:
        raise InputError("there are no attention results to compare, expected at least one of base and of the control")
    return ControlAttention(
        replace(last.provenance, analysis="control_attention", options={"attention": last.provenance.options}),
        last.layers,
        tuple(texts),
        torch.from_numpy(np.stack(distances)),
        torch.from_numpy(np.stack(values)),
    )


def measures_of(result: AttentionPatterns) -> Float[np.ndarray, "measure layer head_index"]:
    """Return the measures of one text, in the order of `MEASURES`."""
    return torch.stack([getattr(result, name) for name in MEASURES]).numpy()


def check_apart(control: ControlAttention, layers: tuple[int, ...], texts: tuple[tuple[str, ...], ...]) -> None:
    """Raise InputError for a control that was read on other texts, or in other layers."""
    if control.layers != layers or control.texts != texts:
        raise InputError(
            f"the control {control.provenance.model} was read on {len(control.texts)} texts in layers "
            f"{list(control.layers)}, expected the same {len(texts)} texts and layers {list(layers)} as base and tuned"
        )
