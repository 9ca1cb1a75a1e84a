"""What estimates are measured on before anything is loaded: times that are planted are found again."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lensdiff.models.costs import ByWeights
from lensdiff.models.loading.headers import read_header
from lensdiff.steps import bench as module
from lensdiff.steps import clock
from lensdiff.steps.bench import StandIn
from tests.checkpoints import save_checkpoint

ENDS, LAYER = 3.0, 0.5  # seconds of a planted work


def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: int, n_layers: int = 12) -> StandIn:
    """Stand-ins of a checkpoint, of layers of so many parameters as are timed."""
    folder = tmp_path / "model"
    if not folder.exists():
        save_checkpoint("llama", folder, num_hidden_layers=n_layers)
    header = read_header(str(folder))
    monkeypatch.setattr(module, "TIMED", timed)
    return StandIn(header, header, torch.float32, "cpu", weights="raw", wrapper="auto")


def planted(found: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let works take a time by the depth that they say."""
    monkeypatch.setattr(module, "alternately", lambda *works: tuple(ENDS + LAYER * work() for work in works))


def depths(found: StandIn) -> list[int]:
    return [depth.view.n_layers for depth in found._depths]


def test_a_small_model_is_timed_whole(tmp_path, monkeypatch):
    found = bench(tmp_path, monkeypatch, 10**9)
    planted(found, monkeypatch)
    assert depths(found) == [12]
    assert found.measure(lambda view: [lambda: view.n_layers]) == (ENDS + 12 * LAYER,)


def test_what_takes_a_straight_line_is_found_from_two_depths(tmp_path, monkeypatch):
    found = bench(tmp_path, monkeypatch, 0)
    found = bench(tmp_path, monkeypatch, 6 * found._layer)
    planted(found, monkeypatch)
    assert depths(found) == [2, 6]
    one, twice = found.measure(lambda view: [lambda: view.n_layers, lambda: 2 * view.n_layers])
    assert one == pytest.approx(ENDS + 12 * LAYER)
    assert twice == pytest.approx(ENDS + 24 * LAYER)
    assert found.view.d_vocab == found.sizes.d_vocab
    assert found.sizes.n_layers == 12


def test_wide_layers_are_timed_at_a_part_of_their_width(tmp_path, monkeypatch):
    found = bench(tmp_path, monkeypatch, 0)
    monkeypatch.setattr(module, "LAYER", found._layer / 3.9)
    found = bench(tmp_path, monkeypatch, 0)
    planted(found, monkeypatch)
    assert found.narrower == 2
    assert found.view.d_model == found.sizes.d_model // 2
    few, many = depths(found)
    ends, layer = found._scales
    assert ends == pytest.approx(2, rel=0.05), "the embeddings are as long, and half as wide"
    assert layer == pytest.approx(4, rel=0.1)
    assert found.measure(lambda view: [lambda: view.n_layers])[0] == pytest.approx(ends * ENDS + layer * 12 * LAYER)
    assert few < many < 12


def test_decompositions_grow_with_parameters_and_width(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DECOMPOSED", 16)
    found = bench(tmp_path, monkeypatch, 10**9)
    by = found.sizes.d_model // 16
    assert found._narrow.keep == "both"
    assert by > 1
    ends, layer = found._times(by, min(module.ROWS, found.sizes.d_vocab))
    assert found._whole(ByWeights(1.0, 2.0)) == pytest.approx(by * (ends + 12 * 2 * layer))


def test_controls_of_weights_alone_need_no_pass(tmp_path, monkeypatch):
    found = bench(tmp_path, monkeypatch, 10**9, n_layers=2)
    monkeypatch.setattr(StandIn, "_passes", lambda *_: pytest.fail("a pass was timed"))
    assert found.control("spectrum").each > 0
    monkeypatch.undo()
    found = bench(tmp_path, monkeypatch, 10**9)
    noise = found.control("gradient-noise")
    assert noise.once > 0
    assert noise.each > 0


def test_loading_takes_longer_where_there_is_more(tmp_path, monkeypatch):
    found = bench(tmp_path, monkeypatch, 10**9, n_layers=2)
    first: Any = found._depths[0]
    own = found.base.seconds + module.READ * (found.base.n_bytes or 0)
    assert found.loading == pytest.approx(2 * (first.seconds + own), rel=0.05)


def test_turns_are_taken_and_the_median_is_what_a_work_takes(monkeypatch):
    now, order = [0.0], []
    lasting = {"a": [9.0, 0.1, 0.9, 0.2], "b": [9.0, 0.3, 0.3, 0.5]}

    def work(name: str) -> None:
        order.append(name)
        now[0] += lasting[name].pop(0)

    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    assert clock.alternately(lambda: work("a"), lambda: work("b")) == pytest.approx((0.2, 0.3))
    assert order == ["a", "b"] * 4
