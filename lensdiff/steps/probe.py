"""What an estimate knows of the machine and of the work: short measurements, each made when it is first asked for."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch

from lensdiff.inputs.characters import lone_surrogate
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView
from lensdiff.models.decoding import greedy
from lensdiff.models.inside.parts import Sizes
from lensdiff.models.text import encode
from lensdiff.results import InputError
from lensdiff.steps.bench import Bench
from lensdiff.steps.clock import seconds
from lensdiff.steps.unit import Unit

T = TypeVar("T")
PROBED_TOKENS = 8
LONG = 32  # tokens of the longer text that is timed, if prompts are shorter
DECOMPOSED = 256  # largest matrix that is decomposed for a measurement
WORD_BYTES = 12.0  # of a word of a list, with what separates it from the next
DRAWN = 32  # operations per number of a control's matrix and d_model


class Passing(NamedTuple):
    """Seconds of a forward pass: of each, and of each of its tokens beside that."""

    each: float
    per_token: float


@dataclass
class Probe:
    """See the module.

    Attributes:
        bench: what is measured on; prompts: those of the run; n_words: of the word list, 0 where no analysis reads
            words.
        n_response: most tokens of a response.
        controls: how many stand beside each analysis; whole: the names of those that are made as whole models.
        n_texts: plain texts, 0 where no analysis reads them.
        together: most responses that are decoded at once.
    """

    bench: Bench
    prompts: Mapping[str, Prompt]
    n_response: int
    n_words: int
    controls: Mapping[str, int] = field(default_factory=dict)
    n_texts: int = 0
    whole: Collection[str] = ()
    together: int = 1
    _known: dict[str, object] = field(default_factory=dict)

    @property
    def view(self) -> ModelView:
        """A model with the base's tokenizer, which may have fewer layers than the base: `sizes` has how many."""
        return self.bench.view

    @cached_property
    def sizes(self) -> Sizes:
        """How large the models are."""
        return self.bench.sizes

    @cached_property
    def parameters(self) -> int:
        return self.bench.parameters

    @cached_property
    def rate(self) -> float:
        """Floating-point operations a second of a matrix product."""
        square = torch.randn(512, 512, device=self.sizes.device)
        return 2 * 512**3 / seconds(lambda: square @ square)

    @cached_property
    def n_prompt(self) -> float:
        """Mean tokens of a prompt."""
        lengths = [length for prompt in self.prompts.values() if (length := _length(self.view, prompt))] or [10]
        return sum(lengths) / len(lengths)

    @cached_property
    def n_reference(self) -> float:
        """Mean tokens of the prompts' references, 0 where there are none."""
        references = [prompt.reference for prompt in self.prompts.values() if prompt.reference]
        if not references:
            return 0.0
        tokens = self.bench.tokenizer
        # half a character fails its prompt alone, later
        lengths = [len(tokens(text)["input_ids"]) for text in references if lone_surrogate(text) is None]
        return sum(lengths) / len(lengths) if lengths else 0.0

    @property
    def word_list(self) -> float:
        """Bytes of the word list, as a result that reads words holds it."""
        return WORD_BYTES * self.n_words

    @property
    def n_text(self) -> float:
        """Tokens of a prompt and its response."""
        return self.n_prompt + self.n_response

    def read(self, tokens: int | float, passes: int = 1) -> float:
        """Return the seconds of forward passes over so many tokens altogether."""
        return passes * self.passing.each + tokens * self.passing.per_token

    @cached_property
    def passing(self) -> Passing:
        """What a forward pass takes, by its length: measured on a short and on a longer text."""
        long = self._fitting(max(LONG, self.n_prompt))
        short = max(1, long // 8)

        times = self.bench.measure(
            lambda view: [lambda n=n: view.forward.logits(self._tokens(n)[None]) for n in (short, long)]
        )
        per_token = max(0.0, times[1] - times[0]) / max(1, long - short)
        return Passing(max(0.0, times[1] - long * per_token), per_token)

    @cached_property
    def step(self) -> float:
        """Seconds of a generated token."""
        return self._step(1)

    def respond(self, at_once: int) -> float:
        """Return the seconds to answer a prompt with the longest response, one of so many that are decoded together."""
        step = self.step if at_once == 1 else self.once(f"step of {at_once}", lambda probe: probe._step(at_once))
        return step * self.n_response + self.read(self.n_prompt)

    def _step(self, at_once: int) -> float:
        tokens = self._tokens(self._fitting(self.n_prompt)).cpu()

        def generate(view: ModelView) -> list[Callable[[], object]]:
            lengths = 1, 1 + PROBED_TOKENS
            return [lambda n=n: greedy(view, [tokens] * at_once, max_new_tokens=n, stops=()) for n in lengths]

        one, more = self.bench.measure(generate)
        return max(0.0, more - one) / PROBED_TOKENS / at_once

    def decompose(self, n: int, dtype: torch.dtype = torch.float32) -> float:
        """Return the seconds of a singular value decomposition of n x n on the CPU: a smaller one's, by the cube."""
        size = min(n, DECOMPOSED)

        def measure(probe: "Probe") -> float:
            square = torch.randn(size, size, dtype=dtype)
            return seconds(lambda: torch.linalg.svd(square))

        return self.once(f"decompose {size} {dtype}", measure) * (n / size) ** 3

    def _fitting(self, n: int | float) -> int:
        return min(max(2, int(n)), self.sizes.n_ctx - PROBED_TOKENS - 2)

    def _tokens(self, n: int) -> torch.Tensor:
        return torch.arange(n, device=self.sizes.device) % self.sizes.d_vocab

    def once(self, name: str, measure: Callable[["Probe"], T]) -> T:
        """Return a measurement of an analysis' own, made when it is first asked for."""
        if name not in self._known:
            self._known[name] = measure(self)
        return self._known[name]  # type: ignore[return-value]

    def n_layers(self, unit: Unit, chosen: list[int] | None = None) -> int:
        """Return how many layers a unit reads: its own, or all that are chosen."""
        if unit.layers is not None:
            return len(unit.layers)
        return self.sizes.n_layers if chosen is None else len(chosen)

    def until(self, layers: list[int] | None) -> float:
        """Return the share of a pass that ends behind the last of some layers: all of it where none are chosen."""
        return 1.0 if layers is None else min(1.0, (max(layers) + 1) / self.sizes.n_layers)

    def n_controls(self, analysis: str) -> int:
        """Return how many controls stand beside an analysis."""
        return self.controls.get(analysis, 0)

    def drawing(self, unit: Unit, columns: int) -> float:
        """Return the seconds in which a matrix of a control is drawn for a unit: none for a model's own.

        Two orthonormal factors and their product, in float64; where the control is a whole model they are there.
        """
        if unit.control is None or unit.control in self.whole:
            return 0.0
        return DRAWN * self.sizes.d_model**2 * columns / self.rate


def _length(view: ModelView, prompt: Prompt) -> int:
    try:
        return len(encode(view, prompt).ids)
    except InputError:  # its own unit says why
        return 0
