"""The step that compares both models' next-token distributions over a response: a unit per prompt."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lensdiff.analyses.outputs import OutputOptions
from lensdiff.analyses.outputs.output_shift import OutputShift, output_shift
from lensdiff.results import InputError
from lensdiff.steps import responses
from lensdiff.steps.beside import told_once
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import Read, Step
from lensdiff.steps.tables import TableDoc
from lensdiff.steps.unit import Unit


def units(plan: Plan, options: OutputOptions) -> list[Unit]:
    return [Unit(prompt=prompt) for prompt in plan.prompts]


def reads(plan: Plan, unit: Unit, options: OutputOptions) -> Iterable[Read]:
    assert unit.prompt is not None
    return responses.of_prompt(unit.prompt)


def work(inputs: Inputs, unit: Unit, options: OutputOptions) -> OutputShift:
    """Compare both models on the text that all models are read on."""
    return output_shift(inputs.pair, inputs.prompt, _text(inputs, inputs.prompt.id))


def block(
    inputs: Sequence[Inputs], units: Sequence[Unit], options: OutputOptions
) -> Sequence[OutputShift | InputError]:
    """Compare both models on many prompts at once: where one is held at a time, the models change twice and not twice
    for each prompt."""
    errors: dict[str, InputError] = {}
    texts: dict[str, Any] = {}
    for own in inputs:
        try:
            texts[own.prompt.id] = _text(own, own.prompt.id)
        except InputError as error:
            errors[own.prompt.id] = error
    ready = [own for own in inputs if own.prompt.id in texts]
    found = _compared(ready, texts) if ready else {}
    return [found.get(own.prompt.id) or errors[own.prompt.id] for own in inputs]


def _compared(inputs: Sequence[Inputs], texts: Mapping[str, Any]) -> dict[str, OutputShift | InputError]:
    """Return what was found of each prompt, or why nothing was."""
    ids = [own.prompt.id for own in inputs]
    with told_once():  # each is recorded as a failure of its own
        try:
            found = output_shift(
                inputs[0].pair, [own.prompt for own in inputs], [texts[name] for name in ids], progress=False
            )
        except InputError as error:  # all of them failed: each says why
            if len(inputs) == 1:
                return {ids[0]: error}
            return {name: found for own in inputs for name, found in _compared([own], texts).items()}
    return {name: found.by_id.get(name) or InputError(found.failures[name]) for name in ids}


def _text(inputs: Inputs, prompt: str) -> Any:
    text = responses.shared_text(inputs, prompt)
    if text is None:
        raise InputError(f"both models answer prompt {prompt!r} with nothing: there is no text to compare on")
    return text


def cost(probe: Probe, unit: Unit, options: OutputOptions) -> float:
    return probe.read(2 * probe.n_text, passes=2)


def table(found: Any, options: Any) -> Iterable[Any]:
    return (result.to_df() for result in found.each("outputs", OutputShift))


STEPS: tuple[Step[Any, Any], ...] = (
    responses.RESPONSES,
    Step(
        name="outputs",
        title="outputs",
        options=OutputOptions,
        result=OutputShift,
        units=units,
        work=work,
        cost=cost,
        reads=reads,
        needs=frozenset({"pair", "prompt"}),
        block=block,
    ),
)
TABLES: tuple[TableDoc[Any], ...] = (
    responses.RESPONSES_TABLE,
    TableDoc(
        "outputs",
        "a response token, on which both models are read",
        {
            "kl": "KL(tuned || base) of the next-token distributions, nats",
            "js": "their Jensen-Shannon distance, log base 2",
            "base_rank": "the token's rank in the base",
            "tuned_rank": "its rank in the tuned model",
            "base_prob": "its probability in the base",
            "tuned_prob": "its probability in the tuned model",
            "kind": "unshifted (the tuned model's choice is the base's too), marginal (rank 2 or 3 there) or shifted",
            "base_choice": "the base's most probable token",
            "tuned_choice": "the tuned model's",
            "choice_rank": "rank of tuned_choice in the base",
            "agreement": "share of the most probable tokens that both have",
        },
        of=("outputs",),
        build=table,
    ),
)
