"""Streamed weights are those of the whole model, in every family; the oracle is the model that is loaded whole."""

import gc
import json
import re
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from lensdiff import (
    Vocabulary,
    generate,
    head_word_pairs,
    load_model,
    load_pair,
    mlp_concepts,
    ov_reading,
    rotation,
    value_rotation,
    weight_shift,
)
from lensdiff.models.equality import equal_weights
from lensdiff.models.facts import n_parameters
from lensdiff.models.inside.parts import Weight
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.others import other_weights
from lensdiff.models.streaming import stored as stored_module
from lensdiff.models.streaming import weights as weights_module
from lensdiff.models.streaming.slices import Slices
from lensdiff.models.streaming.view import StreamedView
from lensdiff.models.view import view_of
from lensdiff.results import InputError
from tests.checkpoints import FAMILIES, MORE, hf_model, save_checkpoint, tokenizer_of
from tests.gguf_files import write_gguf

LARGE = 10_000  # tokens, of which a slice has only the first
EXPERTS = "a mixture of experts"
REFUSED = {
    **dict.fromkeys(("mixtral", "qwen3_moe", "qwen3_next", "olmoe", "flex_olmo"), EXPERTS),
    "gemma4": "does not fit a model of one layer",  # embeddings of every layer, in one tensor
}
NO_WRAPPER = ("gpt_neox_without_bias", "falcon_grouped") + (("cohere",) if HookedTransformer is not None else ())


def small(**options: Any) -> dict[str, Any]:
    return {"device": "cpu", "stream": True} | options


def pair_of(folder: Path, family: str = "llama", **options: Any) -> tuple[Path, Path]:
    """Two checkpoints of a family, of other random weights."""
    return tuple(save_checkpoint(family, folder / str(seed), seed=seed, **options) for seed in (0, 1))  # pyright: ignore


@pytest.mark.parametrize("family", [*FAMILIES, *MORE])
def test_every_weight_is_that_of_the_whole_model(family: str, tmp_path: Path):
    save_checkpoint(family, tmp_path, shard="40KB")
    if family in REFUSED or family in NO_WRAPPER:
        with pytest.raises(InputError, match=REFUSED.get(family)) as refused:
            load_model(tmp_path, **small())
        if family in NO_WRAPPER:
            with pytest.raises(InputError, match=re.escape(str(refused.value)[:60])):
                load_model(tmp_path, device="cpu")
        return
    streamed, whole = load_model(tmp_path, **small()), view_of(load_model(tmp_path, device="cpu"))
    assert streamed.info == whole.info
    assert streamed.weights.sizes == whole.weights.sizes
    assert list(streamed.weights.known()) == list(whole.weights.known())
    for weight in whole.weights.known():
        expected, found = whole.weights.read(weight), streamed.weights.read(weight)
        assert torch.equal(found, expected), weight
    mine, theirs = other_weights(streamed), other_weights(whole)
    assert set(mine) == set(theirs)
    for weight, expected in theirs.items():
        assert torch.equal(mine[weight], expected), weight
    assert n_parameters(streamed) == n_parameters(whole)


@pytest.mark.parametrize(("architecture", "family"), [("llama", "llama"), ("qwen3", "qwen3"), ("gemma3", "gemma3")])
def test_a_gguf_file_is_streamed(architecture: str, family: str, tmp_path: Path):
    model = hf_model(family, head_dim=16)
    path = write_gguf(tmp_path / "model.gguf", model, architecture, keys=lambda writer: windows(writer, architecture))
    streamed, whole = load_model(path, **small()), view_of(load_model(path, device="cpu"))
    assert streamed.info == whole.info
    for weight in whole.weights.known():
        assert torch.equal(streamed.weights.read(weight), whole.weights.read(weight)), weight
    assert streamed.tokenizer.get_vocab() == whole.tokenizer.get_vocab()


def windows(writer: gguf.GGUFWriter, architecture: str) -> None:
    if architecture == "gemma3":
        writer.add_sliding_window(16)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_analyses_of_weights_say_the_same(dtype: str, tmp_path: Path):
    base, tuned = pair_of(tmp_path)
    options: dict[str, Any] = {"device": "cpu", "dtype": dtype}
    streamed, whole = load_pair(base, tuned, stream=True, **options), load_pair(base, tuned, **options)
    words = Vocabulary.of(("sea", "moon", "word", "fruit", "city", "bridge", "plan", "shop"))
    pd.testing.assert_frame_equal(weight_shift(streamed).to_df(), weight_shift(whole).to_df())
    pd.testing.assert_frame_equal(streamed.differences(), whole.differences())
    for one, other in ((streamed.base, whole.base), (streamed.tuned, whole.tuned)):
        found = [mlp_concepts(m, words, n_components=4).to_df() for m in (one, other)]
        pd.testing.assert_frame_equal(*found, rtol=1e-6, atol=1e-6)
        found = [head_word_pairs(m, words, top_k=5).to_df() for m in (one, other)]
        pd.testing.assert_frame_equal(*found, rtol=1e-6, atol=1e-6)
        found = [ov_reading(m, words).to_df() for m in (one, other)]
        pd.testing.assert_frame_equal(*found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["spectrum", "norm"])
def test_controls_of_random_directions_are_those_of_the_whole_pair(kind: str, tmp_path: Path):
    folders = pair_of(tmp_path)
    pairs = [load_pair(*folders, device="cpu", stream=stream) for stream in (True, False)]
    words = Vocabulary.of(("sea", "moon", "word"))
    angles = []
    for pair in pairs:
        base, tuned = (mlp_concepts(m, words, n_components=4) for m in (pair.base, pair.tuned))
        angles.append(rotation(base, tuned, ranks=(1, 2), controls=[pair.control(kind, 3)]).to_df())
    pd.testing.assert_frame_equal(*angles, rtol=1e-6, atol=1e-6)
    found = [value_rotation(pair, controls=[pair.control(kind, 3)]).to_df() for pair in pairs]
    pd.testing.assert_frame_equal(*found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["distilled", "gradient-noise"])
def test_controls_of_gradients_are_refused(kind: str, tmp_path: Path):
    pair = load_pair(*pair_of(tmp_path), **small())
    with pytest.raises(InputError, match="is streamed"):
        _ = pair.control(kind, 0, cache=None).weights.matrix(0, "W_in")


def test_no_pass_is_made(tmp_path: Path):
    model = load_model(save_checkpoint("llama", tmp_path), **small())
    for asked in (lambda: generate(model, "Write"), lambda: model.model, model.whole, lambda: model.forward):
        with pytest.raises(InputError, match="is streamed: its weights are read layer by layer and no model is built"):
            asked()
    assert not model.is_made
    assert "streamed: weights alone" in repr(model)


def test_one_layer_is_in_memory(tmp_path: Path):
    model = load_model(save_checkpoint("llama", tmp_path, num_hidden_layers=4), **small())
    assert isinstance(model, StreamedView)
    held = []
    for layer in range(4):
        model.weights.matrix(layer, "W_in")
        assert model.streamed._layer is not None
        held.append(weakref.ref(model.streamed._layer[1].model))
    assert [one() is not None for one in held] == [False, False, False, True]
    assert model.weights.W_E.shape[0] == model.d_vocab  # the embeddings take the layer's place
    gc.collect()
    assert held[-1]() is None
    assert model.streamed._layer is None
    model.free()
    assert not model.streamed._outside


def test_a_weight_is_read_from_the_files_at_each_time(tmp_path: Path):
    model, file = load_model(save_checkpoint("llama", tmp_path), **small()), tmp_path / "model.safetensors"
    before = model.weights.matrix(1, "W_in").clone()
    model.free()
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"] *= 2
    save_file(tensors, file, metadata={"format": "pt"})
    assert torch.equal(model.weights.matrix(1, "W_in"), 2 * before)


def test_rows_beyond_a_slices_vocabulary_are_read(tmp_path: Path):
    folder = save_checkpoint("gpt2", tmp_path, vocab_size=LARGE)
    streamed, whole = load_model(folder, **small()), view_of(load_model(folder, device="cpu"))
    assert streamed.d_vocab == LARGE
    assert torch.equal(streamed.weights.W_E, whole.weights.W_E)
    assert torch.equal(streamed.weights.W_U, whole.weights.W_U)
    assert torch.equal(streamed.weights.W_pos, whole.weights.W_pos)


def test_equal_checkpoints_are_told_and_one_number_is_enough(tmp_path: Path):
    base = save_checkpoint("llama", tmp_path / "base")
    other = tmp_path / "other"
    shutil.copytree(base, other)
    assert load_pair(base, other, **small()).equal
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    pair = load_pair(base, other, **small())
    assert not pair.equal
    moved = weight_shift(pair).to_df()
    assert set(moved[moved.relative_norm > 0].matrix) == {"W_in"}
    assert not equal_weights(view_of(pair.base), view_of(load_model(base, device="cpu")))


def edited(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    save_checkpoint("llama", folder)
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


NAME = "model.layers.1.mlp.up_proj.weight"
EDITS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda tensors: tensors.pop(NAME), f"lack {NAME}"),
    "unknown": (lambda tensors: tensors.update(extra=torch.ones(2)), "hold extra, for which a LlamaForCausalLM has"),
    "shape": (lambda tensors: tensors.update({NAME: torch.ones(3, 4)}), r"has the shape \(3, 4\), expected \(48, 32\)"),
    "nan": (lambda tensors: tensors[NAME][0, 0].fill_(torch.nan), f"weight {NAME} of the checkpoint is not finite"),
    "integers": (lambda tensors: tensors.update({NAME: tensors[NAME].to(torch.int8)}), "is stored as torch.int8"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_that_is_not_the_model_is_refused(edit: str, tmp_path: Path):
    change, said = EDITS[edit]
    with pytest.raises(InputError, match=said):
        load_model(edited(tmp_path, change), **small())


def test_of_a_layer_that_was_found_finite_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch):
    save_checkpoint("llama", tmp_path)
    looked, isfinite = [], torch.Tensor.isfinite

    def looking(value: torch.Tensor) -> torch.Tensor:
        looked.append(value.numel())
        return isfinite(value)

    monkeypatch.setattr(torch.Tensor, "isfinite", looking)
    streamed = load_model(tmp_path, **small())
    every = sum(tensor.numel() for name, tensor in load_file(tmp_path / "model.safetensors").items() if ".1." in name)
    assert sum(looked) > 2 * every
    looked.clear()
    assert streamed.weights.stored(Weight("W_in", 1)) is not None
    assert not looked
    assert streamed.weights.stored(Weight("W_U")) is not None  # of which only the first rows were looked at
    assert sum(looked) >= 400 * 32


@pytest.mark.parametrize(("room", "ours"), [(Slices, "_config"), (stored_module, "own_of"), (weights_module, "_take")])
def test_what_our_own_code_stumbles_over_is_not_told_of_the_file(room: Any, ours: str, tmp_path: Path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(room, ours, broken)
    with pytest.raises(KeyError, match="ours"):
        load_model(save_checkpoint("llama", tmp_path), **small())


def test_what_cannot_be_streamed_is_said(tmp_path: Path):
    folder = save_checkpoint("llama", tmp_path / "whole")
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (hf_model("llama"), {}, "reads a checkpoint's files, but a LlamaForCausalLM was given"),
        (folder, {"weights": "folded"}, "reads weights as they are"),
        (folder, {"base": folder}, "which an adapter has"),
        (tmp_path / "adapter", {}, "is a LoRA adapter, which cannot be streamed"),
        (tmp_path / "bin", {}, "has no .safetensors files"),
        (tmp_path / "nothing", {}, ""),
    ]
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    shutil.copytree(folder, tmp_path / "bin")
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "bin" / "pytorch_model.bin")
    (tmp_path / "bin" / "model.safetensors").unlink()
    for source, options, said in refused:
        with pytest.raises(InputError, match=said):
            load_model(source, **small(**options))


def test_a_wrapper_that_disagrees_in_one_layer_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if HookedTransformer is None:
        pytest.skip("this transformer-lens has one wrapper alone")
    real, seen = weights_module.verify, []

    def verify(view: Any, expected: Any, *, folded: bool) -> None:
        seen.append(view.info.wrapper)
        if seen == ["hooked", "hooked"]:
            raise InputError("logits differ")
        real(view, expected, folded=folded)

    monkeypatch.setattr(weights_module, "verify", verify)
    model = load_model(save_checkpoint("llama", tmp_path), **small())
    assert seen == ["hooked", "hooked", "bridge", "bridge"]
    assert model.info.wrapper == "bridge"
    assert "in place of a HookedTransformer: logits differ" in model.info.notes[-1]
    monkeypatch.setattr(weights_module, "verify", lambda *_, **__: pytest.fail("asked not to verify"))
    load_model(tmp_path, **small(verify=False))


def test_a_tokenizer_may_be_given(tmp_path: Path):
    folder = save_checkpoint("llama", tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert load_model(folder, **small())._tokenizer is None
    assert load_model(folder, **small(tokenizer=tokenizer_of())).tokenizer.get_vocab() == tokenizer_of().get_vocab()
    assert load_model(folder, **small()).weights.stored(Weight("W_pos")) is None
