"""Models in half precision that are computed in float32, a part at a time."""

import threading
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from experiments.families import wrappers_of
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView, load_model, load_pair, view_of
from lensdiff.models.inside import widened
from lensdiff.models.inside.parts import Weight
from lensdiff.models.inside.points import Point
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.linear.push import why_not_linearized
from lensdiff.models.loading import wrapping
from lensdiff.models.text import encode
from lensdiff.results import InputError
from tests.checkpoints import FAMILIES, MORE, hf_model, save_checkpoint, tokenizer_of

PROMPT, RESPONSE = "Write a short poem about the sea", "yes it is"
HALF = ("bfloat16", "float16")
# TransformerLens cannot hold them in half precision, or not at all
NOT_LOADED = ("olmo2", "olmo3", "flex_olmo", "gpt_neox_without_bias", "falcon_grouped", "cohere")
CASES = [(f, w) for f in [*FAMILIES, *MORE] if f not in NOT_LOADED for w in wrappers_of(f)]
# what is not differentiated by hand, and the reason (as in test_linear)
NOT = dict.fromkeys(("mixtral", "qwen3_moe", "olmoe"), "its activation")
NOT |= dict.fromkeys(("qwen3_next", "gemma4"), "pattern of layer 0")
needs_hooked = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
BOTH = [pytest.param("hooked", marks=needs_hooked), "bridge"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def of(family: str, dtype: str = "bfloat16") -> Path:
        folder = tmp_path_factory.mktemp(f"{family}-{dtype}")
        return save_checkpoint(family, folder, dtype=getattr(torch, dtype))

    return of


def view(folder: Path, wrapper: str = "bridge", dtype: str = "bfloat16") -> ModelView:
    return view_of(load_model(folder, wrapper=wrapper, dtype=dtype, device="cpu"))


def scores(model: Any, method: Any = "forward", target: Any = "probability") -> Tensor:
    return attribute(model, PROMPT, RESPONSE, target=target, method=method, deletion_draws=0).scores


def assert_near(found: Tensor, expected: Tensor, share: float) -> None:
    largest = float(expected.abs().max())
    assert largest > 1e-6, "an oracle of zeros would prove nothing"
    assert float((found.double() - expected.double()).abs().max()) <= share * largest


def reference(folder: Path, ids: Tensor, n_prompt: int) -> Tensor:
    """Gradient x input of the probability by transformers' own model of the files, in float64."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    embedded = model.get_input_embeddings()(ids[None]).detach().requires_grad_(True)
    logits = model(inputs_embeds=embedded).logits[0, n_prompt - 1 : -1]
    values = logits.softmax(dim=-1).gather(1, ids[n_prompt:, None])[:, 0]
    columns = [torch.autograd.grad(value, embedded, retain_graph=True)[0][0, :n_prompt] for value in values]
    return torch.stack([(c * embedded[0, :n_prompt]).sum(-1) for c in columns], dim=1).detach()


@pytest.mark.parametrize("method", ["forward", "reverse"])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("wrapper", BOTH)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_scores_are_those_of_transformers_in_float64_on_the_same_weights(folders, family, wrapper, dtype, method):
    folder = folders(family, dtype)
    model = view(folder, wrapper, dtype)
    encoded = encode(model, Prompt(PROMPT), RESPONSE)
    expected = reference(folder, torch.tensor(encoded.ids), encoded.n_prompt)
    # a response's last token is only predicted
    assert_near(scores(model.model, method), expected, 1e-5)


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_every_family_is_computed_as_if_it_were_float32(folders, family, wrapper):
    if wrapper == "hooked":  # whose tables of angles are rounded, too
        whole = view(folders(family), wrapper, "float32").model
    else:
        whole = view(folders(family), wrapper).model
        for root in (whole, whole.original_model):
            nn.Module.to(root, torch.float32)
    half = view(folders(family), wrapper).model
    assert why_not_linearized(view_of(half).widened()) == NOT.get(family, "")  # by hand wherever float32 is
    for method in ("forward", "reverse"):
        assert_near(scores(half, method, "logit"), scores(whole, method, "logit"), 5e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3", "gpt2"])
def test_folded_bridges_too(folders, family):
    # which compute with matrices that are no parameters
    half, whole = (
        load_model(folders(family), wrapper="bridge", weights="folded", dtype=dtype, device="cpu")
        for dtype in ("bfloat16", "bfloat16")
    )
    for module in whole.modules():
        for owner in (module._parameters, module._buffers, vars(module)):
            for name, value in list(owner.items()):
                if isinstance(value, Tensor) and value.dtype == torch.bfloat16:
                    owner[name] = value.detach().float()
    for method in ("forward", "reverse"):
        assert_near(scores(half, method, "logit"), scores(whole, method, "logit"), 5e-5)


@needs_hooked
def test_a_model_that_was_cast_by_hand(folders):
    # its config says float32 still
    model = view(folders("llama"), "hooked", "float32").model
    expected = attribute(model, PROMPT, RESPONSE)
    nn.Module.to(model, torch.bfloat16)
    found = attribute(model, PROMPT, RESPONSE)
    assert_near(found.scores, expected.scores, 1e-5)
    assert found.deletion is not None
    assert expected.deletion is not None
    assert found.deletion.effect == pytest.approx(expected.deletion.effect, rel=1e-3)


@pytest.mark.parametrize("wrapper", BOTH)
def test_the_models_own_passes_stay_what_they_were(folders, wrapper):
    model = view(folders("llama"), wrapper)
    tokens = torch.tensor([encode(model, Prompt(PROMPT)).ids])
    before = model.forward.logits(tokens)
    kept = {name: (id(p), p.dtype) for name, p in model.model.named_parameters()}
    scores(model.model)
    scores(model.model, "reverse")
    wide = model.widened()
    assert wide.forward.logits(tokens).dtype == torch.float32
    assert (model.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
    after = model.forward.logits(tokens)
    assert after.dtype == torch.bfloat16
    assert torch.equal(after, before)
    assert {name: (id(p), p.dtype) for name, p in model.model.named_parameters()} == kept
    assert model.model.cfg.dtype == torch.bfloat16 or wrapper == "bridge"


def dtypes(module: nn.Module) -> set[torch.dtype]:
    return {p.dtype for p in module.parameters()}


@pytest.mark.parametrize("wrapper", BOTH)
def test_one_block_is_wide_at_a_time(folders, wrapper):
    model = view(folders("llama"), wrapper)
    wide, blocks, seen = model.widened(), model.model.blocks, []
    tokens = torch.tensor([encode(model, Prompt(PROMPT)).ids])
    wide.forward.logits(tokens)  # what has to be measured is
    handles = [
        block.mlp.register_forward_hook(lambda *_: seen.append(tuple(next(iter(dtypes(b))) for b in blocks)))
        for block in blocks
    ]
    head = model.model.unembed.register_forward_hook(lambda *_: seen.append(dtypes(model.model.unembed)))
    wide.forward.logits(tokens)
    for handle in (*handles, head):
        handle.remove()
    half, single = torch.bfloat16, torch.float32
    assert len(blocks) == 2
    assert seen == [(single, half), (half, single), {single}]


@pytest.mark.parametrize("wrapper", BOTH)
def test_a_pass_that_ends_within_a_block_leaves_it_as_it_is_stored(folders, wrapper):
    model = view(folders("llama"), wrapper)
    wide = model.widened()
    tokens = torch.tensor([encode(model, Prompt(PROMPT)).ids])
    found = wide.forward.run(tokens, read=[Point("z", 1)], until=Point("z", 1))
    assert found[Point("z", 1)].dtype == torch.float32
    assert dtypes(model.model) == {torch.bfloat16}

    def fails(value: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        wide.forward.run(tokens, read=[Point("final")], write={Point("z", 0): fails})
    assert dtypes(model.model) == {torch.bfloat16}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.blocks)


@pytest.mark.parametrize("wrapper", BOTH)
def test_a_graph_keeps_weights_in_half_precision(folders, wrapper, monkeypatch):
    model = view(folders("llama"), wrapper)
    wide = model.widened()
    tokens = torch.tensor([encode(model, Prompt(PROMPT)).ids])
    embedded = wide.forward.embed(tokens).detach()
    wide.forward.final(tokens, embedded)  # what has to be measured is
    kept, saved = [], widened._Parts.saved

    def saving(self: Any, value: Tensor) -> Any:
        made = saved(self, value)
        copies = {one.wide.untyped_storage().data_ptr() for part in self.entered for one in part if one.is_copy}
        kept.append((made, isinstance(made, Tensor) and made.untyped_storage().data_ptr() in copies))
        return made

    monkeypatch.setattr(widened._Parts, "saved", saving)
    x = embedded.clone().requires_grad_(True)
    out = wide.forward.final(tokens, x)
    assert not any(is_copy for _, is_copy in kept)
    # nothing that half precision holds is kept in float32: no weight in another order
    single = [one for one, _ in kept if isinstance(one, Tensor) and one.dtype == torch.float32 and one.numel() > 1]
    assert single
    assert not [one for one in single if torch.equal(one.bfloat16().float(), one)]
    assert sum(isinstance(one, widened._View) for one, _ in kept) >= 2 * 3  # W_in, W_gate, W_out of both layers
    (once,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    (again,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(once, again)


@needs_hooked
def test_angles_that_are_no_rounding_of_the_layers_own_are_used_as_they_are(folders):
    model, other = view(folders("llama"), "hooked"), view(folders("llama"), "hooked", "float32")
    for block, like in zip(model.model.blocks, other.model.blocks, strict=True):
        for name in ("rotary_cos", "rotary_sin"):
            table = getattr(block.attn, name)
            table.mul_(0.5)
            getattr(like.attn, name).copy_(table)
    assert_near(scores(model.model), scores(other.model), 1e-5)


@pytest.mark.parametrize("kept", [torch.ones(3, 3), None])
def test_what_a_pass_makes_anew_is_kept_and_rounded(kept):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(3, 3)])
            self.register_buffer("table", torch.ones(2, 2))

        def forward(self, x: Tensor) -> Tensor:
            assert self.table.dtype == torch.float32
            if kept is not None:
                self.table = kept / 3
            return self.blocks[0](x)

    model = Model().bfloat16()
    before = model.table
    with widened.in_float32(model):
        model(torch.ones(1, 3))
    assert model.table is before if kept is None else torch.equal(model.table, (kept / 3).bfloat16())


@pytest.mark.parametrize("wrapper", BOTH)
@pytest.mark.parametrize("part", ["embed", "blocks.0"])
def test_other_threads_do_not_see_it(folders, wrapper, part):
    model = view(folders("llama"), wrapper)
    tokens = torch.tensor([encode(model, Prompt(PROMPT)).ids])
    wide, seen, within, ended = model.widened(), [], threading.Event(), threading.Event()
    wide.forward.logits(tokens)  # what has to be measured is

    def ask() -> None:
        within.wait(10)
        if part != "embed":  # else the sizes are asked for in it
            seen.append(getattr(model.weights.stored(Weight("W_in", 0)), "dtype", None))
        dtype, again = model.dtype, model.widened()
        seen.extend([dtype, torch.bfloat16 if again is wide else None])
        ended.set()

    def inside(*_: Any) -> None:
        assert dtypes(model.model.get_submodule(part)) == {torch.float32}
        within.set()
        ended.wait(0.3)  # time enough to look, if it were not made to wait

    with model.model.get_submodule(part).register_forward_hook(inside):
        thread = threading.Thread(target=ask)
        thread.start()
        wide.forward.logits(tokens)
        thread.join()
    assert set(seen) == {torch.bfloat16}
    assert len(seen) == (2 if part == "embed" else 3)


def test_it_is_called_what_its_pair_calls_it(tmp_path):
    own: Any = {"dtype": torch.bfloat16}
    folders = [save_checkpoint("llama", tmp_path / side / "hf", seed=i, **own) for i, side in enumerate("xy")]
    pair = load_pair(*folders, dtype="bfloat16", device="cpu")
    for side in ("base", "tuned"):
        one = view_of(getattr(pair, side))
        assert one.widened().info.id == one.info.id


def test_others_are_themselves(folders):
    for dtype in ("float32", "float64"):
        model = view(folders("llama"), dtype=dtype)
        assert model.widened() is model
    half = view(folders("llama"))
    assert half.widened() is half.widened()
    assert half.widened().widened() is half.widened()


# the door: what transformers computes in float32 is not rounded with the weights
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3_longrope", "qwen3_moe"])
def test_what_modules_compute_themselves_is_as_precise_as_in_transformers(folders, family, dtype):
    folder = folders(family, dtype)
    own = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    expected = {name.rpartition(".")[2]: buffer for name, buffer in own.named_buffers() if "inv_freq" in name}
    assert {buffer.dtype for buffer in expected.values()} == {torch.float32}
    memory = load_model(hf_model(family), tokenizer=tokenizer_of(), wrapper="bridge", dtype=dtype, device="cpu")
    for model in (view(folder, dtype=dtype).model, memory):
        found = {name.rpartition(".")[2]: buffer for name, buffer in model.named_buffers() if "inv_freq" in name}
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], buffer) for name, buffer in expected.items())


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_load_in_half_precision_sees_what_its_rounding_would_hide(folders, family, monkeypatch):
    def cast(model: nn.Module, device: str, dtype: torch.dtype) -> None:
        nn.Module.to(model, device=device, dtype=dtype)  # the frequencies, too

    monkeypatch.setattr(wrapping, "_cast", cast)
    folder = folders(family)
    load_model(folder, wrapper="bridge", dtype="float32", device="cpu")
    said = r"at most 1e-05 is allowed in torch\.float32 with weights in torch\.bfloat16"
    with pytest.raises(InputError, match=said):
        load_model(folder, wrapper="bridge", dtype="bfloat16", device="cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_model_that_was_cast_as_a_whole_is_held_as_it_is_and_said_to_be(dtype):
    source = hf_model("llama", dtype=torch.bfloat16)
    model = load_model(source, tokenizer=tokenizer_of(), wrapper="bridge", dtype=dtype, device="cpu")
    (note,) = view_of(model).info.notes
    assert note.startswith("its rotary frequencies are rounded to bfloat16")
    tokens = torch.randint(5, 400, (1, 100), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = source.float()(tokens).logits
    assert_near(view_of(model).widened().forward.logits(tokens), expected, 1e-5)
    if HookedTransformer is not None:  # which makes its angles itself
        with pytest.raises(
            InputError, match=r"disagrees .*verify=False.*; its rotary frequencies are rounded to bfloat16"
        ):
            load_model(hf_model("llama", dtype=torch.bfloat16), tokenizer=tokenizer_of(), wrapper="hooked", dtype=dtype)
    own = load_model(hf_model("llama"), tokenizer=tokenizer_of(), dtype=dtype, device="cpu")
    assert not view_of(own).info.notes


def test_float64_becomes_float32_in_every_part():
    for family in ("llama", "gemma3"):
        source = hf_model(family, dtype=torch.float64)
        model = load_model(source, tokenizer=tokenizer_of(), wrapper="bridge", dtype="float32", device="cpu")
        assert {b.dtype for b in model.buffers() if b.is_floating_point()} == {torch.float32}


def test_half_precision_in_memory_becomes_the_other_kind():
    source = load_model(hf_model("gpt2"), tokenizer=tokenizer_of(), wrapper="bridge", dtype="float32", device="cpu")
    assert view_of(source).dtype == torch.float32
    for given, wanted in (("bfloat16", "float16"), ("float16", "bfloat16"), ("float16", "float64")):
        half = hf_model("gpt2", dtype=getattr(torch, given))
        model = load_model(half, tokenizer=tokenizer_of(), wrapper="bridge", dtype=wanted, device="cpu")
        assert view_of(model).dtype == getattr(torch, wanted)


def test_a_kernel_that_knows_half_precision_alone_is_no_reason_to_refuse_a_model():
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.llama.modeling_llama import eager_attention_forward

    def flash(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        if query.dtype not in widened.HALF:
            raise RuntimeError("only supports fp16 and bf16 data type")
        mask = torch.full((query.shape[2], key.shape[2]), -torch.inf).triu(1).to(query)  # no mask is made for it
        return eager_attention_forward(module, query, key, value, mask[None, None], **kwargs)

    ALL_ATTENTION_FUNCTIONS.register("half_alone", flash)
    source = hf_model("llama", dtype=torch.bfloat16)
    source.config._attn_implementation = "half_alone"
    model = load_model(source, tokenizer=tokenizer_of(), wrapper="bridge", dtype="bfloat16", device="cpu")
    assert view_of(model).dtype == torch.bfloat16
    assert source.config._attn_implementation == "half_alone"


def test_products_are_not_rounded_in_it(folders):
    # on a GPU TF32 would round them; here the setting itself is looked at
    model, seen = view(folders("llama")), []

    def target(logits: Tensor, ids: Tensor) -> Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return logits[:, 0]

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        scores(model.model, target=target)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {"highest"}


def test_a_long_text_is_read_as_transformers_reads_it(folders):
    folder = folders("llama")
    own = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager")
    tokens = torch.randint(5, own.config.vocab_size, (1, 120), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = own(tokens).logits.float()
    found = view(folder).forward.logits(tokens).float()
    assert_near(found, expected, 1e-2)


def test_a_weight_above_the_blocks_is_wide_too():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
            self.scale = nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x * self.scale)
            return x

    torch.manual_seed(0)
    model, x = Model().bfloat16(), torch.randn(3, 4)
    with widened.in_float32(model):
        found = model(x)
    assert dtypes(model) == {torch.bfloat16}
    assert torch.equal(found, model.float()(x))
