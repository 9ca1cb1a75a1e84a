"""The benchmark of growth: powers of planted costs, and one small measurement."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks import growth

FOLDER = Path(growth.__file__).parent
KEPT: list[dict[str, Any]] = json.loads((FOLDER / "growth.json").read_text(encoding="utf-8"))["growths"]


def test_the_power_is_that_of_the_largest_sizes():
    assert growth.power([1, 2, 4, 8], [99, 12, 48, 192]) == pytest.approx(2)
    assert growth.power([10, 20, 40], [5, 5, 5]) == pytest.approx(0)


def test_what_is_not_counted_or_too_small_has_no_power():
    points = [{"value": v, "flops": 0, "cpu_s": 0.1 * v, "peak_mib": growth.LEAST_MIB / 2 * v} for v in (1, 2, 4)]
    row = growth.row_of(growth.GROWTHS[0], points)
    assert (row["flops"], row["peak_mib"]) == (None, None)
    assert row["cpu_s"] == pytest.approx(1)


def test_a_point_is_measured_at_its_sizes(monkeypatch):
    monkeypatch.setattr(growth, "SIZES", growth.SIZES | {"layers": 1, "d_model": 64, "N": 4, "M": 4})
    few, many = (growth.measure(growth.GROWTHS[0], value) for value in (4, 8))
    assert few["flops"] < many["flops"] < 4 * few["flops"]
    assert few["cpu_s"] > 0


def test_the_table_says_what_was_fitted():
    points = [{"value": v, "flops": v**2, "cpu_s": 0.1 * v, "peak_mib": 1.0} for v in (1, 2, 4)]
    row = growth.row_of(growth.Growth("read", "N", (1, 2, 4), "2"), points)
    assert growth.markdown([row]).splitlines()[-1] == "| read | N | 1 - 4 | 2.00 | 1.00 | - | 2 |"


def test_the_readme_has_the_table_of_the_file_beside_it():
    said = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert said.split("<!-- growth -->\n")[1].split("\n<!-- /growth -->")[0] == growth.markdown(KEPT)


def test_the_file_has_every_growth_with_the_powers_of_its_points():
    told = [growth.Growth(row["operation"], row["size"], tuple(row["values"]), row["expected"]) for row in KEPT]
    assert told == growth.GROWTHS
    for known, row in zip(growth.GROWTHS, KEPT, strict=True):
        assert [point["value"] for point in row["points"]] == row["values"]
        again = growth.row_of(known, row["points"])
        for kind in growth.POWERS:
            assert again[kind] == (None if row[kind] is None else pytest.approx(row[kind]))
