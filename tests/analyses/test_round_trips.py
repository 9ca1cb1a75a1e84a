"""No analysis of passes waits for the device once a layer: what reaches the host is counted in models of two depths.

On a GPU each of these calls waits for all that was begun before. They are counted where tensors are on the CPU, too, so
that a machine without a GPU sees a new one.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from lensdiff import Prompt, Vocabulary
from lensdiff.analyses.attention.patterns import attention
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.heads.ov_reading import ov_reading
from lensdiff.analyses.knock_out.measure import knock_out
from lensdiff.analyses.mlp import components
from lensdiff.analyses.mlp.components import concept_directions
from lensdiff.analyses.mlp.concepts import mlp_concepts
from lensdiff.analyses.outputs.output_shift import output_shift
from lensdiff.analyses.patch.measure import patch
from lensdiff.analyses.residual_stream.direct import direct_logit_attribution
from lensdiff.analyses.residual_stream.lens import logit_lens
from lensdiff.models import load_model, load_pair
from tests.checkpoints import hf_model, tokenizer_of

TO_HOST = ("cpu", "item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__")
PROMPT = Prompt("Write a short poem about the sea.", ("Write a short poem",), id="sea")
TEXT = "The sea is simple and the moon is blue."
WORDS = Vocabulary.of(("sea", "moon", "word", "fruit"))
DEPTHS = (2, 4)


class Transfers(TorchFunctionMode):
    """Counts what is asked of the device for the host; to a model's own device (`torch.device`) is no way."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in TO_HOST or (name == "to" and "cpu" in [value for value in args[1:] if isinstance(value, str)]):
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def transfers(call: Callable[[], Any]) -> int:
    call()  # what a model is asked once, when it is first read
    with Transfers() as seen:
        call()
    return seen.found.total()


@pytest.fixture(scope="module")
def models() -> list[Any]:
    """A model of each depth, with its pair's other one."""
    found = []
    for depth in DEPTHS:
        options = {"tokenizer": tokenizer_of(), "device": "cpu"}
        two = [load_model(hf_model("llama", seed=seed, num_hidden_layers=depth), **options) for seed in (0, 1)]
        found.append(load_pair(*two))
    return found


CALLS: dict[str, Callable[[Any], Any]] = {
    "attribute, forward": lambda pair: attribute(pair.base, PROMPT, TEXT, method="forward", deletion_draws=2),
    "attribute, reverse": lambda pair: attribute(pair.base, PROMPT, TEXT, method="reverse", deletion_draws=2),
    "attention": lambda pair: attention(pair.base, PROMPT, TEXT, keep_patterns=False),
    "logit_lens": lambda pair: logit_lens(pair.base, PROMPT, TEXT),
    "direct_logit_attribution": lambda pair: direct_logit_attribution(pair.base, PROMPT, TEXT),
    "knock_out": lambda pair: knock_out(pair.base, PROMPT, TEXT, draws=2),
    "output_shift": lambda pair: output_shift(pair, PROMPT, TEXT),
    "mlp_concepts": lambda pair: mlp_concepts(pair.base, WORDS, n_components=4),
    "concept_directions": lambda pair: concept_directions(pair.base, n_components=4),
    "ov_reading": lambda pair: ov_reading(pair.base, WORDS),
    "patch, a head": lambda pair: patch(pair, PROMPT, TEXT, component="head", layer=0, head=1),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_deeper_model_waits_for_the_device_no_more_often(name, models, monkeypatch):
    # as on a device: on the CPU scikit-learn decomposes
    monkeypatch.setattr(components, "principal_components", components.covariance_components)
    few, many = (transfers(lambda pair=pair: CALLS[name](pair)) for pair in models)
    assert many == few > 0


def test_one_a_layer_would_be_seen(models):
    def waits(pair: Any) -> None:
        for layer in range(pair.base.cfg.n_layers):
            pair.base.W_Q[layer].sum().item()

    assert [transfers(lambda pair=pair: waits(pair)) for pair in models] == list(DEPTHS)
    assert transfers(lambda: torch.ones(2).to("cpu")) == 1
    assert transfers(lambda: bool(torch.ones(1)) and float(torch.ones(1)) and torch.ones(1).tolist()) == 3
