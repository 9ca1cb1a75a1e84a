"""Sets of heads: what one head alone does, planted groups, random sets, and the heads whose verbs rose."""

from collections import Counter
from typing import Any

import pandas as pd
import pytest
import torch

from lensdiff import patch
from lensdiff.analyses.patch.set_choice import random_sets, risen_heads
from lensdiff.analyses.patch.sets import control_set, patch_set
from lensdiff.models import ModelPair
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.results import InputError
from tests.analyses.patch.planted import HEADS, PROMPT, RESPONSE, changed_head, pair_of

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
WRAPPERS = ["bridge", pytest.param("hooked", marks=NO_HOOKED)]


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return pair_of()


def test_a_set_of_one_head_is_that_head(pair: ModelPair):
    found = patch_set(pair, PROMPT, RESPONSE, heads=[(1, 2)], draws=1)
    for side, into in enumerate(("base", "tuned")):
        one = patch(pair, PROMPT, RESPONSE, component="head", layer=1, head=2, into=into)
        assert float(found.effect[0, side]) == pytest.approx(float(one.effect), abs=1e-9)
        assert found.clean[0, side] == one.clean[0, 0]
        layer, head = found.random_heads[0, 0].tolist()
        assert layer == 1
        other = patch(pair, PROMPT, RESPONSE, component="head", layer=layer, head=head, into=into)
        assert float(found.random_effect[0, 0, side]) == pytest.approx(float(other.effect), abs=1e-9)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_heads_of_several_layers_together_carry_what_was_planted_in_all(wrapper: str):
    def edit(model: Any) -> None:
        changed_head(0, 1)(model)  # its effect reaches layer 1's heads, whose own z is put in as the donor has it
        changed_head(1, 1, matrix="v_proj")(model)

    found = patch_set(pair_of(edit, wrapper=wrapper), PROMPT, RESPONSE, heads=[(0, 1), (1, 2), (1, 3)], draws=2)
    whole = found.clean[0].flip(0) - found.clean[0]
    assert whole.abs().min() > 1e-3
    assert torch.allclose(found.effect[0], whole, atol=1e-9)
    alone = patch_set(pair_of(changed_head(1, 1, matrix="v_proj"), wrapper=wrapper), PROMPT, RESPONSE,
                      heads=[(1, 2), (1, 3)], draws=2)  # fmt: skip
    totals = alone.clean[0].flip(0) - alone.clean[0]
    assert torch.allclose(alone.effect[0], totals, atol=1e-9), "a key-value head's whole group"
    assert alone.random_effect.eq(0.0).all(), "the other heads did not change"
    assert found.to_df()["share"].tolist() == pytest.approx([1, 1], abs=1e-6)


def test_a_control_that_is_the_base_does_nothing(pair: ModelPair):
    control = pair.control("self")
    found = patch_set(pair, PROMPT, RESPONSE, heads=[(0, 0), (1, 1)], draws=2, controls=[control])
    assert found.control_effects() == [0.0]
    noise = pair.control("norm")
    apart = control_set(pair, noise, [PROMPT], [RESPONSE], found)
    beside = patch_set(pair, PROMPT, RESPONSE, heads=[(0, 0), (1, 1)], draws=2, controls=[noise])
    assert not apart.effect[0, 0].isnan()
    assert found.with_controls([apart]).control_effects() == pytest.approx(beside.control_effects(), abs=1e-12)


def test_random_sets_are_of_the_same_layers_where_there_are_enough():
    heads = ((0, 0), (0, 1), (2, 3))
    sets = random_sets(heads, 3, 12, draws=30, seed=1)
    for drawn in sets:
        assert not set(drawn) & set(heads)
        assert len(set(drawn)) == 3
        assert Counter(layer for layer, _ in drawn) == {0: 2, 2: 1}
    assert sets == random_sets(heads, 3, 12, draws=30, seed=1)
    assert sets != random_sets(heads, 3, 12, draws=30, seed=2)
    assert len(set(sets)) == 30
    few = random_sets(((0, 0), (0, 1)), 2, 4, draws=5, seed=0)  # one of the same layer, then of any
    assert few[0] == ((0, 2), (0, 3))
    assert len(set(few)) == 5
    assert random_sets(((0, 0),), 1, 2, draws=5, seed=0) == [((0, 1),)]
    crowded = tuple((0, head) for head in range(3))
    for drawn in random_sets(crowded, 2, 4, draws=5, seed=0):
        assert Counter(layer for layer, _ in drawn) == {0: 1, 1: 2}
    with pytest.raises(InputError, match="a set of 3 heads leaves 1 others"):
        random_sets(((0, 0), (0, 1), (0, 2)), 1, 4, draws=1, seed=0)


@pytest.mark.parametrize(
    ("size", "n_heads", "taken"), [(None, 24, 5), (None, 8, 4), (None, 100, 6), (2, 24, 2), (30, 24, 6)]
)
def test_the_heads_that_rose_most_are_taken(size, n_heads, taken):
    rises = pd.DataFrame({"layer": range(8), "head_index": 0, "rise": [9, 8, 7, 5, 4, 1, 0, -2]})
    assert risen_heads(rises, n_heads, size) == tuple((layer, 0) for layer in range(taken))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"heads": []}, r"heads=\[\] given, expected \(layer, head\) with layers 0 to 1 and heads 0 to 3"),
        ({"heads": [(0, HEADS)]}, r"heads=\[\(0, 4\)\] given"),
        ({"heads": [(0, 1), (0, 1)]}, "each once"),
        ({"heads": [(0, 1)], "draws": 0}, "draws=0 is not positive"),
    ],
)
def test_sets_that_are_none_are_refused(pair: ModelPair, options: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        patch_set(pair, PROMPT, RESPONSE, **options)
