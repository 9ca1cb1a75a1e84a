"""Tiny GGUF files, written as llama.cpp's converter writes them: its names, its order of rows, its keys."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import PreTrainedModel

from tests.checkpoints import tokenizer_of

Keys = Callable[[gguf.GGUFWriter], None]
Tensors = dict[str, np.ndarray]


def interleaved(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """A Llama's query or key rows in llama.cpp's order: the two halves of a head alternate."""
    halves = weight.reshape(n_heads, 2, weight.shape[0] // n_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def tensors_of(model: PreTrainedModel, architecture: str) -> Tensors:
    """The tensors of a `transformers` model under llama.cpp's names."""
    config = model.config
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    found = {}
    for name, parameter in model.named_parameters():
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert written is not None, name
        value = parameter.detach().float().numpy()
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            value = interleaved(value, heads)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            value = value + 1.0
        found[written] = np.ascontiguousarray(value)
    return found


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    architecture: str = "llama",
    *,
    keys: Keys = lambda writer: None,
    tensors: Mapping[str, np.ndarray | None] = {},
    sizes: Mapping[str, int | None] = {},
    tokenizer: Callable[[gguf.GGUFWriter, Any], None] | None = None,
) -> Path:
    """Write a model with its tokenizer; `keys` adds metadata, `tensors` adds or (None) leaves out tensors, `sizes`
    changes or leaves out keys of the architecture, `tokenizer` writes another one or none."""
    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    given: dict[str, int | None] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": d_head,
        "attention.value_length": d_head,
        "vocab_size": config.vocab_size,
        "rope.dimension_count": d_head,
        **sizes,
    }
    for name, value in given.items():
        if value is not None:
            writer.add_uint32(f"{architecture}.{name}", value)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    keys(writer)
    (tokenizer or write_tokenizer)(writer, config)
    for name, value in (tensors_of(model, architecture) | dict(tensors)).items():
        if value is not None:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tokenizer(writer: gguf.GGUFWriter, config: Any) -> None:
    whole = json.loads(tokenizer_of().backend_tokenizer.to_str())["model"]
    names = sorted(whole["vocab"], key=whole["vocab"].get)
    names += [f"<unused {i}>" for i in range(len(names), config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types([3] * 3 + [1] * (len(names) - 3))
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in whole["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
