"""A table as CSV: what a spreadsheet reads there is text or numbers, never a formula."""

import ast
import csv
import io

import numpy as np
import pandas as pd
import pytest

from lensdiff.views.csv_text import csv_text
from tests.conftest import ROOT

BEGINS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def cells(frame: pd.DataFrame) -> list[list[str]]:
    """The rows of a CSV as another program reads them."""
    return list(csv.reader(io.StringIO(csv_text(frame), newline="")))


@pytest.mark.parametrize("begins", BEGINS)
def test_a_text_that_begins_as_a_formula_is_made_text(begins):
    texts = [f"{begins}1+1", begins, f"{begins}cmd|' /C calc'!A0", f'{begins}HYPERLINK("http://x","a,b")']
    assert cells(pd.DataFrame({"token": texts}))[1:] == [[f"'{text}"] for text in texts]


@pytest.mark.parametrize("blank", [" ", "   ", "\u00a0", "\u3000", "\ufeff", "\u200b ", " \u2003"])
@pytest.mark.parametrize("text", ["=1+1", "＝1+1", "@SUM(1)", "-1", "+1"])
def test_blanks_before_a_formula_do_not_hide_it(blank, text):
    assert cells(pd.DataFrame({"token": [blank + text, "a"]}))[1:] == [[f"'{blank}{text}"], ["a"]]


@pytest.mark.parametrize(
    "text", ["a=1", "  a=1", " ", " the", "'quoted'", "1-2", "", "Ünï", "a\n=1", "a\r=1", "x,=1", 'say "=1"', "-" * 0]
)
def test_another_text_stays_as_it_is(text):
    assert cells(pd.DataFrame({"token": [text, "a"]}))[1:] == [[text], ["a"]]


def test_numbers_stay_numbers():
    frame = pd.DataFrame(
        {
            "float": [-1.5, np.nan],
            "int": [-3, 4],
            "maybe": pd.array([-2, None], dtype="Int64"),
            "bool": [True, False],
            "mixed": [-0.25, "-0.25"],
            "list": [[-1, 2], []],
        }
    )
    assert cells(frame)[1:] == [
        ["-1.5", "-3", "-2", "True", "-0.25", "[-1, 2]"],
        ["", "4", "", "False", "'-0.25", "[]"],
    ]
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(csv_text(frame)))[["float", "int"]], frame[["float", "int"]])


@pytest.mark.parametrize("dtype", ["object", "string", "category"])
def test_texts_of_every_type_and_names_of_columns_are_looked_at(dtype):
    frame = pd.DataFrame({"=a": pd.Series(["=1", None, "x"], dtype=dtype), "b": [1, 2, 3]})
    assert cells(frame) == [["'=a", "b"], ["'=1", "1"], ["", "2"], ["x", "3"]]


def test_columns_of_one_name_a_table_without_rows_and_all_digits():
    assert cells(pd.DataFrame([["=a", "=b"]], columns=["c", "c"])) == [["c", "c"], ["'=a", "'=b"]]
    assert cells(pd.DataFrame({"a": [], "=b": []})) == [["a", "'=b"]]
    assert csv_text(pd.DataFrame({"a": [1 / 3]})) == "a\r\n0.333333\r\n"
    assert csv_text(pd.DataFrame({"a": [1 / 3]}), float_format=None) == "a\r\n0.3333333333333333\r\n"


def test_every_csv_file_is_written_by_it():
    writers = []
    for path in [*ROOT.glob("lensdiff/**/*.py"), *ROOT.glob("experiments/**/*.py")]:
        tree = ast.parse(path.read_text())
        named = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        imported = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
        if "to_csv" in named or ("csv" in imported and "writer" in named):
            writers.append(path.relative_to(ROOT).as_posix())
    assert writers == ["lensdiff/views/csv_text.py"]
