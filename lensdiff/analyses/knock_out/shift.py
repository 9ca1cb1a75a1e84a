"""What responses lose without their instruction in both models of a pair and in controls, over prompts.

    drop         mean of K over a response's tokens, nats per token (see `measure`)
    drop_median  their median, which no unlikely token rules
    slope        of K over relative position in the response: by how much it changes from beginning to end; near 0, or
                 above, the response stays conditioned on the instruction

Each is a number per prompt, forced text and model; differences are tuned - base, paired over prompts (t, or sign flips
where all differ by the same). Beside them stand control - base of every control on the same texts. Windows and draws
are read in base and tuned model alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.knock_out.cuts import CUTS
from lensdiff.results import InputError, Result
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import n_of

MEAN = "mean"  # of all texts of a prompt
PARTS = 5  # of a response
Measure = Literal["drop", "drop_median", "slope"]
Curve = Literal["profile", "window_drop", "window_random"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True, eq=False)
class KnockOutShift(Result):
    """See the module. Axis `row` is a response in a model; axis `cut` is `CUTS`.

    Attributes:
        models: what `model` counts: "base", "tuned" and the controls' names, or one control's alone.
        texts: the responses that were forced: "base", "tuned" (the models' own), or "given".
        windows: (first, last) layer of each window of the sweep.
        prompt_id, text, model: what a row is about; n_out: its tokens; log_prob: their mean, nats.
        drop, drop_median, slope: of all layers cut, see the module; random_drop: mean with other tokens cut.
        profile: mean of K in each of equal parts of the response.
        window_drop, window_random: means of K with the instruction, and with other tokens, cut in a window.
        first_token: where each row's tokens begin among those of all (a control's are not kept).
        out_tokens: they as text; token_log_prob, token_drop, token_random: as in `KnockOut`, all layers cut.
        n_left_out: responses with fewer than two tokens; failures: why a prompt is not among the rows.
        level: of the intervals.
    """

    PER_ROW: ClassVar[tuple[str, ...]] = (
        *("n_out", "log_prob", *MEASURES),
        *("random_drop", "profile", "window_drop", "window_random"),
    )

    calls = ("summary()", "over_windows()", "top()", "to_df()", "show()")
    row_is = "text of a prompt in a model"

    models: tuple[str, ...]
    texts: tuple[str, ...]
    windows: tuple[tuple[int, int], ...]
    prompt_id: tuple[str, ...]
    text: tuple[str, ...]
    model: Int[Tensor, " row"]
    n_out: Int[Tensor, " row"]
    log_prob: Float[Tensor, " row"]
    drop: Float[Tensor, "row cut"]
    drop_median: Float[Tensor, "row cut"]
    slope: Float[Tensor, "row cut"]
    random_drop: Float[Tensor, "row cut"]
    profile: Float[Tensor, "row cut part"]
    window_drop: Float[Tensor, "row cut window"]
    window_random: Float[Tensor, "row cut window"]
    first_token: Int[Tensor, " _"]
    out_tokens: tuple[str, ...]
    token_log_prob: Float[Tensor, " token"]
    token_drop: Float[Tensor, "cut token"]
    token_random: Float[Tensor, "cut token"]
    n_left_out: int
    failures: dict[str, str]
    level: float

    @property
    def is_pair(self) -> bool:
        """Whether it is of both models of a pair."""
        return self.models[:2] == SIDES

    # one number per prompt
    def values(self, measure: Measure = "drop", text: str = MEAN, cut: str = "response") -> dict[str, np.ndarray]:
        """Return by prompt a measure in each model, of prompts that have it in all: on one text, or the mean of all.

        Raises:
            InputError: there is no such text or cut.
        """
        return self._by_prompt(getattr(self, measure)[:, self._cut(cut)], text, range(len(self.models)))

    def means(self, measure: Measure = "drop", text: str = MEAN, cut: str = "response") -> tuple[float, float]:
        """Return the mean over prompts of base and tuned model; NaN without prompts.

        Args:
            measure: "drop", "drop_median" or "slope".
            text: one of `texts`, or "mean" for the mean over all of them.
            cut: "response" or "after".

        Raises:
            InputError: as `values`, or there is no pair.
        """
        found = self._matrix(measure, text, cut)
        base, tuned = found.mean(axis=0)[:2].tolist() if len(found) else (np.nan, np.nan)
        return base, tuned

    def difference(
        self, measure: Measure = "drop", text: str = MEAN, cut: str = "response", model: int = 1
    ) -> stats.Test | None:
        """Return the paired difference of a model (a place in `models`) less the base; None of fewer than two prompts.

        Args:
            measure: "drop", "drop_median" or "slope".
            text: one of `texts`, or "mean" for the mean over all of them.
            cut: "response" or "after".
            model: a place in `models`; 1 is the tuned model.

        Raises:
            InputError: as `values`.
        """
        values = self._matrix(measure, text, cut)
        return stats.paired_difference(values[:, model], values[:, 0], level=self.level)

    def own(
        self, measure: Measure = "drop", text: str = MEAN, cut: str = "response", model: int = 1
    ) -> stats.Test | None:
        """Return a model's own mean over prompts against 0; None of fewer than two prompts.

        Args:
            measure: "drop", "drop_median" or "slope".
            text: one of `texts`, or "mean" for the mean over all of them.
            cut: "response" or "after".
            model: a place in `models`; 1 is the tuned model.

        Raises:
            InputError: as `values`.
        """
        return stats.mean_difference(self._matrix(measure, text, cut)[:, model], level=self.level)

    def effects(self, text: str = MEAN, measure: Measure = "drop", cut: str = "response") -> tuple[float, list[float]]:
        """Return tuned - base, mean over prompts, and control - base of every control, as the provenance lists them.

        Args:
            text: one of `texts`, or "mean" for the mean over all of them.
            measure: "drop", "drop_median" or "slope".
            cut: "response" or "after".

        Raises:
            InputError: there is no such text or cut, no pair, or no prompt that has it in every model.
        """
        values = self._matrix(measure, text, cut)
        if not len(values):
            raise InputError(f"no prompt has a {measure} on text {text!r} in every model")
        _, tuned, *controls = (values - values[:, :1]).mean(axis=0).tolist()
        return tuned, controls

    def beside(self, text: str = MEAN, measure: Measure = "drop", cut: str = "response") -> stats.Envelope | None:
        """Return tuned - base, mean over prompts, beside that of each kind of control; None without any.

        Args:
            text: one of `texts`, or "mean" for the mean over all of them.
            measure: "drop", "drop_median" or "slope".
            cut: "response" or "after".

        Raises:
            InputError: as `effects`.
        """
        effect, controls = self.effects(text, measure, cut)
        of_kinds = stats.by_kind(controls, self.provenance.control_kinds)
        return stats.against_controls(effect, of_kinds, level=self.level).envelope

    # many numbers per prompt
    def curve(self, name: Curve, model: int, text: str = MEAN, cut: str = "response") -> Float[np.ndarray, "prompt _"]:
        """Return a curve of each prompt that has one in base and tuned model: over parts, or over windows.

        Windows with the instruction cut and with other tokens cut are of the same prompts, those that have both; where
        no prompt has enough other tokens, the former are of all prompts.

        Args:
            name: "profile", "window_drop" or "window_random".
            model: a place in `models`.
            text: one of `texts`, or "mean" for the mean over all of them.
            cut: "response" or "after".

        Raises:
            InputError: as `values`.
        """
        sides = range(min(len(self.models), 2))
        both = self._by_prompt(getattr(self, name)[:, self._cut(cut)], text, sides)
        if name == "window_drop":
            others = self._by_prompt(self.window_random[:, self._cut(cut)], text, sides)
            both = {prompt: both[prompt] for prompt in both if prompt in others} if others else both
        size = getattr(self, name).shape[-1]
        if model < 2:
            return np.array([values[model] for values in both.values()]).reshape(-1, size)
        found = self._by_prompt(getattr(self, name)[:, self._cut(cut)], text, [model])
        return np.array([found[prompt][0] for prompt in both if prompt in found]).reshape(-1, size)

    # tables
    def told(self) -> list[str]:
        """Return what responses lose without their instruction in both models, and the difference beside controls."""
        if not self.is_pair:
            return [f"one model's, on texts of {', '.join(self.texts)}"]
        text, test = self.shown[-1], self.difference(text=self.shown[-1])
        base, tuned = self.means(text=text)
        lines = [f"drop on {text} text, nats per token: base {base:.3g}, tuned {tuned:.3g}"]
        lines += [] if test is None else [f"difference {test.numbers()}, {n_of(test.n[0], 'prompt')}"]
        beside = self.beside(text) if self.provenance.controls and test is not None else None
        return lines + ([] if beside is None else [f"beside controls: {beside}"])

    def to_df(self) -> pd.DataFrame:
        """Return a row per prompt, text, model and cut.

        Columns: prompt_id, text, model, cut, n_out, log_prob, drop, drop_median, random_drop, slope.
        """
        n = len(CUTS)
        columns: dict[str, Any] = {name: np.repeat(getattr(self, name), n) for name in ("prompt_id", "text")}
        columns["model"] = np.repeat([self.models[i] for i in self.model.tolist()], n)
        columns["cut"] = list(CUTS) * len(self.prompt_id)
        columns |= {name: np.repeat(getattr(self, name).numpy(), n) for name in ("n_out", "log_prob")}
        columns |= {
            name: getattr(self, name).flatten().numpy() for name in ("drop", "drop_median", "random_drop", "slope")
        }
        return pd.DataFrame(columns)

    def tokens(self) -> pd.DataFrame:
        """Return a row per prompt, text, model (base and tuned), cut and response token, all layers cut.

        Columns: model, text, and those of `KnockOut.to_df`.
        """
        ends, n_layers = self.first_token.tolist(), max((last for _, last in self.windows), default=0)
        parts = []
        for row, (start, end) in enumerate(pairwise(ends)):
            for c, cut in enumerate(CUTS if end > start else ()):
                frame = pd.DataFrame({"out_pos": range(end - start), "token": self.out_tokens[start:end]})
                frame["log_prob"] = self.token_log_prob[start:end].numpy()
                frame["drop"] = self.token_drop[c, start:end].numpy()
                frame["random_drop"] = self.token_random[c, start:end].numpy()
                known = {"model": self.models[int(self.model[row])], "text": self.text[row]}
                known |= {"prompt_id": self.prompt_id[row], "cut": cut, "window_first": 0, "window_last": n_layers}
                for place, (name, value) in enumerate(known.items()):
                    frame.insert(place, name, value)
                parts.append(frame.assign(first=False))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def summary(self) -> pd.DataFrame:
        """Return a row per text (and their mean), cut, measure and model; of controls, the band of their differences.

        Columns: text, cut, measure, model ("base", "tuned", "tuned - base"), n (prompts), estimate, low, high,
        control_low, control_high.
        """
        rows = []
        for text in self.shown:
            for cut in CUTS:
                for measure in MEASURES:
                    tests = [self.own(measure, text, cut, i) for i in (0, 1)]
                    beside = self.beside(text, measure, cut) if self.values(measure, text, cut) else None
                    band = (beside.band if beside else None) or (np.nan, np.nan)
                    tests.append(self.difference(measure, text, cut))
                    for name, test in zip((*SIDES, "tuned - base"), tests, strict=True):
                        found = (test.n[0], test.estimate, test.low, test.high) if test else (0, np.nan, np.nan, np.nan)
                        rows.append((text, cut, measure, name, *found, *(band if " " in name else (np.nan, np.nan))))
        columns = ["text", "cut", "measure", "model", "n", "estimate", "low", "high", "control_low", "control_high"]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[5:], float))

    def over_windows(self) -> pd.DataFrame:
        """Return a row per text (and their mean), cut, window and model (base, tuned): means over prompts.

        Columns: text, cut, window_first, window_last, model, n (prompts, see `curve`), drop, drop_low, drop_high,
        random_drop, random_drop_low, random_drop_high.
        """
        rows = []
        for text in self.shown:
            for cut in CUTS:
                for i, side in enumerate(SIDES):
                    own, other = (self.curve(name, i, text, cut) for name in ("window_drop", "window_random"))
                    columns = zip(*mean_and_band(own, self.level), *mean_and_band(other, self.level), strict=True)
                    for (first, last), numbers in zip(self.windows, columns, strict=True):
                        rows.append((text, cut, first, last, side, len(own), *numbers))
        columns = ["text", "cut", "window_first", "window_last", "model", "n", "drop", "drop_low", "drop_high"]
        return pd.DataFrame(rows, columns=[*columns, "random_drop", "random_drop_low", "random_drop_high"])

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k responses whose drop differs most between the models (cut at the response).

        Columns: prompt_id, text, base, tuned, difference; of a control alone the responses that lose most, and drop.
        """
        names, by = (SIDES, "difference") if self.is_pair else (("drop",), "drop")
        rows = [
            (prompt, text, *values[: len(names)])
            for text in self.texts
            for prompt, values in self.values("drop", text).items()
        ]
        frame = pd.DataFrame(rows, columns=["prompt_id", "text", *names]).astype(dict.fromkeys(names, float))
        if self.is_pair:
            frame["difference"] = frame["tuned"] - frame["base"]
        return frame.iloc[np.argsort(-frame[by].abs().to_numpy(), kind="stable")[:k]].reset_index(drop=True)

    @property
    def shown(self) -> tuple[str, ...]:
        """The texts, and their mean where there are several."""
        return (*self.texts, MEAN) if len(self.texts) > 1 else self.texts

    def _cut(self, cut: str) -> int:
        if cut not in CUTS:
            raise InputError(f"cut={cut!r} is none of {', '.join(CUTS)}")
        return CUTS.index(cut)

    def _matrix(self, measure: Measure, text: str, cut: str) -> Float[np.ndarray, "prompt model"]:
        if not self.is_pair:
            raise InputError(f"there is one model, {self.models[0]}: a difference needs a pair")
        return np.array(list(self.values(measure, text, cut).values())).reshape(-1, len(self.models))

    def _by_prompt(
        self, values: Float[Tensor, "row ..."], text: str, models: Sequence[int]
    ) -> dict[str, Float[np.ndarray, "model ..."]]:
        if text not in (*self.texts, MEAN):
            raise InputError(f"text={text!r} is none of {', '.join((*self.texts, MEAN))}")
        wanted = self.texts if text == MEAN else (text,)
        keys = zip(self.prompt_id, self.text, self.model.tolist(), strict=True)
        known: dict[tuple[str, str, int], np.ndarray] = dict(zip(keys, values.numpy(), strict=True))
        found = {}
        for prompt in dict.fromkeys(self.prompt_id):
            asked = [(prompt, name, model) for name in wanted for model in models]
            if all(key in known for key in asked):
                own = np.stack([known[key] for key in asked])
                mean = own.reshape(len(wanted), len(models), *own.shape[1:]).mean(axis=0)
                if not np.isnan(mean).any():
                    found[prompt] = mean
        return found


def mean_and_band(values: Float[np.ndarray, "prompt _"], level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means over prompts with their t intervals; NaN where there are too few prompts."""
    means = values.mean(axis=0) if len(values) else np.full(values.shape[1], np.nan)
    band = stats.mean_interval(values, level=level)
    return means, band.low, band.high
