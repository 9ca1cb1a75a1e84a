"""The checkpoints of a short tuning: one after each round, each further from the base."""

import importlib
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lensdiff.inputs import toy_pair
from tests.experiments.conftest import SCRIPTS, WORDNET, needs_wordnet


@pytest.fixture
def checkpoints(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.syspath_prepend(str(SCRIPTS.parent / "series"))
    yield importlib.import_module("checkpoints")
    del sys.modules["checkpoints"]


@needs_wordnet
def test_each_round_leaves_a_checkpoint_and_a_stopped_run_goes_on(checkpoints, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(checkpoints, "ROUNDS", 2)
    checkpoints.main(tmp_path, WORDNET, examples=4)
    base = load_file(toy_pair.BASE / "model.safetensors")
    moved = []
    for place in ("round-1", "round-2"):
        found = load_file(tmp_path / place / "model.safetensors")
        assert found.keys() == base.keys()
        moved.append(sum(float((found[name].float() - base[name].float()).norm()) for name in base))
        assert (tmp_path / place / "tokenizer.json").is_file()
    assert 0 < moved[0] < moved[1]
    assert capsys.readouterr().out.count("loss") == 2
    checkpoints.main(tmp_path, WORDNET, examples=4)
    assert capsys.readouterr().out.count("loss") == 0
