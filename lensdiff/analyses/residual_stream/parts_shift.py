"""Which parts tuning moved: what each head and MLP adds to a token's logit against another, tuned less base.

Both models, and controls, read the same texts and are held against the same other token (see `direct`). Each prompt
counts once, by the mean over its response's tokens. Differences are tuned - base, paired over prompts, with a test for
each part and false-discovery control over the whole table; beside each stands the band of the same difference of
control models. A part moved where both say so: the prompts that it did, the band that a meaningless change does not.

Parts share one stream: differences of parts add up to that of the logit, and large ones may cancel.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.residual_stream.direct import part_columns
from lensdiff.analyses.residual_stream.lens_shift import differences, same_prompts
from lensdiff.analyses.residual_stream.split import Part, Split
from lensdiff.results import InputError, Provenance, Result
from lensdiff.results.numbers import n_of


@dataclass(frozen=True, eq=False)
class ModelParts(Result):
    """What each part of one model adds to the logit, by prompt, means over its response's tokens.

    Attributes:
        prompt_id: the prompts; n_out: tokens of each one's response.
        parts: kind, layer and number of a head.
        contributions: in logits; logit: what they add up to.
    """

    calls = ("top()", "to_df()")

    prompt_id: tuple[str, ...]
    n_out: tuple[int, ...]
    parts: tuple[tuple[str, int | None, int | None], ...]
    contributions: Float[Tensor, "prompt part"]
    logit: Float[Tensor, " prompt"]

    @classmethod
    def of(cls, provenance: Provenance, splits: Iterable[tuple[str, Split]]) -> "ModelParts":
        """Return the parts of one model over prompts, given by their ids, each read once.

        Args:
            provenance: of the model.
            splits: a prompt's id with its parts, each.

        Raises:
            InputError: there is none.
        """
        rows = [
            (name, len(one.logit), tuple(tuple(p) for p in one.parts), one.values.mean(dim=1), one.logit.mean())
            for name, one in splits
        ]
        if not rows:
            raise InputError("there is no prompt whose logits were split, expected at least one")
        ids, n_out, parts, values, logit = zip(*rows, strict=True)
        return cls(provenance, ids, n_out, parts[0], torch.stack(values), torch.stack(logit))

    def to_df(self) -> pd.DataFrame:
        """Return a row per part: part, layer, head_index, contribution, the mean over prompts."""
        frame = pd.DataFrame(part_columns([Part(*part) for part in self.parts]))
        return frame.assign(contribution=self.contributions.mean(dim=0).numpy())

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k parts that add, or take away, most."""
        frame: Any = self.to_df()
        return frame.loc[frame.contribution.abs().sort_values(ascending=False, kind="stable").index[:k]].reset_index(
            drop=True
        )


@dataclass(frozen=True, eq=False)
class PartsShift(Result):
    """What parts add in both models and in controls; see the module.

    Axis `model` is base, tuned, then the controls of the provenance.

    Attributes:
        prompt_id: the prompts.
        parts: kind ("embed", "pos_embed", "head", "mlp", "bias"), layer and number of a head.
        contributions: to the logit of a response token, less that of another token; means over a response.
        logit: what they add up to.
        level: of intervals and bands.
    """

    prompt_id: tuple[str, ...]
    parts: tuple[tuple[str, int | None, int | None], ...]
    contributions: Float[Tensor, "model prompt part"]
    logit: Float[Tensor, "model prompt"]
    level: float

    @property
    def n_layers(self) -> int:
        """How many layers the parts are of."""
        return 1 + max(layer for _, layer, _ in self.parts if layer is not None)

    @property
    def n_heads(self) -> int:
        """How many heads a layer has."""
        return 1 + max(head for _, _, head in self.parts if head is not None)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The table of `to_df`, made once."""
        values = self.contributions.numpy()
        found = differences(values, self.provenance.control_kinds, self.level)
        frame: Any = pd.DataFrame({**part_columns([Part(*part) for part in self.parts]), **found})
        frame["p"] = frame["p_adjusted"] = np.nan
        if values.shape[1] >= stats.FEWEST_PAIRS:
            tests = [
                stats.paired_difference(tuned, base, level=self.level)
                for base, tuned in zip(values[0].T, values[1].T, strict=True)
            ]
            given = [test for test in tests if test is not None]
            adjusted = stats.adjust(given, family=f"direct_logit_attribution, {n_of(len(given), 'part')}")
            frame["p"], frame["p_adjusted"] = [t.p for t in adjusted], [t.p_adjusted for t in adjusted]
        outside = (frame.difference > frame.control_high) | (frame.difference < frame.control_low)
        known = frame.control_low.notna()
        frame["beyond"] = outside.astype("boolean").where(known)
        frame["moved"] = (frame.beyond & (frame.p_adjusted <= 1 - self.level)).where(frame.beyond.notna())
        return frame

    def to_df(self) -> pd.DataFrame:
        """Return a row per part.

        Columns: part, layer, head_index, base, tuned (means over prompts, logits), difference, low, high, control_low,
        control_high, p, p_adjusted, beyond (whether the difference lies outside the controls' band), moved (beyond, and
        p_adjusted at most 1 - level); the last two are missing with fewer than 19 controls of a kind.
        """
        return self.frame.copy()

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k parts that moved most: those that did beyond the controls first, then by the difference."""
        columns = ["part", "layer", "head_index", "difference", "control_low", "control_high", "moved"]
        return self.ranked(k).loc[:, columns]

    def ranked(self, k: int = 10) -> pd.DataFrame:
        """Return the same rows with every column of `to_df`.

        Args:
            k: how many.
        """
        frame: Any = self.frame
        moved = frame["moved"].fillna(False).astype(bool).to_numpy()
        order = np.lexsort((-frame["difference"].abs().to_numpy(), ~moved))
        return frame.iloc[order[:k]].reset_index(drop=True)

    def whole(self) -> stats.Test | None:
        """Return the paired difference of the logit that the parts add up to; None with one prompt."""
        base, tuned = self.logit[:2].numpy()
        return stats.paired_difference(tuned, base, level=self.level)

    def beside(self) -> stats.Envelope | None:
        """Return tuned - base of the logit beside that of each kind of control; None without any."""
        _, tuned, *controls = (self.logit - self.logit[0]).mean(dim=1).tolist()
        of_kinds = stats.by_kind(controls, self.provenance.control_kinds)
        return stats.against_controls(tuned, of_kinds, level=self.level).envelope

    def told(self) -> list[str]:
        """Return the logit of both models beside controls, and the parts that moved most."""
        base, tuned = self.logit[:2].mean(dim=1).tolist()
        rows: Any = self.top(4)
        most = ", ".join(
            f"{Part(part, None if layer is pd.NA else layer, None if head is pd.NA else head)} {difference:+.3g}"
            for part, layer, head, difference in rows[["part", "layer", "head_index", "difference"]].itertuples(
                index=False
            )
        )
        lines = [f"logit against another token: base {base:.3g}, tuned {tuned:.3g}"]
        beside = self.beside()
        lines += [] if beside is None else [f"beside controls: {beside}"]
        return [*lines, f"moved most: {most}"]


def parts_shift(
    base: ModelParts,
    tuned: ModelParts,
    controls: Sequence[ModelParts] = (),
    *,
    provenance: Provenance | None = None,
    level: float = 0.95,
) -> PartsShift:
    """Return the parts of two models beside controls, all read on the same texts.

    Args:
        provenance: of the pair; by default the tuned model's.
        level: of intervals and bands.

    Raises:
        InputError: they were read on other prompts or tokens, or have other parts.
    """
    same_prompts(base, [tuned, *controls], "prompt_id", "n_out", "parts")
    every = [base, tuned, *controls]
    origin = (provenance or tuned.provenance).beside(one.provenance for one in controls)
    return PartsShift(
        origin,
        base.prompt_id,
        base.parts,
        torch.stack([one.contributions for one in every]),
        torch.stack([one.logit for one in every]),
        level,
    )
