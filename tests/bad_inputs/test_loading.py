"""Checkpoints, adapters and GGUF files that are not what they should be: one sentence that names the file."""

import gc
import json
import os
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lensdiff import load_model, load_pair
from lensdiff.results import InputError
from tests.bad_inputs.refusals import Case, assert_refuses, case, is_sentence
from tests.checkpoints import hf_model, save_checkpoint
from tests.gguf_files import write_gguf

MODEL, CONFIG = "model.safetensors", "config.json"
INDEX = "model.safetensors.index.json"
DEEP = "[" * 100_000
DIGITS = "9" * 5_000


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, an adapter on it and a GGUF file, all of which load."""
    folder = tmp_path_factory.mktemp("good")
    save_checkpoint("llama", folder / "model")
    write_gguf(folder / "model.gguf", hf_model("llama"))
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(hf_model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
        adapted.peft_config["default"].base_model_name_or_path = str(folder / "model")
        adapted.save_pretrained(folder / "adapter")
    return folder


@pytest.fixture
def copied(good: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled; its adapter goes on the copy."""
    shutil.copytree(good, tmp_path / "copy")
    edit_json(tmp_path / "copy" / "adapter" / "adapter_config.json", base_model_name_or_path=str(good / "model"))
    return tmp_path / "copy"


def load(where: Path, **options: Any) -> Any:
    return load_model(where, device="cpu", **options)


# how a file is spoiled


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def truncated(name: str, keep: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * keep)])

    return spoil


def header(name: str, size: int) -> Callable[[Path], None]:
    """A safetensors file that says that its header has so many bytes."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(struct.pack("<Q", size) + (folder / name).read_bytes()[8:])

    return spoil


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / CONFIG, **changes)


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        found = load_file(folder / name)
        change(found)
        save_file({key: value.contiguous() for key, value in found.items()}, folder / name, {"format": "pt"})

    return spoil


def reshaped(key: str, *shape: int) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda found: found.update({key: torch.ones(shape)})


def pickled(content: bytes | Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / MODEL).unlink()
        path = folder / "pytorch_model.bin"
        path.write_bytes(content) if isinstance(content, bytes) else content(path)

    return spoil


def sharded(file: str) -> Callable[[Path], None]:
    """An index in place of the one file; each tensor in the file that is named, which is not there."""

    def spoil(folder: Path) -> None:
        weight_map = dict.fromkeys(load_file(folder / MODEL), file)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        (folder / MODEL).unlink()

    return spoil


def outside(named: Callable[[Path], str], index: str = INDEX) -> Callable[[Path], None]:
    """An index of a whole file that lies above the folder; nothing is wrong but where it is."""

    def spoil(folder: Path) -> None:
        there = folder.parent / MODEL
        if index == INDEX:
            shutil.copy(folder / MODEL, there)
        else:
            torch.save(load_file(folder / MODEL), there)
        sharded(named(there))(folder)
        (folder / INDEX).rename(folder / index)

    return spoil


def named_above(folder: Path) -> None:
    shutil.copy(folder / MODEL, folder.parent)
    edit_json(folder / CONFIG, transformers_weights=f"../{MODEL}")


def index_is(content: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / INDEX).write_text(content if isinstance(content, str) else json.dumps(content))
        (folder / MODEL).unlink()

    return spoil


Q = "model.layers.1.self_attn.q_proj.weight"
CHECKPOINTS = [
    *(
        case(f"safetensors cut to {keep:.0%}", truncated(MODEL, keep), "model")
        for keep in (0.0, 0.001, 0.01, 0.5, 0.99)
    ),
    case("safetensors of junk", write(MODEL, b"junk" * 1000), "model"),
    case("safetensors of text", write(MODEL, "<html>404</html>"), "model"),
    case("safetensors of zeros", write(MODEL, bytes(4096)), "model"),
    *(case(f"header of {n}", header(MODEL, n), "model") for n in (0, 1, 2**31, 2**40, 2**62, 2**64 - 1)),
    case("safetensors header not JSON", write(MODEL, struct.pack("<Q", 8) + b"notjson!"), "model"),
    case("safetensors header nested", write(MODEL, struct.pack("<Q", 100_000) + DEEP.encode()), "model"),
    case("safetensors with no tensor", tensors(MODEL, dict.clear), "lack"),
    case("junk .bin", pickled(b"junk" * 1000), "model"),
    case("empty .bin", pickled(b""), "model"),
    case(".bin of a list", pickled(lambda path: torch.save([1, 2], path)), "model"),
    case(".bin of a number", pickled(lambda path: torch.save(3, path)), "model"),
    case(".bin of texts", pickled(lambda path: torch.save({Q: "text"}, path)), "model"),
    case(
        ".bin cut",
        pickled(lambda path: (torch.save({Q: torch.ones(9)}, path), truncated(path.name, 0.5)(path.parent))),
        "model",
    ),
    case("a weight of another width", tensors(MODEL, reshaped(Q, 32, 31)), Q, "(32, 31)"),
    case("a weight of no axis", tensors(MODEL, reshaped(Q)), Q),
    case("a weight of three axes", tensors(MODEL, reshaped(Q, 2, 16, 32)), Q),
    case("a norm of another length", tensors(MODEL, reshaped("model.norm.weight", 31)), "model.norm.weight"),
    case(
        "an embedding of no row",
        tensors(MODEL, reshaped("model.embed_tokens.weight", 0, 32)),
        "model.embed_tokens.weight",
    ),
    case("all weights zero", tensors(MODEL, lambda found: [value.zero_() for value in found.values()]), "zero"),
    case("index with ../", outside(lambda file: f"../{file.name}"), f"'../{MODEL}', expected one in the same folder"),
    case("index with an absolute path", outside(str), f"/{MODEL}', expected one in the same folder"),
    case(
        "index of .bin files with ../",
        outside(lambda file: f"../{file.name}", "pytorch_model.bin.index.json"),
        f"'../{MODEL}', expected one in the same folder",
    ),
    case("index of a .bin file", sharded("model.bin"), "'model.bin', expected one of .safetensors"),
    case("index of a file that is not there", sharded("model-00001-of-00002.safetensors"), "model-00001-of-00002"),
    case("weights named above the folder", named_above, "transformers_weights", "expected a file in the same folder"),
    case("weights named by a number", config(transformers_weights=3), "transformers_weights=3"),
    case("own code in words", config(auto_map="zzz"), "auto_map='zzz'"),
    case("index of no JSON", index_is("{"), "model"),
    case("index of a list", index_is([1]), "model"),
    case("index without a map", index_is({"metadata": {}}), "model"),
    case("index with a map of numbers", index_is({"metadata": {}, "weight_map": {Q: 3}}), "model"),
    case("index with an empty map", index_is({"metadata": {}, "weight_map": {}}), "model"),
    case("index nested", index_is(DEEP), "model"),
    case("no weights", lambda folder: (folder / MODEL).unlink(), "model"),
    case(
        "GPTQ without its package", config(quantization_config={"quant_method": "gptq", "bits": 4}), "quantised (gptq)"
    ),
    case("AWQ", config(quantization_config={"quant_method": "awq", "bits": 4}), "quantised (awq)"),
    case("quantised by an unknown method", config(quantization_config={"quant_method": "zzz"}), "quantised (zzz)"),
    case("quantised in words", config(quantization_config="gptq"), "quantised"),
    case("config empty", write(CONFIG, ""), CONFIG),
    case("config cut", truncated(CONFIG, 0.5), CONFIG),
    case("config of no text", write(CONFIG, b"\xff\xfe\x00junk"), CONFIG),
    case("config of a list", write(CONFIG, "[1, 2]"), "model"),
    case("config of null", write(CONFIG, "null"), "model"),
    case("config nested", write(CONFIG, DEEP), "model"),
    case("config with 5,000 digits", write(CONFIG, f'{{"model_type": "llama", "hidden_size": {DIGITS}}}'), "model"),
    case("config without model_type", write(CONFIG, "{}"), "model"),
    case("config of an unknown type", config(model_type="zzz"), "zzz"),
    case("config of a number as type", config(model_type=3), "model_type"),
    case("config of a list as type", config(model_type=["llama"]), "model_type"),
    case("architectures in words", config(architectures="LlamaForCausalLM"), "architectures"),
    case("architectures of numbers", config(architectures=[3]), "architectures"),
    case("7 heads", config(num_attention_heads=7), "attention heads (7)"),
    case("0 heads", config(num_attention_heads=0), "num_attention_heads"),
    case("3 key-value heads of 4", config(num_key_value_heads=3), "k_proj.weight of shape (16, 32) for (24, 32)"),
    case("0 key-value heads", config(num_key_value_heads=0), "num_key_value_heads"),
    case("hidden_size in quotes", config(hidden_size="128"), "hidden_size", "128"),
    case("hidden_size null", config(hidden_size=None), "hidden_size"),
    case("hidden_size 0", config(hidden_size=0), "hidden_size"),
    case("hidden_size a half", config(hidden_size=0.5), "hidden_size"),
    case("hidden_size true", config(hidden_size=True), "hidden_size"),
    case("hidden_size a list", config(hidden_size=[32]), "hidden_size"),
    case("hidden_size 2^40", config(hidden_size=2**40), "width 1099511627776"),
    case("-1 layers", config(num_hidden_layers=-1), "num_hidden_layers", "-1"),
    case("0 layers", config(num_hidden_layers=0), "num_hidden_layers"),
    case("10^9 layers", config(num_hidden_layers=10**9), "num_hidden_layers"),
    case("a layer too many", config(num_hidden_layers=3), "lack"),
    case("vocabulary of -5", config(vocab_size=-5), "vocab_size"),
    case("vocabulary of 0", config(vocab_size=0), "vocab_size"),
    case("context of 0", config(max_position_embeddings=0), "max_position_embeddings"),
    case("context in words", config(max_position_embeddings="many"), "max_position_embeddings"),
    case("intermediate_size -48", config(intermediate_size=-48), "intermediate_size"),
    case("head_dim 0", config(head_dim=0), "model"),
    case("head_dim odd", config(head_dim=7), "model"),
    case("epsilon in words", config(rms_norm_eps="small"), "rms_norm_eps"),
    case("an unknown activation", config(hidden_act="zzz"), "zzz"),
    case("an unknown rotary type", config(rope_parameters={"rope_type": "zzz", "rope_theta": 1.0}), "model"),
    case("rotary parameters in words", config(rope_parameters="zzz"), "model"),
    case("rotary base 0", config(rope_parameters={"rope_type": "default", "rope_theta": 0.0}), "model"),
    case("an unknown dtype", config(dtype="zzz"), "model"),
    case("tokenizer nested", write("tokenizer.json", DEEP), "tokenizer"),
    case("tokenizer of null", write("tokenizer.json", "null"), "tokenizer"),
    case("generation config of no JSON", write("generation_config.json", "{"), "model"),
]


@pytest.mark.parametrize("bad", CHECKPOINTS)
def test_a_checkpoint_is_refused(copied: Path, bad: Case):
    bad.make(copied / "model")
    assert_refuses(lambda: load(copied / "model"), *bad.says)


ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


def adapter_config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / ADAPTER_CONFIG, **changes)


def adapter_bin(content: bytes | Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / ADAPTER).unlink()
        path = folder / "adapter_model.bin"
        path.write_bytes(content) if isinstance(content, bytes) else content(path)

    return spoil


ADAPTERS = [
    case("adapter of an unknown type", adapter_config(peft_type="ZZZ"), "ZZZ"),
    case("adapter of a number as type", adapter_config(peft_type=3), "peft_type"),
    case("adapter of a list as type", adapter_config(peft_type=["LORA"]), "peft_type"),
    case("adapter that adds tokens", adapter_config(peft_type="PROMPT_TUNING"), "adapter"),
    case("adapter without weights", lambda folder: (folder / ADAPTER).unlink(), ADAPTER),
    *(case(f"adapter cut to {keep:.0%}", truncated(ADAPTER, keep), "adapter") for keep in (0.0, 0.01, 0.5)),
    case("adapter of junk", write(ADAPTER, b"junk" * 100), "adapter"),
    case("adapter with a header of 2^62", header(ADAPTER, 2**62), "adapter"),
    case("adapter of another shape", tensors(ADAPTER, reshaped(A, 2, 31)), A),
    case("adapter of another rank", tensors(ADAPTER, reshaped(A, 3, 32)), A),
    case("adapter without a tensor", tensors(ADAPTER, lambda found: found.pop(A)), "lora_A"),
    case("adapter with one too many", tensors(ADAPTER, reshaped("zzz.weight", 2)), "zzz.weight"),
    case("adapter that is not finite", tensors(ADAPTER, lambda found: found[A].fill_(float("nan"))), "adapter"),
    case("adapter config of no JSON", write(ADAPTER_CONFIG, "{"), ADAPTER_CONFIG),
    case("adapter config empty", write(ADAPTER_CONFIG, ""), ADAPTER_CONFIG),
    case("adapter config of a list", write(ADAPTER_CONFIG, "[]"), ADAPTER_CONFIG),
    case("adapter config nested", write(ADAPTER_CONFIG, DEEP), ADAPTER_CONFIG),
    case("adapter config of no text", write(ADAPTER_CONFIG, b"\xff\xfe"), ADAPTER_CONFIG),
    case("adapter of rank 0", adapter_config(r=0), "adapter"),
    case("adapter of rank -1", adapter_config(r=-1), "adapter"),
    case("adapter of rank in words", adapter_config(r="two"), "adapter"),
    case("adapter with alpha in words", adapter_config(lora_alpha="much"), "adapter"),
    case("adapter on modules that are none", adapter_config(target_modules=["zzz"]), "adapter"),
    case("adapter on a number", adapter_config(target_modules=3), "adapter"),
    case("adapter of a pattern of no meaning", adapter_config(target_modules="(["), "adapter"),
    case("adapter on no base", adapter_config(base_model_name_or_path=None), "base"),
    case(
        "adapter on a base that is not there", adapter_config(base_model_name_or_path="/no/such/base"), "/no/such/base"
    ),
    case("adapter on a number as base", adapter_config(base_model_name_or_path=3), "base"),
    case("adapter of junk .bin", adapter_bin(b"junk" * 100), "adapter"),
    case("adapter .bin of a list", adapter_bin(lambda path: torch.save([1], path)), "adapter"),
    case("adapter .bin of texts", adapter_bin(lambda path: torch.save({A: "text"}, path)), "adapter"),
]


@pytest.mark.parametrize("bad", ADAPTERS)
def test_an_adapter_is_refused(copied: Path, bad: Case):
    bad.make(copied / "adapter")
    assert_refuses(lambda: load(copied / "adapter"), *bad.says)


def gguf_counts(n_tensors: int, n_keys: int, version: int = 3) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.write_bytes(struct.pack("<4sIQQ", b"GGUF", version, n_tensors, n_keys) + path.read_bytes()[24:])

    return spoil


def gguf_key(name: bytes, kind: int, value: bytes) -> Callable[[Path], None]:
    """A file with one key."""

    def spoil(path: Path) -> None:
        key = struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value
        path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + key)

    return spoil


def rewritten(**options: Any) -> Callable[[Path], None]:
    return lambda path: write_gguf(path, hf_model("llama"), **options) and None


def cut(keep: float) -> Callable[[Path], None]:
    return lambda path: truncated(path.name, keep)(path.parent)


TEXT = 8
GGUF = [
    *(case(f"GGUF cut to {keep:.1%}", cut(keep), "model.gguf") for keep in (0.0, 0.0001, 0.001, 0.05, 0.5, 0.95)),
    case("GGUF of junk", lambda path: path.write_bytes(b"junk" * 1000), "model.gguf"),
    case("GGUF of another version", gguf_counts(1, 1, version=99), "model.gguf"),
    case("GGUF with 2^60 keys", gguf_counts(0, 2**60), "model.gguf"),
    case("GGUF with 2^60 tensors", gguf_counts(2**60, 0), "model.gguf"),
    case("GGUF with no key", gguf_counts(0, 0), "model.gguf"),
    case("GGUF with a name of 2^62", gguf_key(b"", TEXT, struct.pack("<Q", 2**62)), "model.gguf"),
    case("GGUF with a text of 2^62", gguf_key(b"general.name", TEXT, struct.pack("<Q", 2**62)), "model.gguf"),
    case("GGUF with an unknown kind", gguf_key(b"a.b", 77, bytes(8)), "model.gguf"),
    case("GGUF with no architecture", rewritten(architecture="llama", sizes={"block_count": None}), "block_count"),
    case("GGUF of 0 layers", rewritten(sizes={"block_count": 0}), "model.gguf"),
    case("GGUF of 2^31 layers", rewritten(sizes={"block_count": 2**31}), "block_count"),
    case("GGUF of 0 heads", rewritten(sizes={"attention.head_count": 0}), "head_count"),
    case(
        "GGUF of 7 heads",
        rewritten(sizes={"attention.head_count": 7, "attention.key_length": None}),
        "attention heads (7)",
    ),
    case("GGUF of width 0", rewritten(sizes={"embedding_length": 0}), "model.gguf"),
    case("GGUF of width 2^31", rewritten(sizes={"embedding_length": 2**31}), "model.gguf"),
    case("GGUF of context 0", rewritten(sizes={"context_length": 0}), "context_length"),
    case("GGUF without the embedding", rewritten(tensors={"token_embd.weight": None}), "token_embd.weight"),
]


@pytest.mark.parametrize("bad", GGUF)
def test_a_gguf_file_is_refused(copied: Path, bad: Case):
    bad.make(copied / "model.gguf")
    assert_refuses(lambda: load(copied / "model.gguf"), *bad.says)


# what is given to load_model itself


def name_of(name: Any, **options: Any) -> Callable[[Path], Any]:
    return lambda good: load_model(name, device="cpu", **options)


def on(good: Path, **options: Any) -> Any:
    return load_model(good / "model", **options)


ASKED = [
    case("a name of 5,000 letters", name_of("a" * 5_000), "aaa"),
    case("a hub name of 5,000 letters", name_of("a/" + "b" * 5_000), "bbb"),
    case("a path of 5,000 letters", name_of("/" + "a" * 5_000), "aaa"),
    case("an adapter's path of 5,000 letters", name_of("./" + "a/" * 2_500), "a/a"),
    case("a .gguf of 5,000 letters", name_of("a" * 5_000 + ".gguf"), "aaa"),
    case("a name with a null character", name_of("a\0b"), "a"),
    case("a name with a lone surrogate", name_of("a\ud800b"), "a"),
    case("an empty name", name_of(""), "name"),
    case("a name of white space", name_of("  "), "name"),
    case("a name of two slashes", name_of("a//b"), "a//b"),
    case("a name of dots", name_of(".."), ".."),
    case("a file in place of a folder", lambda good: load_model(good / "model" / CONFIG), CONFIG),
    case("a number", name_of(3), "int"),
    case("None", name_of(None), "NoneType"),
    case("a list", name_of(["a"]), "list"),
    case("cuda where there is none", lambda good: on(good, device="cuda:77"), "cuda:77"),
    case("mps where there is none", lambda good: on(good, device="mps:9"), "mps:9"),
    case("no device", lambda good: on(good, device="zzz"), "zzz"),
    case("the device meta", lambda good: on(good, device="meta"), "meta"),
    case("a device of 5,000 letters", lambda good: on(good, device="c" * 5_000), "ccc"),
    case("no dtype", lambda good: on(good, dtype="zzz", device="cpu"), "zzz"),
    case("an integer dtype", lambda good: on(good, dtype=torch.int8, device="cpu"), "int8"),
    case("an attribute of torch as dtype", lambda good: on(good, dtype="nn", device="cpu"), "nn"),
    case("no wrapper", lambda good: on(good, wrapper="zzz", device="cpu"), "zzz"),
    case("no state of weights", lambda good: on(good, weights="zzz", device="cpu"), "zzz"),
    case("a revision of a folder", lambda good: on(good, revision="main", device="cpu"), "main"),
    case("a revision of 5,000 letters", name_of("a/b", revision="r" * 5_000), "a/b"),
    case("a base that is no model", lambda good: load_model(good / "adapter", base=3, device="cpu"), "int"),
    case(
        "a pair kept otherwise", lambda good: load_pair(good / "model", good / "model", keep="zzz", device="cpu"), "zzz"
    ),
    case("a pair without a tuned model", lambda good: load_pair(good / "model", good / "none", device="cpu"), "none"),
    case("a pair of a model and a number", lambda good: load_pair(good / "model", 3, device="cpu"), "int"),
]


@pytest.mark.parametrize("bad", ASKED)
def test_what_is_asked_of_load_model_is_refused(good: Path, bad: Case):
    assert_refuses(lambda: bad.make(good), *bad.says)


# where the space is large


def loads_or_says(where: Path) -> None:
    """A spoiled folder loads (some bytes mean nothing) or is refused in one sentence."""
    try:
        load(where)
    except InputError as error:
        is_sentence(str(error))
    gc.collect()  # a model is full of reference cycles


EXAMPLES = int(os.environ.get("BAD_INPUT_EXAMPLES", "6"))
SLOW = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 200),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-3, 9), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings"),
)
KEYS = (
    *("model_type", "architectures", "hidden_act", "rms_norm_eps", "rope_parameters", "tie_word_embeddings", "dtype"),
    *("attention_bias", "bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout", "pretraining_tp"),
    *("use_cache", "initializer_range", "quantization_config", "transformers_version", "torch_dtype"),
)


@settings(SLOW, max_examples=3 * EXAMPLES)
@given(key=st.sampled_from([*SIZES, *KEYS]), value=VALUES)
def test_any_value_of_a_config_loads_or_is_refused(good: Path, tmp_path_factory, key: str, value: Any):
    folder = tmp_path_factory.mktemp("config")
    shutil.copytree(good / "model", folder, dirs_exist_ok=True)
    edit_json(folder / CONFIG, **{key: value})
    loads_or_says(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", [MODEL, CONFIG, "tokenizer.json", "tokenizer_config.json"])
@SLOW
@given(data=st.data())
def test_any_bytes_in_a_file_load_or_are_refused(good: Path, tmp_path_factory, name: str, data: Any):
    folder = tmp_path_factory.mktemp("bytes")
    shutil.copytree(good / "model", folder, dirs_exist_ok=True)
    spoil_bytes(folder / name, data)
    loads_or_says(folder)
    shutil.rmtree(folder)


@SLOW
@given(data=st.data())
def test_any_bytes_in_a_gguf_file_load_or_are_refused(good: Path, tmp_path_factory, data: Any):
    path = tmp_path_factory.mktemp("bytes") / "model.gguf"
    shutil.copy(good / "model.gguf", path)
    spoil_bytes(path, data)
    loads_or_says(path)
    path.unlink()


@pytest.mark.parametrize("name", [ADAPTER, ADAPTER_CONFIG])
@SLOW
@given(data=st.data())
def test_any_bytes_in_an_adapter_load_or_are_refused(good: Path, tmp_path_factory, name: str, data: Any):
    folder = tmp_path_factory.mktemp("bytes")
    shutil.copytree(good / "adapter", folder, dirs_exist_ok=True)
    spoil_bytes(folder / name, data)
    loads_or_says(folder)
    shutil.rmtree(folder)


def spoil_bytes(path: Path, data: Any) -> None:
    """Put other bytes into the beginning of a file, where its structure is, or cut it."""
    before = path.read_bytes()
    new = st.tuples(st.integers(0, min(len(before), 2_000) - 1), st.binary(min_size=1, max_size=8))
    edits = data.draw(st.lists(new, min_size=1, max_size=4))
    put_bytes(path, edits, data.draw(st.sampled_from([len(before), len(before) // 2])))
    assume(path.read_bytes() != before)


def put_bytes(path: Path, edits: list[tuple[int, bytes]], length: int) -> None:
    """Put bytes into a file, each at its place, and cut it to a length."""
    whole = bytearray(path.read_bytes())
    for at, new in edits:
        whole[at : at + len(new)] = new
    path.write_bytes(whole[:length])


@pytest.mark.parametrize(
    ("where", "name"),
    [
        *(("model", name) for name in (MODEL, CONFIG, "tokenizer.json", "tokenizer_config.json")),
        ("model.gguf", ""),
        *(("adapter", name) for name in (ADAPTER, ADAPTER_CONFIG)),
    ],
)
def test_bytes_that_no_such_file_begins_with_are_refused(copied: Path, where: str, name: str):
    """What the cases above draw from holds what must be refused."""
    spoilt = copied / where / name if name else copied / where
    load(copied / where)
    put_bytes(spoilt, [(0, b"\xff" * 8)], spoilt.stat().st_size)
    with pytest.raises(InputError) as caught:
        load(copied / where)
    is_sentence(str(caught.value))
