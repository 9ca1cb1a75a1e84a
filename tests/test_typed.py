"""What is called with another type or shape than it says is refused in tests; see `tests.typed`."""

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from lensdiff.inputs.spans import shorten
from lensdiff.models import change


def test_a_type_is_checked_where_there_is_no_shape():
    with pytest.raises(BeartypeCallHintViolation):
        shorten(torch.zeros(2), "three")  # pyright: ignore[reportArgumentType]


def test_a_shape_is_checked_and_that_axes_of_one_name_are_as_long():
    matrix = torch.eye(3)
    assert change.singular_values(matrix).shape == (3,)
    with pytest.raises(TypeCheckError):
        change.singular_values(matrix[0])
    with pytest.raises(TypeCheckError):
        change.of_norm(matrix, matrix)


def test_a_shape_that_comes_back_is_checked(monkeypatch):
    monkeypatch.setattr(change, "rearrange", lambda value, pattern: value)
    with pytest.raises(TypeCheckError, match="return value"):
        change.flatten(torch.ones(2, 3, 4), "W_Q")
