"""What steps have in common that read a pair, and set it beside its controls: what they tell, and what they read."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lensdiff.results.numbers import n_of
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan
from lensdiff.steps.step import Read
from lensdiff.steps.unit import Unit

TOLD = 3  # prompts that failed, told one by one


@contextmanager
def told_once() -> Iterator[None]:
    """Keep back what a list warns of each prompt that failed, and nothing else: it is told once, for all models."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "prompt .* failed: ", UserWarning)
        yield


def tell_failures(inputs: Inputs, what: str, failures: Mapping[str, str]) -> None:
    """Tell the user which prompts failed, the first few with the reason."""
    for prompt, reason in list(failures.items())[:TOLD]:
        inputs.say(f"{what}: without prompt {prompt!r}: {reason}")
    if len(failures) > TOLD:
        inputs.say(f"{what}: without {n_of(len(failures) - TOLD, 'more prompt')}")


def of_controls(plan: Plan, analysis: str, step: str) -> list[Read]:
    """Return the reads of a step of every control of an analysis, as far as they are there."""
    return [Read(step, Unit(control), required=False) for control in plan.controls.get(analysis, ())]
