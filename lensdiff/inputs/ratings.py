"""Ratings of responses from a table: does a response do what its instruction asks?

Scale of the paper: 1 does not follow, 2 to 4 follow (partly, mostly, fully), 0 and below is no rating.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lensdiff.inputs.spans import shorten
from lensdiff.results import InputError

HIGHEST = 4
UNFOLLOWED = 1  # this rating; higher ones follow, lower ones are no rating
SEPARATORS = {".tsv": "\t", ".csv": ","}
COLUMNS = ("prompt_id", "rating")


def read_ratings(path: str | Path) -> dict[str, int]:
    """Return the ratings by prompt id from a .tsv or .csv file with the columns prompt_id and rating.

    Raises:
        InputError: the file is missing or of another kind, lacks a column, holds a prompt twice, or a rating is no
            whole number up to 4.
    """
    path = Path(path)
    if path.suffix.lower() not in SEPARATORS:
        raise InputError(f"{path} is no table of ratings, expected a name that ends in {' or '.join(SEPARATORS)}")
    if not path.is_file():
        raise InputError(f"no file at {path}")
    try:
        frame = pd.read_csv(path, sep=SEPARATORS[path.suffix.lower()], dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no table ({error})") from None
    if missing := [name for name in COLUMNS if name not in frame]:
        raise InputError(f"{path} has no column {missing[0]!r}, expected {' and '.join(COLUMNS)}")
    found: dict[str, int] = {}
    for name, text in zip(frame["prompt_id"], frame["rating"], strict=True):
        if name in found:
            raise InputError(f"{path} rates prompt {name!r} twice")
        try:
            found[name] = int(text)
        except ValueError:
            raise InputError(f"{path}: the rating {shorten(text)} of prompt {name!r} is no whole number") from None
        if found[name] > HIGHEST:
            raise InputError(f"{path}: the rating {text} of prompt {name!r} is above {HIGHEST}")
    return found


def followed(ratings: Mapping[str, int]) -> dict[str, bool]:
    """Return which rated responses follow their instruction; those without a rating are left out."""
    return {name: rating > UNFOLLOWED for name, rating in ratings.items() if rating >= UNFOLLOWED}
