"""What a config names beside the models, each read once: prompts, responses to them, words, texts, tuning data."""

from functools import cached_property
from typing import Any

from lensdiff.inputs.prompts import Prompt, load_prompts
from lensdiff.inputs.texts import load_texts, shipped_texts
from lensdiff.inputs.tuning_data import load_tuning_data
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.pipeline.config import PromptEntry, RunConfig


class Material:
    """See the module. Asking for anything unusable raises an InputError.

    Attributes:
        config: that names it.
    """

    def __init__(self, config: RunConfig):
        self.config = config

    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """The prompts of the config, from its file or its own, by their ids; those without one by their number."""
        if self.config.prompts:
            found = load_prompts(self.config.path(self.config.prompts))
        else:
            found = [_prompt_of(entry, number) for number, entry in enumerate(self.config.prompt, start=1)]
        return {prompt.id: prompt for prompt in found[: self.config.max_prompts]}

    @cached_property
    def given(self) -> dict[str, str]:
        """The responses that the config gives prompts, by their ids."""
        entries = enumerate(self.config.prompt, start=1)
        return {entry.id or str(i): entry.response for i, entry in entries if entry.response is not None}

    @cached_property
    def data(self) -> list[tuple[str, str]]:
        """Prompts and responses of the tuning data, none where the config names none."""
        given = self.config.controls.data
        return [] if given is None else load_tuning_data(self.config.path(given))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Plain texts, from the config's file or those that ship."""
        given = self.config.texts
        return shipped_texts() if given == "default" else load_texts(self.config.path(given))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        given = self.config.vocabulary
        return Vocabulary.default() if given == "default" else Vocabulary.read(self.config.path(given))


def _prompt_of(entry: PromptEntry, number: int) -> Prompt:
    more: Any = {"id": entry.id or str(number), "kind": entry.kind, "reference": entry.reference}
    if entry.messages is not None:
        return Prompt.of_messages([message.model_dump() for message in entry.messages], **more)
    assert entry.text is not None
    return Prompt(entry.text, tuple(entry.instruction), tuple(entry.context), **more)
