"""What an estimate's times are measured on: a pair in memory, or, before anything is loaded, stand-ins of it.

A pair is measured as it is. Of a checkpoint whose header alone is known, random models of a few of its layers are timed
(`lensdiff.models.stand_in`), and what they take is extended by a straight line to all of them:

    t(n) = ends + n * layer        measured at two depths

Layers of more than `LAYER` parameters are timed at a part of their width; what passes take grows with the parameters,
what decompositions take with parameters times width, and matrices are decomposed at a width of at most `DECOMPOSED`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from lensdiff.models import ModelView, control_cost, view_of
from lensdiff.models.costs import ByWeights, ControlCost, cost_of_passes, cost_of_weights
from lensdiff.models.facts import n_parameters
from lensdiff.models.inside.parts import Sizes
from lensdiff.models.loading.headers import Header, count_parameters
from lensdiff.models.loading.load import load_model, quiet
from lensdiff.models.pair import ModelPair, load_pair
from lensdiff.models.progress import unseen
from lensdiff.models.stand_in import changed, random_model, reduced
from lensdiff.results import InputError

LAYER = 2**24  # parameters of a layer that is timed at its own width
TIMED = 3 * 2**23  # parameters of all layers of a stand-in
SHALLOW = 3  # how many times as deep the deeper of two stand-ins is
DECOMPOSED = 256  # width of the layer whose matrices are decomposed
ROWS = 2**14  # of the embeddings that are decomposed
DEQUANTISED = 2.2e-8  # seconds of a number that is a code in a file
READ = 1.5e-9  # seconds of a byte of a file, read and held against the model
MERGED = 4e-8  # seconds of a parameter that an adapter is put on


class Bench(ABC):
    """See the module.

    Attributes:
        sizes: how large a model of the pair is; parameters: how many it has.
    """

    sizes: Sizes
    parameters: int

    @property
    @abstractmethod
    def view(self) -> ModelView:
        """A model that can be run, with the base's tokenizer and vocabulary."""

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's."""

    @abstractmethod
    def measure(self, work: Callable[[ModelView], tuple[float, ...]]) -> tuple[float, ...]:
        """Return the seconds of some work on the base, which says how long it took on a model."""

    @abstractmethod
    def control(self, kind: str, **options: Any) -> ControlCost:
        """Return what controls of a kind cost, made as whole models."""


class Loaded(Bench):
    """A pair in memory."""

    def __init__(self, pair: ModelPair):
        self.pair = pair

    @property
    def view(self) -> ModelView:
        return view_of(self.pair.base)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.view.tokenizer

    @cached_property
    def sizes(self) -> Sizes:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.view.weights.sizes

    @cached_property
    def parameters(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return n_parameters(self.view)

    def measure(self, work: Callable[[ModelView], tuple[float, ...]]) -> tuple[float, ...]:
        return work(self.view)

    def control(self, kind: str, **options: Any) -> ControlCost:
        return control_cost(self.pair, kind, **options)


@dataclass(frozen=True)
class _Depth:
    """One stand-in.

    Attributes:
        seconds: that it took to be made of a model of `transformers`, and verified.
    """

    source: Any
    view: ModelView
    n_layers: int
    seconds: float


class StandIn(Bench):
    """A pair of which the headers alone are known; its stand-ins are made when they are first asked for."""

    def __init__(self, base: Header, tuned: Header, dtype: torch.dtype, device: str, **how: Any):
        """Keep what stand-ins are made of.

        Args:
            how: weights and wrapper, as `load_model` takes them.
        """
        self.base, self.tuned, self.dtype, self.device, self.how = base, tuned, dtype, device, how
        self.sizes, self.parameters = base.sizes(dtype, device), base.n_parameters
        none, one = (count_parameters(reduced(base.config, n), base.id) for n in (1, 2))
        self._layer, self._ends = one - none, max(0, 2 * none - one)

    @property
    def view(self) -> ModelView:
        return self._depths[-1].view

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's.

        Raises:
            InputError: it has none, or none that can be read.
        """
        return self._tokenizer(self.base)

    @property
    def own_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tuned model's; errors as `tokenizer`."""
        return self._tokenizer(self.tuned)

    def _tokenizer(self, header: Header) -> PreTrainedTokenizerBase:
        if isinstance(header.tokenizer, InputError):
            raise header.tokenizer
        if header.tokenizer is None:
            raise InputError(
                f"no tokenizer of {header.id} was found, and what is asked for reads text: put its files into the "
                "checkpoint's folder"
            )
        return header.tokenizer

    @cached_property
    def narrower(self) -> int:
        """By how much the layers of stand-ins are narrower."""
        return max(1, round((self._layer / LAYER) ** 0.5 + 0.49)) if self._layer > LAYER else 1

    @cached_property
    def _scales(self) -> tuple[float, float]:
        """How many times as many parameters there are in the ends and in a layer as in those of a stand-in."""
        return self._times(self.narrower, None)

    def _times(self, narrower: int, d_vocab: int | None) -> tuple[float, float]:
        if narrower == 1 and d_vocab is None:
            return 1.0, 1.0
        config = self.base.config
        counts = [
            count_parameters(reduced(config, n, narrower=narrower, d_vocab=d_vocab), self.base.id) for n in (1, 2)
        ]
        layer = counts[1] - counts[0]
        return self._ends / max(1, counts[0] - layer), self._layer / max(1, layer)

    @cached_property
    def _depths(self) -> list[_Depth]:
        most, n_layers = max(2, int(TIMED // max(1, self._layer / self._scales[1]))), self.sizes.n_layers
        depths = [n_layers] if n_layers <= max(2, most) else [max(1, most // SHALLOW), most]
        return [self._made(n) for n in depths]

    def _made(self, n_layers: int) -> _Depth:
        config = reduced(self.base.config, n_layers, narrower=self.narrower)
        source = random_model(config, self.dtype, self.base.id)
        tokenizer = None if isinstance(self.base.tokenizer, InputError) else self.base.tokenizer
        start = time.perf_counter()
        with quiet(), unseen():
            options: Any = {"device": self.device, "dtype": self.dtype, "tokenizer": tokenizer, **self.how}
            view = view_of(load_model(source, **options))
        return _Depth(source, view, n_layers, time.perf_counter() - start)

    def measure(self, work: Callable[[ModelView], tuple[float, ...]]) -> tuple[float, ...]:
        return self._extended([(depth.n_layers, work(depth.view)) for depth in self._depths])

    def _extended(self, measured: list[tuple[int, tuple[float, ...]]]) -> tuple[float, ...]:
        """Return what was measured at one or two depths for all layers at their own width."""
        if len(measured) == 1:
            return measured[0][1]
        (few, short), (many, long) = measured
        found = []
        for a, b in zip(short, long, strict=True):
            layer = max(0.0, (b - a) / (many - few))
            ends = max(0.0, b - many * layer)
            found.append(self._scales[0] * ends + self._scales[1] * self.sizes.n_layers * layer)
        return tuple(found)

    @property
    def largest(self) -> int:
        """Parameters of a layer, or of what is outside of all layers, whichever are more."""
        return max(self._layer, self._ends)

    @property
    def loading(self) -> float:
        """Seconds until both models are in memory, verified."""
        (wrapped,) = self._extended([(depth.n_layers, (depth.seconds,)) for depth in self._depths])
        return sum(wrapped + self._reading(header) for header in (self.base, self.tuned))

    def _reading(self, header: Header) -> float:
        found = READ * (header.n_bytes or self.parameters * self.dtype.itemsize) + DEQUANTISED * header.n_dequantised
        return found + (MERGED * self.parameters if header.changed else 0.0)

    def control(self, kind: str, **options: Any) -> ControlCost:
        once, each = cost_of_weights(self._narrow, kind, **options)
        found = [(depth.n_layers, self._passes(depth, kind, options)) for depth in self._depths]
        before, per_control = self._extended(found)
        return ControlCost(before + self._whole(once), per_control + self._whole(each))

    def _passes(self, depth: _Depth, kind: str, options: dict[str, Any]) -> tuple[float, float]:
        with quiet(), unseen():
            # the base's own text and gradients need no other model: none is made but for training
            other = changed(depth.source, self.tuned.changed) if kind in ("distilled", "shuffled") else depth.source
            how: Any = {"device": self.device, "dtype": self.dtype, "verify": False, **self.how}
            tuned = load_model(other, tokenizer=depth.view._tokenizer, **how)
            found = cost_of_passes(load_pair(depth.view.model, tuned), kind, **options)
        return found.once, found.each

    def _whole(self, seconds: ByWeights) -> float:
        by, (ends, layer) = self._by, self._times(self._by, min(ROWS, self.sizes.d_vocab))
        wide = replace(seconds, ends=seconds.ends * ends * by, layer=seconds.layer * layer * by)
        return wide.of(self.sizes.n_layers)

    @property
    def _by(self) -> int:
        return max(1, -(-self.sizes.d_model // DECOMPOSED))

    @cached_property
    def _narrow(self) -> ModelPair:
        """A pair of one narrow layer, whose matrices are decomposed."""
        config = reduced(self.base.config, 1, narrower=self._by, d_vocab=min(ROWS, self.sizes.d_vocab))
        base = random_model(config, self.dtype, self.base.id)
        tuned = changed(base, self.tuned.changed)
        how: Any = {"device": self.device, "dtype": self.dtype, "verify": False, **self.how}
        with quiet(), unseen():
            return load_pair(base, tuned, **how)
