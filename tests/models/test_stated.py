"""What a checkpoint's files say before a weight is read, held against the model that they become."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lensdiff.models import load_model, view_of
from lensdiff.models.loading.headers import LENGTH, Header, read_header, stored_shapes
from lensdiff.models.stand_in import changed, random_model, reduced
from lensdiff.results import InputError
from tests.checkpoints import FAMILIES, MORE, hf_model, save_checkpoint, tokenizer_of
from tests.gguf_files import write_gguf

LOADED = ("llama", "gpt2", "gpt_neox", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "bloom", "phi", "opt")
KNOWN = tuple(name for name in LOADED if name in FAMILIES | MORE)
SIZES = ("n_layers", "n_heads", "n_key_value_heads", "d_model", "d_head", "d_mlp", "d_vocab", "n_ctx")


def without_weights(file: Path) -> None:
    """Cut a safetensors file off behind its header."""
    with file.open("r+b") as opened:
        opened.truncate(LENGTH + int.from_bytes(opened.read(LENGTH), "little"))


def numbers(header: Header) -> dict[str, Any]:
    return {"n_parameters": header.n_parameters, "n_bytes": header.n_bytes, "config": header.config.to_dict()}


@pytest.mark.parametrize("family", KNOWN)
def test_sizes_and_parameters_are_those_of_the_loaded_model(family, tmp_path):
    folder = save_checkpoint(family, tmp_path / family)
    found = read_header(str(folder))
    view = view_of(load_model(folder, device="cpu", verify=False))
    stated = found.sizes(torch.float32, "cpu")
    assert {name: getattr(stated, name) for name in SIZES} == {name: getattr(view, name) for name in SIZES}
    assert found.n_parameters == hf_model(family).num_parameters()
    assert found.n_bytes == sum(value.nbytes for value in load_file(folder / "model.safetensors").values())
    assert found.tokenizer("the sea")["input_ids"] == tokenizer_of()("the sea")["input_ids"]  # pyright: ignore


def test_most_families_are_tried():
    assert len(KNOWN) >= 8


def test_a_header_stands_where_the_weights_are_gone(tmp_path):
    folder = save_checkpoint("llama", tmp_path / "whole", shard="100KB")
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 1
    before, shapes = numbers(read_header(str(folder))), [stored_shapes(file) for file in files]
    assert shapes == [{name: tuple(value.shape) for name, value in load_file(file).items()} for file in files]
    for file in files:
        without_weights(file)
    assert numbers(read_header(str(folder))) == before
    assert [stored_shapes(file) for file in files] == shapes
    with pytest.raises(InputError):
        load_model(folder, device="cpu")


def test_a_gguf_files_weights_are_not_read(tmp_path):
    model = hf_model("llama")
    path = write_gguf(tmp_path / "model.gguf", model, "llama")
    before, shapes = numbers(read_header(str(path))), model.num_parameters()
    with path.open("r+b") as file:  # the last tensor's numbers are no numbers any more
        file.seek(-4096, 2)
        file.write(np.full(1024, np.nan, dtype="<f4").tobytes())
    found = read_header(str(path))
    assert numbers(found) == before
    assert found.n_parameters == found.n_dequantised == shapes
    view = view_of(load_model(model, tokenizer=tokenizer_of(), device="cpu", verify=False))
    stated = found.sizes(torch.float32, "cpu")
    assert {name: getattr(stated, name) for name in SIZES} == {name: getattr(view, name) for name in SIZES}


def adapter(tmp_path: Path) -> Path:
    peft: Any = pytest.importorskip("peft")
    save_checkpoint("llama", tmp_path / "base")
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(hf_model("llama"), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapters_header_says_what_it_changes_and_by_which_rank(tmp_path):
    folder = adapter(tmp_path)
    base = read_header(str(tmp_path / "base"))
    without_weights(folder / "adapter_model.safetensors")
    found = read_header(str(folder), base=base)
    names = {f"model.layers.{layer}.{name}" for layer in range(2) for name in ("self_attn.q_proj", "mlp.down_proj")}
    assert found.changed == dict.fromkeys(names, 3)
    assert (found.id, found.n_parameters, base.changed) == ("adapter", base.n_parameters, None)


FAULTS = {
    "no length": b"abc",
    "longer than the file": struct.pack("<Q", 10**6) + b"{}",
    "no JSON": struct.pack("<Q", 5) + b"{abc}",
    "no shape": struct.pack("<Q", 17) + b'{"a": {"dtype":1}',
    "something else": struct.pack("<Q", 10) + b'{"a": 123}',
}


@pytest.mark.parametrize("content", FAULTS.values(), ids=FAULTS)
def test_a_header_that_cannot_be_meant_is_refused_by_its_file(content, tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"^the header of .*model\.safetensors cannot be read: "):
        read_header(str(folder))


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="no model folder at"):
        read_header(str(tmp_path / "gone"))
    folder = save_checkpoint("llama", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has a config\.json and no file of weights"):
        read_header(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "nothing-known"}))
    with pytest.raises(InputError):
        read_header(str(folder))


# stand-ins
@pytest.mark.parametrize("family", KNOWN)
def test_a_stand_in_is_its_family_of_fewer_layers(family):
    model = hf_model(family)
    short = random_model(reduced(model.config, 1), torch.float32, family)
    assert type(short) is type(model)
    whole, one = (found.num_parameters() for found in (model, short))
    empty = whole - 2 * (whole - one)  # without a layer
    assert 0 < empty < one < whole
    assert all(bool(torch.isfinite(value).all()) for value in short.parameters())
    ends: Any = short
    head, embedding = ends.get_output_embeddings().weight, ends.get_input_embeddings().weight
    assert torch.equal(head, embedding) == bool(model.config.get_text_config().tie_word_embeddings)
    logits = short(torch.arange(5)[None]).logits
    assert logits.shape[-1] == model.config.get_text_config().vocab_size
    assert bool(torch.isfinite(logits).all())


def test_a_narrower_stand_in_keeps_the_width_of_a_head():
    config = hf_model("llama").config
    narrow = reduced(config, 1, narrower=2, d_vocab=50)
    assert (narrow.hidden_size, narrow.num_attention_heads) == (
        config.hidden_size // 2,
        config.num_attention_heads // 2,
    )
    assert (narrow.intermediate_size, narrow.vocab_size) == (config.intermediate_size // 2, 50)
    assert config.num_hidden_layers == 2, "the checkpoint's own config stays as it is"
    assert bool(torch.isfinite(random_model(narrow, torch.float32, "x")(torch.arange(5)[None]).logits).all())


def test_the_stand_in_of_a_tuned_model_changes_what_its_files_say():
    base = random_model(reduced(hf_model("llama").config, 1), torch.float32, "x")
    name = "model.layers.0.self_attn.q_proj"
    tuned = changed(base, {name: 3, "model.layers.1.self_attn.q_proj": 3})
    before, after = dict(base.named_parameters()), dict(tuned.named_parameters())
    assert [key for key in before if not torch.equal(before[key], after[key])] == [f"{name}.weight"]
    assert int(torch.linalg.matrix_rank((after[f"{name}.weight"] - before[f"{name}.weight"]).double(), rtol=1e-3)) == 3
    whole = dict(changed(base, None).named_parameters())
    assert not any(torch.equal(before[key], whole[key]) for key in before)
