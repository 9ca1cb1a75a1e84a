"""What `first_divergence` finds: the four cells of every prompt, and the means over prompts beside controls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.first_divergence.defaults import HEADLINE
from lensdiff.results import InputError, Result
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import n_of
from lensdiff.results.tidy import tidy

EFFECTS = ("portable", "matched", "interaction")
PLACES = ("first", "later", "earlier")


def effects_of(yields: Float[Tensor, "*batch upstream late"]) -> Float[Tensor, "*batch effect"]:
    """Return portable, matched and interaction of four cells, whose last two axes are base, tuned each."""
    (bb, bt), (tb, tt) = (side.unbind(-1) for side in yields.unbind(-2))
    portable, matched = bt - bb, tt - tb
    return torch.stack([portable, matched, matched - portable], dim=-1)


@dataclass(frozen=True, eq=False)
class ControlDivergence(Result):
    """The four cells of a control model in the tuned one's place, at the pair's positions and tokens.

    Attributes:
        prompt_id: whose divergence it is.
        layers: at which streams enter.
        unembed: whose final norm and unembedding are used: the base's, or ("tuned") the control's own.
        yields: logit(tuned's token) - logit(base's token).
    """

    calls = ("top()", "to_df()")

    prompt_id: tuple[str, ...]
    layers: tuple[int, ...]
    unembed: str
    yields: Float[Tensor, "prompt upstream late layer"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per prompt and layer: prompt_id, layer, portable, matched, interaction."""
        axes = {"prompt_id": self.prompt_id, "layer": self.layers}
        effects = effects_of(self.yields.movedim(-1, 1)).unbind(-1)
        return tidy(axes, dict(zip(EFFECTS, effects, strict=True)))

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k rows with the largest interaction."""
        return self.to_df().nlargest(k, "interaction").reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class FirstDivergence(Result):
    """Where two models part, and the four cells there, beside other positions and controls; see `measure`.

    Axis `prompt` holds the prompts after which they part. Yields are logit(tuned's token) - logit(base's token), axes
    `upstream` and `late` are base, tuned. NaN where a prompt has no such position.

    Attributes:
        n_layers: of both models; layers: at which streams enter, n_layers behind the last block.
        unembed: whose final norm and unembedding `yields`, `later`, `earlier` and `controls` are read with.
        prompt_id, prompt: what is continued.
        common: the tokens that both choose first, one by one as text.
        base_token, tuned_token: their choices then.
        choices: ids of the two tokens in the base's vocabulary.
        read: the text up to the position whose choices differ, in the base's vocabulary.
        yields: at the divergence; with_other: the same with the other model's final norm and unembedding.
        later, earlier: means over the positions beside it, at the headline layer; n_later, n_earlier: how many.
        controls: the cells of control models in the tuned one's place, at `control_layers`.
        agreed: why the models do not part after other prompts, by their id; failures: why a prompt has no result.
        level: of the intervals.
    """

    calls = ("means()", "prompts()", "top()", "to_df()", "show()")

    n_layers: int
    layers: tuple[int, ...]
    unembed: str
    prompt_id: tuple[str, ...]
    prompt: tuple[str, ...]
    common: tuple[tuple[str, ...], ...]
    base_token: tuple[str, ...]
    tuned_token: tuple[str, ...]
    choices: Int[Tensor, "prompt model"]
    read: tuple[tuple[int, ...], ...]
    yields: Float[Tensor, "prompt upstream late layer"]
    with_other: Float[Tensor, "prompt upstream late layer"]
    later: Float[Tensor, "prompt upstream late"]
    earlier: Float[Tensor, "prompt upstream late"]
    n_later: Int[Tensor, " prompt"]
    n_earlier: Int[Tensor, " prompt"]
    controls: Float[Tensor, "control prompt upstream late control_layer"]
    control_layers: tuple[int, ...]
    agreed: dict[str, str]
    failures: dict[str, str]
    level: float

    @property
    def headline(self) -> int:
        """The layer that numbers are told of: of those that were read, the one nearest to 0.6 n_layers."""
        return headline_of(self.layers, self.n_layers)

    @property
    def position(self) -> tuple[int, ...]:
        """The position of each text whose next token is the first that differs, special tokens in front counted."""
        return tuple(len(ids) - 1 for ids in self.read)

    def to_df(self) -> pd.DataFrame:
        """Return a row per prompt after which the models part, and layer.

        Columns: prompt_id, position, base_token, tuned_token, layer, portable, matched, interaction, yield_bb,
        yield_bt, yield_tb, yield_tt (logits; first letter: whose stream, second: whose blocks).
        """
        yields = self.yields.movedim(-1, 1)
        said = {"position": self.position, "base_token": self.base_token, "tuned_token": self.tuned_token}
        values: dict[str, Any] = {name: np.array(column)[:, None] for name, column in said.items()}
        effects = dict(zip(EFFECTS, effects_of(yields).unbind(-1), strict=True))
        cells = {f"yield_{u}{n}": yields[..., i, k] for i, u in enumerate("bt") for k, n in enumerate("bt")}
        frame = tidy({"prompt_id": self.prompt_id, "layer": self.layers}, values | effects | cells)
        frame = frame.reindex(columns=["prompt_id", *said, "layer", *EFFECTS, *cells])
        return frame.astype({"position": int, "layer": int})

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k prompts with the largest size of the interaction, at the headline layer."""
        frame = self.to_df().query("layer == @self.headline")
        order = np.argsort(-np.abs(frame["interaction"].to_numpy()), kind="stable")
        columns = ["prompt_id", "position", "base_token", "tuned_token", *EFFECTS]
        return frame.iloc[order[:k]].reset_index(drop=True).loc[:, columns]

    def prompts(self) -> pd.DataFrame:
        """Return a row per prompt that was read: where the models part after it, or why they do not.

        Columns: prompt_id, position (missing where they do not), n_out (response tokens that both choose first),
        base_token, tuned_token, text (those tokens), agreed (why the models do not part), n_later, n_earlier
        (positions beside).
        """
        rows: list[tuple[Any, ...]] = [
            (name, place, len(common), base, tuned, "".join(common), "", later, earlier)
            for name, place, common, base, tuned, later, earlier in zip(
                self.prompt_id, self.position, self.common, self.base_token, self.tuned_token,
                self.n_later.tolist(), self.n_earlier.tolist(), strict=True,
            )
        ]  # fmt: skip
        rows += [(name, None, None, "", "", "", why, 0, 0) for name, why in self.agreed.items()]
        columns = ["prompt_id", "position", "n_out", "base_token", "tuned_token", "text", "agreed", "n_later"]
        frame = pd.DataFrame(rows, columns=[*columns, "n_earlier"])
        return frame.astype({"position": "Int64", "n_out": "Int64", "n_later": int, "n_earlier": int})

    def values(self, effect: str, layer: int | None = None, at: str = "first") -> Float[np.ndarray, " prompt"]:
        """Return an effect of each prompt in logits: of those that have such a position.

        Args:
            effect: "portable", "matched" or "interaction".
            layer: None for the headline layer.
            at: "first" for the divergence; "later" or "earlier", which are read at the headline layer alone.

        Raises:
            InputError: there is no such effect, layer or position.
        """
        if effect not in EFFECTS or at not in PLACES:
            raise InputError(f"effect={effect!r} at {at!r} asked for, expected {_any(EFFECTS)} at {_any(PLACES)}")
        layer = self.headline if layer is None else layer
        known = self.layers if at == "first" else (self.headline,)
        if layer not in known:
            raise InputError(f"layer={layer} is asked for at {at!r}, read were {', '.join(map(str, known))}")
        yields = self.yields[..., self.layers.index(layer)] if at == "first" else getattr(self, at)
        found = effects_of(yields)[:, EFFECTS.index(effect)].numpy()
        return found[~np.isnan(found)]

    def difference(self, effect: str = "interaction", layer: int | None = None, at: str = "first") -> stats.Test:
        """Return the mean of an effect over prompts with its interval and its test against zero; see `values`.

        Args:
            effect: "portable", "matched" or "interaction".
            layer: one of `layers`; None for the headline's.
            at: "first", "later" or "earlier".

        Raises:
            InputError: as `values`.
            TooFew: fewer than two prompts have it.
        """
        values = self.values(effect, layer, at)
        test = stats.mean_difference(values, level=self.level)
        if test is None:
            raise stats.TooFew(f"{len(values)} prompt(s) have a {at} position, a mean with an interval needs 2")
        return test

    def swapped(self, layer: int | None = None) -> stats.Test:
        """Return the test of the interaction whose labels, base and tuned, are exchanged prompt by prompt.

        Exchanged, portable and matched change places and the interaction its sign: all exchanges are sign flips.

        Args:
            layer: one of `layers`; None for the headline's.

        Raises:
            InputError: as `values`, or there is no prompt.
        """
        return stats.sign_flip(self.values("interaction", layer))

    def beside(self, effect: str = "interaction", layer: int | None = None) -> stats.Envelope | None:
        """Return the mean of an effect beside that of each kind of control in the tuned model's place; None without.

        Raises:
            InputError: as `values`, there is no prompt, or controls were not read at the layer.
        """
        values = self.values(effect, layer)
        if not len(values):
            raise InputError("the models part after no prompt, expected one at least")
        if not len(self.controls):
            return None
        layer = self.headline if layer is None else layer
        if layer not in self.control_layers:
            read = ", ".join(map(str, self.control_layers))
            raise InputError(f"layer={layer} is asked for, controls were read at {read}")
        cells = self.controls[..., self.control_layers.index(layer)]
        controls = effects_of(cells)[..., EFFECTS.index(effect)].mean(dim=1).tolist()
        of_kinds = stats.by_kind(controls, self.provenance.control_kinds)
        return stats.against_controls(float(values.mean()), of_kinds, level=self.level).envelope

    def band(self, layer: int, prompt: int | None = None) -> stats.Band | None:
        """Return for each cell, [upstream, late], where it would lie in one more control; None with too few of a kind.

        Args:
            layer: one of `control_layers`.
            prompt: a place in `prompt_id`; None for the mean over prompts.
        """
        return self._band(self._control_cells(layer, prompt))

    def effect_band(self, layer: int, prompt: int | None = None) -> stats.Band | None:
        """Return the same for portable, matched and interaction.

        Args:
            layer, prompt: as of `band`.
        """
        cells = self._control_cells(layer, prompt)
        return None if cells is None else self._band(effects_of(cells))

    def _control_cells(self, layer: int, prompt: int | None) -> Float[Tensor, "control upstream late"] | None:
        if layer not in self.control_layers or not len(self.controls) or not self.prompt_id:
            return None
        cells = self.controls[..., self.control_layers.index(layer)]
        return cells.mean(dim=1) if prompt is None else cells[:, prompt]

    def _band(self, values: Float[Tensor, "control ..."] | None) -> stats.Band | None:
        if values is None:
            return None
        of_kinds = stats.by_kind(list(values.numpy()), self.provenance.control_kinds)
        band = stats.against_controls(None, of_kinds, level=self.level).band
        return None if np.isnan(band.low).any() else band

    def means(self) -> pd.DataFrame:
        """Return the mean of each effect over prompts, and of controls.

        Columns: at ("first", "later", "earlier"), unembed, model ("tuned", or a control's name in its place), kind (of
        the control), layer, effect, n (prompts), mean, low, high (the interval; missing with fewer than two prompts).
        """
        other = SIDES[1 - SIDES.index(self.unembed)]
        rows = list(self._rows("first", self.unembed, "tuned", "", self.layers, self.yields))
        rows += self._rows("first", other, "tuned", "", self.layers, self.with_other)
        for at, yields in (("later", self.later), ("earlier", self.earlier)):
            rows += self._rows(at, self.unembed, "tuned", "", (self.headline,), yields[..., None])
        for control, yields in zip(self.provenance.controls, self.controls, strict=True):
            rows += self._rows("first", self.unembed, control.name, control.kind, self.control_layers, yields)
        columns = ["at", "unembed", "model", "kind", "layer", "effect", "n", "mean", "low", "high"]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[-3:], float))

    def _rows(
        self, at: str, unembed: str, model: str, kind: str, layers: tuple[int, ...], yields: Tensor
    ) -> Iterator[tuple[Any, ...]]:
        effects = effects_of(yields.movedim(-1, 1)).numpy()
        effects = effects[~np.isnan(effects).any(axis=(1, 2))] if len(effects) else effects
        n = len(effects)
        if not n:
            return
        means = effects.mean(axis=0)
        low, high = stats.mean_interval(effects, level=self.level)
        for place, layer in enumerate(layers):
            for e, effect in enumerate(EFFECTS):
                yield at, unembed, model, kind, layer, effect, n, means[place, e], low[place, e], high[place, e]

    def with_controls(self, controls: "Sequence[ControlDivergence]") -> "FirstDivergence":
        """Return the same with controls that were read apart.

        Raises:
            InputError: a control was read after other prompts, at other layers than the first, or with another final
                norm and unembedding.
        """
        for one in controls:
            if (one.prompt_id, one.unembed) != (self.prompt_id, self.unembed):
                raise InputError(
                    f"control {one.provenance.model} was read after {len(one.prompt_id)} prompts with the unembedding "
                    f"of {one.unembed}, expected the {len(self.prompt_id)} of the pair with that of {self.unembed}"
                )
        for one, next_one in pairwise(controls):
            if one.layers != next_one.layers:
                raise InputError(f"controls were read at layers {one.layers} and {next_one.layers}, expected the same")
        if not controls:
            return self
        beside = tuple(one.provenance.as_control for one in controls)
        return replace(
            self,
            provenance=replace(self.provenance, controls=beside),
            controls=torch.stack([one.yields for one in controls]),
            control_layers=controls[0].layers,
        )

    def told(self) -> list[str]:
        """Return after how many prompts the models part, and the mean effects at the headline layer."""
        n = len(self.prompt_id)
        part = f"the models part after {n} of {n_of(n + len(self.agreed), 'prompt')}"
        lines = [part + (f", {len(self.failures)} failed" if self.failures else "")]
        if n == 1:
            said, two = "".join(self.common[0]), f"{self.base_token[0]!r}, the tuned model {self.tuned_token[0]!r}"
            lines = [f"after {said!r} the base chooses {two}" if said else f"the base begins with {two}"]
        if n:
            lines[0] += f"; in logits, streams crossed at layer {self.headline} of {self.n_layers}:"
        cells = self._control_cells(self.headline, None)
        for place, effect in enumerate(EFFECTS if n else ()):
            values = self.values(effect)
            test = stats.mean_difference(values, level=self.level)
            said = f"{values.mean():+.3g}" if test is None else test.numbers()
            if cells is not None:
                beside = effects_of(cells)[:, place]
                said += f" (controls {float(beside.min()):+.3g} to {float(beside.max()):+.3g})"
            lines.append(f"{effect}: {said}")
        return lines


def headline_of(layers: Sequence[int], n_layers: int) -> int:
    """Return the layer nearest to 0.6 n_layers."""
    wanted = round(HEADLINE * n_layers)
    return min(layers, key=lambda layer: abs(layer - wanted))


def _any(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
