"""What two models' streams differ by whatever the text: the shares, the words, and the tables of interventions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.activation_difference import causal, patchscope, steering
from lensdiff.analyses.activation_difference.beside import with_controls
from lensdiff.analyses.activation_difference.control import ControlDifference
from lensdiff.analyses.activation_difference.defaults import (
    AMOUNTS,
    DRAWS,
    EFFECT_DRAWS,
    EFFECT_TEXTS,
    EFFECT_TOKENS,
    SCALES,
    WORDS,
)
from lensdiff.analyses.activation_difference.directions import Directions
from lensdiff.analyses.activation_difference.effects import DifferenceEffects
from lensdiff.analyses.activation_difference.interventions import all_effects, directions_of
from lensdiff.analyses.activation_difference.sums import constant_share
from lensdiff.analyses.activation_difference.words import SIGNS
from lensdiff.inputs.texts import Texts
from lensdiff.models.layers import chosen_indices
from lensdiff.models.pair import ModelPair
from lensdiff.results import Result
from lensdiff.results.numbers import check_count
from lensdiff.results.tidy import tidy

SHOWN = 3  # words of a place in `top`


@dataclass(frozen=True, eq=False)
class ActivationDifference(Result):
    """The mean difference of two models' streams over unrelated texts, and what it says; see `measure`.

    Attributes:
        n_layers: of the model; layers: whose entering stream is read, `n_layers` for what leaves the last.
        n_texts: that were read; n: those of them that have a position.
        difference: mean of h_t - h_b; size: mean of its length, exactly 0 where nothing differs.
        tuned_mean: mean of h_t.
        lengths: mean of |h_b| and |h_t|.
        readings: what is read for words: the difference by the tuned model's head, the same by the base's, the tuned
            model's own mean by its head, then each control's difference by its own head.
        words, read_words, read_ids, read_logits: of each reading the words of both signs, best first, as places in
            `words`, as ids of the model whose head reads, and their logits.
        control_difference, control_size: of each control, in the order of `provenance.controls`.
        level: of bands.
    """

    calls = ("reads()", "top()", "to_df()", "show()")

    n_layers: int
    layers: tuple[int, ...]
    n_texts: int
    n: Int[Tensor, " position"]
    difference: Float[Tensor, "layer position d_model"]
    size: Float[Tensor, "layer position"]
    tuned_mean: Float[Tensor, "layer position d_model"]
    lengths: Float[Tensor, "model layer position"]
    readings: tuple[str, ...]
    words: tuple[str, ...]
    read_words: Int[Tensor, "reading sign layer position k"]
    read_ids: Int[Tensor, "reading sign layer position k"]
    read_logits: Float[Tensor, "reading sign layer position k"]
    control_difference: Float[Tensor, "control layer position d_model"]
    control_size: Float[Tensor, "control layer position"]
    level: float

    @property
    def constant_share(self) -> Float[Tensor, "layer position"]:
        """|mean d| / mean |d|; NaN where nothing differs."""
        return constant_share(self.difference, self.size)

    @property
    def control_shares(self) -> Float[Tensor, "control layer position"]:
        """The same of each control; 0 where a control changes nothing: it has nothing constant."""
        return constant_share(self.control_difference, self.control_size).nan_to_num(0.0)

    @property
    def share(self) -> float:
        """The one number of the pair: the mean over the places that differ; NaN where none does."""
        return float(self.constant_share.nanmean())

    def band(self) -> stats.Band:
        """Return where one more control's share of each place lies; NaN with fewer than 19 controls of a kind."""
        return stats.against_controls(
            self.constant_share.nan_to_num(0.0).numpy(), self._by_kind(), level=self.level, limits=(0.0, 1.0)
        ).band

    def beside(self) -> stats.Envelope | None:
        """Return the pair's share beside that of each kind of control; None without controls or a difference."""
        if not len(self.control_size) or not bool((self.size > 0).any()):
            return None
        there = self.size > 0
        means = [float(one[there].mean()) for one in self.control_shares]
        return stats.against_controls(
            self.share, stats.by_kind(means, self.provenance.control_kinds), level=self.level
        ).envelope

    def _by_kind(self) -> dict[str, Any]:
        shares = list(self.control_shares.numpy())
        return {kind: np.stack(own) for kind, own in stats.by_kind(shares, self.provenance.control_kinds).items()}

    def with_controls(self, controls: Iterable[ControlDifference]) -> "ActivationDifference":
        """Return the same beside controls that were read apart, and beside no others.

        Raises:
            InputError: a control was read in other layers, or on other texts.
        """
        return with_controls(self, list(controls))

    # tables
    def to_df(self) -> pd.DataFrame:
        """Return a row per layer and position.

        Columns: layer, position, constant_share (NaN where nothing differs), control_low, control_high (NaN with fewer
        than 19 controls of a kind), size (mean |h_t - h_b|), relative_size (of mean |h_b|), n (texts).
        """
        band, n = self.band(), self.n[None].expand(self.size.shape)
        values = {"constant_share": self.constant_share, "control_low": band.low, "control_high": band.high}
        values |= {"size": self.size, "relative_size": self.size / self.lengths[0].clamp(min=1e-300), "n": n}
        return tidy({"layer": self.layers, "position": range(len(self.n))}, values)

    def controls(self) -> pd.DataFrame:
        """Return a row per control, layer and position: kind, control, layer, position, constant_share."""
        controls = self.provenance.controls
        axes = {"place": range(len(controls)), "layer": self.layers, "position": range(len(self.n))}
        frame = tidy(axes, {"constant_share": self.control_shares})
        place = frame.pop("place").to_numpy()
        frame.insert(0, "kind", np.array([control.kind for control in controls], dtype=object)[place])
        frame.insert(1, "control", np.array([control.name for control in controls], dtype=object)[place])
        return frame

    def reads(self) -> pd.DataFrame:
        """Return the words of every place: reading, sign, layer, position, rank (from 1), word, logit."""
        k = self.read_ids.shape[-1]
        axes: dict[str, Sequence[Any]] = {"reading": self.readings, "sign": SIGNS, "layer": self.layers}
        axes |= {"position": range(len(self.n)), "rank": range(1, k + 1)}
        words = np.array(self.words, dtype=object)[self.read_words.numpy()]
        return tidy(axes, {"word": words, "logit": self.read_logits})

    def read(self, layer: int, position: int, k: int = WORDS) -> pd.DataFrame:
        """Return the words that the difference at one place speaks for (+) and against (-), beside the others' words.

        Args:
            layer, position: a place that was read, from 0; layer n_layers is what leaves the last layer.
            k: words of each sign and reading; so many as were kept at most.

        Returns:
            reading, sign, rank (from 1), word, logit (of the direction at the length of the tuned model's stream).

        Raises:
            InputError: the place was not read, or `k` is no count.
        """
        self.place(layer, position)
        check_count("k", k)
        frame: Any = self.reads()
        some = frame[(frame["layer"] == layer) & (frame["position"] == position) & (frame["rank"] <= k)]
        return some.drop(columns=["layer", "position"]).reset_index(drop=True)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k places of the largest constant share, with the first words that each speaks for."""
        frame: Any = self.to_df()
        order = frame["constant_share"].fillna(-1.0).sort_values(ascending=False, kind="stable").index[:k]
        words = [[self.words[i] for i in place[:SHOWN]] for place in self.read_words[0, 0].flatten(0, 1).tolist()]
        frame["reads"] = [" ".join(map(repr, own)) for own in words]
        columns = ["layer", "position", "constant_share", "control_low", "control_high", "reads"]
        return frame.loc[order].reset_index(drop=True).loc[:, columns]

    def told(self) -> list[str]:
        """Return the shares by layer, what stands beside, and the words of the largest one."""
        if not bool((self.size > 0).any()):
            return ["nothing differs: the constant share is undefined"]
        means = ", ".join("none" if s != s else f"{s:.2f}" for s in self.constant_share.nanmean(dim=1).tolist())
        lines = [f"constant share over {self.n_texts} texts, layers {list(self.layers)}: {means}"]
        beside = self.beside()
        lines += [] if beside is None else [f"mean share beside controls: {beside}"]
        first = self.top(1).iloc[0]
        return [*lines, f"largest at layer {first.layer}, position {first.position}, which reads {first.reads}"]

    # interventions
    def place(self, layer: int, position: int) -> tuple[int, int]:
        """Return where a layer and a position are in the arrays.

        Raises:
            InputError: it was not read.
        """
        chosen_indices([layer], self.layers, "layer")
        chosen_indices([position], range(len(self.n)), "position")
        return self.layers.index(layer), position

    def usual_place(self, layer: int | None = None, position: int | None = None) -> tuple[int, int]:
        """Return the place of interventions, which nothing that was found decides.

        Args:
            layer: None for the one that was read nearest to half of the layers.
            position: None for the last that every text has.

        Raises:
            InputError: it was not read.
        """
        half = self.n_layers // 2
        layer = min(self.layers, key=lambda one: (abs(one - half), one)) if layer is None else layer
        position = int((self.n == self.n_texts).sum()) - 1 if position is None else position
        self.place(layer, position)
        return layer, position

    def directions(self, pair: ModelPair, layer: int, position: int) -> Directions:
        """Return the directions of one place, to intervene with.

        Args:
            pair: the pair that the result is of.
            layer, position: a place that was read.

        Raises:
            InputError: the place was not read, the pair is another, or nothing differs there.
        """
        return directions_of(self, pair, layer, position)

    def patchscope(
        self,
        pair: ModelPair,
        layer: int,
        position: int,
        *,
        scales: Sequence[float] = SCALES,
        prompts: Sequence[str] = patchscope.PROMPTS,
        write: str = "put",
        tokens: Sequence[str] | None = None,
        k: int = WORDS,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Return what the models say when the difference stands at the last token of identity prompts.

        The direction is set to the mean length of the tuned model's stream times each scale, and put in the place of
        the stream that enters the layer, or added to it. All scales are given; none is picked.

        Args:
            pair: the pair that the result is of.
            layer, position: a place that was read.
            write: "put" or "add".
            tokens: whose probability is given at every scale; None for the k most probable of each scale.
            draws: random directions; seed: of them.

        Returns:
            reading (difference, tuned mean, each control's difference, random vector), model (the tuned one; of the
            difference the base, too), draw, scale, rank, token, prob (mean over prompts), prob_before (with nothing
            written), prob_read and prob_read_before: the same of the first words that the difference reads, all
            together, of those that both models have (NaN where there is none).

        Raises:
            InputError: as `directions`; no or doubled scales, prompts or tokens, one of them that is not what is
                expected, or `write` is unknown.
        """
        found = self.directions(pair, layer, position)
        options: dict[str, Any] = {"scales": scales, "prompts": prompts, "write": write, "tokens": tokens}
        return patchscope.table(pair, found, **options, k=k, draws=draws, seed=seed)

    def steer(
        self,
        pair: ModelPair,
        layer: int,
        position: int,
        *,
        into: str = "base",
        scales: Sequence[float] = AMOUNTS,
        tokens: Sequence[str] | None = None,
        texts: Texts = None,
        max_texts: int = EFFECT_TEXTS,
        max_tokens: int = EFFECT_TOKENS,
        draws: int = DRAWS,
        seed: int = 0,
        prepend_bos: bool | None = None,
    ) -> pd.DataFrame:
        """Return what a model says of texts when s times the difference is added to its stream at all positions.

        Beside it stand other directions of the difference's length: the tuned model's own mean, each control's
        difference, and random ones.

        Args:
            pair: the pair that the result is of.
            layer, position: a place that was read.
            into: "base" or "tuned".
            tokens: whose probability, all together, is measured; None for the first words that the difference reads.
            texts: as of `activation_difference`; None for those that ship.
            max_texts, max_tokens: the first ones.
            draws: random directions; seed: of them.
            prepend_bos: None for each checkpoint's own habit.

        Returns:
            into, reading ("none" with nothing added), draw, scale, prob (of the tokens, mean over texts and positions),
            kl_to_base and kl_to_tuned (KL(steered || model), nats, over tokens that both models have).

        Raises:
            InputError: as `directions`; no or doubled scales, a token that is no single one, texts that cannot be read,
                or `into` is unknown.
        """
        found = self.directions(pair, layer, position)
        read = steering.Reading(into, texts, max_texts, max_tokens, prepend_bos)
        return steering.table(pair, found, read, scales=scales, tokens=tokens, draws=draws, seed=seed)

    def causal(
        self,
        pair: ModelPair,
        layer: int,
        position: int,
        *,
        into: str = "tuned",
        texts: Texts = None,
        max_texts: int = EFFECT_TEXTS,
        max_tokens: int = EFFECT_TOKENS,
        draws: int = DRAWS,
        seed: int = 0,
        prepend_bos: bool | None = None,
    ) -> pd.DataFrame:
        """Return how a model's cross-entropy changes when its stream's component along the difference is the other's.

        At all positions: h <- h + ((h_other - h) . u) u, u = d / |d|. Beside it stand u of the tuned model's own mean,
        of each control's difference, random directions, and differences of two random places of the tuned model's
        stream.

        Args:
            pair: the pair that the result is of.
            layer, position: a place that was read.
            into: "tuned" (its component is set to the base's) or "base".
            texts, max_texts, max_tokens, draws, seed: as of `steer`.
            prepend_bos: None for each checkpoint's own habit.

        Returns:
            into, reading ("none": the model's own, "other": the other model's), draw, cross_entropy (mean over texts,
            nats per token), change (of it), low and high (interval of the change over texts).

        Raises:
            InputError: as `steer`.
        """
        found = self.directions(pair, layer, position)
        read = steering.Reading(into, texts, max_texts, max_tokens, prepend_bos)
        return causal.table(pair, found, read, draws=draws, seed=seed, level=self.level)

    def effects(
        self,
        pair: ModelPair,
        layer: int | None = None,
        position: int | None = None,
        *,
        scales: Sequence[float] = SCALES,
        amounts: Sequence[float] = AMOUNTS,
        texts: Texts = None,
        max_texts: int = EFFECT_TEXTS,
        max_tokens: int = EFFECT_TOKENS,
        draws: int = EFFECT_DRAWS,
        seed: int = 0,
        prepend_bos: bool | None = None,
    ) -> DifferenceEffects:
        """Return all three interventions at one place, each beside what other directions do: `show()` draws them.

        Args:
            pair: the pair that the result is of.
            layer: None for half of the layers, or the nearest that was read.
            position: None for the last that every text has.
            scales: of the patchscope; amounts: of the difference that steers the base.
            texts, max_texts, max_tokens, draws, seed: as of `steer`; 19 draws and controls of a kind for a band.
            prepend_bos: None for each checkpoint's own habit.

        Raises:
            InputError: as `patchscope` and `steer`.
        """
        options: dict[str, Any] = {"scales": scales, "amounts": amounts, "texts": texts, "max_texts": max_texts}
        options |= {"max_tokens": max_tokens, "draws": draws, "seed": seed, "prepend_bos": prepend_bos}
        return all_effects(self, pair, layer, position, **options)
