"""One number along models: doses are linear, a model beside itself is exactly 0, and what cannot be a series."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import lensdiff
from lensdiff import Prompt, instruction_use, series, weight_shift
from lensdiff.analyses.series.measure import _names
from lensdiff.analyses.series.measures import NAMED
from lensdiff.analyses.series.result import Series, SeriesPoint
from lensdiff.models import load_model, load_pair, view_of
from lensdiff.results import InputError, Provenance
from lensdiff.stats.t_tests import mean_interval, paired_interval
from tests.checkpoints import hf_model, tokenizer_of

AMOUNTS = (0.0, 0.25, 0.5, 0.75, 1.0)
PROMPTS = [
    Prompt("Write a short poem about the sea.", ("Write a short poem",), reference="The sea is simple.", id="sea"),
    Prompt("List three fruits. Apples are good.", ("List three fruits.",), reference="Apples and bananas.", id="fruit"),
    Prompt("Repeat the word: moon", ("Repeat the word",), reference="moon, moon and moon", id="moon"),
]


def model(seed: int = 0, amount: float = 0.0, **options: Any) -> Any:
    """Weights of one seed, moved by an amount of the way to those of another one."""
    found, other = (hf_model("llama", seed=s, dtype=torch.float64, **options) for s in (seed, 9))
    with torch.no_grad():
        for mine, its in zip(found.parameters(), other.parameters(), strict=True):
            mine.add_(amount * (its - mine))
    return load_model(found, tokenizer=tokenizer_of(), device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def doses() -> list[Any]:
    return [model(amount=amount) for amount in AMOUNTS]


def test_a_dose_moves_weights_linearly(doses):
    frame = series(doses, "weights.relative_norm").to_df()
    assert list(frame.columns) == ["step", "model", "measure", "value", "low", "high"]
    assert list(frame["step"]) == list(range(len(AMOUNTS)))
    values = frame["value"].to_numpy()
    assert values[0] == 0.0
    np.testing.assert_allclose(values, np.array(AMOUNTS) * values[-1], rtol=1e-6)  # kept in float32
    shift = weight_shift(load_pair(doses[0], doses[-1])).to_df()
    whole = shift[shift["head_index"].isna() & shift["matrix"].str.startswith("W_")]
    assert values[-1] == pytest.approx(whole["relative_norm"].mean(), rel=1e-6)
    assert frame[["low", "high"]].isna().all(axis=None)


UNCHANGED = {"weights.cosine": 1.0, "layer_similarity.cka": 1.0}


@pytest.mark.parametrize("name", NAMED)
def test_a_model_beside_itself_changes_by_exactly_nothing(name, doses):
    found = series([doses[0], doses[0], doses[0]], name, PROMPTS, draws=1)
    assert set(found.changes()["change"]) == {0.0}
    assert found.equal == (True, True, True)
    assert repr(found).startswith("all models of the series have equal weights")
    if NAMED[name].of == "pair":
        assert found.to_df()["value"].tolist() == pytest.approx([UNCHANGED.get(name, 0.0)] * 3, abs=1e-9)


@pytest.mark.parametrize("name", NAMED)
def test_every_measure_moves_with_the_model(name, doses):
    found = series([doses[0], doses[-1]], name, PROMPTS, draws=1)
    assert abs(found.changes()["change"][0]) > 1e-6
    assert found.equal == (True, False)


def test_a_models_own_measure_is_that_of_the_model_alone(doses):
    found = series(doses[::2], "instruction_use.use", PROMPTS, draws=2, seed=3)
    texts = [prompt.reference for prompt in PROMPTS]
    alone = [
        instruction_use(one, PROMPTS, texts, draws=2, seed=3, min_tokens=1, progress=False).use for one in doses[::2]
    ]
    expected = torch.stack(alone).double()
    torch.testing.assert_close(found.values, expected)
    low, high = mean_interval(expected.T.numpy())
    frame = found.to_df()
    np.testing.assert_allclose(frame[["low", "high"]], np.stack([low, high], axis=1))
    changes = found.changes()
    np.testing.assert_allclose(changes["change"], (expected[1:] - expected[0]).mean(dim=1))
    band = paired_interval(expected[2].numpy(), expected[0].numpy())
    assert (changes["low"][1], changes["high"][1]) == pytest.approx((float(band.low), float(band.high)))


def test_all_models_read_the_firsts_response_where_there_is_no_reference(doses):
    prompt = Prompt("Repeat the word: moon", ("Repeat the word",), id="moon")
    said = lensdiff.generate(doses[0], prompt, max_new_tokens=5).text
    asked = {"draws": 1, "max_new_tokens": 5}
    found = series([doses[0], doses[-1]], "knock_out.drop", prompt, **asked)
    again = series([doses[0], doses[-1]], "knock_out.drop", Prompt(prompt.text, prompt.instruction, reference=said))
    torch.testing.assert_close(found.values, again.values)


def test_a_function_of_the_users_own(doses):
    def gain(pair: Any) -> float:
        first, other = (view_of(one).weights.gain("final").mean() for one in (pair.base, pair.tuned))
        return float(other - first)

    values = series(doses, gain).to_df()["value"].to_numpy()
    np.testing.assert_allclose(values, np.array(AMOUNTS) * values[-1], atol=1e-12)
    assert values[-1] != 0

    def lengths(pair: Any, prompts: Any) -> dict[str, float]:
        return {prompt.id: float(len(prompt.text)) for prompt in prompts}

    found = series(doses[:2], lengths, PROMPTS)
    assert found.measure == "lengths"
    assert found.to_df()["value"].tolist() == [np.mean([len(prompt.text) for prompt in PROMPTS])] * 2


def refuse(pair: Any, *prompts: Any) -> Any:
    return "many"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: series(m[:1], "weights.cosine"), "at least 2 models, given 1$"),
        (lambda m: series(m[0], "weights.cosine"), "at least 2 models, given one model$"),
        (lambda m: series("base", "weights.cosine"), "at least 2 models, given a str$"),
        (lambda m: series(m, "weights.norm"), r"'weights.norm' is no function.*instruction_use.use.*weights.cosine"),
        (lambda m: series(m, "outputs.js"), "'outputs.js' reads prompts, and none are given"),
        (lambda m: series(m[:2], refuse), "refuse gives a str, expected a number or one by prompt$"),
        (lambda m: series(m[:2], lambda pair: float("nan")), r"gives no number \(NaN\)$"),
        (lambda m: series(m[:2], lambda pair, prompts: {"x": 1.0}, PROMPTS), "a number for 'x', no prompt$"),
        (lambda m: series(m, "outputs.js", PROMPTS, level=2.0), "level"),
        (lambda m: series(m, "outputs.js", PROMPTS, draws=0), "draws=0"),
        (lambda m: series(m, "outputs.js", PROMPTS, seed=-1), "seed"),
        (lambda m: series([*m[:1], model(hidden_size=16)], "weights.cosine"), r"^models\[1\] cannot stand in a series"),
    ],
)
def test_what_is_no_series_is_refused(call, said, doses):
    with pytest.raises(InputError, match=said):
        call(doses)


def test_another_tokenizer_is_refused(doses):
    other = load_model(
        hf_model("llama", dtype=torch.float64), tokenizer=tokenizer_of(bos=True), device="cpu", dtype="float64"
    )
    said = r"^models\[1\] cannot stand in a series after .*: its tokenizer reads prompt 'sea' as other tokens$"
    with pytest.raises(InputError, match=said):
        series([doses[0], other], "instruction_use.log_prob", PROMPTS)


def test_names_are_the_shortest_that_tell_folders_apart(tmp_path):
    places = [tmp_path / "a" / "final", tmp_path / "b" / "final", tmp_path / "step-10"]
    for place in places:
        place.mkdir(parents=True)
    assert _names([*places, places[0]]) == ["a/final", "b/final", "step-10", "a/final"]
    assert _names(["org/model", "org/other"]) == ["org/model", "org/other"]


def test_models_in_memory_are_numbered_and_one_that_comes_twice_is_not(doses):
    name, second = _names([*doses[:2], doses[0]])[:2]
    assert second == f"{name} (2)"
    found = series([*doses[:2], doses[0]], "weights.cosine")
    assert found.models == (name, second, name)
    assert "the same weights as the first: step 2" in repr(found)
    assert "equal weights: every" not in repr(found)


def point(name: str, values: dict[str, float], failures: dict[str, str] | None = None) -> SeriesPoint:
    numbers = torch.tensor(list(values.values()), dtype=torch.float64)
    texts = dict.fromkeys(("a", "b", "c"), "x")
    about = Provenance("series", name, versions={})
    return SeriesPoint(about, "use", "nats", "model", tuple(values), numbers, texts, failures or {}, False)


def test_means_are_over_the_prompts_that_all_have():
    points = [point("m0", {"a": 1.0, "b": 3.0, "c": 9.0}), point("m1", {"a": 2.0, "b": 6.0}, {"c": "too long"})]
    found = Series.of_points(points, ["m0", "m1"], 0.95)
    assert found.prompt_id == ("a", "b")
    assert found.to_df()["value"].tolist() == [2.0, 4.0]
    assert found.changes()["change"].tolist() == [2.0]
    assert found.failures == {"c": "too long"}
    missing = [points[0], point("m1", {"a": float("nan"), "b": float("nan"), "c": float("nan")})]
    with pytest.raises(InputError, match="no prompt has use in every model: m1: it has no number"):
        Series.of_points(missing, ["m0", "m1"], 0.95)


def test_top_and_repr_and_file(tmp_path: Path):
    points = [point(f"m{i}", {"a": float(v), "b": v + 1.0}) for i, v in enumerate((0, 3, -5, 1))]
    found = Series.of_points(points, [f"m{i}" for i in range(4)], 0.95)
    assert found.top(2)["step"].tolist() == [2, 1]
    lines = repr(found).splitlines()
    assert 3 <= len(lines) <= 8
    assert lines[0] == "Series of m0 -> m3"
    assert "use (nats), along 4 models, mean over 2 prompts" in lines[1]
    assert "0 m0: 0.5 [" in repr(found)
    assert "3 m3: 1.5 [" in repr(found)
    loaded = Series.load(found.save(tmp_path / "series.safetensors"))
    pd.testing.assert_frame_equal(loaded.to_df(), found.to_df())
    assert points[0].top(1)["prompt_id"].tolist() == ["b"]
