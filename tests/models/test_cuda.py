"""The same numbers on a GPU: float32 in float32, and the same bits twice. Without a GPU the CPU stands in for it."""

from typing import Any

import numpy as np
import pytest
import torch

from lensdiff import Prompt
from lensdiff.analyses.attention.patterns import attention
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.heads.head_word_pairs import head_word_pairs
from lensdiff.analyses.knock_out.measure import knock_out
from lensdiff.analyses.mlp.concepts import mlp_concepts
from lensdiff.analyses.outputs.output_shift import output_shift
from lensdiff.analyses.patch.measure import patch
from lensdiff.analyses.residual_stream.direct import direct_logit_attribution
from lensdiff.analyses.residual_stream.lens import logit_lens
from lensdiff.analyses.weights.weight_shift import weight_shift
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import load_model, load_pair, view_of
from tests.checkpoints import hf_model, tokenizer_of
from tests.conftest import seen_device

pytestmark = pytest.mark.cuda
PROMPT = Prompt("Write a short poem about the sea.", ("Write a short poem",), id="sea")
TEXT = "The sea is simple and the moon is blue."
WORDS = ["sea", "moon", "poem", "write", "words", "simple", "city", "bridge"]


def pair_on(device: str) -> Any:
    return load_pair(*[hf_model("llama", seed=seed) for seed in (0, 1)], tokenizer=tokenizer_of(), device=device)


@pytest.fixture(scope="module")
def device() -> str:
    return seen_device()


@pytest.fixture(scope="module")
def pairs(device: str) -> tuple[Any, Any]:
    """A pair on the CPU, and the same on the device."""
    return pair_on("cpu"), pair_on(device)


def pairs_of_words(pair: Any) -> Any:
    return head_word_pairs(pair.base, WORDS, WordVectors.from_model(view_of(pair.base), WORDS), top_k=4)


CALLS: dict[str, tuple[Any, list[str]]] = {
    "attribute, forward": (lambda pair: attribute(pair.base, PROMPT, TEXT, method="forward"), ["scores", "targets"]),
    "attribute, reverse": (lambda pair: attribute(pair.base, PROMPT, TEXT, method="reverse"), ["scores", "targets"]),
    "attention": (lambda pair: attention(pair.base, PROMPT, TEXT), ["patterns", "entropy", "instruction_share"]),
    "output_shift": (lambda pair: output_shift(pair, PROMPT, TEXT), ["kl", "js"]),
    "knock_out": (lambda pair: knock_out(pair.base, PROMPT, TEXT, draws=2), ["drop"]),
    "patch": (lambda pair: patch(pair, PROMPT, TEXT, component="head", layer=0, head=1), ["effect"]),
    "logit_lens": (lambda pair: logit_lens(pair.base, PROMPT, TEXT), ["kl", "prob"]),
    "direct_logit_attribution": (lambda pair: direct_logit_attribution(pair.base, PROMPT, TEXT), ["contributions"]),
    "head_word_pairs": (pairs_of_words, ["energy"]),
    "mlp_concepts": (lambda pair: mlp_concepts(pair.base, WORDS, n_components=4), ["explained_variance_ratio"]),
    "weight_shift": (lambda pair: weight_shift(pair), ["raw", "folded"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_device_says_what_the_cpu_says_and_the_same_twice(name, pairs):
    call, fields = CALLS[name]
    here, there, again = call(pairs[0]), call(pairs[1]), call(pairs[1])
    for field in fields:
        mine, its, twice = (getattr(one, field) for one in (here, there, again))
        assert its.device.type == "cpu"
        assert torch.equal(its.nan_to_num(), twice.nan_to_num()), field
        size = float(mine.nan_to_num().abs().max())
        np.testing.assert_allclose(its, mine, atol=1e-3 * size, rtol=0)


def test_models_are_where_they_were_asked_to_be(pairs, device):
    for side in ("base", "tuned"):
        view = view_of(getattr(pairs[1], side))
        assert view.device.type == device
        assert view.weights.W_U.device.type == device


def test_products_of_float32_are_not_rounded_to_tf32(device):
    one, other = torch.randn(2, 256, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = one.float().to(device) @ other.float().to(device)
    error = float((found.cpu().double() - one @ other).abs().max() / (one @ other).abs().max())
    assert error < 1e-5  # TF32 has 10 bits: about 1e-3


@pytest.mark.parametrize("method", ["forward", "reverse"])
@pytest.mark.parametrize("wrapper", ["auto", "bridge"])
def test_half_precision_is_attributed_in_float32(device, wrapper, method):
    source = hf_model("llama")
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.copy_(parameter.bfloat16())
    options: Any = {"tokenizer": tokenizer_of(), "wrapper": wrapper}
    half = load_model(source, dtype="bfloat16", device=device, **options)
    here = attribute(load_model(source, device="cpu", **options), PROMPT, TEXT, method=method).scores
    there = attribute(half, PROMPT, TEXT, method=method).scores
    assert view_of(half).dtype == torch.bfloat16
    np.testing.assert_allclose(there, here, atol=1e-3 * float(here.abs().max()), rtol=0)
