"""Tiny pairs of models on disk, and prompts for them."""

import json
from pathlib import Path

import pytest

from tests.checkpoints import save_checkpoint

PROMPTS = [
    {"id": "sea", "text": "Write a short poem about the sea.", "instruction": ["Write a short poem"]},
    {"id": "fruit", "text": "List three fruits. Apples are good.", "instruction": ["List three fruits."]},
    {"id": "a/b ..", "text": "Repeat the word: moon", "instruction": ["Repeat the word"], "context": ["moon"]},
]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` and `tuned`, random models of one shape, and `prompts.jsonl`."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "tuned")):
        save_checkpoint("llama", folder / name, seed=seed)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    return folder
