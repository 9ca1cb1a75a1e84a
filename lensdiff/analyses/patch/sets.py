"""Heads that are patched all together, beside random sets of as many other heads: what claim 2 causes.

    effect    metric of U with V's z of every head of the set, at all positions - metric of U left alone
    beside    the same with as many heads that are not in the set, of the same layers as far as there are enough of
              them (`draws` seeded sets, each once); and with control models' z of the set in place of the tuned model's

One pass holds the whole set, so that heads act on one another as in the model: this is no sum of single effects.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.patch.defaults import DRAWS, LEAST_TOTAL, MAX_BYTES, METRIC, SET_LEAST, SET_SHARE
from lensdiff.analyses.patch.metrics import name_of, targets_of
from lensdiff.analyses.patch.passes import Activations, Reader, Row, part_of, patched, read
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, Point, view_of
from lensdiff.models.aligned_text import AlignedText, align_text
from lensdiff.models.asked import Asked, Given
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.text import MAX_NEW_TOKENS
from lensdiff.results import InputError, Provenance, Result
from lensdiff.results.diff import SIDES

RANDOM = "random heads"
TRIES = 20  # to draw a set that was not drawn before, for each
Head = tuple[int, int]  # layer, head
COLUMNS = ["into", "n_heads", "clean", "patched", "donor", "effect", "share", "random_low", "random_high"]
COLUMNS += ["control_low", "control_high"]


@dataclass(frozen=True, eq=False)
class SetPatch(Result):
    """Effects of a set of heads in both directions, beside random sets and controls; see the module.

    Axis `side` is the model that is patched, as `SIDES`.

    Attributes:
        heads: the set, as (layer, head); none where there was none to patch. random_heads: those of each draw.
        clean, effect: the metric in the model left alone, and how far the set moves it. The total is the other
            model's `clean` less its own.
        random_effect: of the random sets; control_effect: of control models' activations in the base, in the order of
            `provenance.controls`.
        failures: why a prompt is not among them.
    """

    heads: tuple[Head, ...]
    metric: str
    prompt_id: tuple[str, ...]
    clean: Float[Tensor, "prompt side"]
    effect: Float[Tensor, "prompt side"]
    random_heads: Int[Tensor, "draw head 2"]
    random_effect: Float[Tensor, "draw prompt side"]
    control_effect: Float[Tensor, "control prompt"]
    failures: dict[str, str]
    level: float

    def effects(self, into: str = "base") -> tuple[float, dict[str, list[float]]]:
        """Return the set's effect, mean over prompts, and that of random sets and of each kind of control, by name.

        Controls are of the base alone.

        Raises:
            InputError: there is no such model.
        """
        if into not in SIDES:
            raise InputError(f"into={into!r} is none of {', '.join(SIDES)}")
        if not self.heads:
            return float("nan"), {}
        side = SIDES.index(into)
        beside = {RANDOM: self.random_effect[:, :, side].mean(dim=1).tolist()}
        if into == "base":
            beside |= stats.by_kind(self.control_effects(), self.provenance.control_kinds)
        return float(self.effect[:, side].mean()), beside

    def control_effects(self) -> list[float]:
        """Return the effect of every control's activations in the base, mean over prompts, in their order."""
        return self.control_effect.mean(dim=1).tolist()

    def beside(self, into: str = "base") -> stats.Envelope | None:
        """Return the effect beside random sets and every kind of control; None of no heads.

        Raises:
            InputError: there is no such model.
        """
        effect, beside = self.effects(into)
        return stats.against_controls(effect, beside, level=self.level).envelope if beside else None

    def to_df(self) -> pd.DataFrame:
        """Return a row per prompt and direction.

        Columns: prompt_id, into, n_heads, clean, patched, donor, effect, share (effect / (donor - clean)), random_low,
        random_high, control_low, control_high: limits within which one more random set, or control, lies.
        """
        rows = []
        for p, name in enumerate(self.prompt_id):
            for side, into in enumerate(SIDES):
                numbers = self._numbers(self.clean[p], float(self.effect[p, side]), side)
                draws, controls = self.random_effect[:, p, side], self.control_effect[:, p]
                rows.append({"prompt_id": name, "into": into, **numbers, **self._limits(draws, controls, side)})
        return pd.DataFrame(rows, columns=["prompt_id", *COLUMNS])

    def means(self) -> pd.DataFrame:
        """Return the same, the mean over prompts, a row per direction."""
        rows, clean = [], self.clean.mean(dim=0)
        for side, into in enumerate(SIDES if self.heads else ()):
            numbers = self._numbers(clean, float(self.effect[:, side].mean()), side)
            draws, controls = self.random_effect[:, :, side].mean(dim=1), self.control_effect.mean(dim=1)
            rows.append({"into": into, **numbers, **self._limits(draws, controls, side)})
        return pd.DataFrame(rows, columns=COLUMNS)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k rows with the largest effects, of either sign."""
        frame = self.to_df()
        return frame.iloc[np.argsort(-frame["effect"].abs().to_numpy(), kind="stable")[:k]].reset_index(drop=True)

    def with_controls(self, controls: Sequence["SetPatch"]) -> "SetPatch":
        """Return the same beside what each control's activations do (the `effect` of a result of its own).

        Raises:
            InputError: a control has other heads or prompts.
        """
        for control in controls:
            if control.heads != self.heads or control.prompt_id != self.prompt_id:
                raise InputError(f"control {control.provenance.model} has other heads or prompts, expected the pair's")
        effects = [control.effect[:, 0] for control in controls]
        beside = self.provenance.beside([control.provenance for control in controls])
        return replace(self, provenance=beside, control_effect=_stacked(effects, len(self.prompt_id)))

    def __repr__(self) -> str:
        """Return the heads, and each direction's effect beside random sets and controls."""
        listed = ", ".join(f"{layer}.{head}" for layer, head in self.heads)
        lines = [f"SetPatch of {self.provenance.model}: heads {listed}; {len(self.prompt_id)} prompt(s)"]
        lines += [f"  into {into}: {self.beside(into)}" for into in SIDES if self.heads]
        return "\n".join([notice, *lines] if (notice := self.provenance.notice) else lines)

    def _numbers(self, clean: Tensor, effect: float, side: int) -> dict[str, Any]:
        own, donor = float(clean[side]), float(clean[1 - side])
        share = effect / (donor - own) if abs(donor - own) > LEAST_TOTAL else np.nan
        found = {"n_heads": len(self.heads), "clean": own, "patched": own + effect, "donor": donor}
        return found | {"effect": effect, "share": share}

    def _limits(self, draws: Tensor, controls: Tensor, side: int) -> dict[str, float]:
        of_draws = stats.against_controls(None, {RANDOM: draws.numpy()} if len(draws) else {}, level=self.level).band
        kinds = stats.by_kind(controls.tolist(), self.provenance.control_kinds) if side == 0 else {}
        band = stats.against_controls(None, kinds, level=self.level).band
        limits = (*of_draws, *band)
        return dict(zip(("random_low", "random_high", "control_low", "control_high"), map(float, limits), strict=True))


def patch_set(
    pair: ModelPair,
    prompt: Prompt | str | Sequence[Prompt | str],
    response: str | Response | Sequence[str | Response | None] | None = None,
    *,
    heads: Sequence[Head],
    draws: int = DRAWS,
    controls: Iterable[Model] = (),
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    max_bytes: int = MAX_BYTES,
    level: float = 0.95,
    progress: bool | None = None,
) -> SetPatch:
    """Return how far a set of heads moves a response when all of it is put into the other model, in both directions.

    Args:
        prompt, response, controls, max_new_tokens, prepend_bos, max_bytes, level, progress: as `patch_sweep`.
        heads: as (layer, head), each once.
        draws: random sets; at least 19 for a band.
        seed: of the draws.

    Raises:
        InputError: there is no head, one comes twice or is not there, fewer heads are left than the set has; of one
            prompt (or of all): as `patch_sweep`.
    """
    asked, view = Asked.of(prompt, response), view_of(pair.base)
    chosen = _checked(view, heads)
    if draws < 1:
        raise InputError(f"draws={draws} is not positive")
    sets = [chosen, *random_sets(chosen, view.n_layers, view.n_heads, draws=draws, seed=seed)]
    targets, texts = targets_of(pair, METRIC), {}

    def work(one: Prompt, said: Given) -> tuple[list[float], Tensor]:
        text = align_text(pair, one, said, max_new_tokens=max_new_tokens, prepend_bos=prepend_bos)
        texts[one.id] = text
        models = {side: getattr(pair, side) for side in SIDES}
        acts = {side: _read(view_of(models[side]), text, side, targets, sets) for side in reversed(SIDES)}
        effects = [
            _effects(view_of(models[side]), text, side, targets, sets, acts[side], acts[other], max_bytes)
            for side, other in zip(SIDES, reversed(SIDES), strict=True)
        ]
        return [acts[side].score for side in SIDES], torch.stack(effects, dim=-1)

    found = asked.each(work, "patching", progress)
    asked.settle()
    made, of_controls = [], []
    for control in controls:
        own = view_of(control)
        was_made = own.is_made
        of_controls.append(torch.tensor([_of_control(pair, own, texts[name], targets, chosen) for name in found]))
        made.append(own.provenance("patch_set", {}))
        if not was_made:
            own.free()
    every = torch.stack([effects for _, effects in found.values()], dim=1)  # [set prompt side]
    options = {"metric": name_of(METRIC), "draws": draws, "max_new_tokens": max_new_tokens, "level": level}
    return SetPatch(
        pair.provenance("patch_set", options | {"prepend_bos": prepend_bos}, seed).beside(made),
        chosen,
        METRIC,
        tuple(found),
        torch.tensor([clean for clean, _ in found.values()], dtype=torch.float64),
        every[0].clone(),
        torch.tensor(sets[1:]),
        every[1:].clone(),
        _stacked(of_controls, len(found)),
        asked.failures,
        level,
    )


def control_set(
    pair: ModelPair, control: Model, prompts: Sequence[Prompt], responses: Sequence[str | Response], of_pair: SetPatch
) -> SetPatch:
    """Return what a control's activations of the pair's set of heads do in the base, on the pair's prompts.

    Raises:
        InputError: as `patch_set`.
    """
    targets, view = targets_of(pair, METRIC), view_of(control)
    effects = [
        _of_control(pair, view, align_text(pair, p, r, max_new_tokens=1, prepend_bos=None), targets, of_pair.heads)
        for p, r in zip(prompts, responses, strict=True)
    ]
    effect = torch.full((len(prompts), 2), torch.nan, dtype=torch.float64)
    effect[:, 0] = torch.tensor(effects)
    n_prompts, k = len(prompts), len(of_pair.heads)
    return SetPatch(
        view.provenance("patch_set", {}),
        of_pair.heads,
        of_pair.metric,
        tuple(prompt.id for prompt in prompts),
        torch.full_like(effect, torch.nan),
        effect,
        torch.zeros(0, k, 2, dtype=torch.int64),
        torch.zeros(0, n_prompts, 2, dtype=torch.float64),
        torch.zeros(0, n_prompts, dtype=torch.float64),
        {},
        of_pair.level,
    )


def no_set(provenance: Provenance) -> SetPatch:
    """Return the result of no heads, where none rose: no prompt was read, and there is no effect."""
    nothing = torch.zeros(0, 2, dtype=torch.float64)
    draws = torch.zeros(0, 0, 2, dtype=torch.int64), torch.zeros(0, 0, 2, dtype=torch.float64)
    return SetPatch(provenance, (), METRIC, (), nothing, nothing.clone(), *draws, _stacked([], 0), {}, 0.95)


def risen_heads(rises: pd.DataFrame, n_heads: int, size: int | None = None) -> tuple[Head, ...]:
    """Return the heads whose count rose most: a tenth of all, at least 5, at most half of them, and none that did not.

    Args:
        rises: `verb_shift(...).heads()`, the largest rise first.
        n_heads: of the whole model; size: how many are taken instead.
    """
    most = max(SET_LEAST, round(SET_SHARE * n_heads)) if size is None else size
    risen: Any = rises[rises["rise"] > 0].head(min(most, n_heads // 2))
    return tuple((int(row.layer), int(row.head_index)) for row in risen.itertuples())


def random_sets(heads: Sequence[Head], n_layers: int, n_heads: int, *, draws: int, seed: int) -> list[tuple[Head, ...]]:
    """Return random sets of as many other heads, each once: of the same layers as far as there are enough of them.

    Where that leaves fewer sets than asked for, the rest are of any layers, and where there are fewer still, all are
    returned.

    Raises:
        InputError: fewer heads are left than the set has.
    """
    taken = set(heads)
    left = [(layer, head) for layer in range(n_layers) for head in range(n_heads) if (layer, head) not in taken]
    if len(left) < len(heads):
        raise InputError(f"a set of {len(heads)} heads leaves {len(left)} others, expected as many at least")
    wanted, found = Counter(layer for layer, _ in heads), {}
    for attempt in range(2 * TRIES * draws):
        chance, drawn = random.Random(f"{seed} {attempt}"), []
        for layer, n in sorted(wanted.items()) if attempt < TRIES * draws else ():
            own = [head for head in left if head[0] == layer]
            drawn += chance.sample(own, min(n, len(own)))
        rest = [head for head in left if head not in drawn]
        drawn += chance.sample(rest, len(heads) - len(drawn))
        found[tuple(sorted(drawn))] = None
        if len(found) == draws:
            break
    return list(found)


def _checked(view: ModelView, heads: Sequence[Head]) -> tuple[Head, ...]:
    found = tuple((int(layer), int(head)) for layer, head in heads)
    wrong = [x for x in found if not (0 <= x[0] < view.n_layers and 0 <= x[1] < view.n_heads)]
    if not found or len(set(found)) < len(found) or wrong:
        raise InputError(
            f"heads={list(wrong or found)} given, expected (layer, head) with layers 0 to {view.n_layers - 1} and "
            f"heads 0 to {view.n_heads - 1}, each once"
        )
    return found


def _read(
    view: ModelView, text: AlignedText, side: str, targets: Mapping, sets: Sequence[Sequence[Head]]
) -> Activations:
    layers = dict.fromkeys(layer for heads in sets for layer, _ in heads)
    points = [Point(name, layer) for layer in layers for name in ("resid_pre", "z")]
    return read(Reader.of(view, text, side, targets[side]), points)


def _effects(
    view: ModelView,
    text: AlignedText,
    side: str,
    targets: Mapping,
    sets: Sequence[Sequence[Head]],
    own: Activations,
    donor: Activations,
    max_bytes: int = MAX_BYTES,
) -> Float[Tensor, " set"]:
    places = torch.arange(text.n_read)
    rows: list[Row] = [
        tuple(part_of(Point("z", layer), head, places, own, donor) for layer, head in heads) for heads in sets
    ]
    return patched(Reader.of(view, text, side, targets[side]), own, rows, max_bytes=max_bytes)


def _of_control(
    pair: ModelPair, control: ModelView, text: AlignedText, targets: Mapping, heads: Sequence[Head]
) -> float:
    base = view_of(pair.base)
    own, donor = (_read(view, text, "base", targets, [heads]) for view in (base, control.whole()))
    return float(_effects(base, text, "base", targets, [heads], own, donor).item())


def _stacked(effects: Sequence[Tensor], n_prompts: int) -> Float[Tensor, "control prompt"]:
    if not effects:
        return torch.zeros(0, n_prompts, dtype=torch.float64)
    return torch.stack([effect.double() for effect in effects])
