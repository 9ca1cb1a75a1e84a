"""A long prompt with a long response takes no more memory than its chunks: 500 and 300 tokens."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lensdiff.analyses.attribute import deletion, fitting
from lensdiff.analyses.attribute.gradients import forward_chunk
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.models import load_model, view_of
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.plain.branching import final_of
from lensdiff.models.response import Response
from tests.checkpoints import hf_model, tokenizer_of

ROOT = Path(__file__).parents[3]
N, M = 500, 300
# the shipped toy pair's context holds 256 tokens, so a wider one stands in: tangents of all tokens at once would be
# 500 x 550 x 64 numbers, 70 MB
WIDE: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 1, "max_position_embeddings": 1024}
WIDE |= {"num_attention_heads": 1, "num_key_value_heads": 1}
SMALL = 2**22
MB = 2**20


def peak() -> int:
    """The most memory that this program ever had."""
    said = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert said is not None
    return int(said[1]) * 1024


def report() -> None:
    """Print by how much a small budget, and then none, raise the most memory that this process ever had."""
    model = load_model(hf_model("llama", **WIDE), tokenizer=tokenizer_of(), wrapper="hooked", device="cpu")
    said = Response(" the" * M, tuple(range(3, 3 + M)))
    attribute(model, "a the the", Response(" the", (4, 5)), method="forward")  # what any call takes
    found, scores = {}, []
    for name, budget in (("bounded", SMALL), ("unbounded", 2**40)):
        before, fitting.BUDGET, fitting.FEWEST = peak(), budget, 1
        result = attribute(model, "a" + " the" * (N - 1), said, method="forward", deletion_draws=3)
        found[name] = peak() - before
        scores.append(result.scores)
    found["shape"] = list(scores[0].shape)
    found["error"] = float((scores[0] - scores[1]).abs().max() / scores[1].abs().max())
    sys.stdout.write(json.dumps(found))


@pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="this system does not say what a process took")
def test_memory_does_not_grow_with_the_tokens():
    code = "from tests.analyses.attribute.test_memory import report; report()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-W", "ignore", "-c", code]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.strip().split("\n")[-1])
    assert found["shape"] == [N, M]
    assert found["error"] < 1e-4
    # measured: 30 MB, and 100 MB beyond that
    assert found["bounded"] < 55 * MB, found
    assert found["unbounded"] > 50 * MB, found


@pytest.fixture(scope="module")
def view():
    return view_of(load_model(hf_model("llama", **WIDE), tokenizer=tokenizer_of(), device="cpu"))


FREE = 2**40


@pytest.mark.parametrize(("n", "length"), [(500, 800), (5000, 8000), (10, 20), (1, 10**7)])
@pytest.mark.parametrize("fast", [True, False])
def test_what_is_computed_at_once_fits_the_budget(view, monkeypatch, n, length, fast):
    monkeypatch.setattr(fitting, "available_memory", lambda device: FREE)
    chunk = forward_chunk(view, n, length, fast=fast)
    each = 4 * (length * 64 if fast else fitting.of_pass(view, length))
    least = min(n, fitting.FEWEST)
    assert least <= chunk <= n
    assert chunk * each <= max(fitting.BUDGET, least * each)
    assert chunk == n or (chunk + 1) * each > fitting.BUDGET  # and no less than that


@pytest.mark.parametrize(("free", "expected"), [(0, 1), (4 * 64 * 800 * 4 * 7, 7), (FREE, 500)])
def test_what_is_computed_at_once_fits_a_quarter_of_what_is_free(view, monkeypatch, free, expected):
    monkeypatch.setattr(fitting, "available_memory", lambda device: free)
    assert forward_chunk(view, 500, 800, fast=True) == expected


def test_texts_without_tokens_are_read_in_parts_that_fit(view, monkeypatch):
    prompt, asked = "a the moon is over the sea", {"method": "reverse", "deletion_draws": 5}
    whole = attribute(view.model, prompt, " the moon is", **asked).deletion
    read: list[int] = []

    def counted(view: Any, texts: Any, n_out: int) -> torch.Tensor:
        read.append(len(texts))
        return final_of(view, texts, n_out)

    monkeypatch.setattr(deletion, "final_of", counted)
    monkeypatch.setattr(fitting, "BUDGET", 0)
    monkeypatch.setattr(fitting, "FEWEST", 2)
    found = attribute(view.model, prompt, " the moon is", **asked).deletion
    assert whole is not None
    assert found is not None
    assert [found.effect, *found.random] == pytest.approx([whole.effect, *whole.random], abs=1e-7)
    assert read == [2, 2, 2]
