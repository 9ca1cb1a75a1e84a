"""A lack of memory is known as such, as each library says it, and passes what tells a damaged file from a whole one."""

import errno

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from safetensors import SafetensorError

from lensdiff.results import InputError, ResultStore
from lensdiff.results.memory import is_lack_of_memory, is_of_one_alone
from tests.lacks import OF_A_DRIVER
from tests.results.small import Numbers, numbers

BEYOND = 2**58  # more than any machine can address, in numbers of 4 bytes or more
ASKED = {
    "torch": lambda: torch.empty(BEYOND),
    "numpy": lambda: np.empty(BEYOND),
    "arrow": lambda: pa.allocate_buffer(2**62),
    "python": lambda: [None] * BEYOND,
}


@pytest.mark.parametrize("library", ASKED)
def test_what_libraries_raise_where_memory_is_short_is_known(library):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (each has a kind of its own)
        ASKED[library]()
    assert is_lack_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("full"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (SafetensorError("Cannot allocate memory (os error 12)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (OF_A_DRIVER, True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"), True),
        (RuntimeError("HIP error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB, max allowed: 6 GB)."), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), False),
        (ValueError("CUDA error: out of memory"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (OSError("can't allocate memory"), False),
        (RuntimeError("size mismatch"), False),
        (SafetensorError("header too large"), False),
        (InputError("can't allocate memory"), False),
        (RecursionError("deep"), False),
    ],
)
def test_what_else_says_so_and_what_does_not(error, is_it):
    assert is_lack_of_memory(error) is is_it


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (RuntimeError("a score is not finite"), True),
        (RuntimeError("CUDA error: out of memory"), False),
        (torch.OutOfMemoryError("full"), False),
        (MemoryError("full"), False),
        (RecursionError("deep"), False),
        (NotImplementedError("nobody wrote it"), False),
        (InputError("no"), False),
        (KeyError("k"), False),
    ],
)
def test_what_is_of_one_prompt_or_unit_alone(error, is_it):
    assert is_of_one_alone(error) is is_it


LACKS = [MemoryError("full"), OSError(errno.ENOMEM, "Cannot allocate memory"), pa.ArrowMemoryError("malloc failed")]


@pytest.mark.parametrize("lack", LACKS, ids=lambda lack: type(lack).__name__)
def test_a_table_that_does_not_fit_is_not_said_to_be_damaged(tmp_path, monkeypatch, lack):
    store = ResultStore(tmp_path / "out")
    store.save_table("scores", pd.DataFrame({"a": [1]}))

    def full(*_: object) -> None:
        raise lack

    monkeypatch.setattr(pd, "read_parquet", full)
    with pytest.raises(type(lack)) as caught:
        store.load_table("scores")
    assert caught.value is lack


@pytest.mark.parametrize("lack", [SafetensorError("Cannot allocate memory (os error 12)"), LACKS[1]])
def test_a_result_that_does_not_fit_is_not_said_to_be_none(tmp_path, monkeypatch, lack):
    path = numbers(1.0).save(tmp_path / "one.safetensors")

    def full(*_: object, **__: object) -> None:
        raise lack

    monkeypatch.setattr("lensdiff.results.result.safe_open", full)
    with pytest.raises(type(lack)) as caught:
        Numbers.load(path)
    assert caught.value is lack
