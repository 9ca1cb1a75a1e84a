"""The one door: reading and writing at every point equals transformers' own hooks, in every family, to 1e-9."""

import sys
import threading
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from experiments.families import exact_rotary, wrappers_of
from lensdiff.models import Point, load_model, view_of
from lensdiff.models.inside import starting
from lensdiff.models.inside.forward import Forward
from lensdiff.models.inside.points import POINTS, WHOLE, Site
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.results import InputError
from tests.checkpoints import FAMILIES, MORE, TEXT, hf_model, tokenizer_of
from tests.models.hf_points import patched

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
WRAPPERS = ["bridge", pytest.param("hooked", marks=NO_HOOKED)]
UNSERVED = ("gpt_neox_without_bias", "falcon_grouped", "cohere")  # see test_families
CASES = [(f, w) for f in [*FAMILIES, *MORE] if f not in UNSERVED for w in wrappers_of(f)]
MODULES = ("embed", "resid_pre", "resid_post", "attn_out", "mlp_out", "z", "final")
BOUND = {"phi3_longrope": 1e-7}  # its angles are rounded to float32 in transformers and elsewhere at another place
# what cannot be read or written, by family
REFUSED = {
    "gemma4": {"resid_pre", "attn_out", "mlp_out", "resid_mid", "z", "pattern", "attn_scores"},
    "qwen3_next": {"pattern"},
    "gptj": {"resid_mid", "pattern", "attn_scores"},
    "opt": {"pattern", "attn_scores"},
    "gpt_neox": {"resid_mid"},
    "phi": {"resid_mid"},
    "falcon": {"resid_mid"},
}
# in which a pass can begin at a layer: one that is missing here would run whole passes, and nobody would see it
BEGINS = {
    *("gpt2", "gpt2_quick_gelu", "gpt2_scaled_by_layer", "gptj", "gpt_neox", "gpt_neox_sequential"),
    *("llama", "llama31", "llama_with_bias", "smollm3", "granite", "mistral", "mixtral", "nemotron", "stablelm"),
    *("qwen2", "qwen3", "qwen3_moe", "qwen3_next", "olmo2", "olmo3", "olmoe", "flex_olmo", "exaone4"),
    *("gemma", "gemma2", "gemma3", "vaultgemma", "phi", "phi3", "phi3_longrope", "opt", "bloom", "falcon"),
}


def tokens(length: int = 20, start: int = 0) -> Tensor:
    return torch.tensor([tokenizer_of()(" ".join(TEXT))["input_ids"][start : start + length]])


def loaded(family: str, wrapper: str, dtype: torch.dtype = torch.float64) -> Forward:
    source = hf_model(family, dtype=dtype)
    return view_of(load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, dtype=dtype, device="cpu")).forward


def at(name: str) -> Point:
    return Point(name, None if name in WHOLE else 1)  # pyright: ignore[reportArgumentType]


def share(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach(), expected.detach()
    return float((got.reshape(expected.shape) - expected).abs().max() / expected.abs().max())


def halved(value: Tensor) -> Tensor:
    """A change that differs by position and coordinate."""
    return value * torch.linspace(0.5, 1.0, value.numel(), dtype=value.dtype).reshape(value.shape)


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_every_point_is_read_and_written_as_in_transformers(family: str, wrapper: str):
    forward, reference = loaded(family, wrapper), hf_model(family, dtype=torch.float64)
    if wrapper == "hooked":
        exact_rotary(reference)
    bound = BOUND.get(family, 1e-9)
    with torch.no_grad(), double_precision():
        untouched = reference(tokens(), use_cache=False).logits
        for name in MODULES:
            point = at(name)
            if name in REFUSED.get(family, ()):
                with pytest.raises(InputError, match=r"cannot be (read|written)"):
                    forward.run(tokens(), read=[point], write={point: halved})
                continue
            expected, _ = patched(family, reference, tokens(), point, None)
            assert share(forward.run(tokens(), read=[point])[point], expected) < bound, f"{name} read"
            _, expected = patched(family, reference, tokens(), point, halved)
            found = forward.run(tokens(), read=[Point("logits")], write={point: halved})[Point("logits")]
            assert share(found, expected) < bound, f"{name} written"
            assert share(untouched, expected) > 1e-4, f"{name}: an edit that changes nothing proves nothing"


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_attention_is_read_and_written_as_it_must_follow(family: str, wrapper: str):
    # transformers has no module there: its attentions are the pattern, and softmax and values say what must follow
    forward, reference = loaded(family, wrapper), hf_model(family, dtype=torch.float64)
    if wrapper == "hooked":
        exact_rotary(reference)
    bound, refused = BOUND.get(family, 1e-9), REFUSED.get(family, set())
    scores, pattern, z = (Point(name, 1) for name in ("attn_scores", "pattern", "z"))
    with torch.no_grad(), double_precision():
        expected = reference(tokens(), output_attentions=True, use_cache=False).attentions[1]
        if "pattern" not in refused:
            assert share(forward.run(tokens(), read=[pattern])[pattern], expected) < bound
            found = forward.run(
                tokens(), read=[z], write={pattern: lambda p: torch.eye(p.shape[-1]).expand_as(p).to(p)}
            )
            alone = forward.run(tokens(1), read=[z])[z]  # a token that sees but itself mixes its own value
            assert share(found[z][:, :1], alone) < bound
        if not refused & {"attn_scores", "pattern"}:
            found = forward.run(tokens(), read=[pattern], write={scores: lambda s: s / 2})[pattern]
            assert share(found, (expected.log() / 2).softmax(-1)) < bound


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_the_middle_is_the_sum_of_what_came_before(family: str, wrapper: str):
    forward = loaded(family, wrapper)
    before, added, middle, after = (Point(n, 1) for n in ("resid_pre", "attn_out", "resid_mid", "mlp_out"))
    if "resid_mid" in REFUSED.get(family, ()):
        with pytest.raises(InputError, match=r"hook_resid_mid of .* cannot be read: "):
            forward.run(tokens(), read=[middle])
        return
    found = forward.run(tokens(), read=[before, added, middle, after, Point("resid_post", 1)])
    assert share(found[middle], found[before] + found[added]) < 1e-12
    assert share(found[Point("resid_post", 1)], found[middle] + found[after]) < 1e-9
    # written as attention's addition would make it, it acts as that does
    other = forward.run(tokens(), read=[Point("logits")], write={added: halved})[Point("logits")]
    same = forward.run(
        tokens(), read=[Point("logits")], write={middle: lambda _: found[before] + halved(found[added])}
    )[Point("logits")]
    assert share(same, other) < 1e-9


@pytest.mark.parametrize(("family", "wrapper"), CASES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(family: str, wrapper: str, side: str):
    if family == "phi3_longrope":
        pytest.skip("its rotary angles depend on how long the batch is, in transformers too")
    forward = loaded(family, wrapper)
    long, short = tokens(20)[0], tokens(13, start=5)[0]
    rows, mask = torch.full((2, 20), 7), torch.zeros(2, 20, dtype=torch.int64)
    places = [slice(20), slice(7, 20) if side == "left" else slice(13)]
    for row, ids in enumerate((long, short)):
        rows[row, places[row]], mask[row, places[row]] = ids, 1
    points = [Point("resid_post", 0), Point("final"), Point("logits")]
    together = forward.run(rows, read=points, mask=mask)
    for row, ids in enumerate((long, short)):
        alone = forward.run(ids[None], read=points)
        for point in points:
            assert share(together[point][row, places[row]], alone[point][0]) < 1e-9, point


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", [name for name in POINTS if name != "logits"])
def test_writing_what_was_there_changes_nothing(name: str, wrapper: str):
    forward = loaded("llama", wrapper)
    plain = forward.run(tokens(), read=[Point("logits")])[Point("logits")]
    found = forward.run(tokens(), read=[Point("logits")], write={at(name): lambda value: value.clone()})
    # the middle is written as a difference from what entered
    assert share(found[Point("logits")], plain) <= (1e-12 if name == "resid_mid" else 0.0)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_pass_stops_where_it_is_told_and_leaves_no_hook(wrapper: str):
    forward = loaded("llama", wrapper)
    reached: list[object] = []
    handle = forward.wrapper.model.blocks[1].register_forward_hook(lambda *_: reached.append(1))
    found = forward.run(tokens(), read=[Point("resid_post", 0)], until=Point("resid_post", 0))
    assert not reached
    plain = forward.run(tokens(), read=[Point("resid_post", 0)])
    assert reached
    handle.remove()
    assert torch.equal(found[Point("resid_post", 0)], plain[Point("resid_post", 0)])
    assert sum(len(module._forward_hooks) for module in forward.wrapper.model.modules()) == _permanent(wrapper)


def _permanent(wrapper: str) -> int:
    model = load_model(hf_model("llama"), tokenizer=tokenizer_of(), wrapper=wrapper, device="cpu", verify=False)
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_gradients_go_through_reads_and_writes(wrapper: str):
    forward = loaded("llama", wrapper)
    scale = torch.ones(1, dtype=torch.float64, requires_grad=True)
    point = Point("z", 0)
    found = forward.run(tokens(), read=[point, Point("final")], write={point: lambda z: z * scale})
    (slope,) = torch.autograd.grad(found[Point("final")][0, -1, 0], scale)
    step = 1e-5
    ends = [
        forward.run(tokens(), read=[Point("final")], write={point: lambda z, f=f: z * f})[Point("final")][0, -1, 0]
        for f in (1 + step, 1 - step)
    ]
    torch.testing.assert_close(slope[0], (ends[0] - ends[1]).detach() / (2 * step), rtol=1e-6, atol=1e-9)
    assert found[point].requires_grad


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_two_threads_wait_for_each_other(wrapper: str):
    view = view_of(load_model(hf_model("llama"), tokenizer=tokenizer_of(), wrapper=wrapper, device="cpu"))
    texts = [tokens(16, start) for start in (0, 30)]
    expected = [list(view.forward.patterns(text[0])) for text in texts]
    wrong: list[float] = []

    def read(i: int) -> None:
        for _ in range(15):
            got = list(view.forward.patterns(texts[i][0]))
            wrong.append(max(float((a - b).abs().max()) for a, b in zip(got, expected[i], strict=True)))

    threads = [threading.Thread(target=read, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 30
    assert max(wrong) == 0.0


# throw-away capabilities: what the next ones will be made of


def test_a_logit_lens_is_a_few_lines():
    view = view_of(load_model(hf_model("llama"), tokenizer=tokenizer_of(), device="cpu"))
    points = [Point("resid_post", layer) for layer in range(view.n_layers)]
    found = view.forward.run(tokens(), read=[*points, Point("logits")])
    norm, gain = torch.nn.functional.rms_norm, view.weights.gain("final")
    lens = [view.forward.unembed(norm(found[p], (view.d_model,), gain, 1e-6)) for p in points]
    torch.testing.assert_close(lens[-1], found[Point("logits")], rtol=1e-3, atol=1e-3)
    assert float((lens[0] - lens[-1]).detach().abs().max()) > 1.0


def test_a_head_patch_is_a_few_lines():
    # planted: two models that differ in one head's W_O alone; that head's z cannot tell them apart, its attn_out can
    base, tuned = hf_model("llama", dtype=torch.float64), hf_model("llama", dtype=torch.float64)
    with torch.no_grad():
        tuned.model.layers[1].self_attn.v_proj.weight[:8] += 0.3  # the key-value head of query heads 0 and 1
    into, donor = (
        view_of(load_model(m, tokenizer=tokenizer_of(), dtype="float64", device="cpu")) for m in (base, tuned)
    )
    z, logits = Point("z", 1), Point("logits")
    clean, wanted = donor.forward.run(tokens(), read=[z, logits]), into.forward.run(tokens(), read=[z])[z]
    swap = {z: lambda value: torch.cat([clean[z][:, :, :2], value[:, :, 2:]], dim=2)}
    patched_logits = into.forward.run(tokens(), read=[logits], write=swap)[logits]
    torch.testing.assert_close(patched_logits, clean[logits], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(clean[z][:, :, 2:], wanted[:, :, 2:])


def test_an_attention_knock_out_is_a_few_lines():
    forward = loaded("llama", "bridge")
    logits, cut = Point("logits"), torch.zeros(20, 20, dtype=torch.bool)
    cut[6:, 2:5] = True
    write = {Point("attn_scores", layer): lambda s: s.masked_fill(cut, -torch.inf) for layer in range(2)}
    found = forward.run(tokens(), read=[logits], write=write)[logits]
    mask = torch.full((20, 20), -torch.inf, dtype=torch.float64).triu(1).masked_fill(cut, -torch.inf)
    reference = hf_model("llama", dtype=torch.float64)
    with torch.no_grad(), double_precision():
        expected = reference(tokens(), attention_mask=mask[None, None], use_cache=False).logits
    assert share(found.detach(), expected) < 1e-9


# refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"read": [Point("resid", 0)]}, "'resid' is no point of a forward pass, expected one of embed, resid_pre"),  # pyright: ignore[reportArgumentType]
        ({"read": [Point("z")]}, "'z' is given with layer None, expected a layer from 0 to 1"),
        ({"read": [Point("z", 2)]}, "'z' is given with layer 2, expected a layer from 0 to 1"),
        ({"read": [Point("z", -1)]}, "'z' is given with layer -1, expected a layer from 0 to 1"),
        ({"read": [Point("final", 0)]}, "'final' is given with layer 0, expected no layer"),
        ({"write": {Point("logits"): halved}}, "logits are what a pass returns and cannot be written: write 'final'"),
        (
            {"write": {Point("z", 0): lambda z: z[0]}},
            r"the write at blocks\.0\.attn\.hook_z returned torch\.float64 \(20, 4, 8\)",
        ),
        (
            {"write": {Point("z", 0): lambda z: z.half()}},
            r"hook_z returned torch\.float16 \(1, 20, 4, 8\), expected torch\.float64",
        ),
        ({"write": {Point("z", 0): lambda z: None}}, r"the write at blocks\.0\.attn\.hook_z returned NoneType"),
        (
            {"write": {Point("z", 1): halved}, "until": Point("z", 0)},
            r"did not come by blocks\.1\.attn\.hook_z: nothing was read or written there",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence(options: dict, message: str):
    forward = loaded("llama", "bridge")
    with pytest.raises(InputError, match=message):
        forward.run(tokens(), **options)


def test_a_write_that_does_nothing_is_refused():
    # the wrapper hands GPT-J's attention weights out once they were used
    forward = loaded("gptj", "bridge")
    assert forward.run(tokens(), read=[Point("pattern", 0)])[Point("pattern", 0)].shape == (1, 4, 20, 20)
    with pytest.raises(
        InputError, match=r"hook_pattern of .* cannot be written: what is written there changes nothing"
    ):
        forward.run(tokens(), write={Point("pattern", 0): halved})


@pytest.mark.parametrize(
    ("given", "mask", "message"),
    [
        (torch.tensor([1, 2]), None, r"tokens are torch\.int64 \(2,\), expected integers \[batch, pos\]"),
        (torch.zeros(1, 3), None, r"tokens are torch\.float32 \(1, 3\), expected integers"),
        (torch.zeros(0, 3, dtype=torch.int64), None, "expected integers .*, at least one"),
        ([[1, 2]], None, "tokens are list, expected integers"),
        (torch.tensor([[400]]), None, "has no token 400, expected 0 to 399"),
        (torch.tensor([[-1]]), None, "has no token -1, expected 0 to 399"),
        (torch.zeros(1, 129, dtype=torch.int64), None, "129 tokens are given, the context of .* holds 128"),
        (torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 2), r"the mask is torch\.float32 \(1, 2\), expected"),
    ],
)
def test_tokens_and_masks_that_fit_nothing_are_refused(given, mask, message):
    with pytest.raises(InputError, match=message):
        loaded("llama", "bridge")._check_tokens.__wrapped__(loaded("llama", "bridge"), given, mask)


def test_a_write_that_runs_the_model_again_is_refused():
    forward = loaded("llama", "bridge")

    def again(value: Tensor) -> Tensor:
        return value + forward.run(tokens(), read=[Point("final")])[Point("final")]

    with pytest.raises(InputError, match=r"a write into .* runs .* again"):
        forward.run(tokens(), write={Point("resid_pre", 0): again})
    assert forward.run(tokens(), read=[Point("final")])


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_two_views_of_one_model_share_its_lock(wrapper: str):
    model = load_model(hf_model("llama"), tokenizer=tokenizer_of(), wrapper=wrapper, device="cpu")
    first = view_of(model)
    load_model(model, tokenizer=tokenizer_of(bos=True))
    assert view_of(model) is not first
    assert view_of(model).forward.wrapper.lock is first.forward.wrapper.lock


@NO_HOOKED
def test_a_model_that_was_wrapped_elsewhere_reads_the_paddings_token():
    ours = load_model(hf_model("llama"), tokenizer=tokenizer_of(), wrapper="hooked", device="cpu")
    plain = view_of(ours).forward.logits(tokens())
    ours.tokenizer.padding_side, ours.tokenizer.pad_token_id = "left", int(tokens()[0, 0])
    torch.testing.assert_close(view_of(ours).forward.logits(tokens()), plain)


def test_forward_mode_is_one_at_a_time_in_a_process():
    # the levels of forward mode are counted for the process: two models in two threads would meet there
    from lensdiff.analyses.attribute.measure import attribute

    models = [load_model(hf_model("gemma2", seed=s), tokenizer=tokenizer_of(), device="cpu") for s in (0, 1)]
    expected = [attribute(m, TEXT[1], "bonjour", method="forward", deletion_draws=0).scores for m in models]
    wrong: list[float] = []

    def work(i: int) -> None:
        for _ in range(6):
            found = attribute(models[i], TEXT[1], "bonjour", method="forward", deletion_draws=0).scores
            wrong.append(float((found - expected[i]).abs().max()))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert len(wrong) == 12
    assert max(wrong) == 0.0


def entered(forward: Forward, layer: int, stream: Tensor, ids: Tensor, **options) -> dict:
    return forward.run(ids, write={Point("resid_pre", layer): lambda _: stream}, **options)


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_a_pass_that_begins_at_a_layer_gives_what_a_whole_one_gives(family: str, wrapper: str):
    forward = loaded(family, wrapper)
    point, read = Point("resid_pre", 1), [Point("logits")]
    if point.name in REFUSED.get(family, ()):
        with pytest.raises(InputError, match="cannot be written"):
            entered(forward, 1, torch.zeros(1, 20, forward.sizes.d_model), tokens(), start=point, read=read)
        return
    ids = torch.cat([tokens(), tokens(start=3)])
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    with torch.no_grad():
        before = forward.logits(ids, mask)
        stream = halved(forward.run(ids, read=[point], mask=mask)[point])
        seen, parts = [], list(forward.wrapper.model.blocks[0].modules())[1:]
        handles = [part.register_forward_hook(lambda *args: seen.append(1)) for part in parts]
        whole = entered(forward, 1, stream, ids, read=read, mask=mask)[read[0]]
        assert seen, "a hook sees the first block"
        entered(forward, 1, stream, ids, read=read, mask=mask, start=point)  # measures once that it may
        seen.clear()
        found = entered(forward, 1, stream, ids, read=read, mask=mask, start=point)[read[0]]
        for handle in handles:
            handle.remove()
    assert share(found, whole) < 1e-12
    assert bool(seen) == (family not in BEGINS), "whether the first block was computed"
    assert not any("forward" in vars(block) for block in forward.wrapper.model.blocks)
    with torch.no_grad():
        assert torch.equal(forward.logits(ids, mask), before), "later passes are whole again"


def test_every_family_whose_stream_can_be_written_is_named_as_one_in_which_a_pass_can_begin():
    assert {family for family, _ in CASES if "resid_pre" not in REFUSED.get(family, ())} == BEGINS


def test_a_fault_of_our_own_hooks_is_not_taken_for_a_models():
    forward = loaded("llama", "bridge")
    found, ids = forward._meaning().points[Point("resid_pre", 1)], tokens()
    assert isinstance(found, Site)
    with ExitStack() as stack, torch.no_grad():
        starting._look(stack, forward.wrapper, 1, found.module, torch.zeros(3), {})
        with pytest.raises(starting._Fault, match="noise cannot enter layer 1"):
            starting._runs(forward.wrapper, ids)
    with ExitStack() as stack:

        def stumbling(*args) -> None:
            raise RuntimeError("a model's own")

        stack.callback(forward.wrapper.model.blocks[1].register_forward_hook(stumbling).remove)
        assert not starting._runs(forward.wrapper, ids)
    assert starting._runs(forward.wrapper, ids)


def test_gradients_go_through_a_pass_that_begins_at_a_layer():
    forward = loaded("llama", "bridge")
    point = Point("resid_pre", 1)
    stream = forward.run(tokens(), read=[point])[point].detach().requires_grad_()
    grads = [
        torch.autograd.grad(
            entered(forward, 1, stream, tokens(), read=[Point("final")], **how)[Point("final")].sum(), stream
        )
        for how in ({}, {"start": point})
    ]
    assert share(grads[1][0], grads[0][0]) < 1e-12


@NO_HOOKED
def test_where_more_than_the_stream_leads_from_block_to_block_a_pass_is_whole():
    forward = loaded("llama", "hooked")
    first, second = forward.wrapper.model.blocks
    kept, whole = {}, second.forward
    first.mlp.register_forward_hook(lambda module, args, out: kept.update(out=out.detach()))
    second.forward = lambda *args, **kwargs: whole(*args, **kwargs) + kept.get("out", torch.zeros(1)).mean()
    point, read = Point("resid_pre", 1), [Point("logits")]
    stream = halved(forward.run(tokens(), read=[point])[point])
    expected = entered(forward, 1, stream, tokens(), read=read)[read[0]]
    kept["out"] = torch.full((1,), 1e3)  # what a pass over other tokens left behind
    found = entered(forward, 1, stream, tokens(), read=read, start=point)[read[0]]
    assert torch.equal(found, expected)


@NO_HOOKED
def test_a_block_that_somebody_changed_stays_changed_behind_a_pass_that_begins_after_it():
    forward = loaded("llama", "hooked")
    first = forward.wrapper.model.blocks[0]
    whole = first.forward
    first.forward = lambda *args, **kwargs: 2 * whole(*args, **kwargs)
    point = Point("resid_pre", 1)
    before = forward.run(tokens(), read=[point])[point]
    entered(forward, 1, before, tokens(), read=[Point("final")], start=point)
    assert torch.equal(forward.run(tokens(), read=[point])[point], before)


@pytest.mark.parametrize(
    ("start", "options", "message"),
    [
        (Point("resid_pre", 1), {}, "expected resid_pre of a layer at which something is written"),
        (Point("z", 1), {"write": {Point("z", 1): halved}}, "expected resid_pre of a layer"),
        (
            Point("resid_pre", 1),
            {"write": {Point("resid_pre", 1): halved}, "read": [Point("z", 0)]},
            "blocks.0.attn.hook_z lies before blocks.1.hook_resid_pre",
        ),
        (
            Point("resid_pre", 1),
            {"write": {Point("resid_pre", 1): halved, Point("embed"): halved}},
            "embed lies before",
        ),
        (Point("resid_pre", 2), {"write": {Point("resid_pre", 1): halved}}, "expected a layer from 0 to 1"),
    ],
)
def test_a_pass_that_cannot_begin_there_is_refused(start: Point, options: dict, message: str):
    with pytest.raises(InputError, match=message):
        loaded("llama", "bridge").run(tokens(), start=start, **options)
