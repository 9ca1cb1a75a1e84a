"""What the files of a checkpoint say of it before a weight is read: config, tokenizer, and the heads of its files.

Of a safetensors file its first bytes are read, which name every tensor with its shape; of a GGUF file its metadata and
table of tensors; of a hub name config and tokenizer, and no file of weights is fetched.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from lensdiff.models.inside.parts import Sizes
from lensdiff.models.loading.adapters import holds_tokenizer, read_config
from lensdiff.models.loading.opening import EMPTY_OPTIONS, locate, read_tokenizer, tokenizer_of
from lensdiff.models.loading.places import ADAPTER, GGUF, place_of
from lensdiff.models.loading.stated import SAFE, weight_files
from lensdiff.models.loading.stumbles import at_the_door
from lensdiff.results import InputError

LENGTH = 8  # bytes at the start of a safetensors file: how long its header is
MOST = 100_000_000  # bytes of a header, as the format has it
ADAPTER_FILE = "adapter_model.safetensors"
LORA = (".lora_A.weight", ".lora_embedding_A")  # how the key of a low-rank factor ends: its first axis is the rank
UNTOUCHED = "base_model.model."  # in front of a module's name in an adapter's file
D_MLP = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")  # what families call it, else 4 d_model


@dataclass(frozen=True)
class Header:
    """What is known of a checkpoint whose weights were not read.

    Attributes:
        config: that of `transformers`.
        tokenizer: or why it cannot be read, or None where there is none.
        n_parameters: each once.
        n_bytes: of the files of weights; None for a hub name, of which none are fetched.
        n_dequantised: how many of its numbers are codes, which a load turns into weights.
        seconds: that it took to be read.
        changed: of an adapter the modules that it changes, with the rank of each; None for a rank that is not stated.
    """

    id: str
    config: Any
    tokenizer: PreTrainedTokenizerBase | InputError | None
    n_parameters: int
    n_bytes: int | None
    n_dequantised: int = 0
    seconds: float = 0.0
    changed: Mapping[str, int | None] | None = None

    def sizes(self, dtype: torch.dtype, device: str) -> Sizes:
        """Return how large the model is that will be loaded."""
        config = self.config.get_text_config()
        heads, d_model = int(config.num_attention_heads), int(config.hidden_size)
        own = [value for name in D_MLP if isinstance(value := getattr(config, name, None), int)]
        return Sizes(
            n_layers=int(config.num_hidden_layers),
            n_heads=heads,
            n_key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
            d_model=d_model,
            d_head=int(getattr(config, "head_dim", None) or d_model // heads),
            d_mlp=own[0] if own else 4 * d_model,
            d_vocab=int(config.vocab_size),
            n_ctx=int(getattr(config, "max_position_embeddings", None) or 2048),
            dtype=dtype,
            device=torch.device(device),
        )


def read_header(source: str, *, revision: str | None = None, base: Header | None = None) -> Header:
    """Return what a checkpoint's files say of it; nothing of its weights is read.

    Args:
        base: of the model that an adapter lies on.

    Raises:
        InputError: there is no such checkpoint, or its config or a header cannot be meant.
    """
    start = time.perf_counter()
    found = _read(source, revision, base)
    own = time.perf_counter() - start
    return replace(found, seconds=own + (base.seconds if base is not None and found.changed else 0.0))


def _read(source: str, revision: str | None, base: Header | None) -> Header:
    path = place_of(source)
    if path.suffix.lower() == GGUF:
        return _of_gguf(path)
    if (path / ADAPTER).is_file():
        return _of_adapter(path, base)
    is_folder = path.is_dir()
    where, name = (str(path), path.name) if is_folder else (source, source)
    at = locate(where, name, revision)
    n_bytes = None
    if is_folder:
        files = weight_files(at.folder, whole=True)
        if not files:
            raise InputError(f"folder {path} has a config.json and no file of weights")
        n_bytes = sum(_bytes_of(file) for file in files)
    tokenizer = tokenizer_of(where, name, at.options)
    return Header(name, at.config, tokenizer, count_parameters(at.config, name), n_bytes)


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a safetensors file by its name, from the file's header alone.

    Raises:
        InputError: the file has no header that can be read.
    """
    return {name: shape for name, (shape, _) in _header_of(path).items()}


def count_parameters(config: Any, name: str) -> int:
    """Return how many parameters a model of a config has, each once.

    Raises:
        InputError: no model can be made of it.
    """
    with at_the_door(f"cannot load {name}"), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, **EMPTY_OPTIONS)
    return sum(parameter.numel() for parameter in model.parameters())


def _header_of(path: Path) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return shape and bytes of every tensor of a safetensors file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH), "little")
            if not 0 < length <= min(MOST, path.stat().st_size):
                raise ValueError(f"it says to be {length} bytes long")
            found = json.loads(file.read(length))
        tensors = {name: entry for name, entry in found.items() if name != "__metadata__"}
        return {
            name: (tuple(int(n) for n in entry["shape"]), int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]))
            for name, entry in tensors.items()
        }
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise InputError(f"the header of {path} cannot be read: {str(error) or type(error).__name__}") from None


def _bytes_of(path: Path) -> int:
    # what the header says: a file that is still coming down is as large as it will be
    return sum(size for _, size in _header_of(path).values()) if path.suffix == SAFE else path.stat().st_size


def _of_gguf(path: Path) -> Header:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise InputError("a GGUF file needs the extra: pip install 'lensdiff[gguf]'") from error
    from lensdiff.models.loading.gguf_file import describe_gguf

    file, config, tokenizer = describe_gguf(path)
    numbers = sum(math.prod(map(int, tensor.shape)) for tensor in file.tensors.values())
    n_bytes = path.stat().st_size
    return Header(path.stem, config, tokenizer, count_parameters(config, path.stem), n_bytes, numbers)


def _of_adapter(path: Path, base: Header | None) -> Header:
    config = read_config(path)
    if base is None:
        named = config.base_model_name_or_path
        if not named:
            raise InputError(f"the adapter in {path} names no base model: give it with base=...")
        base = read_header(str(named))
    changed: dict[str, int | None] = {}
    if (file := path / ADAPTER_FILE).is_file():
        for key, shape in stored_shapes(file).items():
            ending = next((ending for ending in LORA if key.endswith(ending)), None)
            if ending is not None:
                changed[_module(key, ending)] = shape[0]
            elif ".lora_" not in key:
                changed.setdefault(_module(key, ".weight"), None)
    tokenizer = base.tokenizer
    if holds_tokenizer(path):
        tokenizer = read_tokenizer(f"the adapter {path.name}", pretrained_model_name_or_path=str(path))
    return replace(base, id=path.name, tokenizer=tokenizer, changed=changed or None)


def _module(key: str, ending: str) -> str:
    return key.removeprefix(UNTOUCHED).removesuffix(ending)
