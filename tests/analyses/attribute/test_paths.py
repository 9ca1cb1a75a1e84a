"""Integrated gradients: equal to captum's, complete, and what the definition gives on a path that is known."""

import warnings

import pytest
import torch
from torch import Tensor

from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.attribute.paths import baseline_of, gauss_legendre
from lensdiff.analyses.attribute.targets import TARGETS
from lensdiff.analyses.attribute.view import facts
from lensdiff.inputs import Prompt
from lensdiff.models import load_model, view_of
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.text import encode
from lensdiff.results import InputError
from tests.checkpoints import TEXT, hf_model, tokenizer_of

PROMPT = Prompt(TEXT[1][:40].strip(), id="p")
RESPONSE = "the moon is bright"
NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
WRAPPERS = ["bridge", pytest.param("hooked", marks=NO_HOOKED)]
MODES = ["forward", "reverse"]


def model_of(family: str, wrapper: str = "bridge", dtype: torch.dtype = torch.float64):
    source = hf_model(family, dtype=dtype)
    return load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, dtype=dtype, device="cpu", verify=False)


def integrated(model, **options):
    options = {"deletion_draws": 0, "baseline": "zero", "nodes": 8} | options
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the integrated gradients of prompt")
        return attribute(model, PROMPT, RESPONSE, path="integrated", **options)


def captums(family: str, dtype: torch.dtype, nodes: int, baseline: str = "zero") -> Tensor:
    """Captum's integrated gradients through transformers' own model: a run per response token."""
    captum = pytest.importorskip("captum.attr")
    source = hf_model(family, dtype=dtype)
    encoded = encode(view_of(model_of(family, dtype=dtype)), PROMPT, RESPONSE)
    ids, n = torch.tensor(encoded.ids), encoded.n_prompt
    embedding = source.get_input_embeddings()
    with pytest.MonkeyPatch.context() as patch, double_precision(dtype == torch.float64):
        default = torch.get_default_dtype()
        if dtype == torch.float64:  # captum rounds its weights to float32, whatever it integrates
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            torch.set_default_dtype(torch.float64)
        embedded = embedding(ids[None, :-1]).detach()
        start = embedded.clone()
        start[:, :n] = (
            0 if baseline == "zero" else embedding(torch.arange(embedding.num_embeddings)).mean(dim=0).detach()
        )

        def target(x: Tensor, place: int) -> Tensor:
            return source(inputs_embeds=x).logits[:, place].softmax(-1)[:, ids[place + 1]]

        method = captum.IntegratedGradients(target)
        columns = [
            method.attribute(embedded, start, additional_forward_args=n - 1 + m, n_steps=nodes, method="gausslegendre")[
                0, :n
            ].sum(-1)
            for m in range(encoded.n_response)
        ]
        torch.set_default_dtype(default)
    return torch.stack(columns, dim=1).detach()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("family", "dtype", "bound"),
    [("qwen2", torch.float64, 1e-9), ("gemma2", torch.float64, 1e-9), ("qwen2", torch.float32, 2e-4)],
)
def test_equals_captum(family: str, dtype: torch.dtype, bound: float, mode: str):
    expected = captums(family, dtype, 8)
    found = integrated(model_of(family, dtype=dtype), method=mode).scores
    assert float((found - expected).abs().max()) <= bound * float(expected.abs().max())


def test_from_the_mean_embedding_it_equals_captum_too():
    expected = captums("qwen2", torch.float64, 8, "mean")
    found = integrated(model_of("qwen2"), baseline="mean").scores
    assert float((found - expected).abs().max()) <= 1e-9 * float(expected.abs().max())


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_both_modes_agree_and_chunks_change_nothing(wrapper: str):
    model = model_of("llama", wrapper)
    first, *others = [integrated(model, method=mode, chunk=chunk).scores for mode in MODES for chunk in (None, 2)]
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-12, rtol=1e-9)


def test_more_nodes_are_more_complete_and_the_error_is_what_is_missing():
    model = model_of("llama")
    view, errors = view_of(model), []
    for nodes in (1, 4, 48):
        found = integrated(model, nodes=nodes, target="log_probability", baseline="mean")
        encoded = encode(view, PROMPT, RESPONSE)
        ids = torch.tensor(encoded.ids)
        embedded = view.forward.embed(ids[None, :-1]).detach()
        without = embedded.clone()
        without[:, : encoded.n_prompt] = baseline_of(view, "mean")
        first = encoded.n_prompt - 1
        ends = [
            TARGETS["log_probability"](
                view.forward.unembed(view.forward.final(ids[None, :-1], x)[0, first:]), ids[first + 1 :]
            )
            for x in (embedded, without)
        ]
        change = (ends[0] - ends[1]).detach()
        torch.testing.assert_close(found.targets, ends[0].detach())
        missing = float((found.scores.sum(dim=0) - change).abs().max() / change.abs().max())
        assert found.completeness == pytest.approx(missing, rel=1e-9)
        errors.append(missing)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


def test_a_point_has_no_completeness_and_is_what_it_was():
    model = model_of("llama")
    plain = attribute(model, PROMPT, RESPONSE, deletion_draws=0)
    named = attribute(model, PROMPT, RESPONSE, deletion_draws=0, path="point", baseline="mean", nodes=3)
    assert plain.completeness is None
    torch.testing.assert_close(named.scores, plain.scores, atol=0, rtol=0)
    assert "path" not in plain.provenance.options
    found = integrated(model, nodes=2).provenance.options
    assert (found["path"], found["baseline"], found["nodes"]) == ("integrated", "zero", 2)


def test_a_token_whose_baseline_is_itself_has_no_score():
    tokenizer = tokenizer_of()
    model = model_of("llama")
    prompt = Prompt(" moon moon", id="same")
    token = tokenizer("moon moon", add_special_tokens=False)["input_ids"]
    text = tokenizer.decode([token[-1]])
    found = attribute(model, prompt, RESPONSE, path="integrated", baseline=f"token:{text}", nodes=32, deletion_draws=0)
    assert float(found.scores[-1].abs().max()) == 0.0
    assert float(found.scores[:-1].abs().max()) > 0 or len(token) == 1


def test_the_mean_is_of_what_the_embedding_gives():
    view = view_of(model_of("gemma2"))  # its embedding module scales what the matrix holds, or the model does
    every = torch.stack([view.forward.embed(torch.tensor([[i]]))[0, 0] for i in range(view.d_vocab)])
    torch.testing.assert_close(baseline_of(view, "mean"), every.mean(dim=0), atol=1e-12, rtol=1e-9)
    assert float(baseline_of(view, "zero").abs().max()) == 0


def test_a_sum_that_is_far_from_what_changes_is_warned_of():
    model = model_of("llama")
    with pytest.warns(
        UserWarning, match=r"changes within \d+%: give more nodes than 2, or another baseline than 'zero'"
    ):
        attribute(model, PROMPT, RESPONSE, path="integrated", baseline="zero", nodes=2, deletion_draws=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = attribute(model, PROMPT, RESPONSE, path="integrated", nodes=32, deletion_draws=0)
    assert found.completeness is not None
    assert found.completeness < 0.01


def test_the_view_says_along_which_path():
    found = integrated(model_of("llama"), baseline="mean", nodes=32)
    assert facts(found).startswith("integrated from mean over 32 nodes, adds up to within ")
    assert "integrated" not in facts(attribute(model_of("llama"), PROMPT, RESPONSE, deletion_draws=0))


@pytest.mark.parametrize("nodes", [1, 2, 5, 16])
def test_nodes_integrate_polynomials_exactly(nodes: int):
    places, weights = gauss_legendre(nodes)
    for degree in range(2 * nodes):
        assert sum(w * a**degree for a, w in zip(places, weights, strict=True)) == pytest.approx(
            1 / (degree + 1), abs=1e-12
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "straight"}, "path 'straight' is none of point, integrated"),
        ({"baseline": "black"}, "baseline 'black' is none of zero, mean, token:TEXT"),
        ({"nodes": 0}, "nodes=0 given, expected a positive whole number"),
        ({"path": "integrated", "baseline": "token:the moon is bright"}, "tokens of .* expected exactly one"),
    ],
)
def test_what_is_no_path_is_refused(options: dict, message: str):
    with pytest.raises(InputError, match=message):
        attribute(model_of("llama"), PROMPT, RESPONSE, **options)
