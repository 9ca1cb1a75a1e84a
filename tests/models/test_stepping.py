"""Single steps behind a cache have the logits of transformers' whole passes of each text alone; a fault costs time."""

import logging

import pytest
import torch

from experiments.families import exact_rotary, uncached
from lensdiff.models import load_model, view_of
from lensdiff.models.controlling import samples
from lensdiff.models.decoding import greedy
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.inside.products import BLOCK, ROWS, few_rows
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.plain import stepping
from lensdiff.models.plain.stepping import Cached
from tests.checkpoints import HOOKED, TEXT, hf_model, tokenizer_of
from tests.lacks import LACKS

needs_hooked = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
PLAIN = (*HOOKED, "gpt_neox_sequential", "gpt2_scaled_by_layer", "llama31")
LENGTHS, NEW = (24, 9, 24), 6  # longer than the 16 tokens of sliding windows, and padded


def view_and_reference(family: str = "llama", wrapper: str = "hooked", dtype: torch.dtype = torch.float64):
    source = hf_model(family, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    model = load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, dtype=name, device="cpu")
    return view_of(model), hf_model(family, dtype=dtype)


def texts() -> list[list[int]]:
    ids = tokenizer_of()(" ".join(TEXT))["input_ids"]
    return [ids[i : i + length + NEW] for i, length in enumerate(LENGTHS)]


def stepped(view) -> torch.Tensor:
    """Logits behind every prompt and every token of a text behind it, [text, step, d_vocab]."""
    longest, found = max(LENGTHS), []
    cached = Cached(view, len(LENGTHS), longest + NEW)
    mask = torch.tensor([[0] * (longest - n) + [1] * n for n in LENGTHS])
    tokens = torch.tensor([[3] * (longest - n) + text[:n] for text, n in zip(texts(), LENGTHS, strict=True)])
    with torch.no_grad():
        for step in range(NEW):
            found.append(cached.logits(tokens, mask))
            tokens = torch.tensor([[text[n + step]] for text, n in zip(texts(), LENGTHS, strict=True)])
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    return torch.stack(found, dim=1)


@needs_hooked
@pytest.mark.parametrize("family", PLAIN)
def test_every_step_has_the_logits_of_a_whole_pass(family):
    view, reference = view_and_reference(family)
    exact_rotary(reference)
    found = stepped(view)
    assert view.forward.steps
    for text, n, mine in zip(texts(), LENGTHS, found, strict=True):
        with torch.no_grad(), double_precision():
            expected = reference(torch.tensor([text])).logits[0, n - 1 : n + NEW - 1]
        torch.testing.assert_close(mine, expected, atol=1e-9 * float(expected.abs().max()), rtol=1e-9)


@needs_hooked
def test_the_models_own_passes_are_made_over_the_prompts_alone(monkeypatch):
    view, reference = view_and_reference()
    passes, honest = [], view.forward.cached_logits

    def counted(tokens, mask, cache):
        passes.append(tuple(tokens.shape))
        return honest(tokens, mask, cache)

    monkeypatch.setattr(view.forward, "cached_logits", counted)
    (new,) = greedy(view, [torch.tensor(texts()[0])], max_new_tokens=NEW, stops=())
    assert new.tolist() == uncached(reference, torch.tensor(texts()[0]), NEW).tolist()
    assert passes == [(1, len(texts()[0]))]


@pytest.mark.parametrize("wrapper", ["bridge", pytest.param("hooked", marks=needs_hooked)])
def test_a_model_that_is_not_plain_is_read_by_itself(wrapper):
    view, reference = view_and_reference("llama", wrapper)
    view.forward.steps = None  # the load was verified by steps
    if wrapper == "hooked":
        view.model.set_use_attn_result(True)
    expected = [uncached(reference, torch.tensor(text), NEW).tolist() for text in texts()]
    found = greedy(view, [torch.tensor(text) for text in texts()], max_new_tokens=NEW, stops=())
    assert [new.tolist() for new in found] == expected
    assert view.forward.steps is None


@needs_hooked
def test_hooks_of_the_users_own_act():
    view, _ = view_and_reference()
    prompt, untouched = torch.tensor(texts()[0]), greedy(view, [torch.tensor(texts()[0])], max_new_tokens=9, stops=())

    def doubled(z, hook):
        return 2 * z

    with view.model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", doubled)]):
        expected = prompt
        for _ in range(9):
            expected = torch.cat([expected, view.forward.logits(expected[None])[0, -1].argmax()[None]])
        (found,) = greedy(view, [prompt], max_new_tokens=9, stops=())
    assert found.tolist() == expected[len(prompt) :].tolist() != untouched[0].tolist()


def wrong(self, stream, seen):
    return -stream


def broken(self, stream, seen):
    raise RuntimeError("a shape is not what it was")


@needs_hooked
@pytest.mark.parametrize(
    ("step", "why"),
    [
        (wrong, "its tokens are not those of a whole pass"),
        (broken, "RuntimeError: a shape is not what it was"),
    ],
)
def test_steps_that_fail_leave_the_models_own_cache(step, why, monkeypatch, caplog):
    view, reference = view_and_reference()
    monkeypatch.setattr(stepping._Layer, "__call__", step)
    given = [torch.tensor(text) for text in texts()]
    with caplog.at_level(logging.INFO, logger="lensdiff"):
        found = greedy(view, given, max_new_tokens=NEW, stops=())
    assert [new.tolist() for new in found] == [uncached(reference, prompt, NEW).tolist() for prompt in given]
    assert (view.forward.steps, view.forward.cache_fault) == (False, None)
    assert caplog.messages == [f"{view.info.id} is decoded by its own cached passes: {why}"]
    assert [new.tolist() for new in greedy(view, given, max_new_tokens=NEW, stops=())] == [o.tolist() for o in found]


@needs_hooked
@pytest.mark.parametrize("lack", LACKS, ids=lambda lack: type(lack).__name__)
def test_too_little_memory_is_no_fault_of_the_steps(monkeypatch, lack):
    view, _ = view_and_reference()

    def full(self, stream, seen):
        raise lack

    monkeypatch.setattr(stepping._Layer, "__call__", full)
    with pytest.raises(type(lack), match=str(lack)):
        greedy(view, [torch.tensor(texts()[0])], max_new_tokens=NEW, stops=())
    assert view.forward.steps


@needs_hooked
@pytest.mark.parametrize("step", [wrong, broken])
def test_samples_of_steps_that_fail_are_drawn_again(step, monkeypatch):
    view, _ = view_and_reference()
    expected = samples.own_samples(view, 5, 8, torch.Generator().manual_seed(3))
    assert view.forward.steps
    monkeypatch.setattr(stepping._Layer, "__call__", step)
    found = samples.own_samples(view, 5, 8, torch.Generator().manual_seed(3))
    assert found.tolist() == expected.tolist()
    assert (view.forward.steps, view.forward.cache_fault) == (False, None)


# products
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d_out", [BLOCK - 1, BLOCK, 3 * BLOCK, 3 * BLOCK + 17])
@pytest.mark.parametrize("lying", ["in, out", "out, in"])
def test_a_few_rows_times_a_matrix(dtype, d_out, lying):
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(*((40, d_out) if lying == "in, out" else (d_out, 40)), dtype=dtype, generator=generator)
    matrix = matrix if lying == "in, out" else matrix.T
    for n in (1, 2, *ROWS, ROWS.stop):
        rows = torch.randn(n, 40, dtype=dtype, generator=generator)
        expected = (rows.double().numpy() @ matrix.double().numpy()).astype(rows.numpy().dtype)
        torch.testing.assert_close(few_rows(rows, matrix), torch.from_numpy(expected))
