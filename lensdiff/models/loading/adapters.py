"""An adapter becomes a change of the weights: put on its base, checked key by key, merged, checked by its logits.

peft gives a layer that the file lacks random or zero numbers and leaves a key that fits nowhere unread, and it merges
an adapter of one of two tied matrices into the tensor that both share. Here each key is used and each adapted layer is
in the file, the matrices are untied first, and the merged model says what the unmerged one says.
"""

import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from lensdiff.inputs.spans import shorten
from lensdiff.models.loading.checkpoints import Source, same_as_stored
from lensdiff.models.loading.opening import VOCABULARIES, holds, read_tokenizer, refuse_quantised
from lensdiff.models.loading.probe import TOLERANCE, logits_of, probe_tokens
from lensdiff.models.loading.stated import read_object
from lensdiff.models.loading.stumbles import at_the_door, few
from lensdiff.results import InputError
from lensdiff.results.memory import is_lack_of_memory

CONFIG = "adapter_config.json"
ADAPTER = "default"  # peft's name for the only adapter of a model
# where a file holds a whole embedding, adapted or not
EMBEDDING_KEYS = ("weight", "base_layer.weight", "token_adapter.base_layer.weight")


def read_config(path: Path) -> Any:
    """Return the peft config of an adapter's folder.

    Raises:
        InputError: peft is not installed or does not know the kind, or the kind does not live in the weights.
    """
    try:
        from peft import PeftConfig, PeftType
    except ImportError as error:
        raise InputError("a LoRA adapter needs the extra: pip install 'lensdiff[lora]'") from error
    stated, known = read_object(path / CONFIG), sorted(kind.value for kind in PeftType)
    if (kind := stated.get("peft_type")) not in known:
        raise InputError(f"{CONFIG} in {path} has the peft_type {shorten(kind)}, expected one of {', '.join(known)}")
    if not isinstance(base := stated.get("base_model_name_or_path"), str | None):
        raise InputError(f"{CONFIG} in {path} has base_model_name_or_path={shorten(base)}, expected a name or a path")
    with at_the_door(f"cannot read {CONFIG} in {path}"):
        config = PeftConfig.from_pretrained(str(path))
    _refuse_kind(config, path.name)
    return config


def holds_tokenizer(path: Path) -> bool:
    """Return whether an adapter's folder has a tokenizer of its own, which then is the tuned model's."""
    return holds(str(path), VOCABULARIES, {})


def from_adapter(path: Path, config: Any, under: Source, *, own_tokenizer: bool) -> Source:
    """Put the adapter in a folder on a base, into whose weights it is merged.

    Args:
        path, config: the folder, and what stands in it.
        under: the base.
        own_tokenizer: whether the folder's tokenizer is read; else the base's is the model's.

    Raises:
        InputError: a key of the file fits nothing, an adapted layer is not in it, a shape is another, the kind cannot
            be merged, or the merged model says something else than the unmerged one.
    """
    from peft import PeftModel

    name = path.name
    stored = _stored(path)
    _fit_vocabulary(under.model, stored, name)
    what = f"the adapter {name} does not fit its base"
    with at_the_door(what):
        model = PeftModel(under.model, config)
    _check_shapes(model, stored, name)
    with at_the_door(what):
        try:
            report = model.load_adapter(str(path), ADAPTER, torch_device="cpu")
        except KeyError as error:  # of a module that was saved whole
            raise InputError(f"the adapter {name} lacks {error.args[0]}") from error
    _check_keys(model, stored, report, name)
    notes = (*_unknown_options(path, config), *_zeros(model))
    merged = _merge(model, name)
    tokenizer = under.tokenizer
    if own_tokenizer:
        tokenizer = read_tokenizer(f"the adapter {name}", pretrained_model_name_or_path=str(path))
    return replace(under, id=name, model=merged, tokenizer=tokenizer, borrowed=False, notes=under.notes + notes)


def is_peft(model: torch.nn.Module) -> bool:
    """Return whether a model is a base with adapters of peft around it."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def merge_peft(model: Any) -> tuple[Any, tuple[str, ...]]:
    """Return a copy of a peft model with its active adapters merged into the weights, and what is to be noted of it."""
    name = type(model).__name__
    refuse_quantised(model.get_base_model().config, name)
    for config in model.peft_config.values():
        _refuse_kind(config, name)
    if any(getattr(module, "disable_adapters", False) is True for module in model.modules()):
        raise InputError(f"the adapters of {name} are disabled: enable them, or give the base model alone")
    try:
        model = copy.deepcopy(model)  # merging writes into it
    except RuntimeError as error:  # peft keeps a computed tensor where two adapters are tied
        if is_lack_of_memory(error):
            raise
        raise InputError(f"{name} cannot be copied: save it, and give the folder of its adapter") from error
    notes = _zeros(model)
    return _merge(model, name), notes


def holds_adapter(model: torch.nn.Module) -> bool:
    """Return whether layers of peft stand in a model."""
    return any(type(module).__module__.startswith("peft.") for module in model.modules())


def _refuse_kind(config: Any, name: str) -> None:
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning or getattr(config, "is_adaption_prompt", False):
        raise InputError(
            f"the adapter {name} is a {kind}, which adds tokens and changes no weight: expected a kind that can be "
            "merged into the weights, such as LORA"
        )


def _stored(path: Path) -> dict[str, Tensor]:
    file, pickled = path / "adapter_model.safetensors", path / "adapter_model.bin"
    found: Any = None
    with at_the_door(f"cannot load the adapter {path.name}"):
        if file.is_file():
            found = load_file(file)
        elif pickled.is_file():
            found = torch.load(pickled, map_location="cpu", weights_only=True)
    if found is None:
        raise InputError(f"the adapter folder {path} has neither {file.name} nor {pickled.name}")
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise InputError(f"{pickled.name} of the adapter {path.name} holds {shorten(found)}, expected tensors by name")
    return found


def _fit_vocabulary(base: Any, stored: dict[str, Tensor], name: str) -> None:
    # where tokens were added in training, peft saves the grown embeddings whole
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    ends = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    names = {id(module): f"base_model.model.{path}" for path, module in base.named_modules()}
    rows = []
    for module in ends:
        found = [stored[key] for end in EMBEDDING_KEYS if (key := f"{names[id(module)]}.{end}") in stored]
        rows.append(found[0].shape[0] if found else module.weight.shape[0])
    if len(set(rows)) > 1:
        raise InputError(f"the adapter {name} gives the embedding {rows[0]} tokens and the unembedding {rows[1]}")
    if rows[0] != embedding.weight.shape[0]:
        base.resize_token_embeddings(rows[0], mean_resizing=False)


def _check_shapes(model: Any, stored: dict[str, Tensor], name: str) -> None:
    own = _by_stored_name(model)
    wrong = {
        f"{key} of shape {tuple(tensor.shape)} for {tuple(own[key].shape)}"
        for key, tensor in stored.items()
        if key in own and own[key].shape != tensor.shape
    }
    if wrong:
        raise InputError(f"the adapter {name} does not fit its base: it holds {few(wrong)}")


def _check_keys(model: Any, stored: dict[str, Tensor], report: Any, name: str) -> None:
    own = _by_stored_name(model)
    # peft writes some embeddings twice, and the second copy has no place of its own
    held = {key: own.get(key.replace(".modules_to_save.", ".")) for key in stored}
    copies = {key for key, tensor in held.items() if tensor is not None and same_as_stored(tensor, stored[key])}
    if unexpected := set(report.unexpected_keys) - copies:
        raise InputError(f"the adapter {name} holds {few(unexpected)}, which fits nothing in its base")
    missing = [key for key in report.missing_keys if ADAPTER in key.split(".")]  # old peft lists the base's, too
    if missing:
        raise InputError(f"the adapter {name} lacks {few(key.replace(f'.{ADAPTER}', '') for key in missing)}")
    if wrong := [key for key in stored if key in own and key not in copies]:
        raise InputError(f"{few(wrong)} of the adapter {name} was loaded as another tensor than its file holds")


def _by_stored_name(model: Any) -> dict[str, Tensor]:
    # a file has the names of the model without that of the adapter; a few kinds rename more: the report speaks of those
    state = model.state_dict()
    return {key.replace(f".modules_to_save.{ADAPTER}", "").replace(f".{ADAPTER}", ""): state[key] for key in state}


def _bare(module: Any) -> Any:
    # the layer itself, out of the layers that peft has put around it
    while (inner := getattr(module, "base_layer", None) or getattr(module, "original_module", None)) is not None:
        module = inner
    return module


def _untie(base: Any) -> bool:
    # an adapter of one of two tied matrices must not reach the other; _merge ties again what has stayed equal
    head, embedding = _bare(base.get_output_embeddings()), _bare(base.get_input_embeddings())
    if head is None or head.weight is not embedding.weight:
        return False
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    return True


def _merge(model: Any, name: str) -> PreTrainedModel:
    tied = _untie(model.get_base_model())
    probe = probe_tokens(model.get_base_model())
    own = [token for config in model.peft_config.values() for token in _own_tokens(config)][: probe.shape[1]]
    probe[0, : len(own)] = torch.tensor(own, dtype=probe.dtype)
    expected = logits_of(model, probe)
    with at_the_door(f"the adapter {name} cannot be merged into the weights"):
        merged = model.merge_and_unload()
    if holds_adapter(merged):
        raise InputError(f"the adapter {name} cannot be merged into the weights")
    difference = float((logits_of(merged, probe) - expected).abs().max() / expected.abs().max())
    bound = TOLERANCE.get(merged.dtype, 0.0)
    if not difference <= bound:  # also true for NaN
        raise InputError(
            f"merged into the weights, the adapter {name} changes what the model says: logits differ by "
            f"{difference:.1e} of the largest, at most {bound:.0e} is allowed in {merged.dtype}"
        )
    if tied:
        _tie_equal(merged)
    return merged


def _own_tokens(config: Any) -> list[int]:
    # adapted tokens, of which a probe at random may hold none
    indices = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or []
    groups = indices.values() if isinstance(indices, dict) else [indices]
    return [token for group in groups for token in group]


def _tie_equal(model: Any) -> None:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    equal = torch.equal(head.weight, embedding.weight)
    if equal:
        head.weight = embedding.weight
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = equal
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def _zeros(model: Any) -> tuple[str, ...]:
    active = set(model.active_adapters)
    pairs = {
        key: tensor
        for key, tensor in model.state_dict().items()
        if {"lora_B", "lora_embedding_A"} & set(key.split(".")) and active & set(key.split("."))
    }
    zero = [
        key.split(".lora_")[0].removeprefix("base_model.model.") for key, tensor in pairs.items() if not tensor.any()
    ]
    return (f"{len(zero)} of {len(pairs)} LoRA pairs are zero: they change nothing in {few(zero)}",) if zero else ()


def _unknown_options(path: Path, config: Any) -> tuple[str, ...]:
    # peft leaves out what a later version of it has written, with a warning at most
    known = {field.name for field in fields(config)} | {"peft_version"}
    given = read_object(path / CONFIG)
    left_out = [f"{key}={value!r}" for key, value in given.items() if key not in known and value]
    return (f"this peft does not know {few(left_out)} of adapter_config.json and left it out",) if left_out else ()
