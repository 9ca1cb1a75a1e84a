"""What a pair knows of its models: how many parameters each has."""

import pytest
import torch

from lensdiff.models import load_model, view_of
from lensdiff.models.facts import n_parameters
from lensdiff.models.inside.wrappers import HookedTransformer
from tests.checkpoints import hf_model, tokenizer_of


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("llama", True), ("gpt2", True)])
def test_parameters_are_counted_once_where_embeddings_are_tied(family: str, tied: bool, wrapper: str) -> None:
    if wrapper == "hooked" and HookedTransformer is None:
        pytest.skip("this transformer-lens has no HookedTransformer")
    checkpoint = hf_model(family, tie_word_embeddings=tied)
    expected = checkpoint.num_parameters()
    assert (checkpoint.lm_head.weight is checkpoint.get_input_embeddings().weight) is tied
    view = view_of(load_model(checkpoint, tokenizer=tokenizer_of(), wrapper=wrapper, device="cpu"))
    assert n_parameters(view) == expected


@pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
def test_an_unembedding_that_is_another_counts() -> None:
    view = view_of(load_model(hf_model("llama", tie_word_embeddings=True), tokenizer=tokenizer_of(), device="cpu"))
    before = n_parameters(view)
    with torch.no_grad():
        unembedding = view.weights.W_U.clone()
        unembedding[0, 0] += 1.0
    view.model.unembed.W_U = torch.nn.Parameter(unembedding)
    assert n_parameters(view) == before + unembedding.numel()
