"""What is loaded is what the files hold: faults planted in them are refused by name, harmless habits are not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import modeling_utils

from lensdiff.models import load_model, view_of
from lensdiff.models.loading import checkpoints, opening, stated
from lensdiff.models.loading.checkpoints import from_name, same_as_stored
from lensdiff.models.loading.stumbles import few, first_line
from lensdiff.results import InputError
from tests.checkpoints import FAMILIES, TEXT, hf_model, save_checkpoint, tokenizer_of

State = dict[str, torch.Tensor]
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def tokens() -> torch.Tensor:
    return torch.tensor([tokenizer_of()(TEXT[0])["input_ids"][:24]])


def edit(folder: Path, change: Callable[[State], State | None]) -> Path:
    """Change the tensors of a checkpoint, in place or to those returned."""
    state = load_file(folder / "model.safetensors")
    changed = change(state)
    changed = state if changed is None else changed
    save_file(
        {key: value.contiguous() for key, value in changed.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def edit_config(folder: Path, **options: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))
    return folder


def logits(folder: Path, **options: object) -> torch.Tensor:
    return view_of(load_model(folder, device="cpu", **options)).forward.logits(tokens())


# faults in the files


@pytest.mark.parametrize(
    ("family", "tie", "key"),
    [
        ("llama", False, "lm_head.weight"),
        ("llama", True, "model.embed_tokens.weight"),
        ("llama", True, Q_PROJ),
        ("llama", False, "model.norm.weight"),
        ("gpt2", True, "transformer.h.1.attn.c_attn.weight"),
        ("gpt2", True, "transformer.ln_f.bias"),
        ("gemma2", True, "model.layers.0.post_feedforward_layernorm.weight"),
    ],
)
def test_a_missing_tensor_is_named(family, tie, key, tmp_path):
    folder = save_checkpoint(family, tmp_path / "model", tie_word_embeddings=tie)
    edit(folder, lambda state: {name: value for name, value in state.items() if name != key})
    with pytest.raises(InputError, match=rf"model is not the \w+ that its config describes: its files lack .*{key}"):
        load_model(folder, device="cpu")


def test_an_unexpected_tensor_is_named(tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    edit(folder, lambda state: state.update({"v_head.summary.weight": torch.ones(1, 32)}))
    with pytest.raises(InputError, match=r"a LlamaForCausalLM has no place for v_head\.summary\.weight"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_wrong_prefix_is_refused_with_how_many_tensors(family, tmp_path):
    folder = save_checkpoint(family, tmp_path / "model")
    edit(folder, lambda state: {f"module.{key}": value for key, value in state.items()})
    with pytest.raises(InputError, match=r"lack .* and \d+ more; a .* has no place for module\..* and \d+ more"):
        load_model(folder, device="cpu")


def test_a_tensor_of_another_shape_is_named_with_both(tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    edit(folder, lambda state: state.update({Q_PROJ: state[Q_PROJ][:16]}))
    with pytest.raises(InputError, match=rf"{Q_PROJ} of shape \(16, 32\) for \(32, 32\)"):
        load_model(folder, device="cpu")


WHOLE = "expected a whole number of at least 1$"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_attention_heads": "4"}, rf"^config\.json in \S+ has num_attention_heads='4', {WHOLE}"),
        ({"num_attention_heads": 0}, rf"^config\.json in \S+ has num_attention_heads=0, {WHOLE}"),
        ({"hidden_size": None}, r"^cannot load model: .*hidden_size"),  # a class may know better
        ({"rope_parameters": 3}, r"^cannot load model: .*rope_parameters"),
    ],
)
def test_a_config_with_another_kind_of_value_is_refused(options, message, tmp_path):
    folder = edit_config(save_checkpoint("llama", tmp_path / "model"), **options)
    with pytest.raises(InputError, match=message):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("tie", [True, False])
def test_a_checkpoint_made_for_another_task_is_refused(tie, tmp_path):
    config = transformers.LlamaConfig(**FAMILIES["llama"][1], tie_word_embeddings=tie)
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a LlamaForSequenceClassification, expected a causal language model"):
        load_model(tmp_path, device="cpu")
    edit_config(tmp_path, architectures=None)  # then its tensors say so
    with pytest.raises(InputError, match=r"has no place for score\.weight"):
        load_model(tmp_path, device="cpu")


def test_tied_by_the_config_with_two_matrices_in_the_files_is_refused(tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model", tie_word_embeddings=False)
    edit_config(folder, tie_word_embeddings=True)
    with pytest.raises(InputError, match="ties the unembedding to the embedding, but its files hold two different"):
        load_model(folder, device="cpu")


def test_a_tensor_stored_as_integers_is_refused(tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    edit(folder, lambda state: state.update({Q_PROJ: state[Q_PROJ].to(torch.int8)}))
    with pytest.raises(InputError, match=rf"{Q_PROJ} of model is stored as torch.int8"):
        load_model(folder, device="cpu")


def test_a_broken_file_is_refused(tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot load model: "):
        load_model(folder, device="cpu")


# what is in order


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_tied_checkpoint_loads_whichever_of_the_two_it_holds(family, tmp_path):
    folder = save_checkpoint(family, tmp_path / "model", tie_word_embeddings=True)
    embedding = "transformer.wte.weight" if family == "gpt2" else "model.embed_tokens.weight"
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    with torch.no_grad():
        expected = hf_model(family, tie_word_embeddings=True)(tokens()).logits
    torch.testing.assert_close(logits(folder), expected, rtol=1e-4, atol=1e-4)
    edit(folder, lambda state: state.update({"lm_head.weight": state[embedding].clone()}))
    torch.testing.assert_close(logits(folder), expected, rtol=1e-4, atol=1e-4)
    edit(folder, lambda state: {key: value for key, value in state.items() if key != embedding})
    torch.testing.assert_close(logits(folder), expected, rtol=1e-4, atol=1e-4)


def test_names_of_the_bare_model_and_buffers_that_serve_nothing_load(tmp_path):
    def as_on_the_hub(state: State) -> State:
        bare = {key.removeprefix("transformer."): value for key, value in state.items()}
        return bare | {"h.0.attn.bias": torch.ones(1, 1, 128, 128), "h.0.attn.masked_bias": torch.tensor(-1e4)}

    folder = edit(save_checkpoint("gpt2", tmp_path / "gpt2"), as_on_the_hub)
    with torch.no_grad():
        expected = hf_model("gpt2")(tokens()).logits
    torch.testing.assert_close(logits(folder), expected, rtol=1e-4, atol=1e-4)
    rotary = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    folder = edit(save_checkpoint("llama", tmp_path / "llama"), lambda state: state.update(rotary))
    with torch.no_grad():
        expected = hf_model("llama")(tokens()).logits
    torch.testing.assert_close(logits(folder), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_any_dtype_is_compared_in_the_models(stored, dtype, tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model", dtype=stored)
    expected = hf_model("llama", dtype=stored).model.embed_tokens.weight.to(getattr(torch, dtype))
    assert torch.equal(view_of(load_model(folder, dtype=dtype, device="cpu")).weights.W_E, expected)


def test_what_is_not_finite_is_said_to_be_that(tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    edit(folder, lambda state: state.update({Q_PROJ: state[Q_PROJ] * float("nan")}))
    with pytest.raises(InputError, match="is not finite"):
        load_model(folder, device="cpu")


def test_experts_that_transformers_fuses_load_and_are_missed(tmp_path):
    config = transformers.MixtralConfig(**FAMILIES["llama"][1], num_local_experts=2, num_experts_per_tok=1)
    model = transformers.MixtralForCausalLM(config)
    model.save_pretrained(tmp_path)
    found = from_name(str(tmp_path), "model", revision=None, dtype=torch.float32).model
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in found.state_dict().items())
    router = next(key for key in load_file(tmp_path / "model.safetensors") if ".gate." in key)
    edit(tmp_path, lambda state: {key: value for key, value in state.items() if key != router})
    with pytest.raises(InputError, match=r"lack .*gate\.weight"):
        from_name(str(tmp_path), "model", revision=None, dtype=torch.float32)


# the second witness, where the first keeps silent


def planted(monkeypatch: pytest.MonkeyPatch, change: Callable[[transformers.PreTrainedModel], object]) -> None:
    """Make transformers load something else than the files hold, with a clean report."""
    honest = transformers.AutoModelForCausalLM.from_pretrained
    clean = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}

    def from_pretrained(*arguments: object, **options: object) -> tuple[transformers.PreTrainedModel, dict]:
        model, _ = honest(*arguments, **options)
        with torch.no_grad():
            change(model)
        return model, clean

    monkeypatch.setattr(checkpoints.AutoModelForCausalLM, "from_pretrained", from_pretrained)


@pytest.mark.parametrize("shard", [None, "20KB"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_tensor_loaded_wrongly_is_found_without_the_report(family, shard, tmp_path, monkeypatch):
    folder = save_checkpoint(family, tmp_path / "model", shard=shard)
    last = "transformer.h.1.mlp.c_proj.weight" if family == "gpt2" else "model.layers.1.mlp.down_proj.weight"
    planted(monkeypatch, lambda model: model.get_parameter(last)[0, 0].add_(1e-3))
    with pytest.raises(InputError, match=rf"{last} of model was loaded as another tensor"):
        load_model(folder, device="cpu")


def test_a_square_matrix_loaded_transposed_is_found(tmp_path, monkeypatch):
    folder = save_checkpoint("llama", tmp_path / "model")
    planted(monkeypatch, lambda model: model.get_parameter(Q_PROJ).copy_(model.get_parameter(Q_PROJ).T.clone()))
    with pytest.raises(InputError, match=f"{Q_PROJ} of model was loaded as another tensor"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("key", [Q_PROJ, "model.norm.weight", "lm_head.weight"])
def test_a_tensor_that_no_file_holds_is_found_without_the_report(key, tmp_path, monkeypatch):
    folder = save_checkpoint("llama", tmp_path / "model")
    edit(folder, lambda state: {name: value for name, value in state.items() if name != key})
    planted(monkeypatch, lambda model: None)
    with pytest.raises(InputError, match=f"the files of model lack {key}"):
        load_model(folder, device="cpu")


def test_same_as_stored_and_few():
    one = torch.tensor([1.0, float("nan")])
    assert same_as_stored(one, one.clone())
    assert not same_as_stored(one, torch.tensor([1.0, 2.0]))
    assert not same_as_stored(one, one[:1])
    assert few("dcab") == "a, b, c and 1 more"
    assert few("ab") == "a, b"


def test_a_tensor_that_fits_nowhere_is_found_without_the_report(tmp_path, monkeypatch):
    folder = save_checkpoint("llama", tmp_path / "model")
    edit(folder, lambda state: state.update({"model.layers.1.self_attn.r_proj.weight": torch.ones(32, 32)}))
    planted(monkeypatch, lambda model: None)
    with pytest.raises(InputError, match=r"files of model hold .*r_proj\.weight, for which a LlamaForCausalLM has no"):
        load_model(folder, device="cpu")


def test_a_tensor_under_two_names_is_one_tensor(tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    expected = logits(folder)
    edit(folder, lambda state: state.update({f"model.{Q_PROJ}": state[Q_PROJ].clone()}))
    torch.testing.assert_close(logits(folder), expected)
    edit(folder, lambda state: state.update({f"model.{Q_PROJ}": 0 * state[Q_PROJ]}))
    with pytest.raises(InputError, match=rf"{Q_PROJ} of model was loaded as another tensor than its file holds"):
        load_model(folder, device="cpu")


# tokenizers


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", '{"version": '),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"added_tokens": []}'),
        ("tokenizer.json", ""),
        ("tokenizer_config.json", "{"),
    ],
)
def test_a_broken_tokenizer_is_refused(file, text, tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=r"cannot read the tokenizer of model: \S.*tokenizer=\.\.\.\) takes another"):
        load_model(folder, device="cpu")
    given = tokenizer_of()
    assert view_of(load_model(folder, tokenizer=given, device="cpu")).tokenizer is given


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_a_folder_without_a_tokenizer_has_none_and_half_a_one_is_refused(family, tmp_path):
    folder = save_checkpoint(family, tmp_path / "model")
    (folder / "tokenizer.json").unlink()  # transformers makes a vocabulary of nothing but special tokens then
    with pytest.raises(InputError, match=r"model has a tokenizer_config\.json, but none of tokenizer\.json, "):
        load_model(folder, device="cpu")
    (folder / "tokenizer_config.json").unlink()
    assert from_name(str(folder), "model", revision=None, dtype=torch.float32).tokenizer is None


def test_an_error_is_told_in_one_line_of_words():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(KeyError("key")) == "'key' is not known"
    assert first_line(KeyError()) == "a name is not known"
    assert first_line(IndexError("list index out of range")) == "list index out of range"
    assert first_line(AssertionError()) == "assertion error"


# quantised checkpoints


@pytest.mark.parametrize(
    ("written", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "from next year"}, "from next year"),
    ],
)
def test_a_quantised_checkpoint_is_refused_before_it_is_loaded(written, method, tmp_path, monkeypatch):
    folder = edit_config(save_checkpoint("llama", tmp_path / "model"), quantization_config=written)
    monkeypatch.setattr(checkpoints.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(InputError, match=rf"^model is quantised \({method}\): expected an unquantised checkpoint"):
        load_model(folder, device="cpu")


def test_a_saved_gguf_file_has_plain_weights(tmp_path):
    folder = edit_config(save_checkpoint("llama", tmp_path / "model"), quantization_config={"quant_method": "gguf"})
    with torch.no_grad():
        expected = hf_model("llama")(tokens()).logits
    for wrapper in ("auto", "bridge"):
        torch.testing.assert_close(logits(folder, wrapper=wrapper), expected, rtol=1e-4, atol=1e-4)


def test_a_users_quantised_model_is_refused():
    model = hf_model("llama")
    model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(
        torch.ones(48, 32, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(
        InputError, match=r"model\.layers\.1\.mlp\.up_proj\.weight of .* is a quantised Tensor of torch.int8"
    ):
        load_model(model, device="cpu")
    model = hf_model("llama")
    model.config.quantization_config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(InputError, match=r"is quantised \(bitsandbytes\)"):
        load_model(model, device="cpu")


# hub names


def test_a_revision_of_what_has_none_is_refused(tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    with pytest.raises(InputError, match=r"revision='zzz' is one of a hub name, but the folder .*model was given"):
        load_model(folder, revision="zzz", device="cpu")
    with pytest.raises(InputError, match=r"revision='zzz' is one of a hub name, but a LlamaForCausalLM was given"):
        load_model(hf_model("llama"), revision="zzz", device="cpu")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub, with a function that puts a folder into it as somebody/NAME."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))

    def put(name: str, save: Callable[[Path], object]) -> str:
        folder = cache / f"models--somebody--{name}"
        save(folder / "snapshots" / "c0ffee")
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("c0ffee")
        return f"somebody/{name}"

    return put


def test_a_hub_name_is_held_against_the_files_in_the_cache(hub, monkeypatch):
    name = hub("model", lambda folder: save_checkpoint("llama", folder, shard="20KB"))
    view = view_of(load_model(name, device="cpu"))
    assert view.info.id == name
    with torch.no_grad():
        torch.testing.assert_close(
            view.forward.logits(tokens()), hf_model("llama")(tokens()).logits, rtol=1e-4, atol=1e-4
        )
    planted(monkeypatch, lambda model: model.get_parameter(Q_PROJ)[0, 0].add_(1e-3))
    with pytest.raises(InputError, match=f"{Q_PROJ} of somebody/model was loaded as another tensor"):
        load_model(name, device="cpu")


def test_a_hub_name_may_have_no_tokenizer_but_no_broken_one(hub):
    def save(folder: Path) -> None:
        save_checkpoint("gpt2", folder)
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()

    assert from_name(hub("none", save), "none", revision=None, dtype=torch.float32).tokenizer is None

    def broken(folder: Path) -> None:
        save_checkpoint("gpt2", folder)
        (folder / "tokenizer.json").write_text("{")

    with pytest.raises(InputError, match="cannot read the tokenizer of somebody/broken: "):
        load_model(hub("broken", broken), device="cpu")


def test_an_adapter_on_the_hub_is_refused_by_name(hub):
    def save(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "somebody/base"}')

    with pytest.raises(InputError, match="somebody/adapter is an adapter and no checkpoint: download it"):
        load_model(hub("adapter", save), device="cpu")


# what of a folder is read


def weights_beside(folder: Path, name: str) -> None:
    """An index of shards that are not there, as half a download leaves it."""
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": {Q_PROJ: "shard-1-of-2"}}))


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_that_transformers_does_not_read_is_not_checked(index, tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    expected = logits(folder)
    weights_beside(folder, index)
    torch.testing.assert_close(logits(folder), expected)


@pytest.mark.parametrize("shard", [None, "20KB"])
def test_weights_are_looked_for_in_the_order_of_transformers(shard, tmp_path, monkeypatch):
    folder = save_checkpoint("llama", tmp_path / "model", shard=shard)
    torch.save({}, folder / "pytorch_model.bin")
    weights_beside(folder, "pytorch_model.bin.index.json")
    found = stated.weight_files(folder, whole=True)
    assert set(found) == set(folder.glob("*.safetensors"))
    assert (len(found) > 1) is (shard is not None)
    read = []
    honest = modeling_utils._get_resolved_checkpoint_files

    def watched(*arguments: object, **options: object) -> object:
        read.append(honest(*arguments, **options))
        return read[-1]

    monkeypatch.setattr(modeling_utils, "_get_resolved_checkpoint_files", watched)
    load_model(folder, device="cpu")
    assert sorted(map(str, read[0][0])) == sorted(map(str, found))


def test_a_file_that_the_config_names_is_the_one_that_is_compared(tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    expected = logits(folder)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    edit(save_checkpoint("llama", tmp_path / "else"), lambda state: state.update({Q_PROJ: 0 * state[Q_PROJ]}))
    (tmp_path / "else" / "model.safetensors").rename(folder / "model.safetensors")
    edit_config(folder, transformers_weights="other.safetensors")
    torch.testing.assert_close(logits(folder), expected)


# whose fault it is


OURS = [(opening, "check_folder"), (opening, "refuse_quantised")]
OURS += [(checkpoints, name) for name in ("weight_files", "check_tensors", "_check_tensor")]


@pytest.mark.parametrize(("room", "ours"), OURS, ids=[ours for _, ours in OURS])
def test_what_our_own_code_stumbles_over_is_not_told_of_the_file(room, ours, tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("ours")

    folder = save_checkpoint("llama", tmp_path / "model")
    monkeypatch.setattr(room, ours, broken)
    with pytest.raises(KeyError, match="ours"):
        load_model(folder, device="cpu")
