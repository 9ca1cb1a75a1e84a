"""Derivatives by hand: the parts against automatic differentiation, whole models against their own backward pass."""

import functools
import math
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.families import wrappers_of
from lensdiff.analyses.attribute.gradients import NoForwardMode, forward_scores
from lensdiff.models import ModelView, load_model, view_of
from lensdiff.models.inside.norms import Gain
from lensdiff.models.linear import push
from lensdiff.models.linear.forms import RotationPlan, rotation_of
from lensdiff.models.linear.passes import NotLinear
from lensdiff.models.linear.plan import ACTIVATIONS, Plan
from lensdiff.models.linear.push import can_linearize, push_tangents, why_not_linearized
from lensdiff.models.linear.tangents import (
    MLP,
    Attention,
    AttentionMatrices,
    Checks,
    Rotation,
    norm_at,
    value_and_slope,
)
from lensdiff.results import InputError
from tests.checkpoints import FAMILIES, MORE, TEXT, hf_model, tokenizer_of

LENGTH, N = 26, 20  # longer than the windows (16) of the checkpoints
# what is not differentiated by hand, and the reason
NOT = {
    **dict.fromkeys(("mixtral", "qwen3_moe", "olmoe", "flex_olmo"), "its activation"),
    "qwen3_next": "pattern of layer 0",
    "gemma4": "pattern of layer 0",
}
NOT_LOADED = ("gpt_neox_without_bias", "falcon_grouped", "cohere")
CASES = [(f, w) for f in [*FAMILIES, *MORE] if f not in NOT_LOADED for w in wrappers_of(f)]


@functools.cache
def view(family: str, wrapper: str = "bridge", dtype: str = "float64", **options: Any) -> ModelView:
    source = hf_model(family, dtype=getattr(torch, dtype), tie_word_embeddings=False, **options)
    return view_of(load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, dtype=dtype, device="cpu"))


def ids() -> Tensor:
    return torch.tensor(tokenizer_of()(" ".join(TEXT))["input_ids"][:LENGTH])


def pushed(model: ModelView, **options: int) -> tuple[Tensor, Tensor]:
    """The derivative by hand, and by the model's own backward pass, of random weights on the outputs."""
    tokens, outputs = ids(), slice(3, LENGTH)
    embedded = model.forward.embed(tokens[None])[0].detach()
    torch.manual_seed(0)
    directions, weights = torch.randn_like(embedded[:N]), torch.randn_like(embedded[outputs])
    found, hidden = push_tangents(model, tokens, directions, torch.arange(N), outputs, embedded=embedded, **options)
    with torch.no_grad():
        assert torch.equal(hidden, model.forward.final(tokens[None], embedded[None])[0, outputs])
    x = embedded.clone().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(model.forward.final(tokens[None], x[None])[0, outputs], x, weights)
    return torch.einsum("nmd,md->n", found, weights), (gradient[:N] * directions).sum(-1).detach()


# models
@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_a_family_is_differentiated_exactly_or_not_by_hand(family, wrapper):
    model = view(family, wrapper)
    assert why_not_linearized(model) == NOT.get(family, "")
    if family in NOT:
        assert not can_linearize(model)
        with pytest.raises(NotLinear, match=NOT[family]):
            pushed(model)
        return
    found, expected = pushed(model)
    # transformers holds BLOOM's embeddings and a stretched rotation's angles in float32 for a while
    torch.testing.assert_close(found, expected, atol=1e-9 * float(expected.abs().max()), rtol=1e-9)


@pytest.mark.parametrize("rows", [1, 30, 10**6])
@pytest.mark.parametrize("family", ["gemma3", "bloom", "phi"])
def test_the_rows_change_nothing(family, rows):
    model = view(family)
    torch.testing.assert_close(pushed(model, rows=rows)[0], pushed(model)[0], atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("bfloat16", 0.1), ("float16", 0.03)])
@pytest.mark.parametrize("family", ["gemma2", "phi3", "gptj", "falcon"])
def test_other_precisions(family, dtype, bound):
    model = view(family, dtype=dtype)
    assert why_not_linearized(model) == ""
    found, expected = (value.double() for value in pushed(model))
    assert float((found - expected).abs().max()) <= bound * float(expected.abs().max())


def test_a_derivative_at_another_place_and_where_the_stream_is_zero():
    # a norm of zero is divided by the root of its epsilon alone
    model, tokens = view("gemma"), ids()
    for embedded in (torch.zeros(LENGTH, 32, dtype=torch.float64), torch.randn(LENGTH, 32, dtype=torch.float64)):
        directions, positions = torch.randn(2, 32, dtype=torch.float64), torch.tensor([0, 5])
        found = push_tangents(model, tokens, directions, positions, slice(0, LENGTH), embedded=embedded).tangents

        def final(x: Tensor) -> Tensor:
            return model.forward.final(tokens[None], x[None])[0]

        for got, direction, position in zip(found, directions, positions, strict=True):
            along = torch.zeros_like(embedded)
            along[position] = direction
            expected = torch.func.jvp(final, (embedded,), (along,))[1].detach()
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


# what the plan says
def plan(family: str, wrapper: str = "bridge", **options: Any) -> Plan:
    found = push._known(view(family, wrapper, **options))
    assert isinstance(found, Plan)
    return found


def test_gemma_scales_by_1_plus_w_has_post_norms_and_a_soft_cap():
    block = plan("gemma2").blocks[0]
    for norm in (block.attn_norm, block.mlp_norm, block.attn_post, block.mlp_post):
        assert norm is not None
        assert norm.gain.offset == 1.0
    assert (block.activation, block.parallel, block.scale) == ("gelu_tanh", False, 8**-0.5)
    assert plan("gemma").blocks[0].attn_post is None
    # the scale of the embedding stands behind what the embedding gives, or in it
    assert plan("gemma").embedding in (1.0, pytest.approx(math.sqrt(32)))


def test_olmo2_reads_the_stream_itself_and_norms_all_heads_at_once():
    block = plan("olmo2").blocks[1]
    assert (block.attn_norm, block.mlp_norm) == (None, None)
    assert block.attn_post is not None
    assert block.mlp_post is not None
    assert block.q_norm is not None
    assert block.q_norm.flat
    heads = plan("gemma3").blocks[0].q_norm
    assert heads is not None
    assert not heads.flat


@pytest.mark.parametrize(("family", "shared"), [("phi", True), ("gptj", True), ("falcon", True), ("gpt_neox", False)])
def test_parallel_blocks(family, shared):
    block = plan(family).blocks[0]
    assert (block.parallel, block.shared) == (True, shared)
    assert block.attn_norm is not None
    assert block.attn_norm.gain.centred


def test_rotations():
    assert plan("gptj").blocks[0].turn == RotationPlan(swapped=True, doubled="once", neighbours=True)
    assert plan("phi").blocks[0].turn == RotationPlan(swapped=False, doubled="halves", neighbours=False)
    turned = [block.turn is not None for block in plan("smollm3").blocks]
    assert turned == [True, False]
    assert plan("gpt2").blocks[0].turn is None


def test_scales_of_scores_of_the_embedding_and_of_slopes():
    granite = plan("granite")
    assert granite.blocks[0].scale == 0.2
    assert granite.embedding in (1.0, pytest.approx(6.0))
    assert plan("gpt2_scaled_by_layer").blocks[1].scale == pytest.approx(8**-0.5 / 2, rel=1e-9)
    bloom = plan("bloom")
    assert bloom.start is not None
    # Press et al.: the heads' slopes are 2^(-8 h / heads)
    expected = torch.tensor([2.0 ** (-8 * (h + 1) / 4) for h in range(4)], dtype=torch.float64)
    assert bloom.blocks[0].slopes is not None
    torch.testing.assert_close(bloom.blocks[0].slopes, expected, rtol=1e-6, atol=0.0)


# what is not as the plan says
WRONG = {
    "scale": {"scale": 0.36},
    "rotation": {"turn": None},
    "neighbours": {"turn": RotationPlan(swapped=False, doubled="halves", neighbours=True)},
    "activation": {"activation": "gelu"},
    "parallel": {"parallel": True},
    "attn_post": {"attn_post": None},
    "mlp_post": {"mlp_post": None},
    "attn_norm": {"attn_norm": None},
    "slopes": {"slopes": torch.tensor([0.1, 0.0, 0.0, 0.0], dtype=torch.float64)},
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_pass_that_is_not_as_planned_is_seen_and_differentiated_otherwise(name, monkeypatch):
    model = view("gemma2")
    right = push._known(model)
    assert isinstance(right, Plan)
    gradients = torch.randn(3, 32, dtype=torch.float64)
    where = (model, ids(), slice(0, N), slice(LENGTH - 3, LENGTH), gradients)
    expected = forward_scores(*where)
    blocks = (right.blocks[0], right.blocks[1]._replace(**WRONG[name]))
    monkeypatch.setattr(push, "_known", lambda view: right._replace(blocks=blocks))
    with pytest.raises(NotLinear, match="not what the plan makes of it"):
        pushed(model)
    torch.testing.assert_close(forward_scores(*where), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("change", [{"eps": 1e-2}, {"offset": 0.0}, {"centred": True}])
@pytest.mark.parametrize("name", ["attn_norm", "mlp_norm", "attn_post", "mlp_post"])
def test_a_norm_that_is_not_as_planned_is_seen(name, change, monkeypatch):
    model = view("gemma2")
    right = push._known(model)
    assert isinstance(right, Plan)
    norm = getattr(right.blocks[0], name)
    broken = right.blocks[0]._replace(**{name: norm._replace(gain=norm.gain._replace(**change))})
    monkeypatch.setattr(push, "_known", lambda view: right._replace(blocks=(broken, *right.blocks[1:])))
    with pytest.raises(NotLinear, match="not what the plan makes of it"):
        pushed(model)


@pytest.mark.parametrize("change", [{"embedding": 1.1}, {"final": None}, {"start": None}])
def test_a_beginning_or_end_that_is_not_as_planned_is_seen(change, monkeypatch):
    model = view("bloom")
    right = push._known(model)
    assert isinstance(right, Plan)
    monkeypatch.setattr(push, "_known", lambda view: right._replace(**change))
    with pytest.raises(NotLinear, match="not what the plan makes of it"):
        pushed(model)


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_a_hook_of_the_users_is_seen_and_acts(family):
    model, tokens = view(family), ids()
    where = (model, tokens, slice(0, N), slice(LENGTH - 3, LENGTH), torch.randn(3, 32, dtype=torch.float64))
    before = forward_scores(*where)
    assert can_linearize(model)
    handle = model.model.blocks[0].mlp.register_forward_hook(lambda module, args, out: out * 0.5)
    acting = forward_scores(*where)
    torch.testing.assert_close(acting, forward_scores(*where, by_hand=False), rtol=1e-9, atol=1e-12)
    assert float((acting - before).abs().max()) > 1e-3 * float(before.abs().max())
    assert not can_linearize(model)
    handle.remove()
    assert can_linearize(model)
    torch.testing.assert_close(forward_scores(*where), before)


def test_a_hook_that_cuts_the_derivative_alone_is_seen():
    # every value of a pass is what it was, its derivative is not
    model = view("gemma3")
    handle = model.model.blocks[1].attn.register_forward_hook(
        lambda module, args, out: (out[0].detach(), *out[1:]) if isinstance(out, tuple) else out.detach()
    )
    assert why_not_linearized(model) == "its derivative is not that of its own backward pass"
    handle.remove()


def test_a_want_of_memory_says_nothing_about_a_model(monkeypatch):
    model = view("llama")

    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(push, "plan_of", full)
    monkeypatch.setattr(push, "_KNOWN", WeakKeyDictionary())
    with pytest.raises(RuntimeError, match="can't allocate"):
        can_linearize(model)
    monkeypatch.undo()
    assert can_linearize(model)


@pytest.mark.parametrize("error", [InputError("refused"), IndexError("of another shape")])
def test_what_a_model_is_not_known_to_have_is_not_differentiated_by_hand(error, monkeypatch):
    model = view("llama")

    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(push, "plan_of", failing)
    monkeypatch.setattr(push, "_KNOWN", WeakKeyDictionary())
    assert str(error) in why_not_linearized(model)


def test_automatic_forward_mode_says_what_it_cannot_do():
    model = view("bloom")
    where = (model, ids(), slice(0, N), slice(LENGTH - 3, LENGTH), torch.ones(3, 32, dtype=torch.float64))
    assert torch.isfinite(forward_scores(*where)).all()
    with pytest.raises(NoForwardMode, match="BloomForCausalLM cannot be differentiated in forward mode"):
        forward_scores(*where, by_hand=False)


# parts
def jvp(function: object, x: Tensor, dx: Tensor) -> Tensor:
    return torch.func.jvp(function, (x,), (dx,))[1]  # pyright: ignore[reportArgumentType]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_a_norm(centred, eps):
    torch.manual_seed(1)
    x, dx, gain, bias = random(5, 7), random(3, 2, 7), random(7), random(7)

    def plain(value: Tensor) -> Tensor:
        moved = value - value.mean(-1, keepdim=True) if centred else value
        return moved / (moved.square().mean(-1, keepdim=True) + eps).sqrt() * gain + bias

    norm, made = norm_at(x, gain, bias, centred=centred, eps=eps)
    torch.testing.assert_close(made, plain(x))
    if centred:
        torch.testing.assert_close(made, F.layer_norm(x, (7,), gain, bias, eps))
    else:
        torch.testing.assert_close(made, F.rms_norm(x, (7,), gain, eps) + bias)
    expected = torch.stack([jvp(plain, x[3:], one) for one in dx])
    torch.testing.assert_close(norm(dx.clone(), slice(3, None)), expected)
    bare, made = norm_at(x, None, None, centred=centred, eps=eps)
    torch.testing.assert_close(made * gain + bias, plain(x))
    torch.testing.assert_close(bare(dx.clone(), slice(3, None)) * gain, expected)


@pytest.mark.parametrize("neighbours", [True, False])
def test_a_rotation_turns_pairs_and_leaves_the_rest(neighbours):
    angles, heads = random(4, 2), random(4, 3, 6)
    turned = Rotation(angles.cos(), angles.sin(), neighbours)(heads)
    pairs = [(0, 1), (2, 3)] if neighbours else [(0, 2), (1, 3)]
    for i, (a, b) in enumerate(pairs):
        z = torch.complex(heads[..., a], heads[..., b]) * torch.exp(1j * angles[:, None, i])
        torch.testing.assert_close(turned[..., a], z.real)
        torch.testing.assert_close(turned[..., b], z.imag)
    torch.testing.assert_close(turned[..., 4:], heads[..., 4:])


@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("doubled", ["once", "twice", "halves"])
def test_angles_are_read_as_a_model_has_them(doubled, swapped):
    angles = random(5, 3)
    pair = [angles.cos(), angles.sin()]
    if doubled == "twice":
        pair = [one.repeat_interleave(2, dim=-1) for one in pair]
    if doubled == "halves":
        pair = [torch.cat([one, one], dim=-1) for one in pair]
    given = (pair[1], pair[0]) if swapped else (pair[0], pair[1])
    found = rotation_of(RotationPlan(swapped, doubled, neighbours=False), given)
    assert found is not None
    torch.testing.assert_close(found.cos, angles.cos())
    torch.testing.assert_close(found.sin, angles.sin())


@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("n_kv", [1, 2, 4])
def test_attention(n_kv, window, cap):
    torch.manual_seed(2)
    heads, d_head, d_model, pos, start, scale = 4, 6, 10, 7, 2, 0.4
    W_Q, W_K, W_V = (random(n * d_head, d_model) for n in (heads, n_kv, n_kv))
    W_O, x, angles = random(d_model, heads * d_head), random(pos, d_model), random(pos, 3)
    rotate = Rotation(angles.cos(), angles.sin(), neighbours=False)
    seen = torch.ones(pos, pos).tril().bool()
    seen = seen if window is None else seen & ~torch.ones(pos, pos).tril(-window).bool()
    bias = random(heads, 1, pos)

    def parts(value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        q, k, v = (F.linear(value, W).unflatten(-1, (-1, d_head)) for W in (W_Q, W_K, W_V))
        q, k = rotate(q), rotate(k)
        keys, values = (one.repeat_interleave(heads // n_kv, dim=1) for one in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, keys) * scale
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        pattern = (scores + bias).masked_fill(~seen, -torch.inf).softmax(-1)
        return q, k, v, pattern, torch.einsum("hqk,khd->qhd", pattern, values).flatten(-2)

    def plain(value: Tensor) -> Tensor:
        return F.linear(parts(value)[-1], W_O)

    *given, z = parts(x)
    attention = Attention(
        AttentionMatrices(W_Q, W_K, W_V, W_O),
        *given,
        scale=scale,
        cap=cap,
        bias=bias,
        rotate=rotate,
        q_norm=None,
        k_norm=None,
    )
    checks = Checks(1e-12)
    attention.check(z, checks, 1e-12)
    assert checks.hold()
    attention.check(z + 1e-3, checks, 1e-12)
    assert not checks.hold()
    dx = random(3, pos, d_model)
    dx[:, :start] = 0.0
    expected = torch.stack([jvp(plain, x, one) for one in dx])
    torch.testing.assert_close(attention(dx[:, start:], start), expected[:, start:])


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_an_mlp(name, gated):
    torch.manual_seed(3)
    act, x, dx = ACTIVATIONS[name], random(4, 5), random(2, 3, 5)
    W_in, W_gate, W_out, b = random(8, 5), random(8, 5), random(5, 8), random(8)

    def plain(value: Tensor) -> Tensor:
        pre = F.linear(value, W_in, b)
        return F.linear(act(F.linear(value, W_gate, b)) * pre if gated else act(pre), W_out)

    gate = F.linear(x, W_gate, b) if gated else None
    mlp = MLP(act, F.linear(x, W_in, b), gate, W_in, W_gate if gated else None, W_out)
    torch.testing.assert_close(F.linear(mlp.post, W_out), plain(x))
    expected = torch.stack([jvp(plain, x[1:], one) for one in dx])
    torch.testing.assert_close(mlp(dx, slice(1, None)), expected)


def test_activations_are_what_they_are_called():
    x = random(100)
    others = {
        "silu": nn.SiLU(),
        "gelu": nn.GELU(),
        "gelu_tanh": nn.GELU("tanh"),
        "relu": nn.ReLU(),
        "relu2": lambda value: nn.ReLU()(value) ** 2,
        "quick_gelu": lambda value: value / (1 + torch.exp(-1.702 * value)),
        "gelu_rounded": nn.GELU("tanh"),
    }
    assert set(others) == set(ACTIVATIONS)
    for name, function in others.items():
        torch.testing.assert_close(ACTIVATIONS[name](x), function(x), rtol=1e-6, atol=1e-7)


def test_value_and_slope():
    at = random(6)
    value, slope = value_and_slope(torch.tanh, at)
    torch.testing.assert_close(value, at.tanh())
    torch.testing.assert_close(slope, 1 - at.tanh().square())


def test_a_gain_knows_its_epsilon():
    found = view("gemma", rms_norm_eps=0.03).weights.meaning.gains[("attn", 0)]
    assert isinstance(found, Gain)
    assert found.eps == pytest.approx(0.03)
