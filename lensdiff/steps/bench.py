"""What an estimate's times are measured on: a pair in memory, or, before anything is loaded, stand-ins of it.

A pair is measured as it is. Of a checkpoint whose header alone is known, random models of a few of its layers are timed
(`lensdiff.models.stand_in`), and what they take is extended by a straight line to all of them:

    t(n) = ends + n * layer        measured at two depths

Layers of more than `LAYER` parameters are timed at a part of their width; what passes take grows with the parameters,
what decompositions take with parameters times width, and matrices are decomposed at a width of at most `DECOMPOSED`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from lensdiff.models import ModelView, control_cost, view_of
from lensdiff.models.controlling.options import KEPT, TRAINED
from lensdiff.models.costs import ByWeights, ControlCost, cost_of_passes, cost_of_weights
from lensdiff.models.facts import n_parameters
from lensdiff.models.inside.parts import Sizes
from lensdiff.models.loading.headers import Header, count_parameters
from lensdiff.models.loading.load import load_model, quiet
from lensdiff.models.pair import ModelPair, load_pair
from lensdiff.models.progress import unseen
from lensdiff.models.stand_in import changed, random_model, reduced
from lensdiff.results import InputError
from lensdiff.steps.clock import alternately

LAYER = 2**24  # parameters of a layer that is timed at its own width
TIMED = 3 * 2**23  # parameters of all layers of a stand-in
PASS = 64  # tokens of a pass whose depth counts
SHALLOW = 3  # how many times as deep the deeper of two stand-ins is
DECOMPOSED = 256  # width of the layer whose matrices are decomposed
ROWS = 2**14  # of the embeddings that are decomposed
DEQUANTISED = 2.2e-8  # seconds of a number that is a code in a file
READINGS = 4 / 3  # times that a load reads a GGUF file's metadata, of which a header takes the others
READ = 1.5e-9  # seconds of a byte of a file, read and held against the model
MERGED = 4e-8  # seconds of a parameter that an adapter is put on


Works = Callable[[ModelView], Sequence[Callable[[], object]]]


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
    def measure(self, works: Works, *, grad: bool = False) -> tuple[float, ...]:
        """Return the seconds of some works on the base, given as functions of a model.

        Args:
            grad: leave gradients on.
        """

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

    def measure(self, works: Works, *, grad: bool = False) -> tuple[float, ...]:
        with torch.set_grad_enabled(grad):
            return alternately(*works(self.view))

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

    def measure(self, works: Works, *, grad: bool = False) -> tuple[float, ...]:
        own = [works(depth.view) for depth in self._depths]
        with torch.set_grad_enabled(grad):
            times = alternately(*(work for of_one in own for work in of_one))  # the difference of depths counts
        n = len(own[0])
        if len(own) == 1:
            return times
        return tuple(self._extended(*pair) for pair in zip(times[:n], times[n:], strict=True))

    def _extended(self, short: float, long: float) -> float:
        """Return what takes so long at two depths for all layers at their own width."""
        few, many = (depth.n_layers for depth in self._depths)
        layer = max(0.0, (long - short) / (many - few))
        ends = max(0.0, long - many * layer)
        return self._scales[0] * ends + self._scales[1] * self.sizes.n_layers * layer

    @cached_property
    def _deeper(self) -> float:
        """How many times as long a pass takes as one through the deepest stand-in."""
        tokens = torch.arange(PASS, device=self.sizes.device)[None] % self.sizes.d_vocab
        works: Works = lambda view: [lambda: view.forward.logits(tokens)]  # noqa: E731 (measured twice)
        with torch.no_grad():
            return self.measure(works)[0] / alternately(*works(self.view))[0] if len(self._depths) > 1 else 1.0

    @property
    def largest(self) -> int:
        """Parameters of a layer, or of what is outside of all layers, whichever are more."""
        return max(self._layer, self._ends)

    @property
    def loading(self) -> float:
        """Seconds until both models are in memory, verified."""
        deepest = self._depths[-1]
        wrapped = deepest.seconds * self.parameters / n_parameters(deepest.view)
        return sum(wrapped + self._reading(header) for header in (self.base, self.tuned))

    def _reading(self, header: Header) -> float:
        # what stands around the weights is read again, of a GGUF file once more by the library that reads them
        found = header.seconds * (READINGS if header.n_dequantised else 1)
        found += READ * (header.n_bytes or self.parameters * self.dtype.itemsize) + DEQUANTISED * header.n_dequantised
        return found + (MERGED * self.parameters if header.changed else 0.0)

    def control(self, kind: str, **options: Any) -> ControlCost:
        once, each = cost_of_weights(self._narrow, kind, **options)
        passes = ControlCost(0.0, 0.0)
        if kind in KEPT:  # the others are made of weights alone
            passes = self._passes(self._depths[-1], kind, options)
        before, per_control = (self._deeper * seconds for seconds in (passes.once, passes.each))
        return ControlCost(before + self._whole(once), per_control + self._whole(each))

    def _passes(self, depth: _Depth, kind: str, options: dict[str, Any]) -> ControlCost:
        with quiet(), unseen():
            tuned: Any = depth.view.model  # the base's own text and gradients need no other model, training does
            if kind in TRAINED:
                how: Any = {"device": self.device, "dtype": self.dtype, "verify": False, **self.how}
                tuned = load_model(changed(depth.source, self.tuned.changed), tokenizer=depth.view._tokenizer, **how)
            return cost_of_passes(load_pair(depth.view.model, tuned), kind, **options)

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
