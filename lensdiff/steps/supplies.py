"""Where units get models and words from: each is loaded when first asked for, and of the controls one is in memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.pair import ModelPair
from lensdiff.models.templates import ChatTemplate
from lensdiff.results import Control, InputError
from lensdiff.steps.unit import SIDES


@dataclass
class Supplies:
    """See the module.

    Attributes:
        load_pair, load_vocabulary, load_data, load_texts: load what they are named after, the data being prompts and
            responses that the tuned model was tuned on, the texts plain ones.
        load_vectors: loads word vectors for a pair and a word list.
        told: returns what controls of a kind are told, beside the data.
    """

    load_pair: Callable[[], ModelPair]
    load_vocabulary: Callable[[], Vocabulary]
    load_vectors: Callable[[ModelPair, Vocabulary], WordVectors]
    load_data: Callable[[], list[tuple[str, str]]]
    load_texts: Callable[[], tuple[str, ...]]
    told: Callable[[str], Mapping[str, Any]]
    _control: tuple[Control, ModelView] | None = field(default=None, init=False)
    _rendered: dict[str, Prompt | InputError] = field(default_factory=dict, init=False)  # each is asked for many times

    @cached_property
    def pair(self) -> ModelPair:
        return self.load_pair()

    @cached_property
    def template(self) -> ChatTemplate:
        """The tuned model's chat template.

        Raises:
            InputError: its tokenizer has none.
        """
        return ChatTemplate.of(self.pair)

    def rendered(self, prompt: Prompt, template: str) -> Prompt:
        """Return a prompt as it is read, "raw" or "chat".

        Raises:
            InputError: it cannot be rendered.
        """
        if template == RAW:
            return prompt
        if prompt.id not in self._rendered:
            try:
                self._rendered[prompt.id] = self.template.render(prompt)
            except InputError as error:
                self._rendered[prompt.id] = error
        found = self._rendered[prompt.id]
        if isinstance(found, InputError):
            raise found
        return found

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return self.load_vocabulary()

    @cached_property
    def vectors(self) -> WordVectors:
        return self.load_vectors(self.pair, self.vocabulary)

    @cached_property
    def data(self) -> list[tuple[str, str]]:
        return self.load_data()

    @cached_property
    def texts(self) -> tuple[str, ...]:
        return self.load_texts()

    def side(self, name: str) -> Model:
        """Return the base or the tuned model."""
        assert name in SIDES
        return getattr(self.pair, name)

    def control(self, control: Control) -> ModelView:
        """Return a control model; the one before it is let go."""
        if self._control is None or self._control[0] != control:
            self.free()
            self._control = (
                control,
                view_of(self.pair.control(control.kind, control.seed, **self.options(control.kind))),
            )
        return self._control[1]

    def options(self, kind: str) -> dict[str, Any]:
        """Return what controls of a kind are made with, as `ModelPair.control` takes it."""
        return {**self.told(kind), **({"data": self.data} if kind == "shuffled" else {})}

    def free(self) -> None:
        """Let go of the control in memory."""
        if self._control is not None:
            self._control[1].free()
            self._control = None
