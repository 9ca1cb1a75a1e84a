"""What the picture of a series is given."""

import torch

from lensdiff.analyses.series.result import Series
from lensdiff.results import Provenance
from lensdiff.views.widget import script_json


def found(values: list[list[float]], prompts: tuple[str, ...] = ("a", "b"), of: str = "model", equal: tuple = ()):
    names = tuple(f"m{i}" for i in range(len(values)))
    numbers = torch.tensor(values, dtype=torch.float64)
    same = equal or (True, *[False] * (len(values) - 1))
    return Series(Provenance("series", "m"), names, "use", "nats", of, prompts, numbers, {"c": "no"}, same, 0.9)


def test_the_line_its_intervals_and_the_first_models_number():
    widget = found([[1.0, 3.0], [2.0, 6.0], [0.0, 0.0]]).show()
    data = widget.data
    assert data.values == [2.0, 4.0, 0.0]
    assert data.changes == [0.0, 2.0, -2.0]
    assert data.low[2] == data.high[2] == 0.0
    assert data.low[0] < 2.0 < data.high[0]
    assert data.facts == ["use along 3 models. Mean over 2 prompts; 1 failed."]
    assert data.floor == 0.0
    assert "90% intervals over prompts" in data.limits[0]
    assert data.table.columns[:2] == ["step", "model"]
    assert "<td>m2</td>" in widget.fallback
    assert script_json(data)


def test_one_number_has_no_interval_and_what_lies_close_together_is_not_pressed_flat():
    data = found([[0.99], [0.98]], (), "pair", (True, True)).show().data
    assert data.low == data.high == [None, None]
    assert data.floor == 0.98
    assert data.limits == []
    assert data.facts[1].startswith("Each model is set against the first")
    assert data.facts[2] == "The weights are those of the first in: m1."
