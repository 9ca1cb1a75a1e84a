"""One prompt, or a list of them, as everything that reads prompts takes them.

    one prompt    gives one result, and what goes wrong is raised
    a list        gives `Results` in the prompts' order, under a progress bar; one that fails is warned of and kept with
                  its reason, and the others go on; where all fail, the first one's reason is raised

In a list, a prompt without an id is called by its place, counted from 0. What fails a prompt is an InputError, or a
RuntimeError of no class of its own: running out of memory ends the call.

    template="raw"    prompts are read as they are
    template="chat"   each is first rendered by the model's chat template, of a pair by the tuned model's for both; a
                      result says so in its provenance (`options["template"]`)
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.inputs.spans import shorten
from lensdiff.models.progress import Advance, bar
from lensdiff.models.response import Response
from lensdiff.models.templates import Template, stamped, template_of
from lensdiff.results import InputError, Results
from lensdiff.results.memory import is_of_one_alone
from lensdiff.results.numbers import n_of

R = TypeVar("R")
Given = str | Response | None


def as_prompt(prompt: object) -> Prompt:
    """Return a prompt given as such or as a bare text.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(prompt, Prompt | str):
        raise InputError(f"expected a Prompt or a text, got {type(prompt).__name__}")
    return Prompt(prompt) if isinstance(prompt, str) else prompt


@dataclass
class Asked:
    """The prompts of one call, the responses that are given to them, and which of them have failed so far.

    Attributes:
        prompts: of a list each has an id of its own.
        single: one prompt was given, and no list: what goes wrong is raised.
        responses: to each prompt; None for the model's own.
        errors: what went wrong, by the prompt's id.
    """

    prompts: tuple[Prompt, ...]
    single: bool
    responses: tuple[Given, ...] = ()
    errors: dict[str, Exception] = field(default_factory=dict)

    @classmethod
    def of(cls, prompt: object, response: object = None, *, template: Template = RAW, model: Any = None) -> "Asked":
        """Return what is asked for by a prompt and its response, or by lists of them.

        Args:
            template: see the module; model: whose chat template it is, a model or a pair.

        Raises:
            InputError: neither a prompt nor a list of at least one, an id that comes twice, or responses that are not
                as many as the prompts; no such template, or a tokenizer without one; of one prompt: it cannot be
                rendered.
        """
        single = isinstance(prompt, Prompt | str)
        asked = cls((as_prompt(prompt),) if single else _numbered(prompt), single)
        asked.responses = asked.given(response)
        if (chosen := template_of(template, model)) is not None:
            asked.prompts = tuple(asked._rendered(prompt, chosen.render) for prompt in asked.prompts)
        return asked

    def _rendered(self, prompt: Prompt, render: Callable[[Prompt], Prompt]) -> Prompt:
        with self.guard(prompt):
            return render(prompt)
        return prompt  # one that failed

    def stamped(self, result: R, *prompts: Prompt) -> R:
        """Return a result that says how its prompts, by default all, were rendered; of raw ones as it is."""
        names = {prompt.template for prompt in (prompts or self.going())}
        return stamped(result, " and ".join(sorted(names)))

    def given(self, response: object) -> tuple[Given, ...]:
        """Return the response given to each prompt, None where there is none.

        A prompt whose response failed in the `Results` of `generate` fails with it.

        Raises:
            InputError: the responses are not as many as the prompts, or not those to these prompts.
        """
        if response is None:
            return (None,) * len(self.prompts)
        if self.single:
            if not isinstance(response, str | Response):
                raise InputError(f"one prompt takes one response, given {_kind(response)}")
            return (response,)
        if isinstance(response, Results):
            return self._of_results(response)
        given = n_of(len(self.prompts), "prompt")
        if not isinstance(response, Sequence) or isinstance(response, str):
            raise InputError(f"{given} given with a single response, expected as many")
        if len(response) != len(self.prompts):
            raise InputError(f"{given} given with {n_of(len(response), 'response')}, expected as many")
        for one in response:
            if not isinstance(one, str | Response | None):
                raise InputError(f"a response is {shorten(one)}, expected a text or a Response for every prompt")
        return tuple(response)

    def _of_results(self, responses: Results) -> tuple[Given, ...]:
        if {*responses.by_id, *responses.failures} != {prompt.id for prompt in self.prompts}:
            raise InputError(
                f"{n_of(len(self.prompts), 'prompt')} given with responses to others "
                f"({shorten([*responses.by_id, *responses.failures])}), expected those to these prompts"
            )
        for prompt in self.prompts:
            if prompt.id in responses.failures:
                self.errors[prompt.id] = InputError(responses.failures[prompt.id])
        return tuple(responses.by_id.get(prompt.id) for prompt in self.prompts)

    @property
    def failures(self) -> dict[str, str]:
        """Why prompts failed, by id, in their order."""
        return {prompt.id: str(self.errors[prompt.id]) for prompt in self.prompts if prompt.id in self.errors}

    def going(self) -> list[Prompt]:
        """Return the prompts that have not failed."""
        return [prompt for prompt in self.prompts if prompt.id not in self.errors]

    @contextmanager
    def guard(self, prompt: Prompt) -> Iterator[None]:
        """Keep an error of this prompt, of a list, as its failure."""
        try:
            yield
        except (InputError, RuntimeError) as error:
            if self.single or not (isinstance(error, InputError) or is_of_one_alone(error)):
                raise
            self.errors[prompt.id] = error

    @contextmanager
    def bar(self, title: str, progress: bool | None, total: int | None) -> Iterator[Advance]:
        """Show a progress bar while the context lasts (see `progress`; of one prompt the time), yield what moves it."""
        if self.single:
            total, progress = None, progress and None
        with bar(title, total, progress=progress) as advance:
            yield advance

    def each(self, work: Callable[[Prompt, Given], R], title: str, progress: bool | None) -> dict[str, R]:
        """Return by id what is found in each prompt with its response, under a progress bar."""
        found: dict[str, R] = {}
        with self.bar(title, progress, len(self.prompts)) as advance:
            for prompt, response in zip(self.prompts, self.responses, strict=True):
                if prompt.id not in self.errors:
                    with self.guard(prompt):
                        found[prompt.id] = work(prompt, response)
                advance(1)
        return found

    def settle(self, *, stacklevel: int = 3) -> None:
        """Warn of each prompt that failed; by default the warning points at the caller's caller.

        Raises:
            InputError: all failed, with the reason of the first.
        """
        failures = self.failures
        if len(failures) == len(self.prompts):
            name, reason = next(iter(failures.items()))
            if len(failures) == 1:
                raise self.errors[name]
            raise InputError(f"none of {len(failures)} prompts could be read; {name!r}: {reason}") from self.errors[
                name
            ]
        for name, reason in failures.items():
            warnings.warn(f"prompt {name!r} failed: {reason}", stacklevel=stacklevel)

    def results(self, found: Mapping[str, R]) -> R | Results[R]:
        """Return the result of one prompt, or those of a list; see `settle`.

        Raises:
            InputError: all failed, with the reason of the first.
        """
        self.settle(stacklevel=4)
        told = {prompt.id: self.stamped(found[prompt.id], prompt) for prompt in self.going()}
        return told[self.prompts[0].id] if self.single else Results(told, self.failures)


def _numbered(prompts: object) -> tuple[Prompt, ...]:
    if not isinstance(prompts, Sequence) or not prompts:
        given = shorten(prompts) if isinstance(prompts, Sequence | int) else type(prompts).__name__
        raise InputError(f"expected a Prompt, a text or a list of them, got {given}")
    named = [as_prompt(prompt) for prompt in prompts]
    named = [prompt if prompt.id else replace(prompt, id=str(place)) for place, prompt in enumerate(named)]
    seen: set[str] = set()
    for prompt in named:
        if prompt.id in seen:
            raise InputError(f"the id {prompt.id!r} comes twice among the prompts, expected each once")
        seen.add(prompt.id)
    return tuple(named)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
