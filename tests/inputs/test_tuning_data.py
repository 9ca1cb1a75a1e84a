"""Tuning data: either spelling of the keys, every line of a file, and lines that are refused by their number."""

import json

import pytest

from lensdiff.inputs.tuning_data import load_tuning_data
from lensdiff.results import InputError


def test_lines_of_either_spelling_are_read(tmp_path) -> None:
    path = tmp_path / "tuning.jsonl"
    rows = [
        {"prompt": "Say\u2028it.", "response": "it\u0085"},  # ends of lines to Python, and none to JSON
        {"text": "Again.", "reference": "again", "kind": "echo"},
        {"prompt": "first", "text": "second", "response": "x"},
    ]
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    assert load_tuning_data(path) == [("Say\u2028it.", "it\u0085"), ("Again.", "again"), ("first", "x")]


@pytest.mark.parametrize("line", ["{", "[1]", '{"prompt": "a"}', '{"prompt": "a", "response": " "}', "[" * 100_000])
def test_unusable_lines_are_refused_by_number(tmp_path, line) -> None:
    path = tmp_path / "tuning.jsonl"
    path.write_text(json.dumps({"prompt": "a", "response": "b"}) + f"\n{line}\n")
    with pytest.raises(InputError, match=r"tuning\.jsonl, line 2: "):
        load_tuning_data(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"no file at .*none\.jsonl"):
        load_tuning_data(tmp_path / "none.jsonl")
