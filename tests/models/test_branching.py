"""Texts that begin alike: what they share is read once, and every number is that of a whole pass of each text alone."""

import pytest
import torch

from lensdiff.models import load_model, view_of
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.plain import branching
from lensdiff.models.plain.blocks import rotation_in
from lensdiff.models.plain.branching import final_of, tree_of
from tests.checkpoints import BRIDGED, HOOKED, hf_model, tokenizer_of

needs_hooked = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
KNOWN = (*HOOKED, "gpt_neox_sequential", "gpt2_scaled_by_layer", "llama31")
CASES = [(family, "bridge") for family in (*BRIDGED, "bloom", "falcon", "phi3_longrope")]
CASES += [pytest.param(family, "hooked", marks=needs_hooked) for family in KNOWN]
# no position of its own for a deleted token: those behind it move up. Longer than the 16 tokens of sliding windows
WHOLE = [5, 9, 5, 11, 7, 7, 30, 41, 5, 17, 23, 8, 90, 12, 6, 77, 31, 14, 60, 28, 19, 33, 21, 40]
GONE = [(0, 3, 8), (2, 3, 4), (2, 3, 7), (6, 7, 8), (1, 2, 3), (7, 8, 6)]
TEXTS = [tuple(token for i, token in enumerate(WHOLE) if i not in gone) for gone in GONE]
N_OUT = 9


def view_in_float64(family: str, wrapper: str):
    source = hf_model(family, dtype=torch.float64)
    return view_of(load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, dtype="float64", device="cpu"))


def alone(view) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([view.forward.final(torch.tensor([text]))[0, -N_OUT:] for text in TEXTS])


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_every_text_reads_as_it_does_alone(family, wrapper):
    view = view_in_float64(family, wrapper)
    expected = alone(view)
    found = final_of(view, TEXTS, N_OUT)
    torch.testing.assert_close(found, expected, atol=1e-10 * float(expected.abs().max()), rtol=1e-9)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3, "texts that read alike would prove nothing"


@needs_hooked
@pytest.mark.parametrize("family", KNOWN)
def test_families_with_known_blocks_share_their_beginnings(family, monkeypatch):
    view = view_in_float64(family, "hooked")
    final_of(view, TEXTS, N_OUT)
    assert view.forward.branches
    monkeypatch.setattr(view.forward, "final", None)  # and no whole pass is made
    assert final_of(view, TEXTS, N_OUT).shape == (len(TEXTS), N_OUT, view.d_model)


def test_a_tree_has_a_row_for_every_beginning():
    tree = tree_of(TEXTS)
    beginnings = {text[: n + 1] for text in TEXTS for n in range(len(text))}
    assert len(tree.first) == len(beginnings) < len(TEXTS) * len(TEXTS[0])
    flat = [token for text in TEXTS for token in text]
    for text, rows in zip(TEXTS, tree.row.tolist(), strict=True):
        assert [flat[int(tree.first[row])] for row in rows] == list(text)
        for position, row in enumerate(rows):
            number, at = divmod(int(tree.first[row]), len(text))
            assert TEXTS[number][: at + 1] == text[: position + 1]


@needs_hooked
def test_hooks_of_the_users_own_act():
    view = view_in_float64("llama", "hooked")
    untouched = final_of(view, TEXTS, N_OUT)
    with view.model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: 2 * z)]):
        expected, found = alone(view), final_of(view, TEXTS, N_OUT)
    torch.testing.assert_close(found, expected)
    assert float((found - untouched).abs().max()) > 1e-3


@needs_hooked
def test_a_model_whose_blocks_are_something_else_is_run_whole(monkeypatch):
    view = view_in_float64("gpt2", "hooked")
    honest = branching._Attention.__call__
    monkeypatch.setattr(branching._Attention, "__call__", lambda self, *args: 1.01 * honest(self, *args))
    torch.testing.assert_close(final_of(view, TEXTS, N_OUT), alone(view))
    assert view.forward.branches is False


@needs_hooked
def test_it_is_measured_on_texts_that_begin_alike(monkeypatch):
    view = view_in_float64("qwen2", "hooked")
    trees = []
    monkeypatch.setattr(branching, "tree_of", lambda texts: trees.append(tree_of(texts)) or trees[-1])
    final_of(view, TEXTS, N_OUT)
    assert len(trees) == 2
    assert len(trees[0].first) < trees[0].row.numel()


@needs_hooked
@pytest.mark.parametrize("adjacent", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])  # a whole head is turned, and half of it
def test_the_rotation_is_transformer_lenses_own(family, adjacent, monkeypatch):
    attn = view_in_float64(family, "hooked").model.blocks[0].attn
    monkeypatch.setattr(attn.cfg, "rotary_adjacent_pairs", adjacent)
    # its tables are laid out as its pairs are
    attn.rotary_sin, attn.rotary_cos = attn.calculate_sin_cos_rotary(attn.cfg.rotary_dim, 64, dtype=torch.float64)
    x = torch.randn(3, 7, 2, attn.cfg.d_head, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotation_in(attn, slice(11))(x, 4), attn.apply_rotary(x, 4), atol=1e-14, rtol=1e-12)
