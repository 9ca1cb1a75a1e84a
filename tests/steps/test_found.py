"""What is read of a results directory: units that were asked for and are done, in the order of the asking."""

import pandas as pd
import pytest

from lensdiff.results import Control, InputError, ResultStore
from lensdiff.steps.columns import meaning
from lensdiff.steps.found import Found
from lensdiff.steps.tables import TableDoc, model_columns, of_both, of_one, of_prompts
from lensdiff.steps.unit import WHOLE, Unit
from tests.directories import ask, put, record
from tests.results.small import Numbers, numbers


@pytest.fixture
def store(tmp_path) -> ResultStore:
    """Of "scores": q and p of both models but tuned's p, which failed, and a control's; of "parts": layers of each."""
    store = ResultStore(tmp_path)
    with store.writing():
        for i, unit in enumerate([Unit("base", "q"), Unit("base", "p"), Unit("tuned", "q"), Unit("norm-0", "q")]):
            put(store, "scores", unit, numbers(float(i)))
        record(store, "scores", Unit("tuned", "p"), outcome="failed", reason="it is too long")
        for i, layers in enumerate([(0, 1), (2,)]):
            put(store, "parts", Unit("base", layers=layers), numbers(float(i)))
        put(store, "parts", Unit("tuned", layers=(0, 1)), numbers(5.0))
        ask(store, "parts", Unit("tuned", layers=(2,)))
        put(store, "whole", WHOLE, numbers(7.0))
        record(store, "none", WHOLE, outcome="impossible", reason="there is none")
    return store


def test_units_are_those_that_are_done_in_order(store):
    found = Found(store)
    names = [unit.path for unit in found.units("scores")]
    assert names == ["base/q", "base/p", "tuned/q", "norm-0/q"]
    assert found.prompts("scores", "base") == ["q", "p"]
    assert found.prompts("scores", "base", "tuned") == ["q"]
    assert found.models("scores") == ["base", "norm-0"]  # of tuned one prompt failed
    assert found.models("parts") == ["base"]  # of tuned a group of layers was not done yet
    assert found.failures("scores") == {Unit("tuned", "p"): "it is too long"}
    assert (found.reason("none"), found.reason("scores"), found.reason("nothing")) == ("there is none", "", "")


def test_results_are_read_one_at_a_time_and_groups_of_layers_joined(store):
    found = Found(store)
    assert found.one("whole", Numbers).values.tolist() == [7.0]
    assert [one.values.item() for one in found.each("scores", Numbers)] == [0.0, 1.0, 2.0, 3.0]
    base = found.each("scores", Numbers, "base")
    assert [one.values.item() for one in base[1:]] == [1.0]
    assert found.of_model("parts", Numbers, "base").values.tolist() == [0.0, 1.0]
    assert [one.values.tolist() for one in found.of_models("parts", Numbers, ["base"])] == [[0.0, 1.0]]
    assert found.maybe("none", Numbers) is None


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda found: found.one("scores", Numbers, Unit("tuned", "p")), "'scores/tuned/p': it is too long"),
        (lambda found: found.one("scores", Numbers, Unit("base", "z")), "'scores/base/z': it was not done"),
        (lambda found: found.of_model("parts", Numbers, "tuned"), "'parts/tuned/2': it was not done"),
        (lambda found: found.of_model("parts", Numbers, "norm-0"), "'parts' of norm-0"),
    ],
)
def test_what_is_not_there_is_refused_with_the_reason(store, read, message):
    with pytest.raises(InputError, match=f"there is no result {message}"):
        read(Found(store))


def test_a_unit_sees_what_it_reads_alone(store):
    found = Found(store, {"scores": [Unit("tuned", "q"), Unit("base", "q")]})
    assert [unit.path for unit in found.units("scores")] == ["tuned/q", "base/q"]
    assert not found.has("scores", Unit("base", "p"))
    assert not found.has("whole")


def test_what_is_put_later_is_seen(store):
    found = Found(store)
    assert found.prompts("scores", "tuned") == ["q"]
    put(store, "scores", Unit("tuned", "p"), numbers(9.0))
    put(store, "scores", Unit("tuned", "r"), numbers(8.0))
    assert found.prompts("scores", "tuned") == ["q", "p", "r"]


def test_tables_of_results(store):
    found = Found(store)
    scores = pd.concat(of_prompts("scores", Numbers)(found, None))
    assert scores.to_dict("list") == {"model": ["base", "base", "tuned"], "value": [0.0, 1.0, 2.0]}
    (parts,) = of_both("parts", Numbers)(found, None)
    assert parts.to_dict("list") == {"model": ["base", "base"], "value": [0.0, 1.0]}
    assert [frame["value"].tolist() for frame in of_one("whole", Numbers)(found, None)] == [[7.0]]
    assert list(of_one("none", Numbers)(found, None)) == []


def test_columns_that_say_whose_a_row_is():
    assert model_columns("tuned", None) == {"model": "tuned", "kind": "", "seed": pd.NA}
    assert model_columns("", Control("norm", 4)) == {"model": "control", "kind": "norm", "seed": 4}


def test_what_a_column_means_is_the_tables_own_first():
    table = TableDoc("t", "a row", {"rank": "place among five", "gap": "how far"})
    assert meaning(table, "rank") == "place among five"
    assert meaning(table, "layer") == "the layer"
    assert meaning(table, "gap_tuned") == "gap in the tuned model"
    assert meaning(table, "gap_p") == "gap: of the difference over prompts"
    assert meaning(table, "colour") == ""
