"""Where a checkpoint comes from: hub name, folder, GGUF file, LoRA adapter, or a `transformers` model in memory."""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lensdiff.models.inside.widened import HALF
from lensdiff.models.loading.adapters import (
    CONFIG,
    from_adapter,
    holds_adapter,
    holds_tokenizer,
    is_peft,
    merge_peft,
    read_config,
)
from lensdiff.models.loading.checkpoints import Source, from_name
from lensdiff.models.loading.opening import refuse_quantised
from lensdiff.models.loading.places import GGUF, place_of
from lensdiff.results import InputError
from lensdiff.results.paths import as_path


def read_source(
    source: Any, *, base: Any, revision: str | None, dtype: torch.dtype, needs_tokenizer: bool = True
) -> Source:
    """Return the `transformers` model that `source` stands for.

    Args:
        source, base, revision, dtype: as `load_model` has them.
        needs_tokenizer: whether its tokenizer is read, which takes a second or more where there are many tokens.

    Raises:
        InputError: there is none, it cannot be read, or a revision is asked of what is no hub name.
    """
    if isinstance(source, torch.nn.Module):
        _refuse_revision(revision, f"a {type(source).__name__}")
        return _from_object(source)
    if not isinstance(source, str | Path):
        raise InputError(f"a model is given as a name, a path or a model object, got {type(source).__name__}")
    path = place_of(source)
    if path.suffix.lower() == GGUF:
        _refuse_revision(revision, f"the file {path}")
        return _from_gguf(path, dtype, needs_tokenizer)
    options: dict[str, Any] = {"dtype": dtype, "needs_tokenizer": needs_tokenizer}
    if not path.is_dir():
        return from_name(str(source), str(source), revision=revision, **options)
    if is_adapter(path):
        return _from_adapter(path, base=base, revision=revision, **options)
    _refuse_revision(revision, f"the folder {path}")
    return from_name(str(path), path.name, revision=None, **options)


def _refuse_revision(revision: str | None, what: str) -> None:
    if revision is not None:
        raise InputError(f"revision={revision!r} is one of a hub name, but {what} was given, which has no revisions")


def is_adapter(source: Any) -> bool:
    """Return whether `source` is a folder with a LoRA adapter."""
    return isinstance(source, str | Path) and (as_path(source, "a model") / CONFIG).is_file()


def _from_object(model: torch.nn.Module) -> Source:
    notes: tuple[str, ...] = ()
    if is_peft(model):
        model, notes = merge_peft(model)
    if not isinstance(model, PreTrainedModel):
        raise InputError(f"a {type(model).__name__} is no transformers model, HookedTransformer or TransformerBridge")
    if holds_adapter(model):
        raise InputError(
            "the model holds the layers of a LoRA adapter: give the adapter's model, or load the base anew"
        )
    name = getattr(model.config, "name_or_path", "") or type(model).__name__
    name = Path(name).name if Path(name).is_dir() else name
    refuse_quantised(model.config, name)
    for key, weight in model.named_parameters():
        if type(weight.data) is not torch.Tensor or not weight.is_floating_point():
            raise InputError(f"{key} of {name} is a quantised {type(weight.data).__name__} of {weight.dtype}")
    return Source(name, model, None, borrowed=True, notes=(*notes, *_rounded_angles(model)))


def _rounded_angles(model: PreTrainedModel) -> tuple[str, ...]:
    """Return a note of a model that was cast as a whole, with the frequencies of its rotations; nothing of others."""
    found = {buffer.dtype for name, buffer in model.named_buffers() if name.endswith("inv_freq")} & set(HALF)
    if not found:
        return ()
    dtype = str(found.pop()).removeprefix("torch.")
    return (
        f"its rotary frequencies are rounded to {dtype}, so it turns later tokens by other angles than transformers "
        "means to: give from_pretrained the dtype, and do not cast the whole model",
    )


def _from_gguf(path: Path, dtype: torch.dtype, needs_tokenizer: bool) -> Source:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise InputError("a GGUF file needs the extra: pip install 'lensdiff[gguf]'") from error
    from lensdiff.models.loading.gguf_file import load_gguf

    model, tokenizer, notes = load_gguf(path, dtype, needs_tokenizer=needs_tokenizer)
    return Source(path.stem, model, tokenizer, notes=notes)


def _from_adapter(path: Path, *, base: Any, revision: str | None, dtype: torch.dtype, needs_tokenizer: bool) -> Source:
    config = read_config(path)
    named = base if base is not None else config.base_model_name_or_path
    if not named:
        raise InputError(f"the adapter in {path} names no base model: give it with base=...")
    if isinstance(named, torch.nn.Module):
        named = copy.deepcopy(named)  # merging writes into the weights
    own = needs_tokenizer and holds_tokenizer(path)  # then the base's is of no use
    needs_bases = needs_tokenizer and not own
    under = read_source(named, base=None, revision=revision, dtype=dtype, needs_tokenizer=needs_bases)
    return from_adapter(path, config, under, own_tokenizer=own)
