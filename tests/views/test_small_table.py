"""A small table for the page's script: plain values, None where a cell is missing."""

import json

import numpy as np
import pandas as pd

from lensdiff.views.small_table import SmallTable, cells
from lensdiff.views.widget import script_json

FRAME = pd.DataFrame({"layer": [0, 1], "name": ["a", None], "angle": [0.5, np.nan]}, index=[7, 3])


def test_a_frame_becomes_plain_values():
    found = SmallTable.of(FRAME, "A row per layer")
    assert json.loads(script_json(found)) == {
        "caption": "A row per layer",
        "columns": ["layer", "name", "angle"],
        "rows": [[0, "a", 0.5], [1, None, None]],
    }


def test_a_frame_without_rows_or_of_one_type_becomes_plain_values():
    assert cells(FRAME.iloc[:0]) == []
    assert script_json(cells(FRAME[["layer"]])) == "[[0],[1]]"
