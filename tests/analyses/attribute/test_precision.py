"""float32 against float64 where a probability is near 1: targets, their gradients, levels, profiles."""

import math

import pytest
import torch

from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.attribute.targets import TARGETS, log_probability, probability
from lensdiff.analyses.position.measure import position_profile
from lensdiff.inputs.prompts import load_prompts
from lensdiff.models import load_model, view_of
from lensdiff.models.text import generate
from tests.checkpoints import TEXT, hf_model, tokenizer_of
from tests.toy_v1 import BASE, PROMPTS, TUNED

EDGE = 0.02  # of a level: what 2e-4 of the largest score, ten levels high, can move it, ten times over


def gradient(target, logits: torch.Tensor, token: int) -> tuple[float, torch.Tensor]:
    logits = logits.clone().requires_grad_(True)
    value = target(logits[None], torch.tensor([token]))
    return float(value.detach()), torch.autograd.grad(value.sum(), logits)[0]


@pytest.mark.parametrize("rest", [0.9, 0.5, 1e-3, 1e-6, 1e-9, 1e-12, 1e-20])
def test_the_gradient_of_a_probability_keeps_its_digits_however_near_1_it_is(rest):
    # one token with probability 1 - rest, the others share `rest` as 1 : 2 : 3
    shares = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) / 6
    own = math.log1p(-rest) - math.log(rest)  # its logit above the logarithm of the others' sum
    logits = torch.cat([torch.tensor([own], dtype=torch.float64), shares.log()])
    by_own, by_others = (1 - rest) * rest, -(1 - rest) * rest * shares
    expected = torch.cat([torch.tensor([by_own], dtype=torch.float64), by_others])
    for dtype, exact in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        value, found = gradient(probability, logits.to(dtype), 0)
        assert value == pytest.approx(1 - rest, rel=exact)
        torch.testing.assert_close(found.double(), expected, rtol=exact, atol=0)
        value, found = gradient(log_probability, logits.to(dtype), 0)
        assert value == pytest.approx(math.log1p(-rest), rel=exact)
        torch.testing.assert_close(found.double(), expected / (1 - rest), rtol=exact, atol=0)


def test_targets_are_softmaxs_where_nothing_is_near_1():
    logits = torch.randn(5, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    ids = torch.tensor([3, 0, 29, 3, 7])
    at = logits.softmax(-1)[torch.arange(5), ids]
    torch.testing.assert_close(TARGETS["probability"](logits, ids), at, rtol=1e-13, atol=0)
    torch.testing.assert_close(TARGETS["log_probability"](logits, ids), at.log(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("method", ["forward", "reverse"])
@pytest.mark.parametrize("rest", [1e-6, 1e-9])
def test_a_planted_confident_token_scores_as_in_float64(rest, method):
    source = hf_model("llama", dtype=torch.float64)
    plain = view_of(load_model(source, tokenizer=tokenizer_of(), dtype="float64", device="cpu"))
    ids = torch.tensor([tokenizer_of()(TEXT[1])["input_ids"]])
    with torch.no_grad():
        hidden = plain.forward.final(ids)[0, -1]
        logits = plain.forward.unembed(hidden)
        token = int(logits.argmax())
        others = logits.clone()
        others[token] = -torch.inf
        raised = -math.log(rest) + others.logsumexp(0) - logits[token]
        source.lm_head.weight[token] += raised * hidden / hidden.square().sum()
    found = {}
    for dtype in ("float32", "float64"):
        # the float64 weights are those of float32, so that only the arithmetic differs
        rounded = source.float() if dtype == "float32" else source.double()
        model = load_model(rounded, tokenizer=tokenizer_of(), dtype=dtype, device="cpu")
        own = generate(model, TEXT[1], max_new_tokens=1)
        assert own.token_ids == (token,)
        found[dtype] = attribute(model, TEXT[1], own, method=method, deletion_draws=0)
    single, double = found["float32"], found["float64"]
    assert 1 - float(double.probabilities[0]) == pytest.approx(rest, rel=0.05)
    largest = float(double.scores.abs().max())
    assert 0 < largest < 1e3 * rest
    torch.testing.assert_close(single.scores.double(), double.scores, rtol=0, atol=2e-4 * largest)
    kept = [one.levels(eps=0.0) for one in (single, double)]
    assert int(kept[1].max()) == 10
    assert torch.equal(*kept)
    assert single.provenance.options["precision"].startswith("float32: scores within about 2e-4")
    assert double.provenance.options["precision"].startswith("float64")


def test_levels_and_profile_of_the_toy_prompts_are_those_of_float64():
    prompts = load_prompts(PROMPTS)
    tuned = load_model(TUNED, device="cpu")
    own = [generate(tuned, prompt) for prompt in prompts]
    found = {
        (folder.name, dtype): attribute(
            load_model(folder, dtype=dtype, device="cpu"), prompts, own, deletion_draws=0, progress=False
        )
        for folder in (BASE, TUNED)
        for dtype in ("float32", "float64")
    }
    confident = 0
    for name in (BASE.name, TUNED.name):
        for single, double in zip(found[name, "float32"], found[name, "float64"], strict=True):
            confident += int((1 - double.probabilities < 1e-6).sum())
            exact = 10 * double.scores.relu() / (double.scores.relu().amax(dim=0, keepdim=True) + 1e-7)
            edge = (exact - exact.round()).abs() < EDGE
            assert not bool(((single.levels() != double.levels()) & ~edge).any())
            largest = float(double.scores.abs().max())
            torch.testing.assert_close(single.scores.double(), double.scores, rtol=0, atol=2e-4 * largest)
    assert confident >= 5, "without a confident token nothing is tested"
    profiles = [
        position_profile(*(found[name, dtype] for name in (BASE.name, TUNED.name))) for dtype in ("float32", "float64")
    ]
    single, double = (profile.to_df() for profile in profiles)
    for column in ("base", "tuned", "difference", "p", "p_adjusted"):
        assert single[column].to_numpy() == pytest.approx(double[column].to_numpy(), rel=1e-6, abs=1e-9)
