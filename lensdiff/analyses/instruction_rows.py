"""The passes behind `instruction_use`: who says what, which text is forced, and what each model makes of it.

A pair is asked for one model at a time and as seldom as can be, so that a pair which keeps one model loads each once
or twice. A prompt that fails in one place fails everywhere: all its rows go.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lensdiff.analyses.forced_reading import (
    Reading,
    base_readings,
    force_on_tuned,
    mean_log_probs,
    readings_of,
    tuned_readings,
)
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.pair import ModelPair
from lensdiff.models.text import Response, encode, generate
from lensdiff.results import InputError

GIVEN = "given"  # the kind of a control that was not made by a pair, and the name of a text that was given
OWN = "own"  # the name of a single model's own response
Texts = Mapping[str, Mapping[str, str | Response]]  # responses by the text's name and the prompt's id


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
        prompts: with distinct ids.
        raising: let an error pass; else it is listed and the other prompts go on.
        others: the prompts that each is compared with; None for one of which nothing is left.
        left_out: responses that are too short.
    """

    prompts: Sequence[Prompt]
    raising: bool
    min_tokens: int
    max_new_tokens: int
    prepend_bos: bool | None
    others: dict[str, Sequence[Prompt | None]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    left_out: int = 0

    @contextmanager
    def guard(self, prompt: Prompt) -> Iterator[None]:
        """List an error of this prompt as its failure."""
        try:
            yield
        except (InputError, RuntimeError) as error:
            if self.raising:
                raise
            self.failures[prompt.id] = str(error)

    def going(self) -> list[Prompt]:
        """Return the prompts that have not failed."""
        return [prompt for prompt in self.prompts if prompt.id not in self.failures]

    def own(self, view: ModelView) -> dict[str, Response]:
        """Return the model's own greedy response to each prompt, cut to what fits after the longest of the others."""
        options = {"max_new_tokens": self.max_new_tokens, "prepend_bos": self.prepend_bos}
        prompts, responses = self.going(), {}
        try:
            found = generate(view, prompts, **options)
        except (InputError, RuntimeError):  # of one of them: which one?
            found = [None] * len(prompts)
        for prompt, response in zip(prompts, found, strict=True):
            with self.guard(prompt):
                responses[prompt.id] = self._fitting(view, prompt, response or generate(view, prompt, **options))
        return responses

    def _fitting(self, view: ModelView, prompt: Prompt, response: Response) -> Response:
        texts = [text for text in (prompt, *self.others[prompt.id]) if text is not None]
        longest = max(len(encode(view, text, prepend_bos=self.prepend_bos).ids) for text in texts)
        ids = response.token_ids[: max(0, view.n_ctx - longest - 1)]  # one less: the other model may add a BOS
        if ids == response.token_ids:
            return response
        return replace(response, text=str(view.tokenizer.decode(list(ids))), token_ids=ids)

    def each(self, texts: Texts) -> Iterator[tuple[str, Prompt, str | Response]]:
        """Yield the text's name, the prompt and the response of all that may be read; an empty text is left out."""
        for prompt in self.going():
            for name, responses in texts.items():
                if prompt.id in self.failures:
                    break
                response = responses[prompt.id]
                if isinstance(response, str) and not response.strip():
                    self.left_out += 1
                    continue
                yield name, prompt, response

    def long_enough(self, n_response: int) -> bool:
        """Return whether a response is read; one that is not is counted."""
        self.left_out += n_response < self.min_tokens
        return n_response >= self.min_tokens

    def add(self, view: ModelView, model: int, text: str, prompt: Prompt, readings: Sequence[Reading | None]) -> None:
        """Read a response after its prompt and after the others in one model."""
        assert readings[0] is not None
        with_it, *without = mean_log_probs(view, readings).tolist()
        mean = sum(without) / len(without)
        self.rows.append(Row(prompt.id, text, model, readings[0].n_response, len(without), with_it, mean))


def read_model(run: Run, view: ModelView, given: Texts | None) -> None:
    """Read every response in one model."""
    for name, prompt, response in run.each(given or {OWN: run.own(view)}):
        with run.guard(prompt):
            readings = readings_of(view, prompt, response, run.others[prompt.id], prepend_bos=run.prepend_bos)
            if readings[0] is not None and run.long_enough(readings[0].n_response):
                run.add(view, 0, name, prompt, readings)


def read_pair(run: Run, pair: ModelPair, given: Texts | None, controls: Iterable[Model]) -> list[tuple[str, str]]:
    """Read every response in both models and in the controls; return name and kind of each control."""
    texts: dict[str, Mapping[str, str | Response]] = dict(given or {"base": run.own(view_of(pair.base))})
    view = view_of(pair.tuned)
    if not given:
        texts["tuned"] = run.own(view)
    forced, kept = [], []
    for name, prompt, response in run.each(texts):
        with run.guard(prompt):
            others = run.others[prompt.id]
            both = force_on_tuned(pair, view, prompt, response, others, prepend_bos=run.prepend_bos)
            if run.long_enough(both.first.tuned.n_response):
                forced.append((name, prompt, both))
                run.add(view, 1, name, prompt, tuned_readings(view, both))
    view = view_of(pair.base)
    for name, prompt, both in forced:
        with run.guard(prompt):
            readings = base_readings(pair, view, both, prepend_bos=run.prepend_bos)
            kept.append((name, prompt, readings))
            run.add(view, 0, name, prompt, readings)
    kept = [item for item in kept if item[1].id not in run.failures]
    return [_read_control(run, view, control, 2 + i, kept) for i, control in enumerate(controls)]


def _read_control(
    run: Run, base: ModelView, model: Model, place: int, kept: Sequence[tuple[str, Prompt, list[Reading | None]]]
) -> tuple[str, str]:
    """Read what the base read; a control that was made for it is let go of."""
    view = view_of(model)
    if view.d_vocab != base.d_vocab:
        raise InputError(f"control {view.info.id} has d_vocab {view.d_vocab}, expected the base's {base.d_vocab}")
    was_made = view.is_made
    for name, prompt, readings in kept:
        run.add(view, place, name, prompt, readings)
    if not was_made:
        view.free()
    return view.info.id, GIVEN if view.control is None else view.control.kind
