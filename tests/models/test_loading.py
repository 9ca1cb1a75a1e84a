"""Every family in every wrapper that holds it, by its config and not by its name; and every refusal."""

import copy
import gc
import json
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformer_lens.utilities import get_tokenizer_with_bos
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lensdiff.models import load_model, view_of
from lensdiff.models.inside.parts import MATRICES
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.loading import load as loading
from lensdiff.models.loading import verification, wrapping
from lensdiff.models.loading.load import as_dtype
from lensdiff.results import InputError
from tests.checkpoints import BRIDGED, HOOKED, TEXT, hf_model, save_checkpoint, tokenizer_of
from tests.lacks import LACKS

CASES = [(family, "bridge") for family in BRIDGED] + [
    pytest.param(
        family,
        "hooked",
        marks=pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer"),
    )
    for family in HOOKED
]


def tokens() -> torch.Tensor:
    return torch.tensor([tokenizer_of()(TEXT[0])["input_ids"][:24]])


@pytest.mark.parametrize(("family", "wrapper"), CASES)
@pytest.mark.parametrize("name", ["llama-7b", "gemma-2-phi"])
def test_loads_by_config_whatever_the_folder_is_called(family, wrapper, name, tmp_path):
    folder = save_checkpoint(family, tmp_path / name, bos=True, shard="20KB")
    model = load_model(folder, wrapper=wrapper, device="cpu")
    view = view_of(model)
    with torch.no_grad():
        expected = hf_model(family)(tokens()).logits
        got = view.forward.logits(tokens())
        split = view.forward.unembed(view.forward.final(tokens(), view.forward.embed(tokens())))
    size = float(expected.abs().max())
    assert float((got - expected).abs().max()) < 1e-5 * size
    assert float((split - expected).abs().max()) < 1e-5 * size
    assert view.info.wrapper == wrapper
    assert view.info.id == name
    assert len(list(folder.glob("*.safetensors"))) > 1, "the checkpoint was meant to be sharded"


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_weights_read_the_same_in_both_wrappers_and_in_the_checkpoint(family, wrapper):
    # oracle: the function of the first block rebuilt from the weights as an analysis reads them
    source = hf_model(family, dtype=torch.float64)
    model = load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, dtype="float64", device="cpu")
    view = view_of(model)
    attention, mlp = view.weights.attention(0), view.weights.mlp(0)
    x = torch.randn(5, view.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reference = _reference_projections(family, hf_model(family, dtype=torch.float64), x)
    heads = {"q": attention.W_Q, "k": attention.W_K, "v": attention.W_V}
    scaled = x if attention.gain is None else x * attention.gain
    for name, weight in heads.items():
        got = torch.einsum("pd,hde->phe", scaled, weight)
        expected = reference[name].reshape(5, -1, view.d_head)
        repeats = view.n_heads // expected.shape[1]
        torch.testing.assert_close(got, expected.repeat_interleave(repeats, dim=1))
    scaled = x if mlp.gain is None else x * mlp.gain
    torch.testing.assert_close(scaled @ mlp.W_in, reference["in"])
    assert (mlp.W_gate is None) == ("gate" not in reference)
    if mlp.W_gate is not None:
        torch.testing.assert_close(scaled @ mlp.W_gate, reference["gate"])
    z = torch.randn(5, mlp.W_out.shape[0], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(z @ mlp.W_out, _reference_out(family, hf_model(family, dtype=torch.float64), z))


def _reference_projections(family: str, model: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        if family == "gpt2":
            block = model.transformer.h[0]
            q, k, v = (x * block.ln_1.weight @ block.attn.c_attn.weight).split(x.shape[1], dim=1)
            return {"q": q, "k": k, "v": v, "in": x * block.ln_2.weight @ block.mlp.c_fc.weight}
        if family == "gpt_neox":
            block = model.gpt_neox.layers[0]
            qkv = x * block.input_layernorm.weight @ block.attention.query_key_value.weight.T
            q, k, v = qkv.reshape(len(x), 4, 3, -1).unbind(dim=2)
            scaled = x * block.post_attention_layernorm.weight
            return {
                "q": q.flatten(1),
                "k": k.flatten(1),
                "v": v.flatten(1),
                "in": scaled @ block.mlp.dense_h_to_4h.weight.T,
            }
        block = model.model.layers[0]
        gain = 1.0 if family.startswith("gemma") else 0.0
        first, second = x, x
        if family != "olmo2":
            first = x * (block.input_layernorm.weight + gain)
            norm = block.pre_feedforward_layernorm if family == "gemma2" else block.post_attention_layernorm
            second = x * (norm.weight + gain)
        if family == "phi3":
            q, k, v = (first @ block.self_attn.qkv_proj.weight.T).split([32, 16, 16], dim=1)
            gate, up = (second @ block.mlp.gate_up_proj.weight.T).chunk(2, dim=1)
            return {"q": q, "k": k, "v": v, "gate": gate, "in": up}
        attn, mlp = block.self_attn, block.mlp
        return {
            **{n: first @ getattr(attn, f"{n}_proj").weight.T for n in "qkv"},
            "gate": second @ mlp.gate_proj.weight.T,
            "in": second @ mlp.up_proj.weight.T,
        }


def _reference_out(family: str, model: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        if family == "gpt2":
            return z @ model.transformer.h[0].mlp.c_proj.weight
        if family == "gpt_neox":
            return z @ model.gpt_neox.layers[0].mlp.dense_4h_to_h.weight.T
        return z @ model.model.layers[0].mlp.down_proj.weight.T


@pytest.mark.parametrize("family", ["qwen3", "olmo2"])
def test_query_and_key_norms_are_told(family):
    source = hf_model(family)
    expected = source.model.layers[1].self_attn.q_norm.weight.detach().clone()
    view = view_of(load_model(source, tokenizer=tokenizer_of(), device="cpu"))
    torch.testing.assert_close(view.weights.attention(1).q_norm, expected)


def test_soft_caps_are_told():
    view = view_of(load_model(hf_model("gemma2"), tokenizer=tokenizer_of(), device="cpu"))
    assert view.weights.attention(0).soft_cap == 2.0
    assert view.meaning.logits.cap == 3.0


@pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
def test_folded_weights_on_request_and_recorded():
    raw = load_model(hf_model("llama"), tokenizer=tokenizer_of(), device="cpu")
    folded = load_model(hf_model("llama"), tokenizer=tokenizer_of(), weights="folded", device="cpu")
    assert view_of(raw).info.weights == "raw"
    assert view_of(folded).info.weights == "folded"
    assert view_of(folded).weights.attention(0).gain is None
    assert view_of(raw).weights.attention(0).gain is not None
    difference = view_of(raw).forward.logits(tokens()).log_softmax(-1) - view_of(folded).forward.logits(
        tokens()
    ).log_softmax(-1)
    assert float(difference.abs().max()) < 1e-4


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_folding_writes_into_nothing_that_is_shared(family, wrapper):
    if wrapper == "hooked" and HookedTransformer is None:
        pytest.skip("this transformer-lens has no HookedTransformer")
    source = hf_model(family, tie_word_embeddings=True)
    before = {name: value.detach().clone() for name, value in source.state_dict().items()}
    raw = load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, device="cpu")
    logits = view_of(raw).forward.logits(tokens()).detach()
    # verified against the source, although its unembedding is its embedding
    folded = load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, weights="folded", device="cpu")
    assert list(source.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
    assert torch.equal(view_of(raw).forward.logits(tokens()), logits)
    difference = logits.log_softmax(-1) - view_of(folded).forward.logits(tokens()).log_softmax(-1)
    assert float(difference.abs().max()) < 1e-3


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
def test_a_model_that_is_dropped_leaves_the_memory(wrapper):
    model = load_model(hf_model("llama"), tokenizer=tokenizer_of(), wrapper=wrapper, device="cpu")
    view_of(model).forward.logits(tokens())
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
def test_a_first_token_that_is_the_paddings_is_read(wrapper):
    tokenizer = copy.deepcopy(tokenizer_of())
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.convert_ids_to_tokens(7)
    source = hf_model("llama")
    ids = torch.tensor([[7, 20, 30, 40]])
    with torch.no_grad():
        expected = source(ids).logits
    found = view_of(load_model(source, tokenizer=tokenizer, wrapper=wrapper, device="cpu")).forward.logits(ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert tokenizer.padding_side == "left"


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
def test_the_checkpoints_tokenizer_stays_as_it_is(wrapper):
    tokenizer = copy.deepcopy(tokenizer_of())
    tokenizer.bos_token = None
    before = dict(tokenizer.special_tokens_map)
    view = view_of(load_model(hf_model("llama"), tokenizer=tokenizer, wrapper=wrapper, device="cpu"))
    assert view.tokenizer.special_tokens_map == tokenizer.special_tokens_map == before
    assert view.tokenizer.bos_token_id is None, "transformer-lens gives its own copy the end token for one"


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Where tokenizers are read from, a reading each."""
    found, read = [], AutoTokenizer.from_pretrained

    def counted(*args, **options):
        found.append(str(args[0] if args else options["pretrained_model_name_or_path"]))
        return read(*args, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", counted)
    return found


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
@pytest.mark.parametrize("bos", [True, False])
def test_a_tokenizer_is_read_once(bos, wrapper, tmp_path, reads):
    folder = save_checkpoint("llama", tmp_path / "model", bos=bos)
    reads.clear()
    model = load_model(folder, wrapper=wrapper, device="cpu")
    assert len(reads) == 1
    # oracle: what transformer-lens makes of a tokenizer when it reads it itself
    theirs, own = get_tokenizer_with_bos(AutoTokenizer.from_pretrained(folder)), view_of(model).tokenizer
    assert len(reads) == 3, "it reads one anew that is not said to add a BOS"
    for text in TEXT:
        assert model.tokenizer(text)["input_ids"] == theirs(text)["input_ids"] == [1, *own(text)["input_ids"]][bos:]
        assert model.tokenizer(text, text)["input_ids"] == theirs(text, text)["input_ids"]
        assert model.to_tokens(text, prepend_bos=bos)[0].tolist() == own(text)["input_ids"]
        assert model.to_tokens(text, prepend_bos=True)[0].tolist() == theirs(text)["input_ids"]
    assert model.tokenizer.special_tokens_map == theirs.special_tokens_map
    model.tokenizer.add_tokens(["the sea"])
    assert own.tokenize("the sea") == theirs.tokenize("the sea") != ["the sea"], "the model's own is a copy"


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
def test_a_tokenizer_that_was_made_in_code_is_not_read(wrapper, reads):
    words = tokenizer_of().backend_tokenizer
    made = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    assert "name_or_path" not in made.init_kwargs
    model = load_model(hf_model("llama"), tokenizer=made, wrapper=wrapper, device="cpu")
    assert reads == []
    for text in TEXT:
        assert model.to_tokens(text, prepend_bos=True)[0].tolist() == [made.bos_token_id, *made(text)["input_ids"]]
        assert model.to_tokens(text, prepend_bos=False)[0].tolist() == made(text)["input_ids"]


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
def test_a_tokenizer_whose_bos_no_template_holds_is_read_as_before(wrapper, reads):
    tokenizer = copy.deepcopy(tokenizer_of())
    tokenizer.add_special_tokens({"bos_token": "<seed:bos>"})
    model = load_model(hf_model("llama"), tokenizer=tokenizer, wrapper=wrapper, device="cpu")
    assert reads
    assert model.to_tokens(TEXT[0], prepend_bos=False)[0].tolist() == tokenizer(TEXT[0])["input_ids"]
    assert not tokenizer.add_bos_token


@pytest.mark.parametrize("given", [True, False])
def test_a_tokenizer_that_is_not_used_is_not_read(given, tmp_path, reads):
    peft = pytest.importorskip("peft")
    base = save_checkpoint("llama", tmp_path / "base")
    tuned = peft.get_peft_model(hf_model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    tuned.save_pretrained(tmp_path / "adapter")
    tokenizer_of(bos=True).save_pretrained(tmp_path / "adapter")
    tokenizer = tokenizer_of() if given else None
    reads.clear()
    view = view_of(load_model(tmp_path / "adapter", base=base, tokenizer=tokenizer, device="cpu"))
    assert reads == ([] if given else [str(tmp_path / "adapter")])
    assert (view.tokenizer.encode("a")[0] == 1) != given


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
def test_the_users_hooks_stay(wrapper):
    model = load_model(hf_model("llama"), tokenizer=tokenizer_of(), wrapper=wrapper, device="cpu")
    view, seen = view_of(model), []
    model.add_hook("blocks.0.hook_resid_pre", lambda value, hook: seen.append(hook.name))
    view.forward.final(tokens())
    view.forward.static_scores(tokens(), view.forward.embed(tokens()), [0, 1])
    seen.clear()
    view.forward.final(tokens())
    assert seen


def test_a_peft_model_is_merged_apart_from_its_base():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    base = hf_model("llama")
    expected = view_of(load_model(hf_model("llama"), tokenizer=tokenizer_of(), device="cpu")).forward.logits(tokens())
    tuned = peft.get_peft_model(base, config)
    with torch.no_grad():
        adapted = tuned(tokens()).logits
    found = view_of(load_model(tuned, tokenizer=tokenizer_of(), device="cpu")).forward.logits(tokens())
    torch.testing.assert_close(found, adapted, rtol=1e-4, atol=1e-4)
    assert float((found - expected).abs().max()) > 1e-2
    with torch.no_grad():
        torch.testing.assert_close(tuned(tokens()).logits, adapted)  # still an adapter on its base
    with pytest.raises(InputError, match=r"holds the layers of a LoRA adapter"):
        load_model(base, tokenizer=tokenizer_of(), device="cpu")


def test_the_checkpoint_is_held_once():
    source = hf_model("llama")
    pointers = {p.data_ptr() for p in source.parameters()}
    size = sum(p.numel() for p in source.parameters())
    model = load_model(source, tokenizer=tokenizer_of(), device="cpu")
    own = [p for p in model.parameters() if p.data_ptr() not in pointers]
    assert sum(p.numel() for p in own) < 0.1 * size, "only biases that the checkpoint does not have may be new"


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
def test_the_users_object_stays_as_it_is_and_shares_its_storage(wrapper):
    source = hf_model("llama")
    with torch.no_grad():
        expected = source(tokens()).logits
    names, pointers = list(source.state_dict()), {p.data_ptr() for p in source.parameters()}
    model = load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, device="cpu")
    assert pointers <= {p.data_ptr() for p in model.parameters()}
    load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, dtype="bfloat16", device="cpu")
    assert list(source.state_dict()) == names
    assert {p.dtype for p in source.parameters()} == {torch.float32}
    with torch.no_grad():
        assert torch.equal(source(tokens()).logits, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_dtype_is_an_argument(dtype):
    model = load_model(hf_model("llama"), tokenizer=tokenizer_of(), dtype=dtype, device="cpu")
    assert view_of(model).dtype == as_dtype(dtype)
    assert bool(torch.isfinite(view_of(model).forward.logits(tokens())).all())


def test_lora_folder_is_merged_onto_its_base(tmp_path):
    peft = pytest.importorskip("peft")
    base = save_checkpoint("llama", tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(hf_model("llama"), config)
    with torch.no_grad():
        expected = tuned(tokens()).logits
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    tuned.save_pretrained(tmp_path / "adapter")
    for given in (None, base, hf_model("llama")):
        model = load_model(tmp_path / "adapter", base=given, device="cpu")
        torch.testing.assert_close(view_of(model).forward.logits(tokens()), expected, atol=1e-4, rtol=1e-4)


def test_gguf_file_loads(smollm2):
    view = view_of(smollm2)
    assert view.d_model == 576
    assert view.n_key_value_heads == 3
    assert view.tokenizer("Hello")["input_ids"] == view.tokenizer("Hello", add_special_tokens=False)["input_ids"], (
        "SmolLM2 has no BOS"
    )


def test_bin_files_load_without_unpickling_code(tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    state = hf_model("llama").state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    view = view_of(load_model(folder, device="cpu"))
    torch.testing.assert_close(view.weights.W_E, state["model.embed_tokens.weight"])


class _Touch:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_malicious_bin_file_is_refused_and_runs_nothing(tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": _Touch(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.?only|unpickl|unsupported"):
        load_model(folder, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_an_existing_wrapped_model_is_taken_as_it_is():
    model = load_model(hf_model("gpt2"), tokenizer=tokenizer_of(), device="cpu")
    assert load_model(model) is model


def test_eos_ids_of_model_and_generation_config_are_all_kept():
    source = hf_model("llama")
    source.generation_config.eos_token_id = [2, 7]
    view = view_of(load_model(source, tokenizer=tokenizer_of(), device="cpu"))
    assert set(view.info.eos_token_ids) == {2, 7}


# refusals


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no model folder"):
        load_model(tmp_path / "nothing")


def test_folder_without_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no config\.json"):
        load_model(tmp_path)


def test_missing_gguf_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no GGUF file"):
        load_model(tmp_path / "model.gguf")


def test_unknown_hub_name_is_refused():
    with pytest.raises(InputError, match="cannot load no-such/model"):
        load_model("no-such/model")


def test_nan_is_refused_by_tensor_name():
    source = hf_model("llama")
    with torch.no_grad():
        source.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(source, tokenizer=tokenizer_of())


def test_unknown_architecture_is_refused_with_the_list(tmp_path):
    import transformers

    config = transformers.CTRLConfig(vocab_size=50, n_embd=16, dff=16, n_layer=1, n_head=2, n_positions=16)
    with pytest.raises(InputError, match=r"CTRLLMHeadModel.*LlamaForCausalLM"):
        load_model(transformers.CTRLLMHeadModel(config), tokenizer=tokenizer_of())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "centred"}, "weights='centred' is none of raw, folded"),
        ({"wrapper": "nnsight"}, "wrapper='nnsight' is none of"),
        ({"dtype": "int8"}, "dtype 'int8' is none of"),
    ],
)
def test_unknown_options_are_refused_with_the_choices(options, message):
    with pytest.raises(InputError, match=message):
        load_model(hf_model("llama"), **options)


def test_forced_wrapper_that_cannot_hold_the_model_is_refused():
    with pytest.raises(InputError, match="cannot be a HookedTransformer"):
        load_model(hf_model("phi3"), tokenizer=tokenizer_of(), wrapper="hooked")


@pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
        ("llama", {"attention_bias": True}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}),
    ],
)
def test_what_the_table_cannot_express_comes_as_a_bridge(family, change):
    view = view_of(load_model(hf_model(family, **change), tokenizer=tokenizer_of(), device="cpu"))
    assert view.info.wrapper == "bridge"


@pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
def test_llama3_rotary_scaling_is_carried_over():
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    view = view_of(load_model(hf_model("llama", rope_parameters=rope), tokenizer=tokenizer_of(), device="cpu"))
    assert view.info.wrapper == "hooked"


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("logits", lambda logits: logits * 1.01, r"disagrees with transformers: logits differ by 9\.9e-03"),
        (
            "continuation",
            lambda tokens: tuple((token + 1) % 400 for token in tokens),
            r"disagrees with transformers: greedy decoding goes on with tokens \[.*\], expected \[",
        ),
    ],
)
def test_a_model_that_disagrees_is_refused_and_can_be_loaded_all_the_same(part, change, message, monkeypatch):
    honest = loading.expect
    monkeypatch.setattr(
        loading,
        "expect",
        lambda source, dtype: replace(e := honest(source, dtype), **{part: change(getattr(e, part))}),
    )
    with pytest.raises(InputError, match=message):
        load_model(hf_model("llama"), tokenizer=tokenizer_of(), device="cpu")
    assert load_model(hf_model("llama"), tokenizer=tokenizer_of(), device="cpu", verify=False) is not None


@pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
def test_where_a_hooked_transformer_disagrees_a_bridge_is_taken_with_a_note(monkeypatch, caplog):
    honest = wrapping.build_hooked

    def spoilt(source, **options):
        model = honest(source, **options)
        model.unembed.b_U.data += torch.arange(400.0)
        return model

    monkeypatch.setattr(wrapping, "build_hooked", spoilt)
    view = view_of(load_model(hf_model("llama"), tokenizer=tokenizer_of(), device="cpu"))
    assert view.info.wrapper == "bridge"
    (note,) = view.info.notes
    assert "in place of a HookedTransformer" in note
    assert "disagrees with transformers: logits differ by" in note
    assert caplog.messages == [f"{view.info.id}: {note}"]
    with pytest.raises(InputError, match="as a HookedTransformer disagrees with transformers"):
        load_model(hf_model("llama"), tokenizer=tokenizer_of(), wrapper="hooked", device="cpu")


@pytest.mark.parametrize("context", [3, 4, 5])
def test_a_context_too_short_for_a_continuation_is_verified_by_its_logits(context):
    source = hf_model("gpt2", n_positions=context)
    expected = verification.expect(source, torch.float32)
    assert len(expected.start) == max(0, context - verification.CONTINUED)
    view = view_of(load_model(source, tokenizer=tokenizer_of(), device="cpu"))
    assert view.n_ctx == context


def test_what_a_wrapper_stumbles_over_is_one_sentence():
    with pytest.raises(InputError, match=r"transformer-lens cannot hold GPTNeoXForCausalLM.*as a TransformerBridge: "):
        load_model(hf_model("gpt_neox_without_bias"), tokenizer=tokenizer_of(), device="cpu")


def test_what_a_wrapper_stumbles_over_in_its_first_pass_is_one_sentence(monkeypatch):
    def stumble(*_: object) -> None:
        raise AssertionError("theirs\nand more")

    monkeypatch.setattr("lensdiff.models.inside.bridge.BridgeWrapper.__call__", stumble)
    with pytest.raises(InputError, match=r"transformer-lens cannot hold .* as a TransformerBridge: theirs$"):
        load_model(hf_model("llama"), tokenizer=tokenizer_of(), wrapper="bridge", device="cpu")


@pytest.mark.parametrize(
    "place", ["lensdiff.models.loading.wrapping.measure", "lensdiff.models.inside.meaning.BlockRecord.gain"]
)
def test_a_fault_in_the_measuring_is_not_told_of_the_checkpoint(monkeypatch, place):
    def fault(*_: object, **__: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(place, fault)
    with pytest.raises(AssertionError, match=r"^ours$"):
        load_model(hf_model("llama"), tokenizer=tokenizer_of(), device="cpu")


def test_what_transformers_itself_cannot_run_is_one_sentence(monkeypatch):
    source = hf_model("llama")
    monkeypatch.setattr(source.model, "forward", lambda *_, **__: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(InputError, match=r"transformers cannot run its LlamaForCausalLM in torch\.float32: "):
        load_model(source, tokenizer=tokenizer_of(), device="cpu")


@pytest.mark.parametrize("lack", LACKS, ids=lambda lack: type(lack).__name__)
@pytest.mark.parametrize("place", ["transformers", "wrapper", "matrix", "device"])
def test_a_lack_of_memory_is_said_as_such_and_not_of_the_checkpoint(monkeypatch, place, lack):
    def full(*_, **__):
        raise lack

    source = hf_model("llama")
    if place == "transformers":
        monkeypatch.setattr(source.model, "forward", full)
    elif place == "wrapper":
        monkeypatch.setattr(wrapping, "_build_bridge", full)
    elif place == "device":
        monkeypatch.setattr(torch, "zeros", full)
    else:
        monkeypatch.setattr("lensdiff.models.inside.bridge.BridgeWrapper.matrix", full)
    with pytest.raises(type(lack), match=str(lack)):
        load_model(source, tokenizer=tokenizer_of(), wrapper="bridge", device="cpu", verify=place == "transformers")


def test_what_is_no_model_is_refused():
    with pytest.raises(InputError, match="expected a HookedTransformer or a TransformerBridge, got Linear"):
        view_of(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="got int"):
        load_model(3)
    with pytest.raises(InputError, match="a Linear is no transformers model"):
        load_model(torch.nn.Linear(2, 2))


def test_adapter_without_a_base_is_refused(tmp_path):
    pytest.importorskip("peft")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": ""}))
    with pytest.raises(InputError, match="names no base model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("module", "file", "extra"), [("gguf", "a.gguf", "gguf"), ("peft", "adapter_config.json", "lora")]
)
def test_a_missing_extra_is_named(module, file, extra, tmp_path, monkeypatch):
    (tmp_path / file).write_text("{}")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"pip install 'lensdiff\[{extra}\]'"):
        load_model(tmp_path / file if file.endswith("gguf") else tmp_path)


def test_every_matrix_name_is_known_to_both_wrappers():
    for family in ("gpt2", "llama"):
        view = view_of(load_model(hf_model(family), tokenizer=tokenizer_of(), device="cpu"))
        missing = {name for name in MATRICES if view.weights.matrix(0, name) is None}
        assert missing == ({"W_gate"} if family == "gpt2" else set())
