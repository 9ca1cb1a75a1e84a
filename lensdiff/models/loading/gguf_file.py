"""A model from a GGUF file, checked against the file itself.

`transformers` reads the weights; what it made of them is compared with the file as the `gguf` package reads it, by a
table of names that is our own: every tensor of the file is one of the model's and the other way round, shapes are
equal, and rows of each tensor are equal (norms whole). Only the architectures in `LAYER_NAMES` are checked so; any
other one loads with a note that says it was not, and with rotary scaling it is refused.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)

from lensdiff.models.loading.checkpoints import check_report
from lensdiff.models.loading.gguf_metadata import GGUFFile, check_layers_alike, check_stated_sizes, settle_sizes
from lensdiff.models.loading.gguf_rope import TENSORS as ROPE_TENSORS
from lensdiff.models.loading.gguf_rope import settle_rope
from lensdiff.models.loading.opening import OPTIONS, read_tokenizer
from lensdiff.models.loading.stumbles import at_the_door
from lensdiff.results import InputError

NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_DECODER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA = _DECODER | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_FUSED = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
LAYER_NAMES = {  # of the architectures that are checked: from a tensor's name in the file to the module's
    "llama": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER | _QK_NORMS,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA | _QK_NORMS,
    "phi3": {k: v for k, v in _DECODER.items() if k not in ("attn_q", "attn_k", "attn_v", "ffn_gate")} | _FUSED,
}
ONE_PLUS = ("gemma2", "gemma3")  # the file has 1 + w of a norm that transformers holds as w
INTERLEAVED = ("llama",)  # the file has the two halves of each query and key head interleaved
TOKENIZER = "tokenizer.ggml.model"
NO_TOKENIZER = ("none", "no_vocab")  # what llama.cpp writes there where a file has none
ROWS = 6  # of a matrix that are compared, the first and the last among them


def load_gguf(
    path: Path, dtype: torch.dtype, *, needs_tokenizer: bool = True
) -> tuple[Any, PreTrainedTokenizerBase | InputError | None, tuple[str, ...]]:
    """Return the model and tokenizer of a GGUF file, and notes on what was not understood.

    Args:
        path: the file.
        dtype: of the weights.
        needs_tokenizer: whether its tokenizer is read, which takes seconds; else it is None.

    Raises:
        InputError: the file is not a whole model of an architecture that transformers reads, its metadata asks for
            something that the model does not do (the key is named), or a tensor is missing, too many, or not what
            the file says.
    """
    file, where, config, notes = _described(path)
    parts = _parts(config, file) if file.architecture in LAYER_NAMES else {}
    with at_the_door(f"cannot load {path.name}"), _without_bar():
        loaded: Any = AutoModelForCausalLM.from_pretrained(**where, config=config, dtype=dtype, **OPTIONS)
    model, report = loaded
    check_report(report, path.name, type(model).__name__)
    for name, parameter in parts.items():
        _compare(file, name, model.get_parameter(parameter).detach(), config)
    # the weights are dequantised; a config that says otherwise would make the model refuse to be saved or moved
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return (model, *_with_tokenizer(file, where, notes)) if needs_tokenizer else (model, None, notes)


@contextmanager
def _without_bar() -> Iterator[None]:
    """Silence the bar of the conversion, which the switch of `transformers` leaves on: a load has one of its own."""
    theirs: Any = modeling_gguf_pytorch_utils
    shown = getattr(theirs, "tqdm", None)
    if shown is None:  # another release may draw it otherwise, or not at all
        yield
        return
    theirs.tqdm = partial(shown, disable=True)
    try:
        yield
    finally:
        theirs.tqdm = shown


def _described(path: Path) -> tuple[GGUFFile, dict[str, Any], Any, tuple[str, ...]]:
    """Return a file, how `transformers` is asked for it, its config with all that the metadata says, and notes."""
    file = GGUFFile.read(path)
    if file.architecture in LAYER_NAMES:
        check_layers_alike(file)
        check_stated_sizes(file)
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    with at_the_door(f"cannot load {path.name}"):
        config = AutoConfig.from_pretrained(**where, trust_remote_code=False)
    return file, where, config, _settle(config, file)


def _with_tokenizer(
    file: GGUFFile, where: dict[str, Any], notes: tuple[str, ...]
) -> tuple[PreTrainedTokenizerBase | InputError | None, tuple[str, ...]]:
    # weight-only analyses need no tokenizer; the others say so
    has_one = file.metadata.get(TOKENIZER, "none") not in NO_TOKENIZER
    tokenizer = read_tokenizer(file.path.name, **where) if has_one else None
    return tokenizer, notes if isinstance(tokenizer, InputError) else notes + bos_note(file, tokenizer)


def describe_gguf(path: Path) -> tuple[GGUFFile, Any, PreTrainedTokenizerBase | InputError | None]:
    """Return a GGUF file's table of tensors, its config and its tokenizer, without reading its weights.

    Raises:
        InputError: as `load_gguf`, of what can be told without them.
    """
    file, where, config, _ = _described(path)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return file, config, _with_tokenizer(file, where, ())[0]


@dataclass(frozen=True)
class OpenedGGUF:
    """A file of which config and tokenizer have been read, and no weights.

    Attributes:
        parts: the parameter that each of its tensors is.
    """

    id: str
    config: Any
    tokenizer: PreTrainedTokenizerBase | InputError | None
    notes: tuple[str, ...]
    parts: Mapping[str, str]
    file: GGUFFile

    def read(self, name: str, n_rows: int | None = None) -> Tensor:
        """Return a tensor of the file in float32, as its parameter holds it, or its first rows."""
        found = self.file.tensors[name]
        rows = np.arange(int(found.shape[-1]))[:n_rows]
        return _rows_of(self.file, name, rows, self.config, is_vector=len(found.shape) == 1)


def open_gguf(path: Path) -> OpenedGGUF:
    """Return what a GGUF file holds, without reading its weights.

    Raises:
        InputError: as `load_gguf`, of what can be told without them, or its architecture's tensors are not mapped.
    """
    file, where, config, notes = _described(path)
    if file.architecture not in LAYER_NAMES:
        raise InputError(
            f"{path.name} is a {file.architecture}, whose tensors are not mapped: streamed are {', '.join(LAYER_NAMES)}"
        )
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    tokenizer, notes = _with_tokenizer(file, where, notes)
    return OpenedGGUF(path.stem, config, tokenizer, notes, _parts(config, file), file)


def _settle(config: PretrainedConfig, file: GGUFFile) -> tuple[str, ...]:
    """Put the file's metadata into the config, and return notes on what was not read."""
    if file.architecture in LAYER_NAMES:
        settle_sizes(config, file)
        settle_rope(config, file)
        return file.nobody_took()
    for name in ("rope.scaling.type", "rope.scaling.factor"):
        if file.metadata.get(file.key(name), "none") not in ("none", 0.0, 1.0):
            raise file.refuse(name, f"which is mapped for {', '.join(LAYER_NAMES)} only")
    if given := [name for name in ROPE_TENSORS if name in file.tensors]:
        raise InputError(
            f"{file.path.name} is a {file.architecture} with {given[0]}, which is mapped for {', '.join(LAYER_NAMES)} "
            "only"
        )
    return (f"metadata and tensors of a {file.architecture} are not checked (of {', '.join(LAYER_NAMES)} they are)",)


def _parts(config: PretrainedConfig, file: GGUFFile) -> dict[str, str]:
    """Return the parameter that each tensor of the file is, after checking that they are the same ones.

    Raises:
        InputError: a tensor has no place in the model, has another shape, or a parameter has no tensor.
    """
    with at_the_door(f"cannot load {file.path.name}"), torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    shapes = {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}
    found = {name: _parameter_of(file, name) for name in file.tensors if name not in ROPE_TENSORS}
    for name, parameter in found.items():
        shape = tuple(int(n) for n in reversed(file.tensors[name].shape))  # ggml counts dimensions from the last
        if parameter not in shapes:
            raise InputError(f"{file.path.name} has a tensor {name}, which a {type(empty).__name__} has no place for")
        if shape != shapes[parameter]:
            raise InputError(f"tensor {name} of {file.path.name} is {shape}, expected {shapes[parameter]}")
    if missing := [name for name in shapes if name not in found.values()]:
        raise InputError(f"{file.path.name} has no tensor for {missing[0]} of a {type(empty).__name__}")
    return found


def _parameter_of(file: GGUFFile, name: str) -> str:
    stem, _, ending = name.rpartition(".")
    block, _, inner = stem.removeprefix("blk.").partition(".")
    if stem.startswith("blk.") and inner in LAYER_NAMES[file.architecture]:
        return f"model.layers.{block}.{LAYER_NAMES[file.architecture][inner]}.{ending}"
    return f"{NAMES.get(stem, stem)}.{ending}"


def _compare(file: GGUFFile, name: str, loaded: Tensor, config: Any) -> None:
    """Refuse a loaded parameter whose rows are not those of the file's tensor."""
    n_rows = loaded.shape[0]
    rows = np.arange(n_rows) if loaded.ndim == 1 else np.unique(np.linspace(0, n_rows - 1, ROWS).astype(int))
    expected = _rows_of(file, name, rows, config, is_vector=loaded.ndim == 1)
    found = loaded[torch.from_numpy(rows)].float().cpu()
    size, eps = float(expected.abs().max()), torch.finfo(loaded.dtype).eps
    if not bool(expected.isfinite().all()):
        raise InputError(f"tensor {name} of {file.path.name} is not finite (NaN or infinity)")
    if not bool(found.isfinite().all()):
        raise InputError(f"tensor {name} of {file.path.name}, finite in the file, is not finite in {loaded.dtype}")
    difference = float((found - expected).abs().max())
    if not difference <= 4 * eps * max(size, 1e-30):
        raise InputError(
            f"transformers read {name} of {file.path.name} wrongly: rows differ by {difference:.1e} from the file's, "
            f"whose largest entry is {size:.1e}"
        )


def _rows_of(file: GGUFFile, name: str, rows: np.ndarray, config: Any, *, is_vector: bool) -> Tensor:
    """Return rows of a file's tensor in float32, in the order and meaning of the parameter that it is."""
    from gguf.quants import dequantize

    tensor, lines = file.tensors[name], rows
    if file.architecture in INTERLEAVED and (".attn_q." in name or ".attn_k." in name):
        heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
        every = np.arange(int(tensor.shape[-1]))
        lines = rearrange(every, "(head pair half) -> (head half pair)", head=heads, half=2)[rows]
    # a row is quantised by itself, but a vector is a row: it is read whole
    whole = is_vector or len(rows) == int(tensor.shape[-1])
    stored = dequantize(tensor.data, tensor.tensor_type)[lines] if whole else None
    stored = dequantize(tensor.data[lines], tensor.tensor_type) if stored is None else stored
    found = torch.from_numpy(np.array(stored, dtype=np.float32))
    return found - 1.0 if file.architecture in ONE_PLUS and name.endswith("norm.weight") else found


def bos_note(file: GGUFFile, tokenizer: PreTrainedTokenizerBase | None) -> tuple[str, ...]:
    """Return a note where the tokenizer adds a BOS and the file says that it adds none, or the other way round."""
    wanted = file.metadata.get("tokenizer.ggml.add_bos_token")
    if tokenizer is None or wanted is None or tokenizer.bos_token_id is None:
        return ()
    does = tokenizer.encode("a", add_special_tokens=True)[:1] == [tokenizer.bos_token_id]
    if does == wanted:
        return ()
    habits = {True: "prepends a BOS", False: "prepends none"}
    return (f"the file's tokenizer {habits[bool(wanted)]}, as transformers reads it it {habits[does]}",)
