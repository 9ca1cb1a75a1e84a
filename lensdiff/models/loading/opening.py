"""Where a checkpoint is and what stands beside its weights: config, tokenizer, settings of generation.

A folder, or a hub name, of which every file is read from one commit. Nothing is built of it here, and no code of it
runs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from lensdiff.models.loading.commits import commit_in, reach
from lensdiff.models.loading.stated import LOOKED_FOR, check_folder, weight_files
from lensdiff.models.loading.stumbles import at_the_door, few, first_line
from lensdiff.results import InputError
from lensdiff.results.memory import is_lack_of_memory

GENERATION = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
VOCABULARIES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"),
    "tekken.json",
)
# explicit attention: fused kernels know no forward mode; explicit experts: the grouped kernel knows no float64
OPTIONS: dict[str, Any] = {
    "attn_implementation": "eager",
    "experts_implementation": "eager",
    "trust_remote_code": False,
    "output_loading_info": True,
}
EMPTY_OPTIONS: dict[str, Any] = {key: value for key, value in OPTIONS.items() if key != "output_loading_info"}
ABSENT: dict[str, Any] = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}


@dataclass(frozen=True)
class Opened:
    """A checkpoint of which config and tokenizer have been read, and no weights.

    Attributes:
        files: those of weights, all of them there.
        generation: its settings of generation, or None.
    """

    id: str
    config: Any
    tokenizer: PreTrainedTokenizerBase | InputError | None
    revision: str | None
    files: tuple[Path, ...]
    generation: Any = None
    notes: tuple[str, ...] = ()


def open_checkpoint(where: str, name: str, revision: str | None) -> Opened:
    """Return what a folder or a hub name holds, without reading its weights; those of a hub name are fetched.

    Raises:
        InputError: as `from_name`, of what can be told without them.
    """
    at = locate(where, name, revision)
    if not at.is_whole:
        with at_the_door(f"cannot load {name}"):
            for listed in LOOKED_FOR:
                if cached_file(where, listed, **ABSENT, **at.options) is not None:
                    break
    files = weight_files(at.folder, whole=at.is_whole)
    if not at.is_whole:
        with at_the_door(f"cannot load {name}"):
            files = [Path(str(cached_file(where, file.name, **at.options))) for file in files]
    generation = None
    if holds(where, [GENERATION], at.options):
        with at_the_door(f"cannot load {name}"):
            generation = GenerationConfig.from_pretrained(where, **at.options)
    return Opened(
        name,
        at.config,
        tokenizer_of(where, name, at.options),
        at.commit or revision,
        tuple(files),
        generation,
        code_note(at.config, str(next(iter(at.config.architectures or ["model"])))),
    )


@dataclass(frozen=True)
class At:
    """Where a checkpoint is: its folder, its commit if it has a hub name, and what `transformers` is asked with."""

    folder: Path
    is_whole: bool
    commit: str | None
    options: dict[str, Any]
    config: Any


def locate(where: str, name: str, revision: str | None) -> At:
    options: dict[str, Any] = {"revision": revision} if revision else {}
    is_folder = Path(where).is_dir()
    commit = None if is_folder else reach(where, revision) or _commit(where, name, options)
    if commit:  # a branch may move while files are read
        options["revision"] = commit
    if not is_folder and _is_adapter(where, name, options):
        raise InputError(f"{name} is an adapter and no checkpoint: download it, and give its folder")
    with at_the_door(f"cannot load {name}"):
        folder = Path(str(cached_file(where, "config.json", **options))).parent
    check_folder(folder, whole=is_folder)
    config = _config(where, name, options)
    return At(folder, is_folder, commit, options, config)


def code_note(config: Any, architecture: str) -> tuple[str, ...]:
    """Return a note where a checkpoint brings code for a model that `transformers` has too: only the latter runs."""
    own = dict(getattr(config, "auto_map", None) or {})
    return (f"its own code ({few(map(str, own.values()))}) was not run: a {architecture} it is",) if own else ()


def _commit(where: str, name: str, options: dict[str, Any]) -> str | None:
    with at_the_door(f"cannot load {name}"):
        file = cached_file(where, "config.json", **ABSENT, **options)
    return commit_in(file)


def _is_adapter(where: str, name: str, options: dict[str, Any]) -> bool:
    with at_the_door(f"cannot load {name}"):
        return find_adapter_config_file(where, **options) is not None


def tokenizer_of(where: str, name: str, options: dict[str, Any]) -> PreTrainedTokenizerBase | InputError | None:
    # weight-only analyses need none; the others say so
    if holds(where, VOCABULARIES, options):
        return read_tokenizer(name, pretrained_model_name_or_path=where, **options)
    if Path(where).is_dir() and holds(where, [TOKENIZER_CONFIG], options):
        return InputError(f"{name} has a {TOKENIZER_CONFIG}, but none of {', '.join(VOCABULARIES)}")
    return None


def holds(where: str, names: Iterable[str], options: dict[str, Any]) -> bool:
    """Return whether a folder or hub name has a file of one of these names."""
    return any(cached_file(where, name, **ABSENT, **options) is not None for name in names)


def read_tokenizer(name: str, **where: Any) -> PreTrainedTokenizerBase | InputError:
    """Return the tokenizer that is at `where`, options of `transformers`, or why it cannot be read.

    The error is raised where no other tokenizer is given.
    """
    try:
        return AutoTokenizer.from_pretrained(trust_remote_code=False, **where)
    except Exception as error:  # tokenizers raises bare ones
        if is_lack_of_memory(error):
            raise
        return InputError(
            f"cannot read the tokenizer of {name}: {first_line(error)}; load_model(..., tokenizer=...) takes another"
        )


def _config(where: str, name: str, options: dict[str, Any]) -> Any:
    with at_the_door(f"cannot load {name}"):
        config: Any = AutoConfig.from_pretrained(where, trust_remote_code=False, **options)
        config.get_text_config()  # what follows asks for it
    refuse_quantised(config, name)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # of a GGUF file that was dequantised and saved: its weights are plain ones
    for architecture in getattr(config, "architectures", None) or ():
        task = architecture.rpartition("For")[2]
        if "For" in architecture and not task.startswith(("CausalLM", "ConditionalGeneration")):
            raise InputError(f"{name} is a {architecture}, expected a causal language model such as LlamaForCausalLM")
    return config


def quantisation(config: Any) -> str | None:
    """Return the method by which a `transformers` config says that the weights are quantised, or None."""
    for part in (config, config.get_text_config()):
        found = getattr(part, "quantization_config", None) or getattr(part, "compression_config", None)
        if found is not None:
            method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
            return str(getattr(method, "value", method) or "bitsandbytes")  # which once named no method
    return None


def refuse_quantised(config: Any, name: str) -> None:
    """Refuse a checkpoint whose config says that its weights are codes; those of a GGUF file are dequantised."""
    method = quantisation(config)
    if method not in (None, "gguf"):
        raise InputError(f"{name} is quantised ({method}): expected an unquantised checkpoint or a GGUF file")
