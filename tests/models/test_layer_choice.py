"""The one check of layers and heads, and that every analysis which takes them makes it."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from lensdiff import analyses
from lensdiff.analyses.activation_difference.measure import activation_difference, control_difference
from lensdiff.analyses.annotate.measure import annotate
from lensdiff.analyses.attention.patterns import attention
from lensdiff.analyses.first_divergence.measure import control_divergence, first_divergence
from lensdiff.analyses.heads.head_word_pairs import head_word_pairs
from lensdiff.analyses.heads.ov_reading import ov_reading
from lensdiff.analyses.heads.qk_reading import qk_reading
from lensdiff.analyses.knock_out.measure import knock_out
from lensdiff.analyses.layer_similarity.measure import layer_similarity
from lensdiff.analyses.mlp.components import concept_directions
from lensdiff.analyses.mlp.concepts import mlp_concepts
from lensdiff.analyses.patch.measure import patch_sweep
from lensdiff.analyses.residual_stream.lens import logit_lens
from lensdiff.analyses.value_rotation.measure import control_rotation, value_rotation
from lensdiff.inputs import Prompt
from lensdiff.models import load_model, load_pair
from lensdiff.models.layers import chosen_indices
from lensdiff.results import InputError
from tests.analyses.heads.head_models import known_words, random_vectors
from tests.checkpoints import hf_model, tokenizer_of


def test_layers_come_in_the_order_asked_for() -> None:
    assert chosen_indices(None, range(3), "layers") == (0, 1, 2)
    assert chosen_indices([2, 0], range(3), "layers") == (2, 0)


@pytest.mark.parametrize(
    ("wanted", "available", "message"),
    [
        ([], range(3), "layers=[] given, expected at least one of 0 to 2, each once"),
        ([1, 1], range(3), "layers=[1, 1] given, expected at least one of 0 to 2, each once"),
        ([3], range(3), "layers=[3] given, expected at least one of 0 to 2, each once"),
        ([-1], range(3), "layers=[-1] given, expected at least one of 0 to 2, each once"),
        ([1], (0, 3), "layers=[1] given, expected at least one of 0, 3, each once"),
        ([1], range(1), "layers=[1] given, expected at least one of 0, each once"),
    ],
)
def test_a_wrong_choice_is_refused_in_one_sentence(wanted: Any, available: Any, message: str) -> None:
    with pytest.raises(InputError) as refused:
        chosen_indices(wanted, available, "layers")
    assert str(refused.value) == message


# theirs count one more: behind the last block
TO_THE_END = (
    *(first_divergence, control_divergence, layer_similarity, logit_lens),
    *(activation_difference, control_difference),
)


BEYOND = 99  # stands for the first that a taker does not have


def takers() -> Iterator[Callable[..., Any]]:
    """Every function of the analyses with an option `layers`."""
    for module in pkgutil.walk_packages(analyses.__path__, f"{analyses.__name__}."):
        for function in vars(importlib.import_module(module.name)).values():
            if inspect.isfunction(function) and function.__module__ == module.name:
                option = inspect.signature(function).parameters.get("layers")
                if option is not None and option.kind is inspect.Parameter.KEYWORD_ONLY and option.default is None:
                    yield function


@pytest.fixture(scope="module")
def calls() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Each of them, lacking nothing but the layers."""
    model = load_model(hf_model("llama"), tokenizer=tokenizer_of(), device="cpu", verify=False)
    words = known_words(40)
    pair = load_pair(model, hf_model("llama", seed=1), tokenizer=tokenizer_of(), device="cpu", verify=False)
    concepts, prompt = mlp_concepts(model, words), Prompt("Write a poem", ["Write"])
    parted = first_divergence(pair, prompt, max_new_tokens=8)
    return {
        activation_difference: partial(activation_difference, pair),
        control_difference: partial(control_difference, pair, model),
        annotate: partial(annotate, concepts, model="none", cache="none"),
        attention: partial(attention, model, "Write a poem"),
        concept_directions: partial(concept_directions, model),
        control_divergence: partial(control_divergence, model, model, parted),
        control_rotation: partial(control_rotation, model, model),
        first_divergence: partial(first_divergence, pair, prompt),
        knock_out: partial(knock_out, model, prompt, "the moon"),
        layer_similarity: partial(layer_similarity, pair, prompt, "the moon"),
        logit_lens: partial(logit_lens, model, prompt, "the moon"),
        patch_sweep: partial(patch_sweep, pair, prompt, "the moon"),
        head_word_pairs: partial(head_word_pairs, model, words, random_vectors(words)),
        mlp_concepts: partial(mlp_concepts, model, words),
        ov_reading: partial(ov_reading, model, words),
        qk_reading: partial(qk_reading, model, [(words[0], words[1])]),
        value_rotation: partial(value_rotation, pair),
    }


@pytest.mark.parametrize("taker", [*takers()], ids=lambda function: function.__name__)
@pytest.mark.parametrize("given", [[], [0, 0], [1, BEYOND]], ids=str)
def test_every_analysis_refuses_the_same(calls: Any, taker: Callable[..., Any], given: list[int]) -> None:
    last = 2 if taker in TO_THE_END else 1
    wanted = [last + 1 if layer == BEYOND else layer for layer in given]
    with pytest.raises(InputError) as refused:
        calls[taker](layers=wanted)
    assert str(refused.value) == f"layers={wanted} given, expected at least one of 0 to {last}, each once"


def test_a_table_is_of_the_heads_that_were_read(calls: Any) -> None:
    found = calls[head_word_pairs](layers=[1], heads=[3, 0])
    for options, message in (
        ({"layers": [0]}, "layers=[0] given, expected at least one of 1, each once"),
        ({"heads": [3, 3]}, "heads=[3, 3] given, expected at least one of 3, 0, each once"),
    ):
        with pytest.raises(InputError) as refused:
            found.to_df(**options)
        assert str(refused.value) == message
