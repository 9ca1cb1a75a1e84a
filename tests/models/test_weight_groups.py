"""Groups of weights by name: what each holds, and that what there is is said."""

import pytest

from lensdiff.models.inside.parts import ATTENTION
from lensdiff.models.weight_groups import EMBEDDING, MLP, Part, group_of, names_of
from lensdiff.results import InputError

PARTS = {
    *(Part(name) for name in EMBEDDING),
    Part("final_gain"),
    *(Part(name, layer, head) for layer in (0, 1) for name in ("W_Q", "W_O") for head in range(4)),
    *(Part(name, layer, head) for layer in (0, 1) for name in ("W_K", "W_V") for head in range(2)),
    *(Part(name, layer) for layer in (0, 1) for name in (*MLP, "attn_gain", "a.bias")),
}


def test_each_group_holds_what_its_name_says():
    expected = {
        "all": PARTS,
        "layer 1": {part for part in PARTS if part.layer == 1},
        "attention": {part for part in PARTS if part.name in ATTENTION},
        "mlp": {part for part in PARTS if part.name in ("W_in", "W_gate", "W_out")},
        "W_out": {Part("W_out", 0), Part("W_out", 1)},
        "W_K": {Part("W_K", layer, head) for layer in (0, 1) for head in (0, 1)},
        "embedding": {Part("W_E"), Part("W_U"), Part("W_pos")},
        "W_E": {Part("W_E")},
        "head 1.3": {Part("W_Q", 1, 3), Part("W_O", 1, 3)},
        "kv 0.1": {Part("W_K", 0, 1), Part("W_V", 0, 1)},
        "not W_out": PARTS - {Part("W_out", 0), Part("W_out", 1)},
        "not layer 1": {part for part in PARTS if part.layer != 1},
        "not head 1.3": PARTS - {Part("W_Q", 1, 3), Part("W_O", 1, 3)},
    }
    for name, parts in expected.items():
        assert group_of(name, PARTS) == parts, name


def test_tied_embeddings_are_one():
    assert group_of("W_E", PARTS, tied=True) == group_of("W_U", PARTS, tied=True) == {Part("W_E"), Part("W_U")}
    # in one tensor there is no W_U beside it
    alone = PARTS - {Part("W_U")}
    assert group_of("W_U", alone, tied=True) == {Part("W_E")}
    assert Part("W_U") not in group_of("not W_E", PARTS, tied=True)


@pytest.mark.parametrize(
    "name",
    ["head 1.4", "head 2.0", "kv 0.2", "layer 2", "layer x", "head 1", "W_x", "", "not", "not all", "not x", "All",
     "layer", "attn_gain", "head 1.3 "],
)  # fmt: skip
def test_what_is_no_group_is_refused_with_those_that_are(name):
    with pytest.raises(InputError, match=r"there is no group .* of weights, expected one of all, attention, mlp") as e:
        group_of(name, PARTS)
    assert f"{name!r}" in str(e.value)
    for said in ("W_out", "head 0.0 to head 1.3", "kv 0.0 to kv 1.1", "layer 0 to layer 1", "not NAME"):
        assert said in str(e.value)


def test_a_group_without_weights_is_not_among_those_that_are():
    experts = {part for part in PARTS if part.name not in MLP}
    assert not {"mlp", "W_out", "W_gate"} & set(names_of(experts))
    with pytest.raises(InputError, match="there is no group 'mlp'"):
        group_of("mlp", experts)
    one = {Part("W_E"), Part("x", 0)}
    assert names_of(one) == ["all", "embedding", "W_E", "layer 0", "not NAME"]
