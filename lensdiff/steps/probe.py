"""What an estimate knows of the machine and of the work: short measurements, each made when it is first asked for."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch

from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView, view_of
from lensdiff.models.decoding import greedy
from lensdiff.models.pair import ModelPair
from lensdiff.models.text import encode
from lensdiff.results import InputError
from lensdiff.steps.unit import Unit

T = TypeVar("T")
PROBED_TOKENS = 8


@dataclass
class Probe:
    """See the module.

    Attributes:
        pair: the two models; prompts: those of the run; n_words: of the word list, 0 where no analysis reads words.
        n_response: most tokens of a response.
        controls: how many stand beside each analysis.
    """

    pair: ModelPair
    prompts: Mapping[str, Prompt]
    n_response: int
    n_words: int
    controls: Mapping[str, int] = field(default_factory=dict)
    _known: dict[str, object] = field(default_factory=dict)

    @cached_property
    def view(self) -> ModelView:
        """The base."""
        return view_of(self.pair.base)

    @cached_property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.view.model.parameters())

    @cached_property
    def rate(self) -> float:
        """Floating-point operations a second of a matrix product."""
        square = torch.randn(512, 512, device=self.view.device)
        return 2 * 512**3 / seconds(lambda: square @ square)

    @cached_property
    def n_prompt(self) -> float:
        """Mean tokens of a prompt."""
        lengths = [length for prompt in self.prompts.values() if (length := _length(self.view, prompt))] or [10]
        return sum(lengths) / len(lengths)

    @property
    def n_text(self) -> float:
        """Tokens of a prompt and its response."""
        return self.n_prompt + self.n_response

    @cached_property
    def forward(self) -> float:
        """Seconds of a forward pass, per token of it."""
        tokens = self._tokens
        with torch.no_grad():
            return seconds(lambda: self.view.forward.logits(tokens[None])) / len(tokens)

    @cached_property
    def step(self) -> float:
        """Seconds of a generated token."""
        tokens = self._tokens.cpu()
        with torch.no_grad():
            work = seconds(lambda: greedy(self.view, [tokens], max_new_tokens=PROBED_TOKENS, stops=()))
        return work / PROBED_TOKENS

    @property
    def respond(self) -> float:
        """Seconds to answer a prompt."""
        return self.step * self.n_response + self.forward * self.n_prompt

    @property
    def _tokens(self) -> torch.Tensor:
        n = min(max(2, int(self.n_prompt)), self.view.n_ctx - PROBED_TOKENS - 1)
        return torch.arange(n, device=self.view.device) % self.view.d_vocab

    def once(self, name: str, measure: Callable[["Probe"], T]) -> T:
        """Return a measurement of an analysis' own, made when it is first asked for."""
        if name not in self._known:
            self._known[name] = measure(self)
        return self._known[name]  # type: ignore[return-value]

    def n_layers(self, unit: Unit, chosen: list[int] | None = None) -> int:
        """Return how many layers a unit reads: its own, or all that are chosen."""
        if unit.layers is not None:
            return len(unit.layers)
        return self.view.n_layers if chosen is None else len(chosen)

    def n_controls(self, analysis: str) -> int:
        """Return how many controls stand beside an analysis."""
        return self.controls.get(analysis, 0)

    def making(self, columns: int) -> int:
        """Return the operations that draw a control's matrix: two orthonormal factors and their product."""
        return 8 * self.view.d_model**2 * columns


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes the second time; the first time allocates."""
    work()
    start = time.perf_counter()
    result = work()
    if isinstance(result, torch.Tensor) and result.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _length(view: ModelView, prompt: Prompt) -> int:
    try:
        return len(encode(view, prompt).ids)
    except InputError:  # its own unit says why
        return 0
