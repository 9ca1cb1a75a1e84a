"""Deletion and insertion curves: transformers' own passes, a planted model, mirrored orders, areas by hand."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from lensdiff import attribute, deletion_curve, load_pair
from lensdiff.analyses.attribute.curves import BY, DIFFERENCE, DeletionCurve
from lensdiff.analyses.attribute.removal import area, grid_of, levels_of, order_of, random_orders
from lensdiff.inputs import Prompt
from lensdiff.models import load_model, view_of
from lensdiff.models.pair import ModelPair
from lensdiff.models.text import Response, encode, generate
from lensdiff.results import InputError
from tests.analyses.attribute.results import curves
from tests.analyses.knock_out.planted import copying
from tests.checkpoints import TEXT, hf_model, save_checkpoint, tokenizer_of
from tests.models.test_forced_text import cycled
from tests.models.test_pair import with_more_tokens

PROMPT = Prompt(TEXT[0], id="p")
MORE = Prompt("List three fruits. Apples are good", id="list")
RESPONSE = "bonjour the moon"
LOADING: dict[str, Any] = {"device": "cpu", "dtype": "float64", "verify": False}


def model_of(seed: int = 0, *, bos: bool = False, family: str = "llama") -> Any:
    return load_model(hf_model(family, dtype=torch.float64, seed=seed), tokenizer=tokenizer_of(bos), **LOADING)


def pair_of(*seeds: int, tokenizer: Any = None) -> ModelPair:
    sides = [hf_model("llama", dtype=torch.float64, seed=seed) for seed in seeds]
    own = {
        "base_options": {"tokenizer": tokenizer_of()},
        "tuned_options": {"tokenizer": tokenizer or tokenizer_of()},
    }
    return load_pair(*sides, **own, **LOADING)


@pytest.fixture(scope="module")
def model() -> Any:
    return model_of(bos=True)


# kernels


def test_the_area_of_a_step_is_its_height_and_of_a_line_the_half():
    at = torch.linspace(0, 1, 5, dtype=torch.float64)
    step = torch.tensor([0.0, 2.0, 2.0, 2.0, 2.0], dtype=torch.float64)
    assert float(area(at, step)) == pytest.approx(2 * (1 - 1 / 8)), "all at once at the first of four points"
    assert float(area(at, 3 * at)) == pytest.approx(1.5)
    assert area(at.expand(2, 5), torch.stack([step, 3 * at])).tolist() == pytest.approx([1.75, 1.5])
    uneven = torch.tensor([0.0, 0.1, 0.1, 0.4, 1.0], dtype=torch.float64)
    assert float(area(uneven, step)) == pytest.approx(2 * (0.9 + 0.05))


def test_orders_are_of_the_heaviest_first_and_random_ones_are_seeded():
    assert order_of(torch.tensor([0.0, 2.0, -1.0, 2.0])) == (1, 3, 0, 2)
    drawn = random_orders(6, draws=200, seed="0")
    assert drawn == random_orders(6, draws=200, seed="0")
    assert drawn != random_orders(6, draws=200, seed="1")
    assert all(sorted(one) == list(range(6)) for one in drawn)
    firsts = np.bincount([one[0] for one in drawn], minlength=6)
    assert firsts.min() > 15, "each token is first in about a sixth"


# what removing is


@pytest.mark.parametrize("bos", [True, False])
def test_removed_tokens_are_what_transformers_never_reads(bos: bool):
    source = hf_model("gpt2", dtype=torch.float64)
    ids = tokenizer_of(bos)(PROMPT.stripped)["input_ids"]
    front, own = ids[:bos], ids[bos:]
    said = tokenizer_of()(f"{PROMPT.stripped} {RESPONSE}", add_special_tokens=False)["input_ids"][len(own) :]
    n, points = len(own), 4
    most = n if bos else n - 1
    weights = [float((7 * i) % n) for i in range(n)]
    found = deletion_curve(model_of(bos=bos, family="gpt2"), PROMPT, RESPONSE, order=weights, points=points, draws=0)
    order = sorted(range(n), key=lambda i: -weights[i])

    def expected(kept: set[int]) -> float:
        text = [*front, *(token for i, token in enumerate(own) if i in kept), *said]
        with torch.no_grad():
            logits = source(torch.tensor([text])).logits[0, -len(said) - 1 : -1].log_softmax(-1)
        return float(logits.gather(1, torch.tensor(said)[:, None]).mean())

    removed = [round(most * i / (points - 1)) for i in range(points)]
    assert found.removed.tolist() == [removed]
    for i, k in enumerate(removed):
        assert float(found.deleted[0, 0, 0, i]) == pytest.approx(expected(set(order[k:])), abs=1e-9)
        put_in = n - removed[points - 1 - i]
        assert float(found.inserted[0, 0, 0, i]) == pytest.approx(expected(set(order[:put_in])), abs=1e-9)
    assert found.shares().tolist() == [[k / most for k in removed]]
    assert float(found.curve("given", found.models[0])[0, 0]) == 0.0
    assert float(found.curve("given", found.models[0], "insertion")[0, 0]) == 0.0


def test_an_insertion_is_the_deletion_of_the_reversed_order_read_from_its_end(model):
    n = encode(view_of(model), PROMPT).n_prompt
    weights = torch.randn(n, generator=torch.Generator().manual_seed(0)).tolist()
    forth = deletion_curve(model, PROMPT, RESPONSE, order=weights, points=7, draws=3)
    back = deletion_curve(model, PROMPT, RESPONSE, order=[-w for w in weights], points=7, draws=3)
    assert torch.equal(forth.inserted, back.deleted.flip(-1))
    whole = forth.curve("given", forth.models[0])[0, -1]
    for by in BY:  # what is lost at the end is what is won from nothing to all, whatever the order
        assert torch.allclose(forth.curve("given", forth.models[0], by)[0, -1], whole, atol=1e-12)
        assert torch.allclose(forth.random(forth.models[0], by)[0, :, -1], whole.expand(3), atol=1e-12)
    insertion = forth.random(forth.models[0], "insertion")[0]
    view, text = view_of(model), encode(view_of(model), PROMPT, RESPONSE)
    drawn = random_orders(n, draws=3, seed=f"0 {PROMPT.stripped}")
    grid = grid_of(text, 7, "p")
    mirrored = levels_of(view, text, [one[::-1] for one in drawn], [], grid).inserted
    assert torch.allclose(insertion, mirrored - mirrored[:, :1], atol=1e-12)


def test_a_token_that_is_copied_is_the_first_to_be_missed():
    tokenizer = tokenizer_of()
    prompt = Prompt("the moon B is good, the sea", id="copy")
    ids = tokenizer(prompt.text)["input_ids"]
    letter = next(i for i in ids if str(tokenizer.decode([i])).strip() == "B")
    other, trigger = (tokenizer(text)["input_ids"][0] for text in ("A", ":"))
    place = ids.index(letter)
    source = copying(ids[0], trigger, [letter, other])
    planted = load_model(source, tokenizer=tokenizer, wrapper="bridge", **LOADING)
    said, n = Response("", (trigger, letter)), len(ids)
    # with norms that take sizes away, a gradient times its input is 0: the map is along a path
    found = deletion_curve(planted, prompt, said, points=n, draws=19, path="integrated", baseline="mean")
    drop = found.curve("density", found.models[0])[0]
    height = float(drop[1])
    assert height > 3.0
    np.testing.assert_allclose(drop[1:], height, atol=0.01)
    (own,), drawn = found.areas("density", found.models[0])
    assert own == pytest.approx(height * (1 - 0.5 / (n - 1)), abs=0.01)
    orders = random_orders(n, draws=19, seed=f"0 {prompt.stripped}")
    for order, curve, (size,) in zip(orders, found.random(found.models[0])[0], drawn, strict=True):
        at = order.index(place)  # before it nothing is lost, then all; of few tokens a little of each is read
        np.testing.assert_allclose(curve[: at + 1][: n - 1], 0.0, atol=0.01)
        np.testing.assert_allclose(curve[at + 1 :], height, atol=0.01)
        if at < n - 1:
            assert size == pytest.approx(height * (n - 1 - at - 0.5) / (n - 1), abs=0.01)
    beside = found.beside("density", found.models[0])
    assert beside is not None
    assert beside.direction == "above"
    assert beside.p == pytest.approx(1 / 20)


def test_padding_and_prompts_beside_change_no_number(model):
    together = deletion_curve(model, [PROMPT, MORE], [RESPONSE, "Apples"], draws=2, progress=False)
    for place, (prompt, said) in enumerate([(PROMPT, RESPONSE), (MORE, "Apples")]):
        alone = deletion_curve(model, prompt, said, draws=2)
        for name in ("deleted", "inserted", "random_deleted", "removed"):
            assert torch.equal(getattr(together, name)[place], getattr(alone, name)[0])
    view, text = view_of(model), encode(view_of(model), PROMPT, RESPONSE)
    order, grid = order_of(torch.arange(text.n_prompt).double()), grid_of(text, 6, "p")
    whole = levels_of(view, text, [order], [], grid).deleted[0]
    one_by_one = [levels_of(view, text, [order], [], (0, k)).deleted[0, 1] for k in grid]
    torch.testing.assert_close(whole, torch.stack(one_by_one), atol=1e-9, rtol=0)


# a pair


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_pair_is_ordered_by_either_map_and_by_their_difference(shuffled: bool):
    pair = pair_of(0, 1, tokenizer=cycled() if shuffled else None)
    found = deletion_curve(pair, PROMPT, RESPONSE, draws=2)
    assert (found.models, found.orders) == (("base", "tuned"), ("base", "tuned", "difference"))
    density = {side: attribute(getattr(pair, side), PROMPT, RESPONSE, deletion_draws=0).density()
               for side in found.models}  # fmt: skip
    weights = [density["base"], density["tuned"], density["tuned"] - density["base"]]
    for (place, name), side in itertools.product(enumerate(found.orders), found.models):
        alone = deletion_curve(getattr(pair, side), PROMPT, RESPONSE, order=weights[place].tolist(), draws=2)
        for by in BY:
            model = alone.models[0]
            torch.testing.assert_close(found.curve(name, side, by), alone.curve("given", model, by), atol=1e-9, rtol=0)
            torch.testing.assert_close(found.random(side, by), alone.random(model, by), atol=1e-9, rtol=0)
    base, tuned = (found.curve("difference", side) for side in found.models)
    torch.testing.assert_close(found.curve("difference", DIFFERENCE), tuned - base, atol=1e-12, rtol=0)


def test_a_model_against_itself_differs_in_exactly_nothing():
    found = deletion_curve(pair_of(0, 0), [PROMPT, MORE], [RESPONSE] * 2, draws=19, progress=False)
    for order, by in itertools.product(found.orders, BY):
        assert bool((found.curve(order, DIFFERENCE, by) == 0).all())
    frame: Any = found.summary()
    own = frame[frame["model"] == DIFFERENCE]
    assert own[["area", "random", "random_low", "random_high"]].eq(0).all().all()


def test_without_a_response_both_models_read_the_tuned_models_own(tmp_path):
    folders = [save_checkpoint("llama", tmp_path / name, seed=seed) for seed, name in enumerate(("base", "tuned"))]
    both, one = (load_pair(*folders, device="cpu", dtype="float64", keep=keep) for keep in ("both", "one"))
    own = generate(both.tuned, PROMPT, max_new_tokens=4)
    found = deletion_curve(both, PROMPT, max_new_tokens=4, draws=2)
    for again in (deletion_curve(both, PROMPT, own, draws=2), deletion_curve(one, PROMPT, max_new_tokens=4, draws=2)):
        torch.testing.assert_close(again.deleted, found.deleted, atol=1e-9, rtol=0)


@pytest.mark.filterwarnings("ignore:the integrated gradients")
def test_maps_are_those_that_are_asked_for(model):
    for options in ({"target": "logit"}, {"path": "integrated", "baseline": "zero", "nodes": 2}, {"method": "reverse"}):
        found = deletion_curve(model, PROMPT, RESPONSE, draws=0, **options)
        made = attribute(model, PROMPT, RESPONSE, deletion_draws=0, **options)
        given = deletion_curve(model, PROMPT, RESPONSE, draws=0, order=made)
        assert torch.equal(found.deleted, given.deleted)
        assert found.provenance.options.items() >= options.items()
    listed = deletion_curve(model, [PROMPT], [RESPONSE], draws=0, order=[made], progress=False)
    assert torch.equal(listed.deleted, given.deleted)
    assert (listed.orders, found.orders) == (("given",), ("density",))


# results


def test_tables_and_bands_are_those_of_the_curves(tmp_path):
    found = curves()
    frame: Any = found.to_df()
    row = frame.query("prompt_id == 'list' and order == 'tuned' and by == 'deletion' and model == 'tuned - base'")
    assert row["tokens"].tolist() == [0, 2, 4]
    assert row["share"].tolist() == [0.0, 0.5, 1.0]
    assert row["change"].tolist() == pytest.approx([0.0, 1.0, 1.0])
    assert row["log_prob"].isna().all()
    put_in = frame.query("prompt_id == 'list' and order == 'tuned' and by == 'insertion' and model == 'tuned'")
    assert put_in["tokens"].tolist() == [0, 2, 4]
    assert put_in["log_prob"].tolist() == pytest.approx([-5.0, -3.0, -3.0])
    assert put_in["change"].tolist() == pytest.approx([0.0, 2.0, 2.0])
    summary: Any = found.summary().set_index(["order", "model", "by"])
    one = summary.loc["tuned", "tuned", "deletion"]
    assert one["area"] == pytest.approx(2 * 0.75)
    areas = [2 * (0.25 + 0.5 * share) for share in np.linspace(0, 1, 19)]  # half of the drop at share, all at the end
    assert one["random"] == pytest.approx(np.mean(areas))
    # one more is not the farthest from the median of all 20 up to where it is farther than the first, or the last
    limits = areas[8] + areas[9] - areas[18], areas[9] + areas[10] - areas[0]
    assert (one["random_low"], one["random_high"]) == pytest.approx(limits)
    assert summary.loc["tuned", DIFFERENCE, "deletion"]["area"] == pytest.approx(0.75)
    assert found.top(1)["area"].tolist() == pytest.approx([1.5])
    assert "deletion by tuned, tuned: 1.5 (random orders 1, 0.444 to 1.56)" in repr(found)
    again = DeletionCurve.load(found.save(tmp_path / "curves.safetensors"))
    assert again.to_df().equals(frame)
    few: Any = curves(draws=3).summary()
    assert few["random"].notna().all()
    assert few["random_low"].isna().all()
    none = curves(draws=0)
    assert none.beside("tuned", "tuned") is None
    assert none.summary()["random"].isna().all()
    assert "random" not in repr(none)


# errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": [1.0, 2.0]}, r"the order of prompt 'p' has 2 numbers, expected \d+, one for each prompt token"),
        ({"order": [1.0, float("nan")]}, "expected an Attribution or a finite number per prompt token"),
        ({"order": "density"}, "expected an Attribution or a finite number per prompt token"),
        ({"points": 1}, "points"),
        ({"draws": -1}, "draws"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"level": 1.0}, "level is 1.0"),
        ({"seed": -1}, "seed"),
        ({"target": "loss"}, "target 'loss' is none of"),
        ({"path": "round"}, "path"),
    ],
)
def test_what_cannot_be_asked_is_refused(model, options: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        deletion_curve(model, PROMPT, RESPONSE, **options)


def test_prompts_that_cannot_be_read_fail_alone(model):
    with pytest.raises(InputError, match="the response to prompt 'p' is empty: nothing is predicted"):
        deletion_curve(model, PROMPT, Response("", ()))
    with pytest.raises(InputError, match="prompt 'e' is one token, and no BOS is before it: nothing can be removed"):
        deletion_curve(model_of(), Prompt("e", id="e"), RESPONSE)
    with pytest.warns(UserWarning, match="prompt 'p' failed: the response"):
        found = deletion_curve(model, [PROMPT, MORE], [Response("", ()), RESPONSE], draws=0, progress=False)
    assert (found.prompt_id, list(found.failures)) == (("list",), ["p"])
    with pytest.raises(InputError, match="2 prompts were given with the order"):
        deletion_curve(model, [PROMPT, MORE], [RESPONSE] * 2, order=[[1.0]])
    other = pair_of(0, 1, tokenizer=with_more_tokens(without="Ġword"))
    with pytest.raises(InputError, match="different tokens"):
        deletion_curve(other, Prompt("Repeat the word: moon", id="w"), RESPONSE)


def test_what_there_is_no_curve_of_is_said():
    found = curves()
    for call, said in (
        (lambda: found.curve("density", "base"), "order='density' is none of base, tuned, difference"),
        (lambda: found.curve("base", "control"), "model='control' is none of base, tuned, tuned - base"),
        (lambda: found.random("base", "swap"), "by='swap' is none of deletion, insertion"),
        (lambda: found.shares("swap"), "by='swap' is none of"),
    ):
        with pytest.raises(InputError, match=said):
            call()
