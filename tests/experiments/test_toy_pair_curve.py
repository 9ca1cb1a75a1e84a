"""Accuracy against gentleness: what is written of it is what was measured, and ways of tuning do what they say.

Oracles: the file of measurements, planted curves, norms, directions and ranks, cross-entropy by hand, changed weights.
"""

import json
import subprocess
import sys
from statistics import mean
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lensdiff.inputs.toy_pair import FOLDER as PAIR
from tests.experiments.conftest import SCRIPTS, needs_wordnet

CURVE = SCRIPTS / "curve.json"


@pytest.fixture(scope="module")
def found() -> dict:
    return json.loads(CURVE.read_text())


def cells(point: dict) -> str:
    """A point as its row of a table says it."""
    draws = [point["right"].values(), point["again"].values()]
    right = ", ".join(f"{100 * mean(draw):.0f}" for draw in draws)
    kinds = ", ".join(str(sum(share >= 0.8 for share in draw)) for draw in draws)
    change = " | ".join(f"{100 * point['change'][k]:.1f} %" for k in ("median", "max"))
    perplexity = " | ".join(f"{point['perplexity'][k]:.1f}" for k in ("entries", "passages"))
    return f"{change} | {right} % | {kinds} | {perplexity}"


def rows(text: str) -> dict[str, str]:
    """The rows of a text's tables that begin with a rate: what was tuned, and its cells."""
    lines = (line.strip("| ").replace("**", "") for line in text.splitlines() if line.startswith("| "))
    return {name: rest for name, _, rest in (line.partition(" | ") for line in lines) if name[:1].isdigit()}


def test_the_readme_gives_every_point(found):
    assert rows((SCRIPTS / "README.md").read_text()) == {p["name"]: cells(p) for p in found["points"]}


def test_the_card_gives_the_curve_and_some_other_ways(found, scripts):
    text = (PAIR / "MODEL_CARD.md").read_text().partition("## Accuracy against gentleness")[2].partition("\n## ")[0]
    given, points = rows(text), {p["name"]: p for p in found["points"]}
    assert given == {name: cells(points[name]) for name in given}
    assert {name for name in points if scripts["curve"].point_of(points[name]).on_the_curve} < set(given)
    assert f"knee is {found['knee']}" in " ".join(text.split())
    assert f"| **{found['gentle']}** |" in text


def test_the_file_has_the_points_that_the_script_tunes(found, scripts):
    curve = scripts["curve"]
    numbers = curve.numbers(curve.RATES), [4, 8, 12], [0, 1, 2]
    assert [curve.point_of(p) for p in found["points"]] == [*curve.points_of(*numbers), *curve.TRIED]
    assert curve.knees(found["points"]) == {k: found[k] for k in ("knee", "gentle")}


def test_the_shipped_pair_is_the_gentle_point(found):
    shipped = json.loads((PAIR / "accuracy.json").read_text())
    point = next(p for p in found["points"] if p["name"] == found["gentle"])
    right = [cell["right"] for cell in shipped["tuned"]["accuracy"]["raw"].values()]
    assert point["tokens"] == shipped["tokens"]["tuned"]
    assert point["change"] == pytest.approx(shipped["change"], rel=0.02)
    assert mean(point["right"].values()) == pytest.approx(mean(right), abs=0.03)


def planted(scripts, heights, largest):
    curve, points = scripts["curve"], []
    for i, (height, change) in enumerate(zip(heights, largest, strict=True)):
        right = {"quote": height}
        points.append({"name": f"{i}", "change": {"median": i / 10, "max": change}, "right": right, "again": right})
        points[-1]["point"] = vars(curve.Point(rate=1e-4 * (i + 1)))
    return points


def test_a_planted_knee_is_found(scripts):
    curve = scripts["curve"]
    assert curve.above_chord([0, 1, 2, 4], [0, 1, 1.5, 2]) == [0, 0.5, 0.5, 0]
    points = planted(scripts, [0.1, 0.3, 0.7, 0.72, 0.7], [0.05, 0.1, 0.2, 0.3, 0.4])
    assert curve.knees(points) == {"knee": "2", "gentle": "1"}
    assert curve.knees(list(reversed(points))) == {"knee": "2", "gentle": "1"}
    assert curve.knees(points[:2]) == {"knee": None, "gentle": None}
    assert curve.knees([p | {"change": p["change"] | {"max": 0.5}} for p in points])["gentle"] is None
    with pytest.raises(ValueError, match="three points, 2 given"):
        curve.above_chord([0, 1], [0, 1])


def test_points_off_the_curve_do_not_move_its_knee(scripts):
    points = planted(scripts, [0.1, 0.3, 0.7, 0.72, 0.7], [0.05, 0.1, 0.2, 0.3, 0.4])
    other = points[1] | {"name": "other", "right": {"quote": 1.0}, "point": points[1]["point"] | {"limit": 0.1}}
    assert scripts["curve"].knees([*points, other]) == {"knee": "2", "gentle": "1"}


def test_a_point_is_named_by_what_differs(scripts):
    point = scripts["curve"].Point
    assert point().name == "3.5e-4"
    assert point(5e-4, lars=True, seed=1, first=3.0).name == "5.0e-4, seed 1, lars, first 3"
    assert point(1e-3, limit=0.145, more=("quote", "list")).name == "1.0e-3, limit 0.145, more quote+list"


def test_within_shortens_what_is_too_long_and_nothing_else(scripts):
    far, near = (torch.nn.Parameter(torch.tensor([[3.0, 4.0]])) for _ in range(2))
    within = scripts["ways"].Within([far, near], limit=0.1)
    with torch.no_grad():
        far += torch.tensor([[0.0, 2.0]])
        near += torch.tensor([[0.3, 0.0]])
    within.step()
    assert torch.allclose(far, torch.tensor([[3.0, 4.5]]))
    assert torch.equal(near, torch.tensor([[3.3, 4.0]]))


def test_lars_walks_as_far_as_its_rate_says(scripts):
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    lars = scripts["ways"].Lars([weight], lr=0.01)
    weight.grad = torch.tensor([[2.0, 0.0]])
    lars.step()
    assert torch.allclose(weight, torch.tensor([[2.95, 4.0]]))  # 0.01 of the norm, 5
    weight.grad = torch.tensor([[0.0, 1.8]])  # momentum 0.9 * (2, 0) + (0, 1.8): 45 degrees
    lars.step()
    assert torch.allclose(weight, torch.tensor([[2.95, 4.0]]) - 0.05 / 2**0.5)


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**size, vocab_size=50, tie_word_embeddings=False))


def test_a_low_rank_change_starts_at_nothing_and_is_merged(scripts):
    ways, model, ids = scripts["ways"], small_model(), torch.tensor([[5, 6, 7]])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start = model(input_ids=ids).logits
    trained = ways.add_low_rank(model, rank=3)
    assert torch.equal(model(input_ids=ids).logits, start)
    assert all(p.shape[0] == 3 or p.shape[1] == 3 for p in trained)
    with torch.no_grad():
        for p in trained:
            p += torch.randn_like(p)
    apart = model(input_ids=ids).logits
    ways.merge_low_rank(model)
    assert torch.allclose(model(input_ids=ids).logits, apart, atol=1e-5)
    assert set(model.state_dict()) == set(before)
    for name, tensor in model.state_dict().items():
        rank = int(torch.linalg.matrix_rank(tensor - before[name], rtol=1e-4)) if tensor.ndim == 2 else 0
        assert rank == (3 if tensor.ndim == 2 else 0), name


def test_the_first_tokens_of_a_response_can_count_more(scripts):
    ways, train, model = scripts["ways"], scripts["train"], small_model()
    inputs = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [5, 6, 7, 8, 9, 0, 0]])
    targets = torch.tensor([[-100, 7, 8, 9, 10, 11, 12], [-100, -100, -100, 9, 10, -100, -100]])
    plain = float(train.learned_loss(model, (inputs, targets)).detach())
    own = [float(ways.first_loss(model, (inputs, targets), weight=w).detach()) for w in (1.0, 4.0)]
    assert own[0] == pytest.approx(plain, rel=1e-6)
    losses = -model(input_ids=inputs).logits.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    counts = torch.tensor([[0, 4, 4, 4, 1, 1, 1], [0, 0, 0, 4, 4, 0, 0]])
    expected = float(((losses * counts).sum() / counts.sum()).detach())
    assert own[1] == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(plain, rel=1e-4)


@needs_wordnet
def test_other_ways_tune_as_they_are_named(scripts, dictionary, tmp_path):
    curve, size = scripts["curve"], scripts["run"].FAST
    seen, unseen = scripts["passages"].sides(dictionary)
    material = scripts["run"].Material(seen, unseen, [], 0, size)
    changes, tokens = {}, {}
    points = {
        "limit": curve.Point(1e-3, rounds=1, limit=0.002, first=3.0, more=("quote",)),
        "rank": curve.Point(1e-3, rounds=1, rank=2),
        "lars": curve.Point(1e-4, rounds=1, lars=True),
        "seed": curve.Point(1e-4, rounds=1, seed=1),
    }
    for name, point in points.items():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(PAIR / "base")
        model = LlamaForCausalLM.from_pretrained(PAIR / "base", dtype=torch.float32)
        before = {key: tensor.clone() for key, tensor in model.state_dict().items() if tensor.ndim == 2}
        (tmp_path / name).mkdir()
        tokens[name] = curve.tune(model, tokenizer, point, material, work=tmp_path / name)
        changes[name] = [(model.state_dict()[k] - tensor, tensor) for k, tensor in before.items()]
    far = {name: [float(c.norm() / w.norm()) for c, w in every] for name, every in changes.items()}
    assert max(far["limit"]) == pytest.approx(0.002, rel=1e-3)
    assert 0 < min(far["lars"]) <= max(far["lars"]) <= 1e-4 * size.examples_a_round
    # the matrices of an embedding are large, and a float32 sum has a little of every direction
    assert all(int(torch.linalg.matrix_rank(c, rtol=1e-3)) == 2 for c, _ in changes["rank"] if c.norm() > 1e-3)
    assert tokens["rank"] == tokens["lars"]
    assert len({tokens[name] for name in ("rank", "limit", "seed")}) == 3, "other kinds and seeds draw other examples"


@needs_wordnet
def test_fast_run_measures_its_points_once(scripts, tmp_path):
    work, out = tmp_path / "work", tmp_path / "curve.json"
    options = ["--fast", "--no-tried", "--rates", "2e-3,1e-2", "--rounds", "1", "--seeds", ""]
    command = [sys.executable, str(SCRIPTS / "curve.py"), *options, "--work", str(work), "--out", str(out)]

    def run() -> SimpleNamespace:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return SimpleNamespace(found=json.loads(out.read_text()), said=done.stdout)

    first = run()
    points = {p["name"]: p for p in first.found["points"]}
    assert list(points) == ["2.0e-3", "1.0e-2", "3.5e-4, rounds 1"]
    assert 0 < points["2.0e-3"]["change"]["median"] < points["1.0e-2"]["change"]["median"]
    assert 0 < points["3.5e-4, rounds 1"]["tokens"] < points["2.0e-3"]["tokens"]
    assert all(len(p[side]) == 10 for p in points.values() for side in ("right", "again"))
    assert first.found["device"] == "cpu"
    assert "median change" in first.said
    (work / "3.5e-4_rounds-1" / "point.json").unlink()
    kept = work / "1.0e-2" / "point.json"
    kept.write_text(json.dumps(points["1.0e-2"] | {"tokens": 7}))
    again = {p["name"]: p for p in run().found["points"]}
    assert again["1.0e-2"]["tokens"] == 7, "a point that is there was tuned again"
    assert again["3.5e-4, rounds 1"] == points["3.5e-4, rounds 1"], "a point does not follow from its seeds"
