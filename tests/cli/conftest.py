"""The tiny pair of the pipeline's tests, and the command as a function."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from lensdiff.cli import main
from tests.pipeline.conftest import models

__all__ = ["models"]


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture
def lensdiff(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process."""

    def call(*arguments: object) -> Ran:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ran(code, str(out), str(err))

    return call


def assert_refused(ran: Ran, message: str) -> None:
    """Assert that a command ended with exit code 2 and one sentence that says why."""
    assert ran.code == 2, ran
    lines = ran.err.strip().split("\n")
    complaint = [line for line in lines if line.startswith("lensdiff: ")]
    assert lines[-1:] == complaint[-1:], ran.err
    assert message in lines[-1]
    assert "Traceback" not in ran.err
