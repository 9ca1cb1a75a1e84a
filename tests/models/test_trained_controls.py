"""Controls that are trained, or made of gradients: what they learn is right, kept, and rescaled to the real change."""

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats as scipy_stats
from torch import Tensor
from torch.nn import functional as F

from lensdiff.inputs import Prompt
from lensdiff.models import ModelPair, Point, control_cost, load_pair, validity, view_of
from lensdiff.models.change import PARAMETER, Maker, RealChange, flatten, generator_for, unflatten
from lensdiff.models.controlling import batches, gradients, training
from lensdiff.models.controlling.batches import derangement
from lensdiff.models.controlling.gradients import collect, signed_sum, size_of_samples, texts_of, with_spectrum
from lensdiff.models.controlling.options import GradientNoise, Recipe, checked
from lensdiff.models.controlling.samples import cross_entropy, loss_of, own_samples
from lensdiff.models.controlling.store import user_folder
from lensdiff.models.controlling.workshop import Workshop
from lensdiff.models.inside.around import READ, around
from lensdiff.models.inside.parts import Weight
from lensdiff.models.validity import _translated
from lensdiff.results import InputError
from tests import toy_v1
from tests.checkpoints import TEXT, hf_model, tokenizer_of
from tests.models.test_controls import CASES, NO_HOOKED, change_of, equal, low_rank, pair_of, tokens

SHORT: dict[str, Any] = {"steps": 3, "batch": 2, "length": 12, "rate": 1e-3}
DATA = [(text[:30], text[30:60]) for text in TEXT]
OPTIONS: dict[str, dict[str, Any]] = {
    "distilled": SHORT,
    "shuffled": {**SHORT, "data": DATA, "length": 60},
    "gradient-noise": {"tokens": 96},
}
MADE = list(OPTIONS)


def gentle(model: torch.nn.Module) -> None:
    """Change everything by 2 % of its size."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.add_(0.02 * parameter.std().nan_to_num(1.0) * noise)


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return pair_of(edit=gentle)


@pytest.fixture(scope="module")
def adapted() -> ModelPair:
    return pair_of(edit=low_rank)


@pytest.fixture(scope="module")
def toy() -> ModelPair:
    """The toy base, and the same with a low-rank change of 3 % in every value matrix."""
    found = load_pair(toy_v1.BASE, toy_v1.BASE, device="cpu", verify=False)
    generator = torch.Generator().manual_seed(8)
    weights = view_of(found.tuned).weights
    with torch.no_grad():
        for layer in range(view_of(found.tuned).n_layers):
            into = weights.needed_matrix(layer, "W_out")
            a, b = (torch.randn(n, 4, generator=generator) for n in into.shape)
            into.add_((a @ b.T) * (0.03 * into.norm() / (a @ b.T).norm()))
    return found


def of(pair: ModelPair, kind: str, seed: int = 0, cache: Any = None, **options: Any) -> Any:
    return pair.control(kind, seed, cache=cache, **(OPTIONS[kind] | options))


# options


REFUSED = [
    (
        "distilled",
        {"stepz": 3},
        "stepz is no option, a control of kind 'distilled' takes steps, rate, batch, length, r",
    ),
    ("distilled", {"texts": ["a"]}, "texts is an option of gradient-noise, a control of kind 'distilled' takes steps"),
    ("norm", {"rank": 3}, "rank is an option of distilled and shuffled, a control of kind 'norm' takes none"),
    (
        "self",
        {"cache": None},
        "cache is an option of distilled and shuffled and gradient-noise, a control of kind 'self",
    ),
    ("distilled", {"steps": 0}, "steps=0 given, expected at least 1"),
    ("distilled", {"batch": True}, "batch=True given, expected a whole number of at least 1"),
    ("distilled", {"length": 1}, "length=1 given, expected at least 2"),
    ("distilled", {"rank": 0}, "rank=0 given, expected at least 1"),
    ("distilled", {"rate": -1e-4}, "rate=-0.0001 is no positive number"),
    ("distilled", {"rate": math.inf}, "rate=inf is no positive number"),
    ("distilled", {"cache": 3}, "cache=3 is no folder, expected a path, True for the user's own or None for nowhere"),
    ("distilled", {"cache": __file__}, "is a file, expected a folder"),
    ("gradient-noise", {"divide": "adam"}, "divide='adam' is none of none, rms"),
    ("gradient-noise", {"texts": "a text"}, "texts is no list of texts"),
    ("gradient-noise", {"tokens": 0}, "tokens=0 given, expected at least 1"),
    (
        "gradient-noise",
        {"tokens": 9, "texts": ["a"]},
        "tokens says how many of the base's own samples are drawn: texts",
    ),
    ("shuffled", {}, "a shuffled control needs data: data is a list of .prompt, response., each a text"),
    ("shuffled", {"data": [("a", "b")]}, "a shuffled control needs at least 2 rows of data to permute, got 1"),
    ("shuffled", {"data": ["ab", "cd"]}, "each a text .the prompt may be a Prompt., row 0 is str"),
    ("shuffled", {"data": [("a", "b"), ("c", " ")]}, "row 1 holds something else or an empty response"),
]


@pytest.mark.parametrize(("kind", "options", "message"), REFUSED)
def test_an_option_that_is_unknown_or_wrong_is_refused(pair, kind, options, message):
    with pytest.raises(InputError, match=message):
        pair.control(kind, 0, **options)


def test_the_provenance_has_every_option_that_decides_the_numbers(pair):
    recipe = {"steps": 40, "rate": 2e-4, "batch": 8, "length": 64, "rank": None}
    assert pair.control("distilled", 3).control.options == recipe
    found = pair.control("shuffled", 3, data=DATA).control.options
    assert found["length"] == 256
    assert found["data"].startswith("5 rows, ")
    assert pair.control("shuffled", data=DATA[::-1]).control.options["data"] != found["data"]
    noise = pair.control("gradient-noise", texts=TEXT, divide="rms").control.options
    assert noise["divide"] == "rms"
    assert noise["texts"].startswith("5 rows, ")
    assert pair.control("norm").control.options == {}
    assert pair.control("distilled", 3).info.id.endswith("+ distilled change (seed 3)")


# samples


def test_a_sample_is_drawn_from_the_models_own_distribution(pair):
    base = view_of(pair.base)
    found = own_samples(base, 4000, 1, torch.Generator().manual_seed(0))
    assert (found[:, 0] == 2).all(), "behind the end token, where a tokenizer adds nothing"
    expected = base.forward.logits(torch.tensor([[2]]))[0, -1].double().softmax(dim=0) * 4000
    often = expected >= 5
    counts = torch.bincount(found[:, 1], minlength=base.d_vocab).double()
    pooled = [torch.cat([x[often], x[~often].sum()[None]]).numpy() for x in (counts, expected)]
    assert scipy_stats.chisquare(*pooled).pvalue > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_cache_changes_no_sample(family, monkeypatch):
    base = view_of(pair_of(family, gentle).base)
    cached = own_samples(base, 5, 10, torch.Generator().manual_seed(0))
    assert base.forward.cache_fault is None
    base.forward.cache_fault = "for a test"
    assert torch.equal(own_samples(base, 5, 10, torch.Generator().manual_seed(0)), cached)


def test_a_cache_that_forgets_is_noticed(monkeypatch, caplog):
    base = view_of(pair_of("llama", gentle).base)
    expected = own_samples(base, 5, 10, torch.Generator().manual_seed(0))
    right = base.forward.cached_logits

    def forgetful(tokens: Tensor, mask: Tensor, cache: Any) -> Tensor:
        return right(tokens, mask[:, -tokens.shape[1] :], base.forward.new_cache(len(tokens)))

    monkeypatch.setattr(base.forward, "cached_logits", forgetful)
    with caplog.at_level(logging.WARNING):
        found = own_samples(base, 5, 10, torch.Generator().manual_seed(0))
    assert torch.equal(found, expected)
    assert "its tokens do not have the probabilities of a whole pass" in caplog.text


def test_a_loss_is_that_of_transformers(pair):
    model, rows = hf_model("llama"), torch.randint(3, 400, (3, 20), generator=torch.Generator().manual_seed(1))
    expected = float(model(rows, labels=rows).loss.detach())
    assert loss_of(view_of(pair.base), rows) == pytest.approx(expected, rel=1e-5)


def test_samples_that_do_not_fit_are_refused(pair):
    with pytest.raises(InputError, match=r"samples of 128 tokens behind 1 do not fit the context of .*, 128"):
        own_samples(view_of(pair.base), 2, 128, torch.Generator())


# gradients


def test_a_signed_sum_is_one_of_outer_products():
    reads, gradients = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, -1.0]]), torch.tensor([[1.0], [2.0], [-4.0]])
    factors = torch.tensor([1.0, -1.0, 2.0])
    # by hand: 1*[1,2]*1 - [3,0]*2 + 2*[0,-1]*(-4)
    assert signed_sum(reads, gradients, factors).tolist() == [[-5.0], [10.0]]
    # squares: 1 + 36; 4 + 64
    root = [[-5 / 37**0.5], [10 / 68**0.5]]
    torch.testing.assert_close(signed_sum(reads, gradients, factors, divide="rms"), torch.tensor(root))
    assert signed_sum(reads * 0, gradients, factors, divide="rms").tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize("singular", [False, True])
def test_a_change_has_the_singular_vectors_of_the_sum_and_the_values_of_the_real_change(shape, singular):
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    values = torch.tensor([5.0, 2.0, 1.0], dtype=torch.float64)
    if singular:  # no more than two directions: the third is any
        matrix = matrix[:, :2] @ torch.randn(2, shape[1], generator=generator, dtype=torch.float64)
    found = with_spectrum(matrix, values)
    torch.testing.assert_close(torch.linalg.svdvals(found)[:3], values)
    u, _, vh = torch.linalg.svd(matrix)
    for n in range(2 if singular else 3):
        assert float(u[:, n] @ found @ vh[n]) == pytest.approx(float(values[n]))


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_reads_and_gradients_make_the_gradient_of_each_matrix(family, wrapper):
    # oracle: autograd's own gradient of the parameter that holds the matrix
    base = view_of(pair_of(family, gentle, wrapper, dtype=torch.float64).base)
    rows = torch.randint(3, 400, (2, 9), generator=torch.Generator().manual_seed(3))

    def loss(logits: Tensor) -> Tensor:
        return cross_entropy(logits, rows[:, 1:], reduction="sum")

    reads, gradients = around(base.forward, base.meaning, rows[:, :-1], loss)
    parameters = list(base.model.parameters())
    try:
        loss(base.forward.run(rows[:, :-1], read=[Point("logits")])[Point("logits")]).backward()
        known = [w for w in base.weights.known() if w.name in READ]
        assert len(known) >= 12
        assert set(gradients) == set(known)
        for weight in known:
            stored = base.weights.stored(weight)
            expected = flatten(training.gradient_of(stored, parameters), weight.name)
            found = reads[(READ[weight.name], weight.layer)].T @ gradients[weight]
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8 * float(expected.abs().max()))
            assert bool(expected.any())
    finally:
        base.model.zero_grad()


@pytest.mark.parametrize("divide", ["none", "rms"])
def test_gradient_noise_has_the_leading_directions_of_the_signed_gradients(adapted, divide):
    base, weight = view_of(adapted.base), Weight("W_Q", 1)
    control = adapted.control("gradient-noise", 4, texts=TEXT, divide=divide, cache=None)
    found = change_of(control, base, weight)
    pieces = []
    for text in TEXT:  # by hand, a token at a time
        ids = torch.tensor([tokenizer_of()(text)["input_ids"]])
        reads, gradients = around(
            base.forward, base.meaning, ids[:, :-1], lambda x, ids=ids: cross_entropy(x, ids[:, 1:], reduction="sum")
        )
        pieces += list(zip(reads[("attn", 1)], gradients[weight], strict=True))
    signs = 2 * torch.randint(2, (len(pieces),), generator=generator_for("gradient-noise", 4, Weight("signs"))) - 1
    total = sum(float(s) * torch.outer(a, g) for s, (a, g) in zip(signs, pieces, strict=True))
    assert isinstance(total, Tensor)
    if divide == "rms":
        total = total / sum(torch.outer(a, g).square() for a, g in pieces).sqrt()
    u, _, vh = torch.linalg.svd(total.double())
    ours, _, theirs = torch.linalg.svd(found)
    assert float(torch.linalg.svdvals(u[:, :2].T @ ours[:, :2]).min()) > 0.999
    assert float(torch.linalg.svdvals(vh[:2] @ theirs[:2].T).min()) > 0.999


def test_gradient_noise_needs_text_enough(pair):
    base = view_of(pair.base)
    with pytest.raises(InputError, match="gradient noise of this model needs at least 32 tokens of text, got 31"):
        pair.control("gradient-noise", tokens=31, cache=None).weights.matrix(0, "W_Q")
    with pytest.raises(InputError, match="needs at least 32 tokens of text, got 1"):
        pair.control("gradient-noise", texts=["ab"], cache=None).weights.matrix(0, "W_Q")
    with pytest.raises(InputError, match=r"text 1 has 1\d\d tokens, the context of .* holds 128"):
        pair.control("gradient-noise", texts=["a", "x" * 140], cache=None).weights.matrix(0, "W_Q")
    assert sum(rows[:, 1:].numel() for rows in texts_of(base, GradientNoise())) == 64
    assert size_of_samples(base, GradientNoise(tokens=5000)) == (79, 64, [16, 16, 16, 16, 15])


def test_a_large_vocabulary_has_smaller_batches_and_the_same_gradients(pair, monkeypatch):
    base = view_of(pair.base)
    whole = collect(base, texts_of(base, GradientNoise(tokens=256)))
    a_token = 4 * base.d_vocab + base.n_layers * (8 * base.d_model + 4 * base.d_mlp + 4 * base.n_heads * 64)
    monkeypatch.setattr(gradients, "BATCH_BYTES", 130 * a_token * 4)  # of 130 tokens: two samples
    assert size_of_samples(base, GradientNoise(tokens=256)) == (4, 64, [2, 2])
    parted = collect(base, texts_of(base, GradientNoise(tokens=256)))
    assert parted.keys() == whole.keys()
    assert all(torch.allclose(parted[name].float(), value.float(), atol=2e-3) for name, value in whole.items())
    monkeypatch.setattr(gradients, "BATCH_BYTES", 1)
    assert size_of_samples(base, GradientNoise(tokens=256)) == (4, 64, [1, 1, 1, 1])


# what is trained


def test_a_first_step_goes_against_the_gradient(pair):
    # oracle: Adam's first step is the rate times the gradient's sign
    base, recipe = view_of(pair.base), Recipe(steps=1, batch=4, length=20, rate=1e-4)
    [batch] = batches.distilled(base, recipe, 5)
    workshop = Workshop(base, view_of(pair.tuned), pair.change())
    trained = training.train(base, workshop.targets, [batch], recipe, ("distilled", 5), tied=False)
    model = pair.base
    try:
        cross_entropy(model(batch.tokens), batch.following).backward()
        for weight in [*base.weights.known(), Weight(PARAMETER + "blocks.0.attn.b_Q")]:
            if weight.name.startswith(PARAMETER):
                name = weight.name.removeprefix(PARAMETER)
                if name not in dict(model.named_parameters()) or weight not in workshop.targets:
                    continue
                stored = model.get_parameter(name).detach()
            else:
                stored = base.weights.stored(weight)
            gradient = flatten(training.gradient_of(stored, list(model.parameters())), weight.name)
            large = gradient.abs() > 1e-5  # not below Adam's epsilon
            if weight.name == "W_E":
                large &= base.weights.W_E.any(dim=1, keepdim=True)
            found = trained.change(weight)
            torch.testing.assert_close(found[large], -1e-4 * gradient.sign()[large].double(), rtol=1e-2, atol=0)
    finally:
        model.zero_grad()


@pytest.mark.parametrize("rank", [None, 4])
def test_training_lowers_the_loss_on_its_samples_before_it_is_rescaled(toy, rank, monkeypatch):
    base, recipe = view_of(toy.base), Recipe(steps=10, batch=4, length=32, rate=1e-3, rank=rank)
    rows = list(batches.distilled(base, recipe, 0))
    seen, trained = torch.cat([torch.cat([b.tokens, b.following[:, -1:]], dim=1) for b in rows]), []
    step = training._step
    monkeypatch.setattr(training, "_step", lambda view, *given: (trained.append(view), step(view, *given)))
    targets = [weight for weight in base.weights.known() if weight.layer is not None]
    training.train(base, targets, rows, recipe, ("distilled", 0), tied=False)
    assert loss_of(trained[-1], seen) < loss_of(base, seen) - 0.01
    assert loss_of(base, seen) < 5, "the samples are the base's own, which it knows"


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_a_change_taken_from_a_trained_copy_makes_that_copy_again(family, wrapper, rank, monkeypatch):
    pair, copies = pair_of(family, gentle, wrapper), []
    step = training._step
    monkeypatch.setattr(training, "_step", lambda view, *given: (copies.append(view), step(view, *given)))
    base, workshop = view_of(pair.base), Workshop(view_of(pair.base), view_of(pair.tuned), pair.change())
    options = checked("distilled", SHORT | {"rank": rank, "cache": None}, Path())
    trained = workshop.train("distilled", 0, options)

    def unscaled(self: RealChange, maker: Maker, weight: Weight, before: Tensor, values: Tensor) -> Tensor:
        change = trained.change(weight)
        return before if change is None else before + unflatten(change.to(before), before, weight.name)

    monkeypatch.setattr(RealChange, "apply", unscaled)
    found = pair.control("norm", 0).forward.logits(tokens())
    expected, untouched = copies[-1].forward.logits(tokens()), base.forward.logits(tokens())
    moved = float((expected - untouched).abs().max())
    assert moved > 1e-3 * float(untouched.abs().max())
    assert float((found - expected).abs().max()) < 0.01 * moved


def test_a_tied_embedding_learns_from_both_of_its_uses():
    pair = pair_of("gpt2", gentle)
    base, recipe = view_of(pair.base), Recipe(steps=1, batch=4, length=20, rate=1e-4)
    [batch] = batches.distilled(base, recipe, 5)
    trained = training.train(base, [Weight("W_E")], [batch], recipe, ("distilled", 5), tied=True)
    model = hf_model("gpt2")  # transformers ties the two
    F.cross_entropy(model(batch.tokens).logits.flatten(0, 1), batch.following.flatten()).backward()
    gradient = model.get_input_embeddings().weight.grad
    large = gradient.abs() > 1e-5
    assert float(large.float().mean()) > 0.5
    found = trained.change(Weight("W_E"))
    torch.testing.assert_close(found[large], -1e-4 * gradient.sign()[large].double(), rtol=2e-2, atol=0)
    control = of(pair, "distilled")
    assert torch.equal(control.weights.W_U, control.weights.W_E.T)
    assert torch.equal(control.whole().weights.W_U, control.weights.W_E.T)


def test_responses_go_to_other_prompts_and_have_the_loss(pair):
    base, recipe = view_of(pair.base), Recipe(steps=20, batch=2, length=60)
    data = tuple((Prompt(prompt), response) for prompt, response in DATA)
    rows = list(batches.shuffled(base, data, recipe, 1))
    assert len(rows) == 20
    own, seen = dict(DATA), set()
    for batch in rows:
        for ids, following, mask in zip(*batch, strict=True):
            assert mask is not None
            text = str(tokenizer_of().decode(ids[mask.bool()]))
            prompt = next(prompt for prompt in own if text.startswith(prompt.strip()))
            said = following[following >= 0].tolist()
            assert said[-1] == 2, "the end is learned too"
            response = str(tokenizer_of().decode(said[:-1]))
            assert response.strip() in [r.strip() for p, r in DATA if p != prompt]
            scored = (following[:-1] >= 0) & mask[1:].bool()
            assert torch.equal(following[:-1][scored], ids[1:][scored])
            assert int(scored.sum()) == len(said) - 1
            seen.add((prompt, response))
    assert len(seen) == len(DATA), "one response a prompt"
    with pytest.raises(InputError, match="prompt 'the-id' has 36 tokens, which leaves none of length=12 to a response"):
        list(batches.shuffled(base, ((Prompt(TEXT[0], id="the-id"), "a"), *data), replace(recipe, length=12), 1))


def test_a_derangement_leaves_nothing_in_its_place():
    generator = torch.Generator().manual_seed(0)
    drawn = [tuple(derangement(4, generator).tolist()) for _ in range(900)]
    assert all(i != j for found in drawn for i, j in enumerate(found))
    counts = [drawn.count(found) for found in set(drawn)]
    assert len(counts) == 9, "all of them"
    assert scipy_stats.chisquare(counts).pvalue > 1e-3


def test_a_loss_that_is_not_finite_is_refused(pair):
    with pytest.raises(InputError, match=r"with rate=1e\+30 gave the loss .*: give a smaller rate"):
        of(pair, "distilled", rate=1e30).weights.matrix(0, "W_in")


# controls


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_each_change_has_the_real_ones_norm(family, kind):
    pair = pair_of(family, gentle)
    base, tuned, control = view_of(pair.base), view_of(pair.tuned), of(pair, kind)
    for weight in base.weights.known():
        if weight.name == "W_U" and pair.change().tied:
            continue
        real, found = change_of(tuned, base, weight), change_of(control, base, weight)
        if weight.name == "W_E":
            real = real[base.weights.W_E.any(dim=1) | tuned.weights.W_E.any(dim=1)]
        torch.testing.assert_close(found.norm(), real.norm(), rtol=1e-4, atol=0)
        if kind == "gradient-noise" and weight.name in READ:
            values, ours = torch.linalg.svdvals(real), torch.linalg.svdvals(found)
            torch.testing.assert_close(ours, values, rtol=1e-4, atol=1e-4 * float(values[0]))
    logits = control.forward.logits(tokens())
    assert bool(torch.isfinite(logits).all())
    assert not torch.equal(logits, base.forward.logits(tokens()))


@pytest.mark.parametrize("kind", MADE)
def test_a_seed_means_one_change(pair, kind):
    first, again, other = of(pair, kind, 1), of(pair_of(edit=gentle), kind, 1), of(pair, kind, 2)
    names = [Weight("W_Q", 0), Weight("W_E"), Weight("mlp_gain", 1), Weight("W_out", 1)]
    for weight in names:
        assert equal(first, again, weight)
    for weight in names:
        assert not equal(first, other, weight)
    for weight in reversed(names):
        assert equal(of(pair, kind, 1), again, weight)


def test_kinds_of_one_seed_share_no_numbers(pair):
    weight, kinds = Weight("W_in", 0), ["spectrum", "norm", *MADE]
    drawn = [torch.randn(500, generator=generator_for(kind, 0, weight)) for kind in kinds]
    assert float((torch.corrcoef(torch.stack(drawn)) - torch.eye(len(kinds))).abs().max()) < 0.2
    base = view_of(pair.base)
    changes = [change_of(pair.control(kind, 0) if kind not in MADE else of(pair, kind), base, weight) for kind in kinds]
    cosines = torch.corrcoef(torch.stack([change.flatten() for change in changes]))
    assert float((cosines - torch.eye(len(kinds))).abs().max()) < 0.5
    assert abs(float(cosines[0, 1])) < 0.1


@pytest.mark.parametrize("kind", MADE)
def test_what_did_not_change_stays_and_lora_stays_low_rank(adapted, kind):
    base, control = view_of(adapted.base), of(adapted, kind)
    for weight in base.weights.known():
        if weight == Weight("W_Q", 1):
            change = change_of(control, base, weight)
            assert int((torch.linalg.svdvals(change) > 1e-5 * change.norm()).sum()) == 2
        else:
            assert equal(control, base, weight)
    (changed,) = [n for n, p in control.model.named_parameters() if not torch.equal(p, adapted.base.get_parameter(n))]
    assert changed.startswith(("blocks.1.", "model.layers.1."))  # as the wrapper calls it
    assert "W_Q" in changed or "q_proj" in changed


def test_controls_that_differ_have_names_that_differ(pair):
    usual = pair.control("gradient-noise", 3)
    other = pair.control("gradient-noise", 3, divide="rms")
    assert view_of(usual).info.id.endswith(" + gradient-noise change (seed 3)")
    assert view_of(other).info.id.endswith(" + gradient-noise change (seed 3, divide=rms)")
    trained = of(pair, "distilled", steps=7, rank=2)
    assert ", rank=2" in view_of(trained).info.id
    assert "steps=7" in view_of(trained).info.id
    assert view_of(pair.control("spectrum", 0)).info.id.endswith(" + spectrum-matched change (seed 0)")
    data = [("a b", "c"), ("d", "e f")]
    shuffled = pair.control("shuffled", 0, data=data, cache=None)
    assert view_of(shuffled).info.id.endswith(" + shuffled change (seed 0)")


def test_a_rank_can_be_asked_for_and_full_training_has_none(pair):
    base = view_of(pair.base)
    ranks = {}
    for rank in (None, 3):
        change = change_of(of(pair, "distilled", rank=rank), base, Weight("W_in", 0))
        ranks[rank] = int((torch.linalg.svdvals(change) > 1e-4 * change.norm()).sum())
    assert ranks[3] == 3
    assert ranks[None] > 16


def test_a_padding_tokens_row_of_zeros_stays():
    base, tuned = hf_model("llama"), hf_model("llama")
    with torch.no_grad():
        gentle(tuned)
        tuned.get_input_embeddings().weight[0] = 0.0
    pair = load_pair(base, tuned, tokenizer=tokenizer_of(), device="cpu", verify=False)
    for control in (pair.control("spectrum"), pair.control("norm"), *(of(pair, kind) for kind in MADE)):
        changed = (control.weights.W_E != view_of(pair.base).weights.W_E).any(dim=1)
        assert not bool(changed[0])
        assert bool(changed[3:].any())


def test_a_vocabulary_that_grew_is_trained_where_it_is_shared():
    base, tuned = hf_model("llama"), hf_model("llama", vocab_size=410)
    pair = load_pair(base, tuned, tokenizer=tokenizer_of(), device="cpu", verify=False)
    control, view = of(pair, "distilled"), view_of(pair.base)
    real = view_of(pair.tuned).weights.W_U[:, pair.shared_tokens[1]] - view.weights.W_U[:, pair.shared_tokens[0]]
    torch.testing.assert_close((control.weights.W_U - view.weights.W_U).norm(), real.norm(), rtol=1e-4, atol=0)


def test_half_precision_trains_no_control():
    pair = pair_of(edit=gentle, dtype=torch.bfloat16)
    with pytest.raises(InputError, match="a control cannot be run in bfloat16"):
        of(pair, "distilled").weights.matrix(0, "W_in")
    assert of(pair, "gradient-noise").weights.matrix(0, "W_in").dtype == torch.float32


@NO_HOOKED
def test_two_wrappers_allow_training():
    base, tuned = hf_model("llama"), hf_model("llama", seed=1)
    options = {"tokenizer": tokenizer_of(), "device": "cpu", "verify": False}
    pair = load_pair(base, tuned, tuned_options={"wrapper": "bridge"}, **options)
    assert not equal(of(pair, "distilled"), view_of(pair.base), Weight("W_in", 0))


# cache


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("made again")


def read_all(control: Any) -> dict[Weight, Tensor]:
    return {
        weight: control.weights.read(weight) for weight in (Weight("W_E"), Weight("W_in", 1), Weight("mlp_gain", 0))
    }


WORK = {"distilled": "train", "shuffled": "train", "gradient-noise": "collect"}
MODULE = "lensdiff.models.controlling.workshop."


@pytest.mark.parametrize("kind", MADE)
def test_what_is_read_from_the_cache_is_what_was_made(kind, tmp_path, monkeypatch):
    made = read_all(of(pair_of(edit=gentle), kind, cache=tmp_path))
    [file] = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(MODULE + WORK[kind], refuse)
        found = read_all(of(pair_of(edit=gentle), kind, cache=tmp_path))
        with pytest.raises(AssertionError, match="made again"):
            read_all(of(pair_of(edit=gentle), kind, cache=None))
    without = read_all(of(pair_of(edit=gentle), kind, cache=None))
    assert all(torch.equal(made[weight], found[weight]) for weight in made)
    assert all(torch.equal(made[weight], without[weight]) for weight in made)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("kind", MADE)
def test_a_damaged_or_foreign_file_is_made_again(kind, tmp_path, monkeypatch):
    made = read_all(of(pair_of(edit=gentle), kind, cache=tmp_path))
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    read_all(of(pair_of("gpt2", gentle), kind, cache=tmp_path / "other"))
    [foreign] = (tmp_path / "other").iterdir()
    for damaged in (whole[: len(whole) // 2], b"", whole[:-1] + bytes([whole[-1] ^ 1]), foreign.read_bytes()):
        file.write_bytes(damaged)
        with monkeypatch.context() as patch:
            patch.setattr(MODULE + WORK[kind], refuse)
            with pytest.raises(AssertionError, match="made again"):
                read_all(of(pair_of(edit=gentle), kind, cache=tmp_path))
        found = read_all(of(pair_of(edit=gentle), kind, cache=tmp_path))
        assert all(torch.equal(made[weight], found[weight]) for weight in made)
        with monkeypatch.context() as patch:
            patch.setattr(MODULE + WORK[kind], refuse)
            assert read_all(of(pair_of(edit=gentle), kind, cache=tmp_path)).keys() == made.keys()


def test_what_decides_the_numbers_decides_the_file(tmp_path):
    pairs = [pair_of(edit=gentle), pair_of(edit=gentle, seed=1), pair_of(edit=low_rank)]
    weight = Weight("W_Q", 1)
    given = [("distilled", 0, {}), ("distilled", 1, {}), ("distilled", 0, {"steps": 4}), ("distilled", 0, {"rank": 1})]
    given += [("shuffled", 0, {}), ("shuffled", 0, {"data": DATA[1:]})]
    given += [("gradient-noise", 0, {}), ("gradient-noise", 0, {"tokens": 97})]
    for n, (kind, seed, options) in enumerate(given):
        of(pairs[0], kind, seed, cache=tmp_path, **options).weights.read(weight)
        assert len(list(tmp_path.iterdir())) == n + 1
    for pair in pairs[1:]:
        before = len(list(tmp_path.iterdir()))
        of(pair, "distilled", cache=tmp_path).weights.read(weight)
        assert len(list(tmp_path.iterdir())) == before + 1
    # what is summed is the same, whatever the signs
    before = len(list(tmp_path.iterdir()))
    for seed, divide in ((1, "none"), (0, "rms")):
        of(pairs[0], "gradient-noise", seed, cache=tmp_path, divide=divide).weights.read(weight)
    assert len(list(tmp_path.iterdir())) == before


def test_the_users_own_folder_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_folder() == tmp_path / "lensdiff" / "controls"
    pair_of(edit=gentle).control("distilled", **SHORT).weights.read(Weight("W_in", 0))
    assert len(list((tmp_path / "lensdiff" / "controls").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_folder() == tmp_path / ".cache" / "lensdiff" / "controls"


def test_a_folder_that_cannot_be_written_is_warned_of(tmp_path, caplog):
    (tmp_path / "file").touch()
    control = of(pair_of(edit=gentle), "distilled", cache=tmp_path / "file" / "folder")
    with caplog.at_level(logging.WARNING):
        assert control.weights.matrix(0, "W_in") is not None
    assert "a control cannot be kept in" in caplog.text


# validity


def test_a_gentle_control_is_valid_and_a_ruined_base_is_not(toy):
    own, control = validity(toy, toy.base), validity(toy, of(toy, "distilled", rank=None))
    assert own.loss == own.base
    assert own.uniform == pytest.approx(math.log(3072))
    assert own.limit == own.uniform
    assert own.valid
    assert control.valid
    assert own.base - 0.5 < control.loss < own.base + 1
    assert own.n_tokens == 1024
    ruined = load_pair(toy.base, toy_v1.BASE, device="cpu", verify=False)
    with torch.no_grad():
        view_of(ruined.tuned).weights.W_U.mul_(-30.0)
    worse = validity(toy, ruined.tuned)
    assert not worse.valid
    assert worse.loss > worse.limit
    assert validity(ruined, ruined.tuned).limit == pytest.approx(worse.loss), "the tuned model's own loss is allowed"
    assert not replace(own, loss=math.nan).valid


def test_the_large_change_of_the_first_toy_pair_ruins_its_controls():
    pair = load_pair(toy_v1.BASE, toy_v1.TUNED, device="cpu", verify=False)
    found = [validity(pair, of(pair, "distilled", seed, length=64, batch=8)) for seed in range(3)]
    assert sum(not control.valid for control in found) >= 2
    assert found[0].tuned == pytest.approx(8.5, abs=0.6)
    assert found[0].uniform == pytest.approx(8.03, abs=0.01)


def test_texts_are_read_in_the_tuned_models_ids():
    shared = torch.tensor([0, 1, 3]), torch.tensor([5, 6, 8])
    texts = torch.tensor([[0, 1, 3], [1, 2, 1], [3, 4, 1], [0, 0, 0]])
    assert _translated(texts, shared).tolist() == [[5, 6, 8], [5, 5, 5]]


# cost


def test_a_cost_is_what_was_timed_times_how_often_it_is_done(pair, monkeypatch):
    def one_second(work: Any) -> float:
        work()
        return 1.0

    monkeypatch.setattr("lensdiff.models.costs._seconds", one_second)
    n_weights = len(list(view_of(pair.base).weights.known()))
    for kind in ("spectrum", "norm"):
        cost = control_cost(pair, kind)
        assert (cost.once, cost.each) == (n_weights, n_weights)
        assert cost.of(19) == n_weights * 20
        assert cost.of(0) == 0
    assert control_cost(pair, "self").of(9) == 0
    # 96 tokens are 2 samples of 64, drawn 4 at a time here, and one batch
    noise = control_cost(pair, "gradient-noise", tokens=96)
    assert (noise.once, noise.each) == (n_weights + 64 / 4 + 1, n_weights)
    noise = control_cost(pair, "gradient-noise", texts=TEXT)
    lengths = [len(tokenizer_of()(text)["input_ids"]) for text in TEXT]
    assert noise.once == pytest.approx(n_weights + sum(lengths) / lengths[0])
    # three steps take as long as one here: no step costs anything, and the copy a second
    trained = control_cost(pair, "distilled", **SHORT)
    assert trained.each == 12 / 4 + 1
    assert control_cost(pair, "shuffled", data=DATA, steps=1).each == 1
