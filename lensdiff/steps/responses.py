"""What models answer to prompts, and the texts on which all models are read: shared by every analysis of prompts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView, view_of
from lensdiff.models.asked import Asked
from lensdiff.models.decoding import BATCH_SIZE as AT_ONCE
from lensdiff.models.forced_text import as_base_reads
from lensdiff.models.pair import ModelPair
from lensdiff.models.text import MAX_NEW_TOKENS, Response, own_responses, token_strings
from lensdiff.results import InputError, Result
from lensdiff.steps.found import Found
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.options import Count, Options, option
from lensdiff.steps.plan import Plan, sides_and_prompts
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import Read, Step, no_units
from lensdiff.steps.tables import TableDoc, model_columns
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.steps.validity import of_unit as validity_of

RESPONSES_STEP, CONTROL_STEP = "responses", "control_responses"


class ResponseOptions(Options):
    """Options of own responses; in a config they stand at the top."""

    max_new_tokens: Count = option(MAX_NEW_TOKENS, "Most tokens of an own response.")


@dataclass(frozen=True, eq=False)
class SaidResponse(Result):
    """A response as a run keeps it.

    Attributes:
        prompt_id: what it answers.
        text: the response; token_ids: as it was generated, empty for a given text.
        given: whether the config gave it.
        tokenizer: digest of the tokenizer whose ids they are; empty for a given text.
        tokens: the ids as texts; none of a given text.
        end: as `Response` has it; None of a given text.
        prompt: its text.
    """

    calls = ("said()", "to_df()")

    prompt_id: str
    text: str
    token_ids: tuple[int, ...]
    given: bool
    tokenizer: str
    tokens: tuple[str, ...] = ()
    end: str | None = None
    prompt: str = ""

    def said(self) -> Response | str:
        """Return the response as it was generated, or the text that was given."""
        if self.given:
            return self.text
        return Response(self.text, self.token_ids, self.provenance.model, self.tokenizer, self.end)

    def told(self) -> list[str]:
        """Return the response."""
        return [repr(self.text)]

    def to_df(self) -> pd.DataFrame:
        """Return one row: prompt_id, model, kind, seed, text, token_ids, end, source, model_id, tokenizer."""
        row = {
            "prompt_id": self.prompt_id,
            **model_columns("", self.provenance.control),
            "text": self.text,
            "token_ids": list(self.token_ids),
            "end": self.end,
            "source": "given" if self.given else "generated",
            "model_id": self.provenance.model,
            "tokenizer": self.tokenizer,
        }
        return pd.DataFrame([row]).astype({"seed": "Int64"})

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the only row.

        Args:
            k: no matter: there is one row.
        """
        return self.to_df().loc[:, ["prompt_id", "model", "text"]]


def respond(inputs: Inputs, unit: Unit, options: ResponseOptions) -> SaidResponse:
    """Generate a model's own response to a prompt, or take the one that is given.

    Raises:
        InputError: the prompt cannot be answered, or the given response is empty.
    """
    (found,) = respond_together([inputs], [unit], options)
    if isinstance(found, InputError):
        raise found
    return found


def respond_together(
    inputs: Sequence[Inputs], units: Sequence[Unit], options: ResponseOptions
) -> list[SaidResponse | InputError]:
    """Do several units of a model at once: what it has to generate is decoded together; an error for each failure."""
    found: dict[Unit, SaidResponse | InputError] = {}
    to_say: dict[Unit, Inputs] = {}
    for own, unit in zip(inputs, units, strict=True):
        try:
            given = own.given(own.prompt.id)
            if given is None:
                to_say[unit] = own
            elif given.strip():
                found[unit] = _kept(view_of(own.model), own.prompt, Response(given, ()), None)
            else:
                raise InputError("the response is an empty text: leave it out for the model's own response")
        except InputError as error:
            found[unit] = error
    if to_say:
        found |= _generated(to_say, options.max_new_tokens)
    return [found[unit] for unit in units]


def _generated(to_say: Mapping[Unit, Inputs], most: int) -> dict[Unit, SaidResponse | InputError]:
    """Return what one model says to the prompts of some units, or why it says nothing."""
    try:
        view = view_of(next(iter(to_say.values())).model)
    except InputError as error:
        return dict.fromkeys(to_say, error)
    prompts = {unit: own.prompt for unit, own in to_say.items()}
    asked = Asked.of(list(prompts.values()))
    said = own_responses(view, asked, max_new_tokens=most, prepend_bos=None, batch_size=AT_ONCE)
    return {
        unit: _kept(view, prompt, said[prompt.id], most)
        if prompt.id in said
        else InputError(str(asked.errors[prompt.id]))
        for unit, prompt in prompts.items()
    }


def _kept(view: ModelView, prompt: Prompt, said: Response, most: int | None) -> SaidResponse:
    """Return a response as a run keeps it.

    Args:
        most: the longest that was asked for; None of a given one.
    """
    return SaidResponse(
        view.provenance("responses", {} if most is None else {"max_new_tokens": most}),
        prompt.id,
        said.text,
        said.token_ids,
        given=most is None,
        tokenizer="" if most is None else said.tokenizer,
        tokens=token_strings(view, said.token_ids),
        end=said.end,
        prompt=prompt.stripped,
    )


def _cost(probe: Probe, unit: Unit, options: ResponseOptions) -> float:
    return probe.respond(min(probe.together, max(1, len(probe.prompts))))


def _cost_of_a_control(probe: Probe, unit: Unit, options: ResponseOptions) -> float:
    return probe.respond(min(AT_ONCE, max(1, len(probe.prompts))))  # together wherever it is done


RESPONSES = Step(
    name=RESPONSES_STEP,
    title="responses",
    options=ResponseOptions,
    result=SaidResponse,
    units=sides_and_prompts,
    work=respond,
    cost=_cost,
    needs=frozenset({"model", "prompt"}),
    keys=("max_new_tokens",),
    block=respond_together,
    at_once=AT_ONCE,
)


def _control_reads(plan: Plan, unit: Unit, options: ResponseOptions) -> Iterable[Read]:
    assert unit.prompt is not None  # what a model could not answer, no control is asked
    return [*validity_of(plan, unit), *of_prompt(unit.prompt)]


CONTROL_RESPONSES = replace(
    RESPONSES,
    name=CONTROL_STEP,
    title="responses of controls",
    units=no_units,
    reads=_control_reads,
    cost=_cost_of_a_control,
)


def _table(found: Found, options: Any) -> Iterable[pd.DataFrame]:
    own = [
        found.one(RESPONSES_STEP, SaidResponse, unit).to_df().assign(model=unit.model)
        for unit in found.units(RESPONSES_STEP)
    ]
    parts = [*own, *(result.to_df() for result in found.each(CONTROL_STEP, SaidResponse))]
    return [pd.concat(parts, ignore_index=True)] if parts else []


RESPONSES_TABLE = TableDoc(
    "responses",
    "a prompt and a model",
    {
        "model": "base, tuned or control",
        "text": "the response",
        "token_ids": "as it was generated; empty for a given text",
        "end": "the end token that the model said after them; empty where it was cut off, missing of a given text",
        "source": "generated, or given by the config",
        "model_id": "the model's name",
        "tokenizer": "digest of the tokenizer whose ids token_ids are; empty for a given text",
    },
    of=(RESPONSES_STEP, CONTROL_STEP),
    build=_table,
)


# what readers ask of responses
def of_prompt(prompt: str) -> list[Read]:
    """Return the reads of both models' responses to a prompt."""
    return [Read(RESPONSES_STEP, Unit(side, prompt)) for side in SIDES]


def of_all(plan: Plan) -> list[Read]:
    """Return the reads of both models' responses to all prompts, as far as there are any."""
    return [Read(RESPONSES_STEP, Unit(side, prompt), required=False) for side in SIDES for prompt in plan.prompts]


def said(found: Found, model: str, prompt: str) -> Response | str:
    """Return a model's response to a prompt, as it was generated or given."""
    unit = Unit(model, prompt)
    return found.one(CONTROL_STEP if unit.control else RESPONSES_STEP, SaidResponse, unit).said()


def shared_text(inputs: Inputs, prompt: str) -> Response | str | None:
    """Return the text that all models are read on: the tuned model's response, else the base's, or None if empty.

    Token ids that mean another token in the base are given as text.
    """
    for side in ("tuned", "base"):
        response = said(inputs.found, side, prompt)
        if isinstance(response, str):
            return response
        if response.token_ids:
            return response if _same_ids(inputs.pair, response.token_ids) else response.text
    return None


def _same_ids(pair: ModelPair, ids: Sequence[int]) -> bool:
    base, tuned = pair.shared_tokens
    same = set(base[base == tuned].tolist()) if len(base) else set()
    return same.issuperset(ids)


def own_texts(inputs: Inputs, prompts: Sequence[Prompt], side: str, most: int) -> list[str | Response]:
    """Return a model's responses to prompts in the base's ids, the first `most` tokens of each."""
    return [_forced(inputs, prompt, said(inputs.found, side, prompt.id), most) for prompt in prompts]


def _forced(inputs: Inputs, prompt: Prompt, response: Response | str, most: int) -> str | Response:
    if isinstance(response, str) or not response.token_ids:
        return response if isinstance(response, str) else ""
    whole = len(response.token_ids) <= most
    cut = replace(response, token_ids=response.token_ids[:most], end=response.end if whole else "")
    try:
        return as_base_reads(inputs.pair, prompt, cut)
    except InputError:  # a token that the base lacks: the text, read by either tokenizer if both can
        return str(view_of(inputs.pair.tuned).tokenizer.decode(list(cut.token_ids)))
