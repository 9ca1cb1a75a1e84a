"""Single steps behind a cache have the logits of transformers' whole passes of each text alone; a fault costs time."""

import logging

import pytest
import torch

from experiments.families import exact_rotary, uncached
from lensdiff.models import load_model, view_of
from lensdiff.models.controlling import samples
from lensdiff.models.decoding import greedy
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.inside.products import BLOCK, ROWS, blocks_pay, few_rows
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.plain import stepping
from lensdiff.models.plain.blocks import is_plain
from lensdiff.models.plain.stepping import Cached
from tests.checkpoints import HOOKED, TEXT, hf_model, tokenizer_of
from tests.lacks import LACKS

needs_hooked = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
PLAIN = (*HOOKED, "gpt_neox_sequential", "gpt2_scaled_by_layer", "llama31")
LENGTHS, NEW = (24, 9, 24), 6  # longer than the 16 tokens of sliding windows, and padded


def view_and_reference(
    family: str = "llama", wrapper: str = "hooked", dtype: torch.dtype = torch.float64, weights: str = "raw"
):
    # not cast to half precision as a whole, which would round its angles
    source = hf_model(family, dtype=torch.promote_types(dtype, torch.float32))
    options = {"wrapper": wrapper, "dtype": str(dtype).removeprefix("torch."), "weights": weights}
    model = load_model(source, tokenizer=tokenizer_of(), device="cpu", **options)
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
    assert cached.stepped
    return torch.stack(found, dim=1)


@needs_hooked
@pytest.mark.parametrize("family", PLAIN)
def test_every_step_has_the_logits_of_a_whole_pass(family):
    view, reference = view_and_reference(family)
    exact_rotary(reference)
    found = stepped(view)
    for text, n, mine in zip(texts(), LENGTHS, found, strict=True):
        with torch.no_grad(), double_precision():
            expected = reference(torch.tensor([text])).logits[0, n - 1 : n + NEW - 1]
        torch.testing.assert_close(mine, expected, atol=1e-9 * float(expected.abs().max()), rtol=1e-9)


@needs_hooked
@pytest.mark.parametrize("family", ["llama", "llama31", "gpt_neox"])
def test_tables_of_angles_that_end_before_the_text_does_are_made_longer(family):
    view, _ = view_and_reference(family)
    expected = stepped(view)
    for block in view.model.blocks:
        block.attn.rotary_cos, block.attn.rotary_sin = block.attn.rotary_cos[:24], block.attn.rotary_sin[:24]
    torch.testing.assert_close(stepped(view), expected, atol=1e-12, rtol=0)
    assert len(view.model.blocks[0].attn.rotary_cos) >= max(LENGTHS) + NEW


@needs_hooked
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_folded_weights_are_stepped_too(family):
    view, _ = view_and_reference(family, weights="folded")  # which transformer-lens makes in float32, and its own
    for text, n, mine in zip(texts(), LENGTHS, stepped(view), strict=True):
        expected = view.forward.logits(torch.tensor([text]))[0, n - 1 : n + NEW - 1]
        torch.testing.assert_close(mine, expected, atol=1e-12, rtol=0)


@needs_hooked
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize(("dtype", "share"), [(torch.bfloat16, 0.05), (torch.float16, 0.005), (torch.float32, 2e-6)])
def test_other_precisions_are_stepped_too(family, dtype, share):
    view, _ = view_and_reference(family, dtype=dtype)
    found = stepped(view)
    for text, n, mine in zip(texts(), LENGTHS, found, strict=True):
        expected = view.forward.logits(torch.tensor([text]))[0, n - 1 : n + NEW - 1]
        assert float((mine - expected).abs().max()) <= share * float(expected.abs().max())


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
def test_a_model_that_is_not_plain_is_read_by_itself(wrapper, monkeypatch):
    view, reference = view_and_reference("llama", wrapper)
    monkeypatch.setattr(stepping, "_Steps", None)
    if wrapper == "hooked":
        view.model.set_use_attn_result(True)
    expected = [uncached(reference, torch.tensor(text), NEW).tolist() for text in texts()]
    found = greedy(view, [torch.tensor(text) for text in texts()], max_new_tokens=NEW, stops=())
    assert [new.tolist() for new in found] == expected
    assert view.forward.step_fault is None


@needs_hooked
def test_hooks_of_the_users_own_act(monkeypatch):
    view, _ = view_and_reference()
    prompt, untouched = torch.tensor(texts()[0]), greedy(view, [torch.tensor(texts()[0])], max_new_tokens=9, stops=())

    def doubled(z, hook):
        return 2 * z

    monkeypatch.setattr(stepping, "_Steps", None)
    with view.model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", doubled)]):
        expected = prompt
        for _ in range(9):
            expected = torch.cat([expected, view.forward.logits(expected[None])[0, -1].argmax()[None]])
        (found,) = greedy(view, [prompt], max_new_tokens=9, stops=())
    assert found.tolist() == expected[len(prompt) :].tolist() != untouched[0].tolist()
    assert (view.forward.step_fault, view.forward.cache_fault) == (None, None)


def wrong(self, stream, seen):
    return -stream


def broken(self, stream, seen):
    raise IndexError("a position is not what it was")


HONEST = stepping._Layer.__call__


def late(self, stream, seen):
    return HONEST(self, stream if self.read < self.begun + 3 else -stream, seen)


def broken_late(self, stream, seen):
    return HONEST(self, stream, seen) if self.read < self.begun + 3 else broken(self, stream, seen)


def wrong_then_broken(self, stream, seen):
    return -HONEST(self, stream, seen) if self.read < self.begun + 3 else broken(self, stream, seen)


WRONG, BROKEN = "its tokens are not those of a whole pass", "IndexError: a position is not what it was"
CHANGED = {
    "hook_z in another class": lambda model: model.blocks[0].attn.add_module("hook_z", Elsewhere()),
    "another forward": lambda model: setattr(model.blocks[0].ln1, "forward", model.blocks[0].ln1.forward),
    "both directions": lambda model: setattr(model.blocks[0].attn, "_attention_dir_override", "causal"),
    "results of heads": lambda model: model.set_use_attn_result(True),
    "a forward hook": lambda model: model.blocks[0].register_forward_hook(lambda *_: None),
    "a hook before": lambda model: model.blocks[0].register_forward_pre_hook(lambda *_: None),
    "stretching angles": lambda model: setattr(model.cfg, "use_dynamic_ntk_rope", True),
    "4 bit": lambda model: setattr(model.cfg, "load_in_4bit", True),
    "two devices": lambda model: setattr(model.cfg, "n_devices", 2),
}


class Elsewhere(torch.nn.Identity):
    """A module of somebody else's in the place of a hook point."""


@needs_hooked
@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_what_somebody_changed_is_not_plain(change):
    view, _ = view_and_reference()
    assert is_plain(view)
    change(view.model)
    assert not is_plain(view)


@needs_hooked
@pytest.mark.parametrize(
    ("step", "why"),
    [(wrong, WRONG), (broken, BROKEN), (late, WRONG), (broken_late, BROKEN), (wrong_then_broken, BROKEN)],
)
def test_steps_that_fail_leave_the_models_own_cache(step, why, monkeypatch, caplog):
    view, reference = view_and_reference()
    monkeypatch.setattr(stepping._Layer, "__call__", step)
    given = [torch.tensor(text) for text in texts()]
    with caplog.at_level(logging.INFO, logger="lensdiff"):
        found = greedy(view, given, max_new_tokens=NEW, stops=())
    assert [new.tolist() for new in found] == [uncached(reference, prompt, NEW).tolist() for prompt in given]
    assert (view.forward.step_fault, view.forward.cache_fault) == (why, None)
    assert caplog.messages == [f"{view.info.id} is decoded by its own cached passes: {why}"]
    assert [new.tolist() for new in greedy(view, given, max_new_tokens=NEW, stops=())] == [o.tolist() for o in found]


@needs_hooked
@pytest.mark.parametrize("step", [late, broken_late])
def test_a_row_that_is_done_stays_so_when_others_are_drafted_again(step, monkeypatch):
    view, reference = view_and_reference()
    given = [torch.tensor(text) for text in texts()]
    free = [uncached(reference, prompt, 12).tolist() for prompt in given]
    ends = {free[0][1]}
    expected = [row[: next((i for i, token in enumerate(row) if token in ends), 12)] for row in free]
    assert len(expected[0]) < 3 < max(map(len, expected)), "one row ends before the steps do"
    monkeypatch.setattr(stepping._Layer, "__call__", step)
    found = greedy(view, given, max_new_tokens=12, stops=tuple(ends))
    assert [new.tolist() for new in found] == expected
    assert view.forward.cache_fault is None


@needs_hooked
def test_what_the_models_own_pass_fails_in_is_no_fault_of_the_steps(monkeypatch):
    view, reference = view_and_reference()

    def failing(tokens, mask, cache):
        raise TypeError("another argument")

    monkeypatch.setattr(view.forward, "cached_logits", failing)
    (new,) = greedy(view, [torch.tensor(texts()[0])], max_new_tokens=NEW, stops=())
    assert new.tolist() == uncached(reference, torch.tensor(texts()[0]), NEW).tolist()
    assert (view.forward.step_fault, view.forward.cache_fault) == (None, "TypeError: another argument")


@needs_hooked
def test_a_cap_of_the_logits_is_there_in_every_pass():
    # no family that is loaded as a HookedTransformer has one; a model that is handed over may
    view, _ = view_and_reference()
    view.model.cfg.output_logits_soft_cap = 2.0
    prompt = torch.tensor([texts()[0]])
    with torch.no_grad():
        found = view.forward.cached_logits(prompt, torch.ones_like(prompt), view.forward.new_cache(1))
        expected = view.model(prompt)[:, -1]
    torch.testing.assert_close(found, expected)
    assert float(found.abs().max()) < 2


@needs_hooked
@pytest.mark.parametrize("lack", LACKS, ids=lambda lack: type(lack).__name__)
def test_too_little_memory_is_no_fault_of_the_steps(monkeypatch, lack):
    view, _ = view_and_reference()

    def full(self, stream, seen):
        raise lack

    monkeypatch.setattr(stepping._Layer, "__call__", full)
    with pytest.raises(type(lack), match=str(lack)):
        greedy(view, [torch.tensor(texts()[0])], max_new_tokens=NEW, stops=())
    assert view.forward.step_fault is None


@needs_hooked
@pytest.mark.parametrize("step", [wrong, broken])
def test_samples_of_steps_that_fail_are_drawn_again(step, monkeypatch):
    view, _ = view_and_reference()
    expected = samples.own_samples(view, 5, 8, torch.Generator().manual_seed(3))
    monkeypatch.setattr(stepping._Layer, "__call__", step)
    found = samples.own_samples(view, 5, 8, torch.Generator().manual_seed(3))
    assert found.tolist() == expected.tolist()
    assert view.forward.step_fault is not None
    assert view.forward.cache_fault is None


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
        in_blocks = n in ROWS and lying == "out, in" and dtype == torch.float32 and d_out >= BLOCK
        assert blocks_pay(rows, matrix) == in_blocks
