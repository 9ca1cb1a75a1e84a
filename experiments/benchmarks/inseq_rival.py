"""inseq beside this process: its transformers is older than lensdiff's, so it runs in an environment of its own.

Its process is started once and answers a case at a time (`inseq_scores.py`), so that its turns lie among the others'.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.compared import CLOCKS, Clock, Way

SCRIPT = Path(__file__).with_name("inseq_scores.py")


class Inseq:
    """A process that answers; `versions` are those of its libraries."""

    def __init__(self, process: "subprocess.Popen[str]"):
        self._process = process
        self.versions: dict[str, str] = self._answer()

    def way(self, prompt: str, text: str, ids: list[int]) -> Way:
        """Return the scores [in_pos, out_pos] of the text behind the prompt, with the seconds of its own clock."""

        def way(clock: Clock) -> tuple[Tensor, float]:
            name = next(name for name, one in CLOCKS.items() if one is clock)
            return self._ask({"prompt": prompt, "text": text, "ids": ids, "clock": name})

        return way

    def _ask(self, case: dict[str, Any]) -> tuple[Tensor, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return torch.tensor(answer["scores"]), answer["seconds"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"inseq's process ended with {self._process.wait()}, see above")
        return json.loads(line)


@contextmanager
def running(python: str, model: str, threads: int) -> Iterator[Inseq]:
    """Start inseq's process on a model's folder, and end it."""
    with TemporaryDirectory() as folder:
        older(Path(model), Path(folder))
        command = [python, str(SCRIPT), folder, str(threads)]
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=own | {"OMP_NUM_THREADS": str(threads)}, **pipes) as process:
            yield Inseq(process)
            assert process.stdin is not None
            process.stdin.close()


def older(model: Path, folder: Path) -> None:
    """Fill a folder with a checkpoint that transformers 4 reads as transformers 5 reads the model's own.

    It has another name for the tokenizer's class, and reads the rotation's base from `rope_theta` alone: without it the
    base is 10,000, whatever the checkpoint says, without a word. Weights are links.
    """
    if not (model / "config.json").is_file():
        raise SystemExit(f"inseq needs a folder with a checkpoint, got {model}")
    for path in model.iterdir():
        place = folder / path.name
        if path.name == "config.json":
            config = json.loads(path.read_text(encoding="utf-8"))
            rotation = config.get("rope_parameters") or {}
            if rotation.get("rope_type", "default") != "default":
                raise SystemExit(f"inseq cannot be given a rotation of type {rotation['rope_type']!r} here")
            place.write_text(json.dumps(config | {k: v for k, v in rotation.items() if k == "rope_theta"}))
        elif path.name == "tokenizer_config.json":
            config = json.loads(path.read_text(encoding="utf-8"))
            place.write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}))
        else:
            place.symlink_to(path.resolve())
