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


def control_cost(pair: ModelPair, kind: str, **options: Any) -> ControlCost:
    """Return what controls of a kind cost on a pair: the time of a part of the work, times how often it is done.

    Timed are the real change's singular values of the embeddings and one layer (they are kept), and for each kind the
    changes of those; three steps of training and a few tokens of its samples; one batch of text with its gradients.

    Args:
        options: as `ModelPair.control` takes them.

    Raises:
        InputError: as `ModelPair.control`.
    """
    chosen = checked(kind, options | ({"cache": None} if kind in KEPT else {}), user_folder())
    change, base = pair.change(), view_of(pair.base)
    if kind == "self":
        return ControlCost(0.0, 0.0)
    weights = [weight for weight in base.weights.known() if weight.layer in (None, 0)]
    times = [base.n_layers if weight.layer == 0 else 1 for weight in weights]
    once = sum(n * _seconds(lambda w=w: change.singular_values(w)) for n, w in zip(times, weights, strict=True))
    workshop = Workshop(base, view_of(pair.tuned), change)
    if kind in TRAINED:
        return ControlCost(once, _training(workshop, kind, chosen))
    maker = workshop.maker(kind, 0, chosen)
    if kind == "gradient-noise":
        text, maker = _text(base, chosen)
        once += text
    each = sum(n * _seconds(lambda w=w: _drawn(workshop, maker, w)) for n, w in zip(times, weights, strict=True))
    return ControlCost(once, each)


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


def _text(base: ModelView, options: Options) -> tuple[float, Maker]:
    """Return the seconds of the text with its gradients, and a maker that takes as long as one of the text would."""
    if options.noise.texts is None:
        rows, length, at_once = size_of_samples(base, options.noise)
        seconds, texts = _samples(base, rows, length), [torch.zeros(n, length + 1, dtype=torch.int64) for n in at_once]
    else:
        seconds, texts = 0.0, texts_of(base, options.noise)
    tokens = [rows.numel() for rows in texts]
    one = max(texts, key=len)
    seconds += _seconds(lambda: collect(base, [one])) * sum(tokens) / one.numel()
    return seconds, FromGradients(stand_in(base, sum(tokens)), 0, options.noise.divide)
