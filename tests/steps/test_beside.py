"""What steps beside controls tell once, and what they read."""

import warnings

import pytest

from lensdiff.steps.beside import TOLD, of_controls, tell_failures, told_once
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.step import Read
from lensdiff.steps.unit import Unit
from tests.steps.test_unit import plan as a_plan


def test_what_is_told_once_is_kept_back_and_nothing_else():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with told_once():
            warnings.warn("prompt 'a' failed: it is empty", stacklevel=1)
            warnings.warn("the model is odd", stacklevel=1)
            warnings.warn("prompt 'a' failed: of another kind", RuntimeWarning, stacklevel=1)
    assert [str(one.message) for one in seen] == ["the model is odd", "prompt 'a' failed: of another kind"]


@pytest.mark.parametrize(("n", "more"), [(0, []), (TOLD, []), (TOLD + 2, ["use: without 2 more prompts"])])
def test_the_first_failures_are_told_one_by_one(n: int, more: list[str]):
    said: list[str] = []
    inputs = object.__new__(Inputs)
    inputs.say = said.append
    tell_failures(inputs, "use", {f"p{i}": "it is empty" for i in range(n)})
    assert said == [f"use: without prompt 'p{i}': it is empty" for i in range(min(n, TOLD))] + more


def test_controls_are_read_as_far_as_they_are_there():
    plan = a_plan(controls={"heads": ("norm-0", "spectrum-1")})
    assert of_controls(plan, "heads", "step") == [Read("step", Unit(name), False) for name in plan.controls["heads"]]
    assert of_controls(plan, "mlp", "step") == []
