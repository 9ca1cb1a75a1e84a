"""Tiny pairs of models on disk, prompts and words for them, and a run of everything."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lensdiff.inputs.fingerprints import fingerprint
from lensdiff.models.pair import ModelPair, load_pair
from lensdiff.pipeline import plans
from lensdiff.pipeline.execute import execute
from lensdiff.results import ResultStore
from tests.checkpoints import TEXT, save_checkpoint

PROMPTS = [
    {"id": "sea", "text": "Write a short poem about the sea.", "instruction": ["Write a short poem"]},
    {"id": "fruit", "text": "List three fruits. Apples are good.", "instruction": ["List three fruits."]},
    {"id": "a/b ..", "text": "Repeat the word: moon", "instruction": ["Repeat the word"], "context": ["moon"]},
]
WORDS = sorted({word.strip(".,:;?!").lower() for text in TEXT for word in text.split()})


class Recorder:
    """A listener that remembers, and can end the run at a given event."""

    def __init__(self, act: Callable[[str], None] = lambda event: None):
        self.events: list[str] = []
        self.said: list[str] = []
        self.works: list[tuple[str, int, int | None]] = []
        self._act = act

    def _tell(self, event: str) -> None:
        self.events.append(event)
        self._act(event)

    def say(self, message: str) -> None:
        self.said.append(message)

    def begin(self, step: str, units: int, done: int) -> None:
        self._tell(f"begin {step} {done}/{units}")

    def advance(self, step: str, unit: str) -> None:
        self._tell(f"{step}: {unit}")

    def within(self, work: str, done: int, total: int | None) -> None:
        self.works.append((work, done, total))

    def end(self, step: str, seconds: float) -> None:
        self.events.append(f"end {step}")

    def units(self) -> list[str]:
        return [event for event in self.events if ": " in event]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` and `tuned`, random models of one shape, `prompts.jsonl` and `words.tsv`."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "tuned")):
        save_checkpoint("llama", folder / name, seed=seed)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    (folder / "words.tsv").write_text("".join(f"{word}\t1\n" for word in WORDS))
    return folder


@pytest.fixture(scope="module")
def loaded_once() -> Iterator[None]:
    """No run changes a model: where both are held, a pair of the same files is loaded once for all runs of a test."""
    known: dict[str, ModelPair] = {}

    def load(base: str, tuned: str, **options: Any) -> ModelPair:
        if options["keep"] != "both":
            return load_pair(base, tuned, **options)
        key = repr((base, fingerprint(Path(base)), tuned, fingerprint(Path(tuned)), options))
        if key not in known:
            known[key] = load_pair(base, tuned, **options)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "load_pair", load)
        yield


def config_for(models: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A config of every analysis at its smallest."""
    return {
        "base": str(models / "base"),
        "tuned": str(models / "tuned"),
        "prompts": str(models / "prompts.jsonl"),
        "vocabulary": str(models / "words.tsv"),
        "out": str(out),
        "device": "cpu",
        "max_new_tokens": 4,
        "attribute": {"deletion_draws": 2, "curve_draws": 2},
        "patch": {"max_prompts": 2, "max_tokens": 3},
        "controls": {
            "kinds": ["spectrum", "norm"],
            "instruction_use": 3,
            "knock_out": 3,
            "dose": 3,
            "first_divergence": 3,
            "residual_stream": 3,
            "layer_similarity": 3,
            "directions": 3,
            "activation_difference": 3,
            "attention": 3,
            "heads": 3,
            "mlp": 3,
            "value_rotation": 3,
            "attribute": 2,
            "patch": 2,
        },
        "dose": {"amounts": [0.5], "parts": ["layer 1"], "part_amounts": []},
        "heads": {"top_k": 10, "layers_per_group": 1},
        "mlp": {"n_components": 8, "ranks": [1, 4], "top_words": 5},
        "activation_difference": {"max_texts": 16, "effect_texts": 4, "draws": 2},
    } | changes


@pytest.fixture(scope="session")
def finished(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ResultStore, Recorder]:
    """A whole run and what was told of it."""
    recorder = Recorder()
    out = tmp_path_factory.mktemp("finished") / "out"
    return execute(config_for(models, out), listener=recorder), recorder
