"""What `instruction_use` finds: a row per response and model, and the differences between models over prompts."""

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
from lensdiff.results import InputError, Result
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import n_of

MEAN = "mean"  # of all texts of a prompt
REFERENCE = "reference"  # the text that a prompt may bring as its answer


@dataclass(frozen=True, eq=False)
class InstructionUse(Result):
    """How far responses depend on the instruction, in one model or in both of a pair and in controls; see the module.

    Axis `row` is a response in a model.

    Attributes:
        by: "swap" or "deletion".
        models: what `model` counts: "base", "tuned" and the controls' names, or the one model's name.
        texts: the responses that were forced: "base" and "tuned" (the models' own), "own" (the one model's),
            "reference" (the prompt's), "given", or the names of those that were given.
        prompt_id, text, model: what a row is about.
        n_out, n_draws: the response's tokens, and how many other prompts it was read after.
        log_prob, log_prob_without: means over the response's tokens, in nats; the second also over the others, NaN
            where nothing was left of the prompt.
        n_left_out: responses with fewer than `min_tokens` tokens.
        failures: why a prompt is not among the rows.
        level: of the intervals.
    """

    by: str
    row_is = "text of a prompt in a model"

    models: tuple[str, ...]
    texts: tuple[str, ...]
    prompt_id: tuple[str, ...]
    text: tuple[str, ...]
    model: Int[Tensor, " row"]
    n_out: Int[Tensor, " row"]
    n_draws: Int[Tensor, " row"]
    log_prob: Float[Tensor, " row"]
    log_prob_without: Float[Tensor, " row"]
    n_left_out: int
    failures: dict[str, str]
    level: float

    @property
    def use(self) -> Float[Tensor, " row"]:
        """The instruction use, nats per token."""
        return self.log_prob - self.log_prob_without

    @property
    def n_nothing_left(self) -> int:
        """How many prompts have nothing left without their instruction, in a model without a BOS."""
        missing = self.log_prob_without.isnan().tolist()
        return len({name for name, gone in zip(self.prompt_id, missing, strict=True) if gone})

    @property
    def is_pair(self) -> bool:
        """Whether it is of both models of a pair."""
        return self.models[:2] == SIDES

    @property
    def control_kinds(self) -> tuple[str, ...]:
        """The kind of control that each of `models` is ("spectrum", ...); "" for those that are none."""
        if self.is_pair:
            return ("",) * len(SIDES) + self.provenance.control_kinds
        made = self.provenance.control
        return ("" if made is None else made.kind,)

    def to_df(self) -> pd.DataFrame:
        """Return a row per response and model.

        Columns: prompt_id, by, text, model, n_out, log_prob, log_prob_without, use, n_draws.
        """
        columns: dict[str, Any] = {"prompt_id": self.prompt_id, "by": self.by, "text": self.text}
        columns["model"] = [self.models[i] for i in self.model.tolist()]
        for name in ("n_out", "log_prob", "log_prob_without", "use", "n_draws"):
            columns[name] = getattr(self, name).numpy()
        return pd.DataFrame(columns)

    def difference(self, text: str = MEAN, model: int = 1) -> stats.Test:
        """Return the paired difference of a model's use, less the base's, over prompts.

        Args:
            text: one of `texts`, or "mean" for the mean over all of them, of the prompts that have all; a
                reference counts where a prompt has one.
            model: a place in `models`; 1 is the tuned model.

        Raises:
            InputError: there is no base, or no such text or model.
            TooFew: fewer than two prompts have it.
        """
        uses = self._matrix(text)
        if not 1 <= model < len(self.models):
            raise InputError(f"model={model} given, expected 1 to {len(self.models) - 1}: places in models")
        test = self._test(uses, model)
        if test is None:
            n, needed = len(uses), stats.FEWEST_PAIRS
            raise stats.TooFew(f"{n} prompt(s) have a use on text {text!r}, a difference needs {needed}")
        return test

    def _test(self, uses: Float[np.ndarray, "prompt model"], model: int) -> stats.Test | None:
        return stats.paired_difference(uses[:, model], uses[:, 0], level=self.level)

    def differences(self) -> pd.DataFrame:
        """Return a row per text (and their mean) and model but the base.

        Columns: text, model, kind (of a control), n (prompts), base and use (the mean use of the base and of the
        model), difference, low, high, p; the last three are missing with fewer than two prompts.
        """
        rows = []
        for text in self._shown:
            uses = self._matrix(text)
            means = uses.mean(axis=0) if len(uses) else np.full(len(self.models), np.nan)
            for i in range(1, len(self.models)):
                test = self._test(uses, i)
                found = (np.nan, np.nan, np.nan) if test is None else (test.low, test.high, test.p)
                names = text, self.models[i], self.control_kinds[i]
                rows.append((*names, len(uses), means[0], means[i], means[i] - means[0], *found))
        columns = ["text", "model", "kind", "n", "base", "use", "difference", "low", "high", "p"]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[4:], float))

    def prompts(self, text: str | None = None) -> tuple[str, ...]:
        """Return the prompts that have a use in every model: on one text, or on all that the mean is taken over."""
        return tuple(self.uses(MEAN if text is None else text))

    def means(self, text: str = MEAN) -> tuple[float, float]:
        """Return the mean use over prompts of the base and of the tuned model; NaN without prompts.

        Args:
            text: one of `texts`, or "mean" for the mean over all of them.
        """
        uses = self._matrix(text)
        base, tuned = uses[:, :2].mean(axis=0).tolist() if len(uses) else (np.nan, np.nan)
        return base, tuned

    def effects(self, text: str = MEAN) -> tuple[float, list[float]]:
        """Return tuned - base of the use, mean over prompts, and control - base of every control.

        Raises:
            InputError: there is no such text, no pair, or no prompt that has it.
        """
        uses = self._matrix(text)
        if not len(uses):
            raise InputError(f"no prompt has a use on text {text!r} in every model")
        _, tuned, *controls = (uses - uses[:, :1]).mean(axis=0).tolist()
        return tuned, controls

    def beside(self, text: str = MEAN) -> stats.Envelope | None:
        """Return tuned - base of the use, mean over prompts, beside that of each kind of control; None without any.

        Args:
            text: one of `texts`, or "mean" for the mean over all of them.

        Raises:
            InputError: as `effects`.
        """
        effect, controls = self.effects(text)
        of_kinds = stats.by_kind(controls, self.provenance.control_kinds)
        return stats.against_controls(effect, of_kinds, level=self.level).envelope

    def with_controls(self, controls: "Sequence[InstructionUse]") -> "InstructionUse":
        """Return the same with controls that were read apart, each on the same texts.

        A prompt that one of them lacks is left out of all, and listed among the failures; one that failed in the pair
        stays out.

        Raises:
            InputError: this is no pair, or a control is, or it was read by other means, on other texts or tokens.
        """
        if not self.is_pair:
            raise InputError(f"there is one model, {self.models[0]}: controls stand beside a pair")
        found = dict(zip(zip(self.prompt_id, self.text, strict=True), self.n_out.tolist(), strict=True))
        failures = dict(self.failures)
        for control in controls:
            _check_control(self, control, found)
            there = set(zip(control.prompt_id, control.text, strict=True))
            for prompt, text in found:
                if (prompt, text) not in there:
                    failures[prompt] = control.failures.get(prompt, f"{control.models[0]} has no use on text {text!r}")
        parts = [(self, 0), *((control, len(self.models) + i) for i, control in enumerate(controls))]
        kept = [
            (part, row, first)
            for part, first in parts
            for row, prompt in enumerate(part.prompt_id)
            if prompt not in failures
        ]
        rows = {
            name: torch.stack([getattr(part, name)[row] for part, row, _ in kept]) if kept else getattr(self, name)[:0]
            for name in ("n_out", "n_draws", "log_prob", "log_prob_without")
        }
        beside = (*self.provenance.controls, *(control.provenance.as_control for control in controls))
        return replace(
            self,
            provenance=replace(self.provenance, controls=beside),
            models=(*self.models, *(control.models[0] for control in controls)),
            prompt_id=tuple(part.prompt_id[row] for part, row, _ in kept),
            text=tuple(part.text[row] for part, row, _ in kept),
            model=torch.tensor([int(part.model[row]) + first for part, row, first in kept], dtype=torch.int64),
            failures=failures,
            **rows,
        )

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k responses whose use differs most between base and tuned, or has most of it in one model.

        Columns: prompt_id, text; of a pair base, tuned, difference; of one model n_out, log_prob, use.
        """
        if not self.is_pair:
            columns = ["prompt_id", "text", "n_out", "log_prob", "use"]
            return self.to_df().nlargest(k, "use").reset_index(drop=True).loc[:, columns]
        keys = list(self._of_texts)
        frame = pd.DataFrame(keys, columns=["prompt_id", "text"])
        frame["base"], frame["tuned"] = np.array([self._of_texts[key][:2] for key in keys]).reshape(-1, 2).T
        frame["difference"] = frame["tuned"] - frame["base"]
        order = np.argsort(-frame["difference"].abs().to_numpy(), kind="stable")  # NaN last
        return frame.iloc[order[:k]].reset_index(drop=True)

    def told(self) -> list[str]:
        """Return the mean use of each model (or the tuned model's difference) on each text, the mean of all first."""
        lines = [f"by {self.by}, {n_of(len(set(self.prompt_id)), 'prompt')} (nats per token)"]
        if left_out := [f"{n} {why}" for n, why in self._left_out if n]:
            lines[0] += f"; {', '.join(left_out)}"
        if self.is_pair:
            lines += [self._line(text) for text in reversed(self._shown)]
        elif len(self.use):
            lines.append(f"{self.texts[0]} text: {float(self.use.nanmean()):.3f}")
        return lines

    @property
    def _left_out(self) -> list[tuple[int, str]]:
        too_short, nothing, failed = "responses too short", "prompts with nothing left", "failed"
        return [(self.n_left_out, too_short), (self.n_nothing_left, nothing), (len(self.failures), failed)]

    @property
    def _shown(self) -> tuple[str, ...]:
        return (*self.texts, MEAN) if len(self.texts) > 1 else self.texts

    def _line(self, text: str) -> str:
        uses = self._matrix(text)
        test = self._test(uses, 1)
        if test is None:
            return f"{text} text: {len(uses)} prompt(s)"
        base, tuned = uses[:, :2].mean(axis=0)
        return f"{text} text: base {base:.3f}, tuned {tuned:.3f}, difference {test.numbers()}"

    @cached_property
    def _of_texts(self) -> dict[tuple[str, str], np.ndarray]:
        """The use of each prompt and text, a number per model."""
        found: dict[tuple[str, str], np.ndarray] = {}
        for prompt, text, model, use in zip(
            self.prompt_id, self.text, self.model.tolist(), self.use.tolist(), strict=True
        ):
            found.setdefault((prompt, text), np.full(len(self.models), np.nan))[model] = use
        return found

    def _matrix(self, text: str) -> Float[np.ndarray, "prompt model"]:
        if not self.is_pair:
            raise InputError(f"there is one model, {self.models[0]}: a difference needs a pair")
        return np.array(list(self.uses(text).values())).reshape(-1, len(self.models))

    def uses(self, text: str = MEAN) -> dict[str, Float[np.ndarray, " model"]]:
        """Return by prompt the use in each model, of prompts that have it in all: on one text, or the mean of all.

        Raises:
            InputError: there is no such text.
        """
        if text not in (*self.texts, MEAN):
            raise InputError(f"text={text!r} is none of {', '.join((*self.texts, MEAN))}")
        wanted: tuple[str, ...] = self.texts if text == MEAN else (text,)
        rows: dict[str, Float[np.ndarray, " model"]] = {}
        # not every prompt has a reference; one that lacks a model's own text is no pair
        needed = {name for name in wanted if name != REFERENCE} or set(wanted)
        for prompt in dict.fromkeys(self.prompt_id):
            uses = {name: self._of_texts[prompt, name] for name in wanted if (prompt, name) in self._of_texts}
            if needed <= uses.keys() and not np.isnan(list(uses.values())).any():
                rows[prompt] = np.mean(list(uses.values()), axis=0)
        return rows


def _check_control(pair: InstructionUse, control: InstructionUse, n_out: dict[tuple[str, str], int]) -> None:
    name = control.models[0]
    if len(control.models) > 1:
        raise InputError(f"a result of {len(control.models)} models was given as a control, expected one model's")
    if (control.by, control.texts) != (pair.by, pair.texts):
        raise InputError(
            f"control {name} was read by {control.by} on {', '.join(control.texts)}, expected {pair.by} on "
            f"{', '.join(pair.texts)} as the pair"
        )
    for prompt, text, n in zip(control.prompt_id, control.text, control.n_out.tolist(), strict=True):
        if prompt not in pair.failures and n_out.get((prompt, text)) != n:
            seen = n_out.get((prompt, text))
            raise InputError(
                f"control {name} read {n} tokens of text {text!r} of prompt {prompt!r}, the pair "
                f"{'none' if seen is None else seen}: expected the same"
            )
