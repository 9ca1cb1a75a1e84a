"""What an estimate measures: times that are planted are found again, and each is measured once."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lensdiff.inputs import load_prompts
from lensdiff.models import load_pair
from lensdiff.steps import bench as bench_module
from lensdiff.steps import probe as probe_module
from lensdiff.steps.bench import Loaded
from lensdiff.steps.clock import LEAST, seconds
from lensdiff.steps.probe import Probe


def probe_of(models: Path) -> Probe:
    pair = load_pair(models / "base", models / "tuned", device="cpu", verify=False)
    prompts = {prompt.id: prompt for prompt in load_prompts(models / "prompts.jsonl")}
    return Probe(Loaded(pair), prompts, 4, 0, {"heads": 6})


def test_work_is_repeated_until_its_time_is_known_and_the_first_time_is_apart(monkeypatch):
    now, lasting = [0.0], [9.0, 0.04, 0.01, 0.03, 0.05, 7.0]

    def work() -> None:
        now[0] += lasting.pop(0)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert seconds(work) == pytest.approx((0.04 + 0.01 + 0.03 + 0.05) / 4)
    assert seconds(lambda: now.__setitem__(0, now[0] + 2 * LEAST)) == pytest.approx(2 * LEAST)


def test_a_pass_takes_its_own_time_and_that_of_its_tokens(models, monkeypatch):
    probe = probe_of(models)
    lengths: list[int] = []

    def timed(*works: Any) -> tuple[float, ...]:
        lengths.extend(work().shape[1] for work in works)
        return tuple(3.0 + 0.5 * length for length in lengths)  # seconds

    monkeypatch.setattr(bench_module, "alternately", timed)
    assert probe.passing == pytest.approx((3.0, 0.5))
    assert lengths == [4, 32]
    assert probe.read(100) == pytest.approx(3.0 + 50.0)
    assert probe.read(100, passes=5) == pytest.approx(15.0 + 50.0)
    monkeypatch.setattr(bench_module, "alternately", lambda *works: (2.0, 2.0))  # the longer one takes no longer
    assert probe_of(models).passing == (2.0, 0.0)


def test_a_decomposition_is_measured_once_and_grows_with_the_cube(models, monkeypatch):
    sizes: list[tuple[int, torch.dtype]] = []

    def timed(work: Any) -> float:
        sizes.append((len(work().S), work().S.dtype))
        return 1.0

    monkeypatch.setattr(probe_module, "seconds", timed)
    probe = probe_of(models)
    assert [probe.decompose(n) for n in (256, 512, 1024, 256)] == [1.0, 8.0, 64.0, 1.0]
    assert probe.decompose(16) == probe.decompose(16, torch.float64) == 1.0
    assert sizes == [(256, torch.float32), (16, torch.float32), (16, torch.float64)]


def test_the_machine_and_the_pair_are_measured(models):
    probe = probe_of(models)
    assert probe.rate > 1e8
    assert probe.step > 0
    assert probe.passing.each + probe.passing.per_token > 0
    assert 5 < probe.n_prompt < 40
    assert (probe.n_response, probe.n_text) == (4, probe.n_prompt + 4)
    assert probe.parameters == AutoModelForCausalLM.from_pretrained(models / "base").num_parameters()
    assert probe.controls["heads"] == probe.n_controls("heads") == 6
    assert probe.n_controls("weights") == 0
