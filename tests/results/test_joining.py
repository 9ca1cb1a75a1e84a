"""Parts of some layers make the result of all: the same as all at once, and nothing silently the first part's."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.heads.head_word_pairs import head_word_pairs
from lensdiff.analyses.heads.ov_reading import ov_reading
from lensdiff.analyses.mlp.coherence import Coherence
from lensdiff.analyses.mlp.components import concept_directions
from lensdiff.analyses.mlp.concepts import mlp_concepts
from lensdiff.models import load_model
from lensdiff.results import Control, InputError, Provenance, Result
from tests.analyses.heads.head_models import known_words, random_vectors
from tests.checkpoints import hf_model, tokenizer_of

GROUPS = ([0, 2], [3], [1])


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(hf_model("llama", num_hidden_layers=4), tokenizer=tokenizer_of(), device="cpu", verify=False)


def read(name: str, model: Any, layers: list[int]) -> Result:
    words = known_words(60)
    if name == "head_word_pairs":
        options = {"top_k": 12, "threshold_std": 0.5}
        return head_word_pairs(model, words, random_vectors(words), layers=layers, heads=[3, 0], **options)
    if name == "ov_reading":
        return ov_reading(model, words, layers=layers)
    sides = ["value", "gate"]
    if name == "mlp_concepts":
        return mlp_concepts(model, words, layers=layers, sides=sides, n_components=5, top_words=7)
    return concept_directions(model, layers=layers, sides=sides, n_components=5)


def assert_equal(one: Result, other: Result) -> None:
    for field in fields(one):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, Tensor):
            assert mine.dtype == theirs.dtype, field.name
            assert torch.equal(mine, theirs), field.name
        else:
            assert mine == theirs, field.name


@pytest.mark.parametrize("name", ["head_word_pairs", "mlp_concepts", "concept_directions", "ov_reading"])
def test_parts_are_what_all_layers_at_once_give(model: Any, name: str) -> None:
    parts = [read(name, model, group) for group in GROUPS]
    whole = read(name, model, [layer for group in GROUPS for layer in group])
    found = type(whole).join(parts)
    assert_equal(found, whole)
    pd.testing.assert_frame_equal(found.to_df(), whole.to_df(), check_exact=True)
    assert_equal(type(whole).join(parts[:1]), parts[0])
    assert len({part.to_df().shape for part in parts}) > 1, "parts of one size would hide a mistake"


@dataclass(frozen=True, eq=False)
class Made(Result):
    """A result of a later version: two axes in another order, rows of several lengths, and a number of the whole."""

    layer_by_layer: ClassVar[bool] = True
    ragged: ClassVar[Mapping[str, str]] = {"hit": "begins"}

    layers: tuple[int, ...]
    scale: float
    names: tuple[str, ...]
    later: Float[Tensor, "head_index layer"]
    begins: Int[Tensor, " rows_plus_one"]
    hits: Int[Tensor, "hit two"]
    shared: Float[Tensor, " word"]

    def to_df(self) -> pd.DataFrame:
        return pd.DataFrame({"layer": self.layers})

    def top(self, k: int = 10) -> pd.DataFrame:
        return self.to_df().head(k)


def made(layers: tuple[int, ...], counts: tuple[int, ...], **changed: Any) -> Made:
    """`counts` hits in each of two rows of every layer."""
    begins = torch.tensor([0, *counts]).cumsum(0)
    values: dict[str, Any] = {
        "layers": layers,
        "scale": 2.0,
        "names": ("a", "b"),
        "later": torch.tensor([[10.0 * head + layer for layer in layers] for head in range(3)]),
        "begins": begins,
        "hits": torch.stack([torch.arange(int(begins[-1])) + 100 * layers[0]] * 2, dim=1),
        "shared": torch.tensor([1.0, torch.nan]),
    }
    provenance = Provenance("made", "m", options={"layers": list(layers), "k": 3})
    return Made(provenance, **(values | changed))


def test_a_field_per_layer_is_joined_without_being_named_anywhere() -> None:
    found = Made.join([made((0, 4), (2, 0, 1, 3)), made((2,), (0, 1))])
    assert found.layers == (0, 4, 2)
    assert found.later.tolist() == [[0.0, 4.0, 2.0], [10.0, 14.0, 12.0], [20.0, 24.0, 22.0]]
    assert found.begins.tolist() == [0, 2, 2, 3, 6, 6, 7]
    assert found.hits[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 200]
    assert found.provenance.options == {"layers": [0, 4, 2], "k": 3}
    assert (found.scale, found.names) == (2.0, ("a", "b"))
    assert found.shared.isnan().tolist() == [False, True], "NaN in all parts is the same in all"


ORIGIN = made((1,), (0, 0)).provenance


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"scale": 3.0}, "scale"),
        ({"names": ("a", "c")}, "names"),
        ({"shared": torch.tensor([1.0, 2.0])}, "shared"),
        ({"shared": torch.tensor([1.0])}, "shared"),
        ({"shared": torch.tensor([1.0, torch.nan], dtype=torch.float64)}, "shared"),
        ({"provenance": replace(ORIGIN, model="other")}, "provenance.model"),
        ({"provenance": replace(ORIGIN, versions={"torch": "1"})}, "provenance.versions"),
        ({"provenance": replace(ORIGIN, control=Control("norm"))}, "provenance.control"),
        ({"provenance": replace(ORIGIN, options={"layers": [1], "k": 4})}, "provenance.options['k']"),
        ({"provenance": replace(ORIGIN, options={"layers": [1], "k": 3, "late": None})}, "provenance.options['late']"),
    ],
)
def test_what_has_no_rule_has_to_be_the_same(changed: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError) as refused:
        Made.join([made((0,), (1, 0)), replace(made((1,), (0, 0)), **changed)])
    assert str(refused.value) == f"the parts of a Made have different {name}, expected the same in all of them"


def test_what_is_no_part_is_refused(model: Any) -> None:
    one = made((0,), (1, 0))
    with pytest.raises(InputError, match="layer 0 is in two of the parts that are to be joined, expected each once"):
        Made.join([made((1,), (0, 0)), one, one])
    with pytest.raises(InputError, match="nothing given to be joined, expected parts of Made"):
        Made.join([])
    with pytest.raises(InputError, match="ConceptDirections given to be joined, expected parts of Made"):
        Made.join([one, read("concept_directions", model, [0])])  # type: ignore[list-item]
    with pytest.raises(InputError, match="a Coherence is not read layer by layer: its parts are no part of the whole"):
        Coherence.join([])
