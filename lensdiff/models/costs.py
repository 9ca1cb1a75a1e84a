"""What controls will cost, measured on a little of the work: for a run's estimate."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from lensdiff.models.change import Maker, generator_for
from lensdiff.models.controlling.batches import shuffled
from lensdiff.models.controlling.gradients import FromGradients, collect, size_of_samples, stand_in, texts_of
from lensdiff.models.controlling.options import KEPT, TRAINED, Options, Recipe, checked
from lensdiff.models.controlling.samples import own_samples, rows_at_once
from lensdiff.models.controlling.store import user_folder
from lensdiff.models.controlling.training import Batch, train
from lensdiff.models.controlling.workshop import Workshop
from lensdiff.models.inside.parts import Weight
from lensdiff.models.pair import ModelPair
from lensdiff.models.view import ModelView, view_of

STEPS = 3  # that are timed, the first apart
TOKENS = 4  # of samples that are timed
_GENERATOR = Weight("cost")


@dataclass(frozen=True)
class ControlCost:
    """Seconds that controls of one kind take on this machine, estimated; what a cache already holds is not known.

    Attributes:
        once: before the first one, for all of a pair.
        each: for all weights of one control.
    """

    once: float
    each: float

    def of(self, n: int) -> float:
        """Return the seconds of `n` controls."""
        return self.once + n * self.each if n else 0.0


@dataclass(frozen=True)
class ByWeights:
    """Seconds that weights take, those outside of all layers and those of one layer."""

    ends: float = 0.0
    layer: float = 0.0

    def of(self, n_layers: int) -> float:
        """Return the seconds of a model of so many layers."""
        return self.ends + n_layers * self.layer


def control_cost(pair: ModelPair, kind: str, **options: Any) -> ControlCost:
    """Return what controls of a kind cost on a pair: the time of a part of the work, times how often it is done.

    Timed are the real change's singular values of the embeddings and one layer (they are kept), and for each kind the
    changes of those; three steps of training and a few tokens of its samples; one batch of text with its gradients.

    Args:
        options: as `ModelPair.control` takes them.

    Raises:
        InputError: as `ModelPair.control`.
    """
    n_layers = view_of(pair.base).n_layers
    passes, (once, each) = cost_of_passes(pair, kind, **options), cost_of_weights(pair, kind, **options)
    return ControlCost(passes.once + once.of(n_layers), passes.each + each.of(n_layers))


def cost_of_weights(pair: ModelPair, kind: str, **options: Any) -> tuple[ByWeights, ByWeights]:
    """Return what of `control_cost` is spent on matrices: before the first control, and for each.

    Raises:
        InputError: as `ModelPair.control`.
    """
    chosen = _checked(kind, options)
    change, base = pair.change(), view_of(pair.base)
    if kind == "self":
        return ByWeights(), ByWeights()
    once = _by_weights(base, change.singular_values)
    if kind in TRAINED:
        return once, ByWeights()
    workshop = Workshop(base, view_of(pair.tuned), change)
    maker = workshop.maker(kind, 0, chosen)
    if kind == "gradient-noise":
        maker = FromGradients(stand_in(base, _n_tokens(base, chosen)), 0, chosen.noise.divide)
    return once, _by_weights(base, lambda weight: _drawn(workshop, maker, weight))


def cost_of_passes(pair: ModelPair, kind: str, **options: Any) -> ControlCost:
    """Return what of `control_cost` is spent on passes: on samples, on gradients and on training.

    Raises:
        InputError: as `ModelPair.control`.
    """
    chosen, base = _checked(kind, options), view_of(pair.base)
    if kind in TRAINED:
        return ControlCost(0.0, _training(Workshop(base, view_of(pair.tuned), pair.change()), kind, chosen))
    return ControlCost(_text(base, chosen) if kind == "gradient-noise" else 0.0, 0.0)


def _checked(kind: str, options: dict[str, Any]) -> Options:
    return checked(kind, options | ({"cache": None} if kind in KEPT else {}), user_folder())


def _by_weights(base: ModelView, work: Callable[[Weight], Any]) -> ByWeights:
    """Return the seconds of some work on the weights outside of all layers, and on those of the first one."""
    times = {None: 0.0, 0: 0.0}
    for weight in base.weights.known():
        if weight.layer in times:
            times[weight.layer] += _seconds(lambda w=weight: work(w))
    return ByWeights(times[None], times[0])


def _drawn(workshop: Workshop, maker: Maker | None, weight: Weight) -> None:
    old = workshop.base.weights.stored(weight)
    assert old is not None
    assert maker is not None
    workshop.change.apply(maker, weight, old, workshop.change.singular_values(weight))


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _samples(base: ModelView, rows: int, length: int) -> float:
    some, tokens = min(rows, rows_at_once(base, length)), min(TOKENS, length)
    generator = generator_for("cost", 0, _GENERATOR)
    return _seconds(lambda: own_samples(base, some, tokens, generator)) * rows / some * length / tokens


def _training(workshop: Workshop, kind: str, options: Options) -> float:
    base, recipe = workshop.base, workshop.recipe(options)
    first = replace(recipe, steps=min(STEPS, recipe.steps))
    if kind == "distilled":
        batches, sampled = _random(base, first), _samples(base, recipe.steps * recipe.batch, recipe.length)
    else:
        batches, sampled = list(islice(shuffled(base, options.data, first, 0), first.steps)), 0.0

    def seconds(steps: int) -> float:
        made = batches[:steps], recipe, (kind, 0)
        return _seconds(lambda: train(base, workshop.targets, *made, tied=workshop.change.tied))

    one = seconds(1)
    if recipe.steps == 1:
        return sampled + one
    per_step = max(seconds(first.steps) - one, 0.0) / (first.steps - 1)
    return sampled + one + (recipe.steps - 1) * per_step


def _random(base: ModelView, recipe: Recipe) -> list[Batch]:
    generator = generator_for("cost", 0, _GENERATOR)
    drawn = torch.randint(base.d_vocab, (recipe.steps, recipe.batch, recipe.length + 1), generator=generator)
    return [Batch(rows[:, :-1], rows[:, 1:]) for rows in drawn]


def _text(base: ModelView, options: Options) -> float:
    """Return the seconds of the text with its gradients."""
    if options.noise.texts is None:
        rows, length, at_once = size_of_samples(base, options.noise)
        seconds, texts = _samples(base, rows, length), [torch.zeros(n, length + 1, dtype=torch.int64) for n in at_once]
    else:
        seconds, texts = 0.0, texts_of(base, options.noise)
    one = max(texts, key=len)
    return seconds + _seconds(lambda: collect(base, [one])) * sum(rows.numel() for rows in texts) / one.numel()


def _n_tokens(base: ModelView, options: Options) -> int:
    """Return the tokens of the text of gradient noise."""
    if options.noise.texts is not None:
        return sum(rows.numel() for rows in texts_of(base, options.noise))
    _, length, at_once = size_of_samples(base, options.noise)
    return sum(at_once) * (length + 1)
