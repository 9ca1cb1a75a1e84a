"""Tables of ratings, and what is wrong with them."""

import pytest

from lensdiff.inputs.ratings import followed, read_ratings
from lensdiff.results import InputError


@pytest.mark.parametrize(("name", "separator"), [("r.tsv", "\t"), ("r.csv", ",")])
def test_ratings_are_read_by_prompt(tmp_path, name: str, separator: str) -> None:
    path = tmp_path / name
    rows = [("rating", "prompt_id"), ("1", "a"), ("4", "b"), ("-1", "c"), ("0", "d"), ("2", "NA")]
    path.write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8")
    found = read_ratings(path)
    assert found == {"a": 1, "b": 4, "c": -1, "d": 0, "NA": 2}
    assert followed(found) == {"a": False, "b": True, "NA": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt_id\tscore\na\t1\n", "no column 'rating', expected prompt_id and rating"),
        ("prompt_id\trating\na\t1\na\t2\n", "rates prompt 'a' twice"),
        ("prompt_id\trating\na\tgood\n", "the rating 'good' of prompt 'a' is no whole number"),
        ("prompt_id\trating\na\t5\n", "the rating 5 of prompt 'a' is above 4"),
        ("", "is no table"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "r.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_ratings(path)


def test_other_files_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"expected a name that ends in \.tsv or \.csv"):
        read_ratings(tmp_path / "r.xlsx")
    with pytest.raises(InputError, match="no file at"):
        read_ratings(tmp_path / "r.tsv")
