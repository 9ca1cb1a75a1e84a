"""Names of units, what a plan says of them, and options that say what they are."""

import pytest
from pydantic import ValidationError

from lensdiff.analyses.dose import DoseOptions
from lensdiff.inputs import Prompt
from lensdiff.results import Control
from lensdiff.steps.options import (
    Layers,
    LayersToTheEnd,
    Options,
    are_layers,
    choosable,
    example_of,
    flag_of,
    option,
)
from lensdiff.steps.plan import Plan, layer_units, sides_and_prompts
from lensdiff.steps.unit import WHOLE, Unit, name_of, split_control


@pytest.mark.parametrize(
    ("unit", "name", "words", "control"),
    [
        (WHOLE, "step", "the pair", None),
        (Unit("base"), "step/base", "base", None),
        (Unit("tuned", "a/b"), "step/tuned/a/b", "tuned, prompt 'a/b'", None),
        (Unit(prompt="p"), "step/p", "prompt 'p'", None),
        (Unit("gradient-noise-3", layers=(0, 1)), "step/gradient-noise-3/0,1", None, "gradient-noise-3"),
        (Unit("norm-0", ""), "step/norm-0/", "norm-0, prompt ''", "norm-0"),
    ],
)
def test_a_unit_has_a_name_and_says_what_it_is(unit, name, words, control):
    assert (name_of("step", unit), unit.control) == (name, control)
    assert str(unit) == (words or "gradient-noise-3, layers 0,1")


def plan(**changes) -> Plan:
    nothing = {
        "options": {},
        "prompts": {name: Prompt("Say it.", id=name) for name in "pq"},
        "given": {},
        "n_layers": 10,
        "seed": 5,
        "both": True,
    }
    return Plan(**(nothing | changes))


def test_a_control_has_the_seed_of_its_number():
    assert split_control("gradient-noise-3") == ("gradient-noise", 3)
    assert plan().control("gradient-noise-3") == Control("gradient-noise", 8)


def test_layers_come_in_groups_of_eight_and_prompts_side_by_side():
    assert [unit.layers for unit in layer_units(plan(), "base", None)] == [tuple(range(8)), (8, 9)]
    assert layer_units(plan(), "norm-0", [7, 3]) == [Unit("norm-0", layers=(7, 3))]
    units = [(unit.model, unit.prompt) for unit in sides_and_prompts(plan())]
    assert units == [("base", "p"), ("base", "q"), ("tuned", "p"), ("tuned", "q")]


class Chosen(Options):
    n_best: int = option(3, "How many.")
    parts: int = option(2, "Parts.", flag="--pieces")
    layers: Layers | None = option(None, "Layers.", example=[0, 1])


def test_an_option_knows_its_flag_its_example_and_whether_it_is_of_layers():
    fields = Chosen.model_fields
    assert [flag_of(name, field) for name, field in fields.items()] == ["--n-best", "--pieces", "--layers"]
    assert [example_of(field) for field in fields.values()] == [3, 2, [0, 1]]
    assert [are_layers(field) for field in fields.values()] == [False, False, True]
    with pytest.raises(AssertionError, match="needs an example: Words"):
        option(None, "Words")


class Entered(Options):
    layers: LayersToTheEnd | None = option(None, "Layers.", example=[0, 1])
    always: LayersToTheEnd = option([0], "Layers.")
    read: Layers = option([0], "Layers.")


def test_layers_are_chosen_to_the_end_of_the_stream_where_their_type_says_so():
    assert [are_layers(field) for field in Entered.model_fields.values()] == [True] * 3
    assert [choosable(field, 2) for field in Entered.model_fields.values()] == [range(3), range(3), range(2)]
    assert choosable(Chosen.model_fields["layers"], 2) == range(2)
    with pytest.raises(ValidationError, match="distinct layers"):
        Entered(layers=[1, 1])


@pytest.mark.parametrize("amount", ["0.5", True, float("nan"), float("inf")])
def test_a_finite_number_is_one_in_every_analysis(amount):
    assert DoseOptions(amounts=[1, 0.5]).amounts == [1.0, 0.5]
    with pytest.raises(ValidationError):
        DoseOptions(amounts=[amount])


@pytest.mark.parametrize("values", [{"layers": []}, {"layers": [1, 1]}, {"layers": [-1]}, {"n_best": "3"}, {"more": 1}])
def test_what_is_no_option_is_refused(values):
    with pytest.raises(ValidationError):
        Chosen(**values)
