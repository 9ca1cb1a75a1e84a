"""The view of deletion and insertion curves: numbers of the result, bands of random orders, the section in a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensdiff import deletion_curve, load_pair, load_prompts
from lensdiff.analyses.attribute.curves import DeletionCurve
from lensdiff.analyses.attribute.section import areas, attribution_section
from lensdiff.pipeline.execute import execute
from lensdiff.steps.found import Found
from lensdiff.views.section import Table
from lensdiff.views.widget import Widget
from tests.analyses.attribute.results import curves
from tests.checkpoints import save_checkpoint
from tests.pipeline.conftest import Recorder, config_for
from tests.views.hostile import HOSTILE
from tests.views.pages import given

PROMPTS = [
    {"id": "sea", "text": "Write a short poem about the sea."},
    {"id": "fruit", "text": "List three fruits. Apples are good."},
    {"id": "moon", "text": "Repeat the word: moon"},
]


def test_both_models_stand_before_their_bands_and_so_does_their_difference():
    data = given(curves().show())
    assert data["orders"] == ["the base's map", "the tuned model's map", "the difference of the maps, tuned − base"]
    assert data["ways"] == ["tokens removed", "tokens put in"]
    assert data["columns"] == ["0", "50", "100"]
    models, difference = data["found"][1][0]["charts"]
    assert [(line["role"], line["name"]) for line in models["series"]] == [("base", "base"), ("tuned", "tuned")]
    assert [line["values"] for line in models["series"]] == [[0, 1, 1], [0, 2, 2]]
    assert difference["series"] == [{"role": "tuned", "name": "tuned - base", "values": [0, 1, 1]}]
    drawn = 2 * np.linspace(0, 1, 19)  # by the first half, of the tuned model; one more may lie a step beyond
    low, high = drawn[8] + drawn[9] - drawn[18], drawn[9] + drawn[10] - drawn[0]
    band = models["bands"][1]
    assert (band["role"], band["name"]) == ("tuned", "random orders in the tuned model")
    assert band["low"] == pytest.approx([0, low, 2], abs=1e-3)
    assert band["high"] == pytest.approx([0, high, 2], abs=1e-3)
    (fact,) = data["found"][1][0]["facts"]
    assert fact.startswith("Area under the curve: base 0.75, random orders 0.5 (")
    assert "; tuned - base 0.75, random orders 0.5 (" in fact
    put_in = data["found"][1][1]["charts"][0]["series"][1]
    assert put_in["values"] == [0, 2, 2]


def test_few_random_orders_are_no_band_and_one_model_is_one_chart():
    data = given(curves(draws=3).show())
    assert [chart["bands"] for chart in data["found"][0][0]["charts"]] == [[], []]
    assert "random orders 0.5." in data["found"][0][0]["facts"][0]
    none = given(curves(draws=0).show())
    assert "random" not in none["found"][0][0]["facts"][0]
    both = curves()
    alone = DeletionCurve(
        both.provenance, ("a",), ("density",), both.prompt_id, both.n_in, both.removed, both.deleted[:, :1, :1],
        both.inserted[:, :1, :1], both.random_deleted[:, :, :1], {}, 0.95,
    )  # fmt: skip
    (chart,) = given(alone.show())["found"][0][0]["charts"]
    assert [line["role"] for line in chart["series"]] == ["model"]
    assert chart["bands"][0]["name"] == "random orders"


def test_hostile_names_stay_text():
    widget = curves(HOSTILE, model=f"{HOSTILE[0]} -> {HOSTILE[1]}").show()
    assert not [text for text in HOSTILE if "<" in text and text in widget.html()]
    assert "<td>difference</td>" in widget.fallback


# in a run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "tuned")):
        save_checkpoint("llama", folder / name, seed=seed)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    (folder / "words.tsv").write_text("moon\t1\nsea\t1\n")
    return folder


def of_run(models: Path, out: Path, **options: Any) -> tuple[Found, Recorder]:
    recorder = Recorder()
    options = {"deletion_draws": 0, "curve_prompts": 2, "curve_draws": 2, "curve_tokens": 3} | options
    nothing = {"controls": {"kinds": ["spectrum"], "attribute": 0}}
    config = config_for(models, out, analyses=["attribute"], attribute=options, **nothing)
    return Found(execute(config, listener=recorder)), recorder


def test_a_run_removes_the_tokens_of_the_first_prompts(models: Path, tmp_path: Path):
    found, _ = of_run(models, tmp_path / "out", target="logit")
    result = found.one("deletion_curves", DeletionCurve)
    assert result.prompt_id == ("sea", "fruit")
    pair = load_pair(models / "base", models / "tuned", device="cpu")
    prompts = list(load_prompts(models / "prompts.jsonl"))[:2]
    expected = deletion_curve(pair, prompts, max_new_tokens=3, draws=2, target="logit", progress=False)
    torch.testing.assert_close(result.deleted, expected.deleted, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.random_deleted, expected.random_deleted, atol=1e-4, rtol=0)
    for name, frame in (("deletion_curves", result.to_df()), ("deletion_areas", result.summary())):
        stored: Any = found.table(name)
        assert len(stored) == len(frame)
        assert list(stored.columns) == list(frame.columns)
    assert len(areas(found)) == len(result.summary())
    shown = attribution_section(found)
    assert any(isinstance(part, Widget) and part.title.startswith("Tokens removed") for part in shown)
    assert {"deletion_areas", "deletion_curves"} <= {part.name for part in shown if isinstance(part, Table)}


def test_a_run_without_curves_has_none(models: Path, tmp_path: Path):
    found, _ = of_run(models, tmp_path / "out", curve_prompts=0)
    assert found.maybe("deletion_curves", DeletionCurve) is None
    assert areas(found).empty
