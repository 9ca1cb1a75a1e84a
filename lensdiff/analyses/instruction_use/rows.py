"""The passes behind `instruction_use`: who says what, which text is forced, and what each model makes of it.

A pair is asked for one model at a time and as seldom as can be, so that a pair which keeps one model loads each once
or twice. A prompt that fails in one place fails everywhere: all its rows go.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lensdiff.analyses.instruction_use.result import REFERENCE
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.asked import Advance, Asked
from lensdiff.models.forced_reading import (
    Reading,
    base_readings,
    force_on_tuned,
    mean_log_probs,
    readings_of,
    tuned_readings,
)
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.text import encode, own_responses
from lensdiff.results import ControlModel, InputError

GIVEN = "given"  # the name of a text that was given
OWN = "own"  # the name of a single model's own response
Texts = Mapping[str, Mapping[str, str | Response]]  # responses by the text's name and the prompt's id


class Forced(NamedTuple):
    """What one model reads: a text after its prompt, then after each of the others."""

    text: str
    prompt: Prompt
    readings: list[Reading | None]


class Row(NamedTuple):
    """One response in one model; `model` counts the models, base and tuned first."""

    prompt_id: str
    text: str
    model: int
    n_out: int
    n_draws: int
    log_prob: float
    log_prob_without: float


@dataclass
class Run:
    """The prompts that are read, and what has been found so far.

    Attributes:
        asked: the prompts, and which have failed.
        others: the prompts that each is compared with; None for one of which nothing is left.
        advance: called when a model has read all responses.
        left_out: responses that are too short.
    """

    asked: Asked
    min_tokens: int
    max_new_tokens: int
    prepend_bos: bool | None
    others: Mapping[str, Sequence[Prompt | None]]
    advance: Advance
    rows: list[Row] = field(default_factory=list)
    left_out: int = 0

    def own(self, view: ModelView) -> dict[str, Response]:
        """Return the model's own greedy response to each prompt, cut to what fits after the longest of the others."""
        found = own_responses(view, self.asked, max_new_tokens=self.max_new_tokens, prepend_bos=self.prepend_bos)
        responses = {}
        for prompt in self.asked.going():
            with self.asked.guard(prompt):
                responses[prompt.id] = self._fitting(view, prompt, found[prompt.id])
        return responses

    def _fitting(self, view: ModelView, prompt: Prompt, response: Response) -> Response:
        texts = [text for text in (prompt, *self.others[prompt.id]) if text is not None]
        longest = max(len(encode(view, text, prepend_bos=self.prepend_bos).ids) for text in texts)
        ids = response.token_ids[: max(0, view.n_ctx - longest - 1)]  # one less: the other model may add a BOS
        if ids == response.token_ids:
            return response
        return replace(response, text=str(view.tokenizer.decode(list(ids))), token_ids=ids, end="")

    def each(self, texts: Texts) -> Iterator[tuple[str, Prompt, str | Response]]:
        """Yield the text's name, the prompt and the response of all that may be read; an empty text is left out."""
        for prompt in self.asked.going():
            for name, responses in texts.items():
                if prompt.id in self.asked.errors:
                    break
                response = responses.get(prompt.id)
                if response is None:
                    continue
                if isinstance(response, str) and not response.strip():
                    self.left_out += 1
                    continue
                yield name, prompt, response

    def long_enough(self, n_response: int) -> bool:
        """Return whether a response is read; one that is not is counted."""
        self.left_out += n_response < self.min_tokens
        return n_response >= self.min_tokens

    def add(self, view: ModelView, model: int, items: Sequence[Forced]) -> None:
        """Read responses after their prompts and after the others in one model, of all prompts that have not failed."""
        items = [item for item in items if item.prompt.id not in self.asked.errors]
        means = iter(mean_log_probs(view, [reading for item in items for reading in item.readings]).tolist())
        for item in items:
            with_it, *without = [next(means) for _ in item.readings]
            first = item.readings[0]
            assert first is not None
            mean = sum(without) / len(without)
            self.rows.append(Row(item.prompt.id, item.text, model, first.n_response, len(without), with_it, mean))
        self.advance(1)


def references(prompts: Sequence[Prompt]) -> dict[str, dict[str, str]]:
    """Return the prompts' own references as one more text, nothing where none has any."""
    found = {prompt.id: prompt.reference for prompt in prompts if prompt.reference.strip()}
    return {REFERENCE: found} if found else {}


def read_model(run: Run, view: ModelView, given: Texts | None) -> tuple[str, ...]:
    """Read every response in one model, and return the texts' names."""
    texts = given or {OWN: run.own(view), **references(run.asked.prompts)}
    forced = []
    for name, prompt, response in run.each(texts):
        with run.asked.guard(prompt):
            readings = readings_of(view, prompt, response, run.others[prompt.id], prepend_bos=run.prepend_bos)
            if readings[0] is not None and run.long_enough(readings[0].n_response):
                forced.append(Forced(name, prompt, readings))
    run.add(view, 0, forced)
    return tuple(texts)


def read_pair(
    run: Run, pair: ModelPair, given: Texts | None, controls: Iterable[Model]
) -> tuple[tuple[str, ...], tuple[ControlModel, ...]]:
    """Read every response in both models and in the controls; return the texts' names, and the controls."""
    texts: dict[str, Mapping[str, str | Response]] = dict(given or {"base": run.own(view_of(pair.base))})
    view = view_of(pair.tuned)
    if not given:
        texts |= {"tuned": run.own(view), **references(run.asked.prompts)}
    both, in_tuned, in_base = [], [], []
    for name, prompt, response in run.each(texts):
        with run.asked.guard(prompt):
            others = run.others[prompt.id]
            found = force_on_tuned(pair, view, prompt, response, others, prepend_bos=run.prepend_bos)
            if run.long_enough(found.first.tuned.n_response):
                both.append((name, prompt, found))
                in_tuned.append(Forced(name, prompt, tuned_readings(view, found)))
    run.add(view, 1, in_tuned)
    view = view_of(pair.base)
    for name, prompt, found in both:
        with run.asked.guard(prompt):
            in_base.append(Forced(name, prompt, base_readings(pair, view, found, prepend_bos=run.prepend_bos)))
    run.add(view, 0, in_base)
    read = (_read_control(run, view, control, 2 + i, in_base) for i, control in enumerate(controls))
    return tuple(texts), tuple(read)


def _read_control(run: Run, base: ModelView, model: Model, place: int, forced: Sequence[Forced]) -> ControlModel:
    """Read what the base read; a control that was made for it is let go of."""
    view = view_of(model)
    if view.d_vocab != base.d_vocab:
        raise InputError(f"control {view.info.id} has d_vocab {view.d_vocab}, expected the base's {base.d_vocab}")
    was_made = view.is_made
    run.add(view, place, forced)
    if not was_made:
        view.free()
    return ControlModel(view.info.id, view.control)
