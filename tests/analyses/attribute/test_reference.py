"""The authors' way on SmolLM2-135M-Instruct: stored scores of their implementation, and transformers' own gradients.

The stored scores are float32: the gradient of torch's softmax alone puts up to 2e-4 of the largest score into them, and
its AVX-512 kernels round otherwise than its others. So the authors' arithmetic is met with torch's own softmax, in a
process with torch's portable kernels, which every machine has; and lensdiff's, whose softmax loses nothing, with
transformers' gradients from the same float32 logits in float64.
"""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lensdiff.analyses.attribute.measure import attribute
from lensdiff.models import load_model, view_of
from lensdiff.models.inside.precision import double_precision

CASES = ("list", "sea", "summary", "translate")
BOUND = 5e-5  # of the largest score: the authors' arithmetic, whichever library does it
OWN_BOUND = 2e-5  # rounding of a float32 pass, beside a softmax that loses nothing
STORED_BOUND = 2.5e-4  # the rounding of the stored scores (1.9e-4 from those in float64)


@pytest.fixture(scope="module")
def transformers_model(smollm2_gguf: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32, attn_implementation="eager"
    )


def plain_gradients(model: PreTrainedModel, ids: torch.Tensor, n: int) -> torch.Tensor:
    """Gradient x input of the probability by one backward pass per response token, its softmax in float64."""
    embedded = model.get_input_embeddings()(ids[None]).detach().requires_grad_()
    logits = model(inputs_embeds=embedded).logits[0, n - 1 : -1].double()
    values = logits.softmax(-1).gather(-1, ids[n:, None])[:, 0]
    columns = [torch.autograd.grad(v, embedded, retain_graph=True)[0][0, :n] for v in values]
    return torch.stack([(c * embedded[0, :n]).sum(-1) for c in columns], dim=1).detach()


def token_ids(model: object, case: dict) -> tuple[torch.Tensor, int]:
    tokenizer = view_of(model).tokenizer
    whole = tokenizer(f"{case['prompt']} {case['response']}")["input_ids"]
    return torch.tensor(whole), len(tokenizer(case["prompt"])["input_ids"])


def case_of(reference: Path, name: str) -> dict:
    return next(c for c in json.loads((reference / "attribution_cases.json").read_text()) if c["id"] == name)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).abs().max() / other.double().abs().max())


@pytest.fixture(scope="module")
def portable(reference, smollm2, transformers_model, tmp_path_factory) -> Path:
    """The folder where a process with torch's portable kernels saved what `attribute` finds."""
    folder, out = tmp_path_factory.mktemp("smollm2"), tmp_path_factory.mktemp("portable")
    plain = copy.deepcopy(transformers_model)
    del plain.config.quantization_config  # it is dequantised
    plain.is_quantized, plain.hf_quantizer = False, None
    plain.save_pretrained(folder)
    view_of(smollm2).tokenizer.save_pretrained(folder)
    script = Path(__file__).with_name("reference_scores.py")
    command = [sys.executable, str(script), str(folder), str(reference / "attribution_cases.json"), str(out)]
    subprocess.run(command, check=True, env=os.environ | {"ATEN_CPU_CAPABILITY": "default"})
    return out


@pytest.mark.parametrize("name", CASES)
def test_meets_the_reference(name, reference, portable):
    stored = np.load(reference / f"attr_{name}.npz", allow_pickle=False)
    found = np.load(portable / f"{name}.npz", allow_pickle=False)
    assert str(found["kernels"]) == "DEFAULT"
    assert found["scores"].shape == stored["scores"].shape
    assert distance(torch.from_numpy(found["scores"]), torch.from_numpy(stored["scores"])) <= BOUND
    np.testing.assert_allclose(found["density"], stored["density"], atol=1e-3)
    np.testing.assert_allclose(found["probs"], stored["probs"], atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_meets_the_reference_with_this_machines_kernels(name, reference, smollm2, transformers_model):
    case = case_of(reference, name)
    stored = np.load(reference / f"attr_{name}.npz", allow_pickle=False)
    found = attribute(smollm2, case["prompt"], case["response"], deletion_draws=0)
    theirs = plain_gradients(transformers_model, *token_ids(smollm2, case))
    assert distance(found.scores, theirs) <= OWN_BOUND
    assert distance(found.scores, torch.from_numpy(stored["scores"])) <= STORED_BOUND
    np.testing.assert_allclose(found.density().numpy(), stored["density"], atol=1e-3)
    np.testing.assert_allclose(found.probabilities.numpy(), stored["probs"], atol=1e-4)


def test_equals_transformers_in_float64_on_a_real_model(reference, smollm2, transformers_model):
    case = case_of(reference, "sea")
    ids, n = token_ids(smollm2, case)
    ids, tokenizer = ids[: n + 4], view_of(smollm2).tokenizer
    source = copy.deepcopy(transformers_model).double()
    rotary = source.model.rotary_emb  # whose frequencies transformers rounds to float32
    half = rotary.inv_freq.shape[0]
    rotary.inv_freq = source.config.rope_parameters["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
    with double_precision():
        theirs = plain_gradients(source, ids, n)
    exact = load_model(source, tokenizer=tokenizer, dtype="float64", device="cpu", verify=False)
    found = attribute(exact, case["prompt"], tokenizer.decode(ids[n:]), deletion_draws=0)
    assert len(found.out_tokens) == 4
    assert distance(found.scores, theirs) <= 1e-9
