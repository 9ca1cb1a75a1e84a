"""What the controls of one pair share, and the making of each: at most one trained change is in memory at a time."""

import json
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from lensdiff.models.change import Maker, RealChange, generator_for, random_norm, random_spectrum
from lensdiff.models.controlling import batches, store
from lensdiff.models.controlling.gradients import FromGradients, collect, texts_of
from lensdiff.models.controlling.options import Options, Recipe
from lensdiff.models.controlling.targets import rank_of, targets
from lensdiff.models.controlling.trained import Rescaled, Trained
from lensdiff.models.controlling.training import train
from lensdiff.models.equality import fingerprint, function_of
from lensdiff.models.identity import digest_of
from lensdiff.models.inside.parts import Weight
from lensdiff.models.view import ModelView


class Workshop:
    """Makes the changes of a pair's controls, once a weight of theirs is read.

    Without a folder to keep it in, a trained change is made again whenever another one was read in between.
    """

    def __init__(self, base: ModelView, tuned: ModelView, change: RealChange):
        self.base, self.tuned, self.change = base, tuned, change
        self._trained: tuple[str, Trained] | None = None
        self._collected: tuple[str, store.Tensors] | None = None

    def maker(self, kind: str, seed: int, options: Options) -> Maker | None:
        """Return what makes the changes of a control; None for no change."""
        if kind == "self":
            return None
        if kind in ("spectrum", "norm"):
            draw = random_spectrum if kind == "spectrum" else random_norm
            return lambda weight, values, shape: draw(values, shape, generator_for(kind, seed, weight))
        if kind == "gradient-noise":

            def noise(weight: Weight, values: Tensor, shape: tuple[int, int]) -> Tensor:
                return FromGradients(self.collected(options), seed, options.noise.divide)(weight, values, shape)

            return noise

        def rescaled(weight: Weight, values: Tensor, shape: tuple[int, int]) -> Tensor:
            return Rescaled(self.change, self.trained(kind, seed, options), kind, seed)(weight, values, shape)

        return rescaled

    @cached_property
    def targets(self) -> list[Weight]:
        """What tuning changed."""
        return targets(self.base, self.tuned, self.change)

    @cached_property
    def rank(self) -> int | None:
        """The rank of a LoRA pair's change, or None."""
        return rank_of(self.base, self.tuned, self.change, self.targets)

    @cached_property
    def _base_facts(self) -> dict[str, Any]:
        facts = {"weights": fingerprint(self.base, whole=True), "tokenizer": digest_of(self.base)}
        return facts | {"function": function_of(self.base), "stops": list(self.base.info.eos_token_ids)}

    def facts(self, kind: str, seed: int, options: Options) -> dict[str, Any]:
        """Return what decides the numbers of a control before they are rescaled, for its digest."""
        found: dict[str, Any] = {"kind": kind, "base": self._base_facts, "options": options.recorded(kind)}
        if kind == "gradient-noise":  # the sums are made anew: only what is summed is kept
            del found["options"]["divide"]
            return found
        weights = [list(weight) for weight in self.targets]
        return found | {"seed": seed, "weights": weights, "tied": self.change.tied, "rank": self.recipe(options).rank}

    def recipe(self, options: Options) -> Recipe:
        """Return how a control is trained, with the rank of a LoRA pair where none is given."""
        return replace(options.recipe, rank=self.rank) if options.recipe.rank is None else options.recipe

    def trained(self, kind: str, seed: int, options: Options) -> Trained:
        """Return a trained change: the last one, the one on disk, or a new one, which is kept."""
        digest = store.digest_of(self.facts(kind, seed, options))
        if self._trained is None or self._trained[0] != digest:
            self._trained = None  # before another one is in memory
            kept = None if options.folder is None else store.load(options.folder, digest)
            found = None if kept is None else _unpacked(kept)
            if found is None:
                found = self.train(kind, seed, options)
                if options.folder is not None:
                    store.save(options.folder, digest, *_packed(found))
            self._trained = digest, found
        return self._trained[1]

    def train(self, kind: str, seed: int, options: Options) -> Trained:
        """Return a trained change, made anew."""
        recipe = self.recipe(options)
        if kind == "distilled":
            rows = batches.distilled(self.base, recipe, seed)
        else:
            rows = batches.shuffled(self.base, options.data, recipe, seed)
        return train(self.base, self.targets, rows, recipe, (kind, seed), tied=self.change.tied)

    def collected(self, options: Options) -> store.Tensors:
        """Return what gradient noise is summed over: collected before, on disk, or collected now and kept."""
        digest = store.digest_of(self.facts("gradient-noise", 0, options))
        if self._collected is None or self._collected[0] != digest:
            self._collected = None
            found = None if options.folder is None else store.load(options.folder, digest)
            if found is None:
                made = collect(self.base, texts_of(self.base, options.noise))
                if options.folder is not None:
                    store.save(options.folder, digest, made, {})
                    found = store.load(options.folder, digest)
                found = made if found is None else found  # a folder that cannot be written
            self._collected = digest, found
        return self._collected[1]


def _packed(trained: Trained) -> tuple[dict[str, Tensor], dict[str, str]]:
    parts = {f"{n} {_key(weight)}": part for weight, found in trained.parts.items() for n, part in enumerate(found)}
    return parts, {"scales": json.dumps({_key(weight): scale for weight, scale in trained.scales.items()})}


def _unpacked(kept: store.OnDisk) -> Trained:
    scales: dict[str, float] = json.loads(kept.said["scales"])
    parts = {key: tuple(kept[f"{n} {key}"] for n in range(2) if f"{n} {key}" in kept) for key in scales}
    return Trained({_weight(key): part for key, part in parts.items()}, {_weight(k): s for k, s in scales.items()})


def _key(weight: Weight) -> str:
    return json.dumps(list(weight))


def _weight(key: str) -> Weight:
    return Weight(*json.loads(key))
