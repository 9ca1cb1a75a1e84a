"""Arrays as tidy tables, against plain loops."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from lensdiff.results.tidy import tidy

AXES = {"layer": (4, 7), "side": ("value", "key"), "rank": range(1, 4)}
VALUES = torch.arange(12, dtype=torch.float32).reshape(2, 2, 3)


def test_a_row_is_a_place_of_the_array_the_last_axis_fastest() -> None:
    frame = tidy(AXES, {"score": VALUES, "count": VALUES.numpy().astype(np.int8)})
    rows = [(*labels, float(n), n) for n, labels in enumerate(itertools.product(*AXES.values()))]
    assert list(frame.itertuples(index=False, name=None)) == rows
    assert list(frame) == ["layer", "side", "rank", "score", "count"]
    assert [str(frame[name].dtype) for name in ("layer", "rank", "score", "count")] == [
        *("int64", "int64", "float32", "int8"),
    ]


def test_an_array_of_fewer_axes_says_the_same_along_the_others() -> None:
    of_layer, of_rank = torch.tensor([10, 20])[:, None, None], ("a", "b", "c")
    frame = tidy(AXES, {"of_layer": of_layer, "of_rank": of_rank, "nothing": np.nan})
    for row in frame.itertuples():
        assert row.of_layer == {4: 10, 7: 20}[row.layer]
        assert row.of_rank == of_rank[row.rank - 1]
    assert frame["nothing"].isna().all()


def test_a_table_without_rows_has_its_columns() -> None:
    frame = tidy({"in_pos": range(3), "out_pos": range(0)}, {"score": torch.zeros(3, 0)})
    assert frame.empty
    assert frame.dtypes.astype(str).to_dict() == {"in_pos": "int64", "out_pos": "int64", "score": "float32"}


def test_the_table_is_a_copy() -> None:
    values = torch.zeros(2)
    frame = tidy({"layer": (0, 1)}, {"score": values})
    values += 1
    pd.testing.assert_series_equal(frame["score"], pd.Series([0.0, 0.0], name="score", dtype="float32"))


def test_an_array_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="could not be broadcast"):
        tidy(AXES, {"score": VALUES[:, :, :2]})
