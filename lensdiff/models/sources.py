"""Where a checkpoint comes from: hub name, folder, GGUF file, LoRA adapter, or a `transformers` model in memory."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lensdiff.results import InputError


@dataclass
class Source:
    """A `transformers` model with what is known of its origin."""

    id: str
    model: Any  # PreTrainedModel, taken out once its storage has gone into a wrapper
    tokenizer: PreTrainedTokenizerBase | None
    revision: str | None = None
    borrowed: bool = False  # the model is the user's own object
    notes: tuple[str, ...] = ()  # what a reader should know of the load


def read_source(source: Any, *, base: Any, revision: str | None, dtype: torch.dtype) -> Source:
    """Return the `transformers` model that `source` stands for."""
    if isinstance(source, torch.nn.Module):
        return _from_object(source)
    if not isinstance(source, str | Path):
        raise InputError(f"a model is given as a name, a path or a model object, got {type(source).__name__}")
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"no GGUF file at {path}")
        return _from_gguf(path, dtype)
    if path.is_dir():
        if is_adapter(path):
            return _from_adapter(path, base=base, revision=revision, dtype=dtype)
        if (path / "config.json").is_file():
            return _from_name(str(path), path.name, revision=None, dtype=dtype)
        raise InputError(
            f"folder {path} has no config.json, so it is no checkpoint (nor has it an adapter_config.json)"
        )
    if path.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") > 1 or path.exists():
        raise InputError(f"no model folder at {path}")
    return _from_name(str(source), str(source), revision=revision, dtype=dtype)


def is_adapter(source: Any) -> bool:
    """Return whether `source` is a folder with a LoRA adapter."""
    return isinstance(source, str | Path) and (Path(source).expanduser() / "adapter_config.json").is_file()


def _from_object(model: torch.nn.Module) -> Source:
    if hasattr(model, "merge_and_unload"):  # a peft model
        model = copy.deepcopy(model).merge_and_unload()  # pyright: ignore[reportCallIssue] (merging writes into it)
    if not isinstance(model, PreTrainedModel):
        raise InputError(f"a {type(model).__name__} is no transformers model, HookedTransformer or TransformerBridge")
    if any("lora_A" in part for part, _ in model.named_modules()):
        raise InputError(
            "the model holds the layers of a LoRA adapter: give the adapter's model, or load the base anew"
        )
    name = getattr(model.config, "name_or_path", "") or type(model).__name__
    return Source(Path(name).name if Path(name).is_dir() else name, model, None, borrowed=True)


def _from_name(where: str, name: str, *, revision: str | None, dtype: torch.dtype, gguf: str | None = None) -> Source:
    options: dict[str, Any] = {"revision": revision} if revision else {}
    if gguf:
        options["gguf_file"] = gguf
    try:
        # explicit attention: fused kernels know no forward mode; weights_only is what .bin files are opened with
        model = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype, attn_implementation="eager", trust_remote_code=False, weights_only=True, **options
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot load {name}: {_first_line(error)}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError):
        tokenizer = None  # weight-only analyses need none; the others say so
    commit = getattr(model.config, "_commit_hash", None)
    return Source(name, model, tokenizer, commit or revision)


def _from_gguf(path: Path, dtype: torch.dtype) -> Source:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise InputError("a GGUF file needs the extra: pip install 'lensdiff[gguf]'") from error
    from lensdiff.models.gguf_file import load_gguf

    model, tokenizer, notes = load_gguf(path, dtype)
    return Source(path.stem, model, tokenizer, notes=notes)


def _from_adapter(path: Path, *, base: Any, revision: str | None, dtype: torch.dtype) -> Source:
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise InputError("a LoRA adapter needs the extra: pip install 'lensdiff[lora]'") from error
    named = base if base is not None else PeftConfig.from_pretrained(str(path)).base_model_name_or_path
    if not named:
        raise InputError(f"the adapter in {path} names no base model: give it with base=...")
    if isinstance(named, torch.nn.Module):
        named = copy.deepcopy(named)  # merging writes into the weights
    under = read_source(named, base=None, revision=revision, dtype=dtype)
    merged = PeftModel.from_pretrained(under.model, str(path)).merge_and_unload()
    tokenizer = (
        AutoTokenizer.from_pretrained(str(path)) if (path / "tokenizer_config.json").is_file() else under.tokenizer
    )
    return Source(path.name, merged, tokenizer, under.revision)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
