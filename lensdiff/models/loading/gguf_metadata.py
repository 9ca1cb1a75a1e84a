"""A GGUF file as it stands, and the config that its metadata asks for.

What `transformers` makes of the metadata is taken as a draft only: it leaves out keys that change the function (rope
scaling, key length, soft caps, windows) and fills in a class's defaults. Here every key is taken by name, with what
llama.cpp assumes where it is missing; a key that llama.cpp reads and nobody took is refused, any other one is noted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensdiff.models.loading.gguf_header import check_header
from lensdiff.models.loading.stated import check_sizes
from lensdiff.results import InputError

# prefixes of keys that do not change the function: descriptions, how the file was made, what the tokenizer reads
HARMLESS = ("GGUF.", "general.", "tokenizer.", "quantize.")
REQUIRED = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
WINDOWED = ("gemma2", "gemma3", "phi3")
ALWAYS_WINDOWED = ("gemma2", "gemma3")
# what llama.cpp reads from such a key changes nothing where it has this value
NEUTRAL = {
    "expert_count": 0,
    "expert_used_count": 0,
    "nextn_predict_layers": 0,
    "logit_scale": 1.0,
    "residual_scale": 1.0,
    "embedding_scale": 1.0,
    "attention.causal": True,
    "attention.clamp_kqv": 0.0,
    "attention.max_alibi_bias": 0.0,
    "use_parallel_residual": False,
}
# what a key of the architecture is: another kind of value is refused as it is taken (`check_sizes` has the others)
REAL = (
    *("attention.layer_norm_rms_epsilon", "attention.scale", *SOFT_CAPS, "rope.freq_base", "rope.freq_base_swa"),
    *("rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"),
    *("rope.scaling.yarn_ext_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
)
WHOLE = (
    *("vocab_size", "attention.key_length", "attention.value_length", "rope.dimension_count"),
    "rope.scaling.original_context_length",
)
BY_LAYER = (*REQUIRED, "attention.key_length")  # may be a list
ABOUT_ITS_MAKING = ("tensor_data_layout", "rope.scaling.finetuned")  # of an architecture, and read by nobody
# llama.cpp knows Google's largest models by their layers: those scale scores by d_model / n_heads, the others by d_head
LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}


@dataclass
class GGUFFile:
    """The metadata and tensors of a GGUF file, as the `gguf` package reads them; tensors stay on the disk.

    Attributes:
        metadata: every key, without the long lists of the tokenizer.
        tensors: the package's tensors by name.
        taken: the architecture's keys that somebody took.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Any]
    taken: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> "GGUFFile":
        """Read a file's metadata and its table of tensors.

        Raises:
            InputError: it is no GGUF file, not a model's, or one of several parts.
        """
        from gguf import GGUFReader

        check_header(path)
        try:
            reader = GGUFReader(path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise InputError(f"{path} cannot be read as a GGUF file: {str(error).strip()}") from error
        fields = {key: item for key, item in reader.fields.items() if not _long(key, item)}
        found = cls(path, {key: _value(item) for key, item in fields.items()}, {t.name: t for t in reader.tensors})
        if "general.architecture" not in found.metadata:
            raise InputError(f"{path.name} names no general.architecture")
        for key, expected in (("general.type", "model"), ("split.count", 1)):
            given = found.metadata.get(key) or expected
            if given != expected:
                raise InputError(f"{path.name} has {key} = {given!r}, expected {expected!r}: a whole model in one file")
        return found

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    def key(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    def take(self, name: str, default: Any = None) -> Any:
        """Return the value of one of the architecture's keys, which counts as read from then on.

        Raises:
            InputError: it is of another kind than such a key's.
        """
        self.taken.add(self.key(name))
        value = self.metadata.get(self.key(name))
        if value is None:
            return default
        for one in value if isinstance(value, list) and name in BY_LAYER else [value]:
            if name in REAL and (isinstance(one, bool) or not isinstance(one, int | float)):
                raise self.refuse(name, "expected a number")
            if name in WHOLE and (isinstance(one, bool) or not isinstance(one, int) or one < 1):
                raise self.refuse(name, "expected a whole number of at least 1")
        return value

    def refuse(self, name: str, why: str) -> InputError:
        """Return the error that refuses a key of the architecture by its name and value."""
        return InputError(f"{self.path.name} has {self.key(name)} = {self.metadata[self.key(name)]!r}, {why}")

    def nobody_took(self) -> tuple[str, ...]:
        """Return a note on each key that nobody read, unless llama.cpp reads it.

        Raises:
            InputError: llama.cpp reads such a key, so it changes the function.
        """
        left = [k for k in self.metadata if k not in self.taken and not k.startswith((*HARMLESS, "split."))]
        known = _known_keys(self.architecture)
        for key in left:
            name = key.removeprefix(f"{self.architecture}.")
            if name in NEUTRAL and self.metadata[key] == NEUTRAL[name]:
                continue
            if key in known and name not in ABOUT_ITS_MAKING:
                raise self.refuse(name, "which changes what the model computes and has no counterpart in transformers")
        unread = [k for k in left if k not in known]
        return (f"nobody read the file's metadata {', '.join(unread)}",) if unread else ()


def _long(key: str, item: Any) -> bool:
    return key.startswith("tokenizer.") and len(item.data) > 1


def _value(item: Any) -> Any:
    from gguf import GGUFValueType

    values = [item.parts[i] for i in item.data]
    text = item.types[-1] == GGUFValueType.STRING
    values = [bytes(v).decode("utf-8", "replace") if text else v[0].item() for v in values]
    return values if item.types[0] == GGUFValueType.ARRAY else values[0]


def _known_keys(architecture: str) -> set[str]:
    """Return the keys of an architecture that llama.cpp has a name for."""
    from gguf.constants import Keys

    found, groups = set(), [Keys]
    while groups:
        for value in vars(groups.pop()).values():
            if isinstance(value, type):
                groups.append(value)
            elif isinstance(value, str) and value.startswith("{arch}."):
                found.add(value.replace("{arch}", architecture))
    return found


def check_layers_alike(file: GGUFFile) -> None:
    """Refuse a size that the file gives for each layer, unless they are all the same."""
    for name in (*REQUIRED, "attention.head_count_kv"):
        _one(file, name, None)


def check_stated_sizes(file: GGUFFile) -> None:
    """Refuse sizes that no model has, or that the file has no room for, before anything is made of them.

    Raises:
        InputError: with the key and its value.
    """
    names = {name: attribute for name, attribute in REQUIRED.items() if not name.endswith("epsilon")}
    names |= {"attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim"}
    given = {attribute: _one(file, name, None) for name, attribute in names.items()}
    called = {attribute: file.key(name) for name, attribute in names.items()}
    check_sizes(
        {attribute: value for attribute, value in given.items() if value is not None},
        file.path.name,
        file.path.stat().st_size,
        called,
    )


def settle_sizes(config: Any, file: GGUFFile) -> None:
    """Put what the file says of sizes, heads, windows and caps into a config.

    Raises:
        InputError: a key is missing, differs by layer, or asks for what the architecture does not have in transformers.
    """
    for name, attribute in REQUIRED.items():
        setattr(config, attribute, _required(file, name))
    config.num_key_value_heads = _one(file, "attention.head_count_kv", config.num_attention_heads)
    _settle_heads(config, file)
    config.vocab_size = file.take("vocab_size", _rows(file, "token_embd.weight"))
    for name in SOFT_CAPS:
        value = file.take(name)
        if value is not None and not hasattr(config, name):
            raise file.refuse(name, f"but a {file.architecture} caps nothing in transformers")
        if value is not None:
            setattr(config, name, value or None)
    _settle_windows(config, file)
    config.tie_word_embeddings = "output.weight" not in file.tensors
    for attribute, tensor in (("attention_bias", "attn_q"), ("mlp_bias", "ffn_up")):
        if hasattr(config, attribute):
            setattr(config, attribute, f"blk.0.{tensor}.bias" in file.tensors)


def _settle_heads(config: Any, file: GGUFFile) -> None:
    d_head = _one(file, "attention.key_length", config.hidden_size // config.num_attention_heads)
    if file.take("attention.value_length", d_head) != d_head:
        raise file.refuse("attention.value_length", f"but keys have {d_head} dimensions: expected the same")
    config.head_dim = d_head
    usual = d_head
    if file.architecture in LARGEST_GEMMA:
        if config.num_hidden_layers == LARGEST_GEMMA[file.architecture]:
            usual = config.hidden_size // config.num_attention_heads
        config.query_pre_attn_scalar = usual
    scale = file.take("attention.scale")
    if scale and abs(scale * usual**0.5 - 1) > 1e-5:  # float32
        raise file.refuse("attention.scale", f"expected {usual**-0.5:.6g}, as transformers scales scores")


def _settle_windows(config: Any, file: GGUFFile) -> None:
    window = file.take("attention.sliding_window")
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 0):
        raise file.refuse("attention.sliding_window", "expected a whole number of at least 0")
    if window and file.architecture not in WINDOWED:
        raise file.refuse("attention.sliding_window", f"but a {file.architecture} has no windows in transformers")
    if file.architecture in ALWAYS_WINDOWED and window is None:
        raise InputError(f"{file.path.name} has no {file.key('attention.sliding_window')}, which it needs")
    if hasattr(config, "sliding_window"):  # a class's default is another checkpoint's
        config.sliding_window = window or None
    pattern = file.take("attention.sliding_window_pattern")
    if pattern is None:
        return
    if not hasattr(config, "layer_types"):
        raise file.refuse("attention.sliding_window_pattern", f"but every layer of a {file.architecture} is the same")
    if isinstance(pattern, int) and pattern > 0:  # every so many layers one that sees everything
        pattern = [(layer + 1) % pattern != 0 for layer in range(config.num_hidden_layers)]
    if not isinstance(pattern, list) or len(pattern) != config.num_hidden_layers:
        raise file.refuse(
            "attention.sliding_window_pattern", "expected a whole number of at least 1, or a value for every layer"
        )
    config.layer_types = ["sliding_attention" if local else "full_attention" for local in pattern]


def _required(file: GGUFFile, name: str) -> Any:
    value = _one(file, name, None)
    if value is None:
        raise InputError(f"{file.path.name} has no {file.key(name)}, which every {file.architecture} needs")
    return value


def _one(file: GGUFFile, name: str, default: Any) -> Any:
    value = file.take(name, default)
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise file.refuse(name, "expected the same in every layer")
    return value[0]


def _rows(file: GGUFFile, tensor: str) -> int:
    if tensor not in file.tensors:
        raise InputError(f"{file.path.name} has no tensor {tensor}")
    shape = file.tensors[tensor].shape
    if not len(shape):
        raise InputError(f"tensor {tensor} of {file.path.name} has no axis, expected a row for every token")
    return int(shape[-1])  # ggml counts dimensions from the last
