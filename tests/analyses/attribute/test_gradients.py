"""Exactness: both modes equal each other and what transformers' and captum's own gradients give, in float64."""

import copy

import pytest
import torch

from experiments.families import exact_rotary
from lensdiff.analyses.attribute.gradients import cheaper_mode, forward_scores, reverse_scores, target_gradients
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.attribute.targets import TARGETS
from lensdiff.models import load_model, view_of
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.linear.push import can_linearize
from lensdiff.results import InputError
from tests.checkpoints import BRIDGED, HOOKED, TEXT, hf_model, tokenizer_of

N, M = 9, 5
MODES = ("forward", "automatic", "reverse")  # by hand, and by torch's own forward mode
needs_hooked = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
CASES = [(family, "bridge") for family in BRIDGED]
CASES += [pytest.param(family, "hooked", marks=needs_hooked) for family in HOOKED]


def ids() -> torch.Tensor:
    return torch.tensor(tokenizer_of()(TEXT[1])["input_ids"][: N + M])


def reference(family: str, wrapper: str, target: str = "probability") -> torch.Tensor:
    """Gradient x input by plain autograd through transformers' own model, one backward pass per response token."""
    model = hf_model(family, dtype=torch.float64)
    if wrapper == "hooked":
        exact_rotary(model)
    tokens = ids()
    with double_precision():
        embedded = model.get_input_embeddings()(tokens[None]).detach().requires_grad_(True)
        logits = model(inputs_embeds=embedded).logits[0, N - 1 : N + M - 1]
        values = TARGETS[target](logits, tokens[N:])
        columns = [torch.autograd.grad(v, embedded, retain_graph=True)[0][0, :N] for v in values]
    return torch.stack([(c * embedded[0, :N]).sum(-1) for c in columns], dim=1).detach()


def scores(model: object, mode: str, *, target: str = "probability", chunk: int | None = None) -> torch.Tensor:
    view, tokens = view_of(model), ids()
    outputs = slice(N - 1, N - 1 + M)
    with torch.no_grad():
        hidden = view.forward.final(tokens[None, :-1])[0, outputs]
    _, gradients = target_gradients(view, hidden, tokens[N:], TARGETS[target])
    where = (view, tokens[:-1], slice(0, N), outputs, gradients)
    if mode == "reverse":
        return reverse_scores(*where, chunk=chunk).detach()
    return forward_scores(*where, chunk=chunk, by_hand=mode == "forward").detach()


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_modes_equal_transformers_own_gradients_in_float64(family, wrapper):
    source = hf_model(family, dtype=torch.float64)
    model = load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, dtype="float64", device="cpu")
    expected = reference(family, wrapper)
    assert float(expected.abs().max()) > 1e-6, "an oracle of zeros would prove nothing"
    assert can_linearize(view_of(model))
    for mode in MODES:
        torch.testing.assert_close(scores(model, mode), expected, atol=1e-9 * float(expected.abs().max()), rtol=1e-9)


@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_every_target_equals_plain_autograd(target, mode):
    model = load_model(hf_model("gemma2", dtype=torch.float64), tokenizer=tokenizer_of(), dtype="float64", device="cpu")
    expected = reference("gemma2", "bridge", target)
    torch.testing.assert_close(scores(model, mode, target=target), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk", [1, 2, 100])
@pytest.mark.parametrize("wrapper", [pytest.param("hooked", marks=needs_hooked), "bridge"])
def test_the_chunk_changes_nothing(mode, chunk, wrapper):
    source = hf_model("qwen2", dtype=torch.float64)
    model = load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, dtype="float64", device="cpu")
    torch.testing.assert_close(scores(model, mode, chunk=chunk), scores(model, mode), atol=1e-14, rtol=1e-12)


def test_equals_captum():
    captum = pytest.importorskip("captum.attr")
    source = hf_model("llama")
    embedding, tokens = source.get_input_embeddings(), ids()
    embedded = embedding(tokens[None]).detach().requires_grad_()

    def target(x: torch.Tensor, position: int) -> torch.Tensor:
        return source(inputs_embeds=x).logits[:, position].softmax(-1)[:, tokens[position + 1]]

    method = captum.InputXGradient(target)
    columns = [method.attribute(embedded, additional_forward_args=N - 1 + m)[0, :N].sum(-1) for m in range(M)]
    expected = torch.stack(columns, dim=1).detach()
    model = load_model(source, tokenizer=tokenizer_of(), device="cpu")
    for mode in ("forward", "reverse"):
        torch.testing.assert_close(scores(model, mode), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)


def test_first_order_form_of_scaling_an_embedding():
    # intervention: the score is the derivative of the target by a factor on the token's embedding
    model = load_model(hf_model("llama", dtype=torch.float64), tokenizer=tokenizer_of(), dtype="float64", device="cpu")
    view, tokens, step = view_of(model), ids(), 1e-5
    found = scores(model, "forward")
    for n in (0, N - 1):
        values = []
        for factor in (1 + step, 1 - step):
            embedded = view.forward.embed(tokens[None, :-1]).clone()
            embedded[0, n] *= factor
            logits = view.forward.unembed(view.forward.final(tokens[None, :-1], embedded))[0, N - 1 :]
            values.append(TARGETS["probability"](logits, tokens[N:]))
        numeric = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close(found[n], numeric.detach(), atol=1e-9, rtol=1e-5)


@needs_hooked
def test_a_prompt_that_begins_with_the_paddings_token_keeps_its_positions():
    # learned positions: a mask made of the tokens would count from the first that is not the padding's
    source = hf_model("gpt2", dtype=torch.float64)
    model = load_model(source, tokenizer=tokenizer_of(), wrapper="hooked", dtype="float64", device="cpu")
    model.tokenizer = copy.deepcopy(tokenizer_of())  # as one that was wrapped elsewhere has it
    model.tokenizer.pad_token = model.tokenizer.convert_ids_to_tokens(int(ids()[0]))
    model.tokenizer.padding_side = "left"
    expected = scores(model, "reverse")
    torch.testing.assert_close(scores(model, "forward"), expected, atol=1e-12, rtol=1e-9)


def test_what_is_refused_is_no_lack_of_a_forward_mode(monkeypatch):
    model = load_model(hf_model("llama"), tokenizer=tokenizer_of(), wrapper="bridge", device="cpu")
    view = view_of(model)
    honest = view.forward.final

    def refusing(tokens, embedded=None):
        if embedded is not None:
            raise InputError("refused")
        return honest(tokens)

    monkeypatch.setattr(view.forward, "final", refusing)
    with pytest.raises(InputError, match=r"^refused$"):
        attribute(model, TEXT[1], "bonjour", method="forward", deletion_draws=0)


def test_auto_takes_the_mode_with_fewer_passes():
    model = load_model(hf_model("llama"), tokenizer=tokenizer_of(), device="cpu")
    assert cheaper_mode(view_of(model), 5, 60) == "forward"
    assert cheaper_mode(view_of(model), 60, 3) == "reverse"
    assert attribute(model, TEXT[1], "bonjour", deletion_draws=0).method == "reverse"
