"""One checkpoint, a folder or a hub name, loaded through `transformers` and held against its own files.

`transformers` fills a tensor that the files lack with random numbers and leaves one that fits nowhere unread; at most
a log says so. Here both are errors, by two witnesses: the report that `transformers` gives of a load, and a second
reading of the files, tensor by tensor, that shares nothing with the first but the table of old names. Tensors that are
fused on the way into a model (the experts of a mixture) have no counterpart; of those only the report speaks.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter

from lensdiff.models.loading.opening import OPTIONS, code_note, locate, tokenizer_of
from lensdiff.models.loading.probe import TOLERANCE
from lensdiff.models.loading.stated import SAFE, weight_files
from lensdiff.models.loading.stumbles import at_the_door, few
from lensdiff.results import InputError

# buffers of older checkpoints that transformers computes instead
COMPUTED = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")
MASKED = ".attn.masked_bias"  # a constant in older checkpoints of GPT-2, which transformers does not know any more
T = TypeVar("T")


@dataclass
class Source:
    """A `transformers` model with what is known of its origin."""

    id: str
    model: Any  # PreTrainedModel, taken out once its storage has gone into a wrapper
    tokenizer: PreTrainedTokenizerBase | InputError | None  # an error: there is one that cannot be read
    revision: str | None = None
    borrowed: bool = False  # the model is the user's own object
    notes: tuple[str, ...] = ()  # what a reader of the results should know of the load


def from_name(
    where: str, name: str, *, revision: str | None, dtype: torch.dtype, needs_tokenizer: bool = True
) -> Source:
    """Load a folder or a hub name, and check that every tensor of the model is the one in the files.

    Args:
        where: the folder or the hub name.
        name: what the model is called from now on.
        revision: branch, tag or commit of a hub name.
        dtype: of the weights.
        needs_tokenizer: whether its tokenizer is read.

    Raises:
        InputError: there is no such checkpoint, it is quantised or made for another task, tensors are missing,
            unexpected, of another shape or not those in the files.
    """
    at = locate(where, name, revision)
    config, options = at.config, at.options
    with at_the_door(f"cannot load {name}"):
        # weights_only is what .bin files are opened with; a tensor of another shape is refused below, by its name
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where,
            config=config,
            dtype=dtype,
            weights_only=True,
            ignore_mismatched_sizes=True,
            **OPTIONS,
            **options,
        )
    model, report = loaded
    check_report(report, name, type(model).__name__)
    _check_tie(model, name)
    # .bin files have no other witness than the report
    files = [file for file in weight_files(at.folder, whole=at.is_whole) if file.suffix == SAFE]
    check_tensors(model, files, name)
    notes = code_note(config, type(model).__name__)
    tokenizer = tokenizer_of(where, name, options) if needs_tokenizer else None
    return Source(name, model, tokenizer, at.commit or revision, notes=notes)


def check_report(report: dict[str, Any], name: str, architecture: str) -> None:
    """Refuse a load in which, by the report of `transformers`, tensors were missing, unexpected or of another shape."""
    faults = []
    if report["missing_keys"]:
        faults.append(f"its files lack {few(report['missing_keys'])}")
    if unexpected := [key for key in report["unexpected_keys"] if not key.endswith(MASKED)]:
        faults.append(f"a {architecture} has no place for {few(unexpected)}")
    if report["mismatched_keys"]:
        shapes = {f"{key} of shape {tuple(ours)} for {tuple(due)}" for key, ours, due in report["mismatched_keys"]}
        faults.append(f"its files hold {few(shapes)}")
    faults += report["error_msgs"]
    if faults:
        raise InputError(
            f"{name} is not the {architecture} that its config describes: {'; '.join(faults)} "
            "(what is meant all the same can be loaded with transformers and given as a model)"
        )


def _check_tie(model: Any, name: str) -> None:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if tied and head is not None and head.weight is not embedding.weight:
        raise InputError(
            f"the config of {name} ties the unembedding to the embedding, but its files hold two different ones: "
            'set "tie_word_embeddings" to false in config.json, or take the unembedding out of the files'
        )


def check_tensors(model: Any, files: Iterable[Path], name: str) -> None:
    """Refuse a model with a tensor that is not the one of that name in the files, or that comes from none of them.

    Raises:
        InputError: a tensor differs from the file's, is stored as integers, or has no counterpart in the files.
    """
    own = model.state_dict(keep_vars=True)
    changes, computed = old_names(model), unneeded(model)
    found, unknown, left_over, read = set(), [], 0, False
    for file in files:
        read = True
        with at_the_door(f"cannot load {name}"):
            opened = safe_open(file, framework="pt")
        with opened as stored:
            for key in stored.keys():  # noqa: SIM118 (a file is no mapping)
                tensor, fused = own_of(key, own, model.base_model_prefix, changes)
                # stacks of experts are turned on the way in
                if fused or (tensor is not None and tensor.ndim > 2):
                    left_over += torch.Size(stored.get_slice(key).get_shape()).numel()
                elif tensor is not None:
                    found.add(id(tensor))
                    with at_the_door(f"cannot load {name}"):
                        again = stored.get_tensor(key)
                    _check_tensor(tensor, again, f"{key} of {name}")
                elif not computed.search(key):
                    unknown.append(key)
    if unknown:
        raise InputError(f"the files of {name} hold {few(unknown)}, for which a {type(model).__name__} has no place")
    lacking = {key: tensor for key, tensor in model.named_parameters() if id(tensor) not in found}
    if read and sum(tensor.numel() for tensor in lacking.values()) > left_over:
        raise InputError(f"the files of {name} lack {few(lacking)}")


def old_names(model: Any) -> list[Any]:
    """Return what `transformers` knows of other names and shapes of a model's tensors, plain renamings first."""
    return sorted(get_model_conversion_mapping(model), key=lambda change: isinstance(change, WeightConverter))


def unneeded(model: Any) -> re.Pattern[str]:
    """Return what matches a file's key for which a model has no place and needs none."""
    return re.compile("|".join((re.escape(MASKED), *COMPUTED, *(model._keys_to_ignore_on_load_unexpected or ()))))


def own_of(key: str, own: Mapping[str, T], prefix: str, changes: Sequence[Any]) -> tuple[T | None, bool]:
    """Return what of the model's own a file's key stands for, or None, and whether it is one of several made into one.

    Args:
        own: what is asked for, by the model's names of its tensors.
        prefix: of those names, which some checkpoints leave out.
        changes: `old_names` of the model.
    """
    tensor, renamed = _named(key, own, prefix), key
    if tensor is not None:
        return tensor, False
    for change in changes:
        renamed, pattern = change.rename_source_key(renamed)
        if pattern is not None and isinstance(change, WeightConverter):
            return _named(renamed, own, prefix), True
    return _named(renamed, own, prefix), False


def _named(key: str, own: Mapping[str, T], prefix: str) -> T | None:
    # a checkpoint of the bare model, like GPT-2's, leaves out the prefix; where it stands twice, one is taken off
    names = (key, f"{prefix}.{key}", key.removeprefix(f"{prefix}."))
    return next((own[name] for name in names if name in own), None)


def _check_tensor(tensor: Tensor, stored: Tensor, name: str) -> None:
    if tensor.is_floating_point() and stored.dtype not in TOLERANCE:
        raise InputError(f"{name} is stored as {stored.dtype}: expected an unquantised checkpoint or a GGUF file")
    if not same_as_stored(tensor, stored):
        raise InputError(f"{name} was loaded as another tensor than its file holds")


def same_as_stored(tensor: Tensor, stored: Tensor) -> bool:
    """Return whether a stored tensor, brought to the other's dtype, is the same (NaN equals NaN)."""
    stored = stored.to(device=tensor.device, dtype=tensor.dtype)
    return tensor.shape == stored.shape and (
        torch.equal(tensor, stored) or torch.allclose(tensor, stored, rtol=0.0, atol=0.0, equal_nan=True)
    )
