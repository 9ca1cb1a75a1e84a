"""GGUF files: rotary scaling, metadata and tensors become what the file says, or are refused by name.

The oracle is a `transformers` model made with the options that the file describes; the file is written by the `gguf`
package, under its own table of names.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lensdiff.models import load_model, view_of
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.loading import gguf_file
from lensdiff.models.loading.gguf_file import bos_note, load_gguf
from lensdiff.models.loading.gguf_metadata import GGUFFile
from lensdiff.results import InputError
from tests.checkpoints import VOCABULARY, hf_model, tokenizer_of
from tests.gguf_files import Tensors, write_gguf

D_HEAD, THETA = 16, 5000.0
LONG = torch.randint(3, VOCABULARY, (1, 120), generator=torch.Generator().manual_seed(1))
LLAMA3 = {"rope_type": "llama3", "rope_theta": THETA, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}


def llama(**rope: Any) -> PreTrainedModel:
    parameters = {"rope_type": "default", "rope_theta": THETA} | rope
    return hf_model("llama", head_dim=D_HEAD, rope_parameters=parameters)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(LONG).logits


def assert_same_function(path: Path, expected: PreTrainedModel, wrapper: str | None = None) -> tuple[str, ...]:
    """Assert that a file loads as `expected` over a text longer than the original context, and return its notes."""
    loaded = load_model(path, device="cpu")
    if wrapper is not None:
        assert view_of(loaded).info.wrapper == (wrapper if HookedTransformer is not None else "bridge")
    found, right = view_of(loaded).forward.logits(LONG), logits(expected)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-4 * float(right.abs().max()))
    return load_gguf(path, torch.float32)[2]


def wavelengths() -> np.ndarray:
    return 2 * math.pi * THETA ** (np.arange(0, D_HEAD, 2) / D_HEAD)


def llama3_tensor(original: int, factor: float = 8.0) -> Tensors:
    """`rope_freqs.weight` by the piecewise rule of Llama 3.1, wavelength by wavelength."""
    factors = []
    for wavelength in wavelengths():
        if wavelength < original / 4.0:
            factors.append(1.0)
        elif wavelength > original / 1.0:
            factors.append(factor)
        else:
            smooth = (original / wavelength - 1.0) / (4.0 - 1.0)
            factors.append(1.0 / ((1.0 - smooth) / factor + smooth))
    assert any(1.0 < value < factor for value in factors)  # the mixed range is there
    return {"rope_freqs.weight": np.array(factors, dtype=np.float32)}


# rotary scaling


def test_a_file_without_scaling_is_the_model_and_says_nothing(tmp_path):
    assert assert_same_function(write_gguf(tmp_path / "m.gguf", llama()), llama(), "hooked") == ()


def test_llama_3_factors_are_recognised_by_their_formula(tmp_path):
    def keys(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_orig_ctx_len(64)

    path = write_gguf(tmp_path / "m.gguf", llama(), keys=keys, tensors=llama3_tensor(64))
    right, plain = logits(llama(**LLAMA3)), logits(llama())
    assert float((right - plain).abs().max() / right.abs().max()) > 0.01  # the scaling matters here
    assert assert_same_function(path, llama(**LLAMA3), "hooked") == ()
    assert load_gguf(path, torch.float32)[0].config.rope_parameters["rope_type"] == "llama3"


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_released_llamas_need_no_key(tmp_path, factor):
    tensors = llama3_tensor(8192, factor)
    path = write_gguf(tmp_path / "m.gguf", llama(), tensors=tensors)
    found = load_gguf(path, torch.float32)[0].config.rope_parameters
    # wavelengths of this base end below 8192 positions: they are mixed, so the factor is not the largest entry
    assert (found["rope_type"], found["factor"]) == ("llama3", factor)
    assert found["original_max_position_embeddings"] == 8192


def test_other_factors_are_taken_as_they_are(tmp_path):
    factors = np.linspace(1.0, 3.0, D_HEAD // 2).astype(np.float32)
    expected = llama()
    rotary = expected.model.rotary_emb
    rotary.inv_freq = rotary.inv_freq / torch.from_numpy(factors)  # llama.cpp's meaning of the tensor
    path = write_gguf(tmp_path / "m.gguf", llama(), tensors={"rope_freqs.weight": factors})
    assert float((logits(expected) - logits(llama())).abs().max()) > 0.01
    assert assert_same_function(path, expected, "bridge") == ()


def test_factors_of_one_change_nothing(tmp_path):
    ones = {"rope_freqs.weight": np.ones(D_HEAD // 2, dtype=np.float32)}
    assert_same_function(write_gguf(tmp_path / "m.gguf", llama(), tensors=ones), llama(), "hooked")


def linear(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


def linear_without_a_type(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_factor(4.0)


def linear_by_its_old_name(writer: gguf.GGUFWriter) -> None:
    writer.add_float32("llama.rope.scale_linear", 4.0)


@pytest.mark.parametrize("keys", [linear, linear_without_a_type, linear_by_its_old_name])
def test_linear_scaling(tmp_path, keys):
    path = write_gguf(tmp_path / "m.gguf", llama(), keys=keys)
    assert assert_same_function(path, llama(rope_type="linear", factor=4.0), "bridge") == ()


def yarn(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(96)
    writer.add_rope_scaling_yarn_beta_fast(2.0)
    writer.add_rope_scaling_yarn_beta_slow(0.1)


def test_yarn_scaling(tmp_path):
    usual = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 96}
    path = write_gguf(tmp_path / "m.gguf", llama(), keys=yarn)
    for betas in ({}, {"beta_fast": 2.0}, {"beta_slow": 0.1}):
        with pytest.raises(AssertionError):
            assert_same_function(path, llama(**usual, **betas))
    assert_same_function(path, llama(**usual, beta_fast=2.0, beta_slow=0.1), "bridge")


@pytest.mark.parametrize("name", ["attn_factor", "yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier"])
def test_what_yarn_has_no_name_for_is_refused(tmp_path, name):
    def keys(writer: gguf.GGUFWriter) -> None:
        yarn(writer)
        writer.add_float32(f"llama.rope.scaling.{name}", 0.7)

    with pytest.raises(InputError, match=rf"llama\.rope\.scaling\.{name} = 0\.69"):
        load_model(write_gguf(tmp_path / "m.gguf", llama(), keys=keys))


def test_an_unknown_scaling_is_refused_by_its_key(tmp_path):
    path = write_gguf(
        tmp_path / "m.gguf", llama(), keys=lambda writer: writer.add_string("llama.rope.scaling.type", "spiral")
    )
    with pytest.raises(InputError, match=r"llama\.rope\.scaling\.type = 'spiral', expected none, linear, yarn"):
        load_model(path)


def test_two_scalings_are_refused(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", llama(), keys=linear, tensors=llama3_tensor(64))
    with pytest.raises(InputError, match=r"scales its rotary frequencies twice: by rope_freqs\.weight and 'linear'"):
        load_model(path)


def test_scaling_of_an_architecture_that_is_not_checked_is_refused(tmp_path):
    def keys(writer: gguf.GGUFWriter) -> None:
        writer.add_string("stablelm.rope.scaling.type", "yarn")

    path = write_gguf(tmp_path / "m.gguf", llama(), "stablelm", keys=keys)
    with pytest.raises(InputError, match=r"stablelm\.rope\.scaling\.type = 'yarn', which is mapped for llama"):
        load_model(path)


# architectures


def gemma2_keys(writer: gguf.GGUFWriter) -> None:
    writer.add_attn_logit_softcapping(2.0)
    writer.add_final_logit_softcapping(3.0)
    writer.add_sliding_window(16)


def gemma3_keys(writer: gguf.GGUFWriter) -> None:
    writer.add_sliding_window(16)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)  # of the layers that see everything alone
    writer.add_rope_scaling_factor(4.0)


def phi3_keys(writer: gguf.GGUFWriter) -> None:
    writer.add_sliding_window(24)


def gemma3() -> PreTrainedModel:
    from transformers import Gemma3TextConfig

    from tests import checkpoints

    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0},
    }
    options = checkpoints._GEMMA | {"query_pre_attn_scalar": 8, "sliding_window": 16, "num_hidden_layers": 7}
    config = Gemma3TextConfig(**options, rope_parameters=rope)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


MODELS: dict[str, tuple[Callable[[], PreTrainedModel], Callable[[gguf.GGUFWriter], None]]] = {
    "qwen2": (lambda: hf_model("qwen2"), lambda writer: None),
    "qwen3": (lambda: hf_model("qwen3"), lambda writer: None),
    "gemma2": (lambda: hf_model("gemma2"), gemma2_keys),
    "gemma3": (gemma3, gemma3_keys),
    "phi3": (lambda: hf_model("phi3", sliding_window=24), phi3_keys),
}


@pytest.mark.parametrize("architecture", MODELS)
def test_other_architectures_are_what_the_file_says(tmp_path, architecture):
    make, keys = MODELS[architecture]
    path = write_gguf(tmp_path / "m.gguf", make(), architecture, keys=keys)
    assert assert_same_function(path, make()) == ()


def test_phi_3_long_and_short_factors(tmp_path):
    short, long = (np.linspace(1.0, end, 4).astype(np.float32) for end in (1.5, 6.0))

    def keys(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_orig_ctx_len(32)
        writer.add_rope_scaling_attn_factors(1.25)

    tensors = {"rope_factors_short.weight": short, "rope_factors_long.weight": long}
    path = write_gguf(tmp_path / "m.gguf", hf_model("phi3"), "phi3", keys=keys, tensors=tensors)
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "attention_factor": 1.25, "factor": 4.0}
    rope |= {"short_factor": short.tolist(), "long_factor": long.tolist(), "original_max_position_embeddings": 32}
    expected = hf_model("phi3", rope_parameters=rope, original_max_position_embeddings=32)
    assert float((logits(expected) - logits(hf_model("phi3"))).abs().max()) > 0.01
    assert_same_function(path, expected)


def test_a_llama_with_biases(tmp_path):
    options: dict[str, Any] = {"head_dim": D_HEAD, "attention_bias": True}
    path = write_gguf(tmp_path / "m.gguf", hf_model("llama", **options))
    assert_same_function(path, hf_model("llama", **options), "bridge")


def test_an_architecture_that_is_not_checked_says_so(monkeypatch, tmp_path):
    from lensdiff.models.loading import gguf_file

    monkeypatch.setattr(gguf_file, "LAYER_NAMES", {"qwen2": {}})
    found = load_gguf(write_gguf(tmp_path / "m.gguf", llama()), torch.float32)
    assert found[2] == ("metadata and tensors of a llama are not checked (of qwen2 they are)",)


def test_a_missing_tensor_of_an_architecture_that_is_not_checked_is_refused(monkeypatch, tmp_path):
    from lensdiff.models.loading import gguf_file

    monkeypatch.setattr(gguf_file, "LAYER_NAMES", {"qwen2": {}})
    path = write_gguf(tmp_path / "m.gguf", llama(), tensors={"blk.1.attn_k.weight": None})
    with pytest.raises(InputError, match=r"its files lack model\.layers\.1\.self_attn\.k_proj\.weight"):
        load_gguf(path, torch.float32)


# metadata


def test_keys_that_transformers_does_not_read_are_put_into_the_config(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", hf_model("gemma2"), "gemma2", keys=gemma2_keys)
    config = load_gguf(path, torch.float32)[0].config
    assert (config.attn_logit_softcapping, config.final_logit_softcapping, config.sliding_window) == (2.0, 3.0, 16)
    assert config.query_pre_attn_scalar == 8


def test_missing_keys_mean_what_llama_cpp_takes_them_for(tmp_path):
    absent = dict.fromkeys(["attention.key_length", "attention.value_length", "vocab_size", "rope.dimension_count"])
    path = write_gguf(tmp_path / "m.gguf", hf_model("llama"), sizes=absent)
    assert_same_function(path, hf_model("llama"))
    model = hf_model("qwen2", num_key_value_heads=4)  # as many as query heads, where nothing is said
    path = write_gguf(tmp_path / "n.gguf", model, "qwen2", sizes=absent | {"attention.head_count_kv": None})
    assert_same_function(path, model)


def test_a_llama_without_key_value_heads_is_one_that_transformers_reads_wrongly(tmp_path):
    model = hf_model("llama", num_key_value_heads=4)
    path = write_gguf(tmp_path / "m.gguf", model, sizes={"attention.head_count_kv": None})
    with pytest.raises(InputError, match=r"transformers read blk\.0\.attn_q\.weight of m\.gguf wrongly"):
        load_model(path)


def test_a_key_that_nobody_knows_is_noted(tmp_path):
    def keys(writer: gguf.GGUFWriter) -> None:
        writer.add_uint32("llama.mystery", 3)
        writer.add_string("somebody.else", "here")
        writer.add_uint32("llama.expert_count", 0)
        writer.add_string("quantize.imatrix.file", "x.dat")

    path = write_gguf(tmp_path / "m.gguf", llama(), keys=keys)
    assert load_gguf(path, torch.float32)[2] == ("nobody read the file's metadata llama.mystery, somebody.else",)


REFUSED: dict[str, tuple[Callable[[gguf.GGUFWriter], None], str]] = {
    "experts": (lambda w: w.add_expert_count(4), r"llama\.expert_count = 4, which changes what the model computes"),
    "logit scale": (lambda w: w.add_logit_scale(0.5), r"llama\.logit_scale = 0\.5, which changes"),
    "window": (lambda w: w.add_sliding_window(8), r"llama\.attention\.sliding_window = 8, but a llama has no windows"),
    "cap": (
        lambda w: w.add_final_logit_softcapping(30.0),
        r"llama\.final_logit_softcapping = 30\.0, but a llama caps nothing",
    ),
    "scale": (
        lambda w: w.add_float32("llama.attention.scale", 0.5),
        r"llama\.attention\.scale = 0\.5, expected 0\.25, as transformers",
    ),
    "pattern": (
        lambda w: w.add_array("llama.attention.sliding_window_pattern", [True, False]),
        r"llama\.attention\.sliding_window_pattern = \[True, False\], but every layer of a llama is the same",
    ),
    "split": (lambda w: w.add_uint16("split.count", 2), r"split\.count = 2, expected 1: a whole model in one file"),
    "type": (lambda w: w.add_type("adapter"), r"general\.type = 'adapter', expected 'model'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_model_would_not_do_is_refused_by_name(tmp_path, what):
    keys, message = REFUSED[what]
    with pytest.raises(InputError, match=message):
        load_model(write_gguf(tmp_path / "m.gguf", llama(), keys=keys))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("context_length", None, r"has no llama\.context_length, which every llama needs"),
        ("attention.value_length", 8, r"value_length = 8, but keys have 16 dimensions"),
        ("rope.dimension_count", 8, r"rope\.dimension_count = 8, expected all 16 dimensions of a head"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path, name, value, message):
    with pytest.raises(InputError, match=message):
        load_model(write_gguf(tmp_path / "m.gguf", llama(), sizes={name: value}))


def test_heads_that_differ_by_layer_are_refused(tmp_path):
    def keys(writer: gguf.GGUFWriter) -> None:
        writer.add_array("llama.attention.head_count_kv", [2, 4])

    path = write_gguf(tmp_path / "m.gguf", llama(), keys=keys, sizes={"attention.head_count_kv": None})
    with pytest.raises(InputError, match=r"head_count_kv = \[2, 4\], expected the same in every layer"):
        load_model(path)


def test_a_gemma_3_without_a_window_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no gemma3\.attention\.sliding_window, which it needs"):
        load_model(write_gguf(tmp_path / "m.gguf", gemma3(), "gemma3"))


NUMBER, WHOLE = "expected a number", "expected a whole number of at least 1"
OTHER_KINDS: dict[str, tuple[Callable[[gguf.GGUFWriter], None], str]] = {
    "factor": (lambda w: w.add_string("llama.rope.scaling.factor", "8"), rf"factor = '8', {NUMBER}"),
    "scale": (lambda w: w.add_bool("llama.attention.scale", True), rf"attention\.scale = True, {NUMBER}"),
    "cap": (lambda w: w.add_array("llama.final_logit_softcapping", [1.0]), rf"softcapping = \[1\.0\], {NUMBER}"),
    "context": (
        lambda w: w.add_uint32("llama.rope.scaling.original_context_length", 0),
        rf"original_context_length = 0, {WHOLE}",
    ),
    "window": (
        lambda w: w.add_string("llama.attention.sliding_window", "8"),
        r"sliding_window = '8', expected a whole number of at least 0",
    ),
}


@pytest.mark.parametrize("what", OTHER_KINDS)
def test_a_key_of_another_kind_is_refused_by_name(tmp_path, what):
    keys, message = OTHER_KINDS[what]
    path = write_gguf(tmp_path / "m.gguf", llama(), keys=keys, tensors=llama3_tensor(64) if what == "context" else {})
    with pytest.raises(InputError, match=rf"^m\.gguf has llama\.\S*{message}$"):
        load_model(path, device="cpu")


@pytest.mark.parametrize("pattern", [0, [True], "local"])
def test_a_pattern_of_windows_that_is_none_is_refused(tmp_path, pattern):
    def keys(writer: gguf.GGUFWriter) -> None:
        gemma3_keys(writer)
        name = "gemma3.attention.sliding_window_pattern"
        if isinstance(pattern, list):
            writer.add_array(name, pattern)
        elif isinstance(pattern, str):
            writer.add_string(name, pattern)
        else:
            writer.add_uint32(name, pattern)

    message = r"sliding_window_pattern = .*, expected a whole number of at least 1, or a value for every layer$"
    with pytest.raises(InputError, match=message):
        load_model(write_gguf(tmp_path / "m.gguf", gemma3(), "gemma3", keys=keys), device="cpu")


def test_sizes_that_are_given_by_layer_and_alike_are_one(tmp_path):
    def keys(writer: gguf.GGUFWriter) -> None:
        writer.add_array("llama.attention.key_length", [D_HEAD, D_HEAD])

    path = write_gguf(tmp_path / "m.gguf", llama(), keys=keys, sizes={"attention.key_length": None})
    config = gguf_file.AutoConfig.for_model("llama")
    file = GGUFFile.read(path)
    gguf_file._settle(config, file)
    assert config.head_dim == D_HEAD


def test_an_embedding_of_no_axis_is_refused(tmp_path):
    file = GGUFFile.read(write_gguf(tmp_path / "m.gguf", llama(), sizes={"vocab_size": None}))
    bare = file.tensors["token_embd.weight"]._replace(shape=np.array([], dtype=np.uint32))
    file = replace(file, tensors={**file.tensors, "token_embd.weight": bare})
    with pytest.raises(InputError, match=r"token_embd\.weight of m\.gguf has no axis, expected a row for every token"):
        gguf_file._settle(gguf_file.AutoConfig.for_model("llama"), file)


@pytest.mark.parametrize("ours", ["_settle", "_parts", "_parameter_of", "_compare"])
def test_what_our_own_code_stumbles_over_is_not_told_of_the_file(ours, tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise TypeError("ours")

    path = write_gguf(tmp_path / "m.gguf", llama())
    monkeypatch.setattr(gguf_file, ours, broken)
    with pytest.raises(TypeError, match="ours"):
        load_model(path, device="cpu")


def test_what_transformers_cannot_read_is_one_sentence(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", llama(), keys=lambda writer: writer.add_name("mistral"))
    with pytest.raises(
        InputError, match=r"cannot load m\.gguf: .*mistral"
    ):  # of that name it makes a Mistral, and fails
        load_model(path)


def test_a_file_that_is_no_gguf_file_is_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"nothing of the kind" * 10)
    with pytest.raises(InputError, match="cannot be read as a GGUF file"):
        load_model(tmp_path / "m.gguf")


@pytest.mark.parametrize("prepends", [True, False])
def test_another_habit_of_the_tokenizer_is_noted(tmp_path, prepends):
    path = write_gguf(tmp_path / "m.gguf", llama(), keys=lambda writer: writer.add_add_bos_token(prepends))
    _, tokenizer, notes = load_gguf(path, torch.float32)
    assert tokenizer is not None
    assert notes == ()
    assert (tokenizer.encode("a")[0] == 1) == prepends
    said = {True: "prepends a BOS", False: "prepends none"}
    (note,) = bos_note(GGUFFile.read(path), tokenizer_of(not prepends))
    assert note == f"the file's tokenizer {said[prepends]}, as transformers reads it it {said[not prepends]}"


def test_a_file_without_a_tokenizer_has_none_and_a_broken_one_is_refused(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", llama(), tokenizer=lambda writer, config: None)
    assert load_gguf(path, torch.float32)[1] is None
    path = write_gguf(tmp_path / "n.gguf", llama(), tokenizer=lambda writer, config: writer.add_tokenizer_model("none"))
    assert load_gguf(path, torch.float32)[1] is None
    path = write_gguf(tmp_path / "b.gguf", llama(), tokenizer=lambda writer, config: writer.add_tokenizer_model("gpt2"))
    with pytest.raises(InputError, match=r"cannot read the tokenizer of b\.gguf: \S"):
        load_model(path, device="cpu")


def test_capitals_make_no_other_file(tmp_path):
    path = write_gguf(tmp_path / "M.GGUF", llama())
    assert view_of(load_model(path, device="cpu")).info.id == "M"


def test_a_revision_is_refused(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", llama())
    with pytest.raises(InputError, match=r"revision='main' is one of a hub name, but the file .*m\.gguf was given"):
        load_model(path, revision="main", device="cpu")


# tensors


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["output_norm.weight", "blk.0.ffn_norm.weight"])
def test_what_is_not_finite_is_said_to_be_that(tmp_path, name, value):
    path = write_gguf(tmp_path / "m.gguf", llama(), tensors={name: np.full(32, value, dtype=np.float32)})
    with pytest.raises(InputError, match=rf"tensor {name} of m\.gguf is not finite"):
        load_model(path, device="cpu")


def test_what_is_too_large_for_the_dtype_is_said_to_be_that(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", llama(), tensors={"output_norm.weight": np.full(32, 1e6, dtype=np.float32)})
    with pytest.raises(InputError, match=r"output_norm\.weight of m\.gguf, finite in the file, .* in torch\.float16"):
        load_model(path, dtype="float16", device="cpu")


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("blk.1.attn_k.weight", "model.layers.1.self_attn.k_proj.weight"),
        ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
    ],
)
def test_a_missing_tensor_is_refused(tmp_path, name, parameter):
    path = write_gguf(tmp_path / "m.gguf", llama(), tensors={name: None})
    if name == "output.weight":  # then the embedding is used: that is what its absence means
        assert load_gguf(path, torch.float32)[0].config.tie_word_embeddings
        return
    with pytest.raises(InputError, match=f"has no tensor for {parameter} of a LlamaForCausalLM"):
        load_model(path)


@pytest.mark.parametrize("name", ["blk.0.attn_sinks.weight", "blk.7.attn_norm.weight", "adapter.weight"])
def test_a_tensor_too_many_is_refused(tmp_path, name):
    path = write_gguf(tmp_path / "m.gguf", llama(), tensors={name: np.ones(32, dtype=np.float32)})
    with pytest.raises(InputError, match=f"has a tensor {name}, which a LlamaForCausalLM has no place for"):
        load_model(path)


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    tensors = {"blk.0.ffn_down.weight": np.ones((32, 40), dtype=np.float32)}
    path = write_gguf(tmp_path / "m.gguf", llama(), tensors=tensors)
    with pytest.raises(
        InputError, match=r"tensor blk\.0\.ffn_down\.weight of m\.gguf is \(32, 40\), expected \(32, 48\)"
    ):
        load_model(path)


@pytest.mark.parametrize("fault", ["order of rows", "norm"])
def test_a_reader_that_gets_a_tensor_wrong_is_found_out(tmp_path, monkeypatch, fault):
    from transformers import modeling_gguf_pytorch_utils as reader

    if fault == "norm":
        path = write_gguf(tmp_path / "m.gguf", hf_model("gemma2"), "gemma2", keys=gemma2_keys)
        monkeypatch.setitem(reader.TENSOR_PROCESSORS, "gemma2", reader.TensorProcessor)
        named = r"blk\.0\.attn_norm|output_norm|blk\.0\.\w+_norm"
    else:
        path = write_gguf(tmp_path / "m.gguf", llama())
        monkeypatch.setitem(reader.TENSOR_PROCESSORS, "llama", reader.TensorProcessor)
        named = r"blk\.0\.attn_q"
    with pytest.raises(InputError, match=rf"transformers read ({named})\.weight of m\.gguf wrongly"):
        load_model(path)


def test_the_real_file_is_understood_whole(smollm2_gguf):
    file = GGUFFile.read(smollm2_gguf)
    assert file.architecture == "llama"
    assert load_gguf(smollm2_gguf, torch.float32)[2] == ()


def test_a_file_is_read_without_a_bar_of_transformers(tmp_path, capfd, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", llama())
    capfd.readouterr()
    load_model(path, device="cpu")
    assert capfd.readouterr().err == ""
    theirs = gguf_file.modeling_gguf_pytorch_utils
    shown = theirs.tqdm
    load_gguf(path, torch.float32)
    assert "GGUF tensors" not in capfd.readouterr().err
    assert theirs.tqdm is shown, "it is theirs outside of a load"
    monkeypatch.setattr(gguf_file, "_without_bar", nullcontext)
    load_gguf(path, torch.float32)
    assert "GGUF tensors" in capfd.readouterr().err, "there is none any more, and nothing to silence"
