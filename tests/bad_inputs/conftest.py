"""A bad input is refused at once: a case that goes on working, retrying or allocating fails instead of hanging."""

import os
import signal
from collections.abc import Iterator

import pytest

PATIENCE = int(os.environ.get("BAD_INPUT_PATIENCE", "60"))


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    def fail(*_: object) -> None:
        raise BaseException(f"not refused within {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
