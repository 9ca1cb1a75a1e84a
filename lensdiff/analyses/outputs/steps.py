"""The step that compares both models' next-token distributions over a response: a unit per prompt."""

from collections.abc import Iterable, Sequence
from typing import Any

from lensdiff.analyses.outputs import OutputOptions
from lensdiff.analyses.outputs.output_shift import OutputShift, output_shift
from lensdiff.results import InputError
from lensdiff.steps import responses
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
    try:
        texts = [_text(own, own.prompt.id) for own in inputs]
        return list(output_shift(inputs[0].pair, [own.prompt for own in inputs], texts))
    except InputError as error:
        if len(units) == 1:
            return [error]
        apart = zip(inputs, units, strict=True)
        return [found for own, unit in apart for found in block([own], [unit], options)]


def _text(inputs: Inputs, prompt: str) -> Any:
    text = responses.shared_text(inputs, prompt)
    if text is None:
        raise InputError(f"both models answer prompt {prompt!r} with nothing: there is no text to compare on")
    return text


def cost(probe: Probe, unit: Unit, options: OutputOptions) -> float:
    return 2 * probe.n_text * probe.forward


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
