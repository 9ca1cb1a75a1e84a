"""Peak memory of loading a model, as a multiple of the loaded model's own size.

    python experiments/benchmarks/loading.py MODEL

The peak is what resident memory rose by since the imports, tokenizer and mapped files included, read from /proc on
Linux. Pages of a mapped checkpoint count there, though the system takes them back where memory is short: the second
peak leaves them out, sampled. The two differ most where a float32 file is loaded as bfloat16.
"""

import threading
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from lensdiff.models import load_model

SAMPLE = 0.002  # seconds
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(field: str) -> float:
    """A field of this process's memory in MiB: VmRSS (now) or VmHWM (peak since the reset)."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field)) / 1024


class AnonymousPeak(threading.Thread):
    """Samples the most memory that no file backs, in MiB, until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._done = 0.0, threading.Event()

    def run(self) -> None:
        while not self._done.wait(SAMPLE):
            self.peak = max(self.peak, memory("RssAnon"))

    def stop(self) -> float:
        """Return the peak."""
        self._done.set()
        self.join()
        return self.peak


def main(
    model: Annotated[str, typer.Argument(help="A folder, a GGUF file or a hub name.")],
    wrapper: str = "auto",
    dtype: str = "float32",
    verify: bool = True,
) -> None:
    """Load once and print size, peak and their ratio."""
    RESET.write_text("5")
    before, anonymous, start = memory("VmRSS"), memory("RssAnon"), time.perf_counter()
    sampler = AnonymousPeak()
    sampler.start()
    loaded = load_model(model, device="cpu", wrapper=wrapper, dtype=dtype, verify=verify)
    seconds, peak, unmapped = time.perf_counter() - start, memory("VmHWM") - before, sampler.stop() - anonymous
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in loaded.parameters()}
    buffers = {b.untyped_storage().data_ptr(): b.untyped_storage().nbytes() for b in loaded.buffers()}
    size = sum((storages | buffers).values()) / 2**20
    Console().print(
        f"{type(loaded).__name__} in {dtype}: {size:.0f} MiB; peak {peak:.0f} MiB = {peak / size:.2f} times its size, "
        f"without mapped files {unmapped:.0f} MiB = {unmapped / size:.2f} times; {seconds:.1f} s "
        f"(torch {torch.__version__})"
    )


if __name__ == "__main__":
    typer.run(main)
