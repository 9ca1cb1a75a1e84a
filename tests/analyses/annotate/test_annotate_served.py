"""Annotation against `transformers serve` with SmolLM2-135M-Instruct on loopback: the transport, and nothing else.

The server ignores `response_format`, and so small a model says nothing of meaning: any status will do, as long as it is
recorded, what can be read is kept, and what cannot is asked for again.
"""

import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

from lensdiff.analyses.annotate.annotations import STATUSES
from lensdiff.analyses.annotate.measure import annotate
from lensdiff.inputs.chat import AnnotationStopped
from tests.analyses.mlp.results import concepts

ATTEMPTS, STARTS_WITHIN = 3, 60.0  # seconds
NEEDED = ("openai", "fastapi", "uvicorn", "gguf")


@pytest.fixture(scope="module")
def folder(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a folder that can be served; the server does not take the GGUF file."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"`transformers serve` needs {', '.join(missing)}")
    made = tmp_path_factory.mktemp("served") / "smollm2"
    source, name = str(smollm2_gguf.parent), smollm2_gguf.name
    model = transformers.AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.bfloat16)
    plain = type(model)(transformers.LlamaConfig.from_dict(model.config.to_diff_dict() | {"quantization_config": None}))
    plain.load_state_dict(model.state_dict())  # a model read from GGUF counts as quantised, which cannot be saved
    plain.bfloat16().save_pretrained(made)
    transformers.AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen, str]]:
    """A running server and its base URL."""
    log = tmp_path_factory.mktemp("log") / "serve.log"
    for _ in range(ATTEMPTS):  # another process may take the port before the server does
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = _begun(folder, port, log)
        try:
            if _answers(f"http://127.0.0.1:{port}/health", process):
                yield process, f"http://127.0.0.1:{port}/v1"
                return
        finally:
            process.terminate()
            process.wait(20)
    pytest.skip(f"`transformers serve` did not start: {log.read_text()[-300:]}")


def _begun(folder: Path, port: int, log: Path) -> subprocess.Popen:
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--dtype", "float32"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with log.open("w") as out:
        arguments = [*command, "--host", "127.0.0.1", "--port", str(port)]
        return subprocess.Popen(arguments, stdout=out, stderr=subprocess.STDOUT, env=environment)


def _answers(url: str, process: subprocess.Popen) -> bool:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return True
        except http.client.HTTPException:  # somebody else does, who is no such server
            return False
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    return False


def test_a_real_server_is_asked_and_its_answers_kept(served, folder: Path, tmp_path: Path) -> None:
    process, url = served
    options = {"model": str(folder), "cache": tmp_path, "base_url": url, "seeds": (7,), "components": 1}
    options |= {"layers": [0], "max_tokens": 12, "concurrency": 2, "timeout": 60.0}
    words = tuple(f"word{i}" for i in range(96))
    found = annotate(concepts(words=words), **options)
    frame = found.to_df()
    assert len(frame) == 2
    assert set(frame.status) <= set(STATUSES)
    kept = [json.loads(path.read_text()) for path in tmp_path.glob("*/*.json")]
    malformed = frame.status == "malformed"
    assert malformed.any() or kept
    assert frame.reason[malformed].str.len().gt(0).all()
    assert all(answer["kind"] in ("said", "refused") and answer["text"] for answer in kept)
    assert all(answer["question"]["seed"] == 7 for answer in kept)
    process.terminate()
    process.wait(20)
    if not malformed.any():
        assert annotate(concepts(words=words), **options).to_df().equals(frame)
    with pytest.raises(AnnotationStopped, match="does not answer"):
        annotate(concepts(words=words), **(options | {"seeds": (2,), "max_retries": 0}))
