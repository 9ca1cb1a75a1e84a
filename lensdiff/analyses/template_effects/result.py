"""What `template_effects` finds: the four cells of each number, the effects of model and template, the interaction."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.template_effects.measures import SHIFT
from lensdiff.results import Result
from lensdiff.results.diff import SIDES

EFFECTS = ("model", "template", "interaction")
RENDERINGS = ("raw", "chat")
DISTANCES = {(SHIFT, "model"), (SHIFT, "template")}  # never negative: no test against 0


@dataclass(frozen=True, eq=False)
class TemplateEffects(Result):
    """Two models in two renderings; see the module `measure`.

    Attributes:
        prompt_id: the prompts.
        measures: the numbers, by name; the module `measures` has their units.
        cells: each number of base and tuned model, in raw prompts and in the chat template; NaN where a prompt has
            none, and of distances, which are of no cell alone.
        effects: of each prompt, in the order of `EFFECTS`; NaN where it lacks one of the four.
        without: measures that could not be had, and why.
        failures: why a prompt is in none.
        level: of the intervals over prompts.
    """

    calls = ("cell_means()", "top()", "to_df()", "show()")

    measures: tuple[str, ...]
    prompt_id: tuple[str, ...]
    cells: Float[Tensor, "measure model template prompt"]
    effects: Float[Tensor, "measure effect prompt"]
    without: dict[str, str]
    failures: dict[str, str]
    level: float

    def to_df(self) -> pd.DataFrame:
        """Return a row per number and effect: measure, effect, estimate, low, high, p, p_adjusted, n.

        n counts the prompts; limits and p are NaN with fewer than two, and p of a mean distance, which is never
        negative. p_adjusted is over the table.
        """
        rows = []
        for measure, effect, n, estimate, test in self._rows:
            known = (None,) * 4 if test is None else (test.low, test.high, test.p, test.p_adjusted)
            rows.append((measure, effect, estimate, *(np.nan if x is None else x for x in known), n))
        return pd.DataFrame(
            rows, columns=["measure", "effect", "estimate", "low", "high", "p", "p_adjusted", "n"]
        ).astype(dict.fromkeys(("estimate", "low", "high", "p", "p_adjusted"), float))

    def cell_means(self) -> pd.DataFrame:
        """Return a row per number that has cells: measure, base_raw, base_chat, tuned_raw, tuned_chat, n.

        Means over the prompts that have all four.
        """
        rows = []
        for name, of_measure in zip(self.measures, self.cells, strict=True):
            whole = of_measure[:, :, ~of_measure.isnan().any(dim=0).any(dim=0)]
            if whole.shape[-1]:
                rows.append((name, *whole.mean(dim=-1).flatten().tolist(), whole.shape[-1]))
        names = [f"{side}_{way}" for side in SIDES for way in RENDERINGS]
        return pd.DataFrame(rows, columns=["measure", *names, "n"])

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k effects with the smallest p."""
        return self.to_df().sort_values("p", kind="stable").head(k).reset_index(drop=True)

    def told(self) -> list[str]:
        """Return each number's three effects, with their intervals."""
        lines, rows = [], list(self._rows)
        for measure in self.measures:
            parts = [
                f"{effect} {test.numbers() if test else f'{estimate:+.3g}'}"
                for name, effect, _, estimate, test in rows
                if name == measure
            ]
            lines.append(f"{measure}: {', '.join(parts)}")
        lines += [f"without {name}: {reason}" for name, reason in self.without.items()]
        return lines + ([f"{len(self.failures)} prompts failed"] if self.failures else [])

    @cached_property
    def _rows(self) -> list[tuple[str, str, int, float, stats.Test | None]]:
        """Each number and effect with how many prompts have it, its mean and its test, p-values adjusted together."""
        found = []
        for measure, of_measure in zip(self.measures, self.effects, strict=True):
            for effect, values in zip(EFFECTS, of_measure, strict=True):
                known = values[~values.isnan()].numpy()
                test = self._test(known) if len(known) else None
                if test is not None and (measure, effect) in DISTANCES:
                    test = replace(test, p=None, statistic=None)
                estimate = float(known.mean()) if len(known) else float("nan")
                found.append((measure, effect, len(known), estimate, test))
        tested = [place for place, row in enumerate(found) if row[4] is not None and row[4].p is not None]
        family = "effects of model and template"
        for place, test in zip(tested, stats.adjust([found[i][4] for i in tested], family=family), strict=True):
            found[place] = (*found[place][:4], test)
        return found

    def _test(self, values: Float[np.ndarray, " prompt"]) -> stats.Test | None:
        return stats.mean_difference(values, level=self.level, seed=self.provenance.seed or 0)
