"""One checkpoint, a folder or a hub name, loaded through `transformers` and held against its own files.

`transformers` fills a tensor that the files lack with random numbers and leaves one that fits nowhere unread; at most
a log says so. Here both are errors, by two witnesses: the report that `transformers` gives of a load, and a second
reading of the files, tensor by tensor, that shares nothing with the first but the table of old names. Tensors that are
fused on the way into a model (the experts of a mixture) have no counterpart; of those only the report speaks.
"""

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from lensdiff.models.loading.commits import commit_in, reach
from lensdiff.models.loading.probe import TOLERANCE
from lensdiff.models.loading.stated import LOOKED_FOR, SAFE, check_folder, weight_files
from lensdiff.results import InputError
from lensdiff.results.memory import is_lack_of_memory

# what the libraries raise at a file with something else in it than they expect; an InputError is one of them, too
LOADING_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, EOFError),
    *(SafetensorError, StrictDataclassError, pickle.UnpicklingError, re.error),
)
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
# buffers of older checkpoints that transformers computes instead
COMPUTED = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")
MASKED = ".attn.masked_bias"  # a constant in older checkpoints of GPT-2, which transformers does not know any more
T = TypeVar("T")
NAMED = 3  # so many tensors of a list are named in an error
OTHERS_CODE = "trust_remote_code"  # what transformers speaks of where it is told not to run a checkpoint's own code


@dataclass
class Source:
    """A `transformers` model with what is known of its origin."""

    id: str
    model: Any  # PreTrainedModel, taken out once its storage has gone into a wrapper
    tokenizer: PreTrainedTokenizerBase | InputError | None  # an error: there is one that cannot be read
    revision: str | None = None
    borrowed: bool = False  # the model is the user's own object
    notes: tuple[str, ...] = ()  # what a reader of the results should know of the load


def from_name(where: str, name: str, *, revision: str | None, dtype: torch.dtype) -> Source:
    """Load a folder or a hub name, and check that every tensor of the model is the one in the files.

    Args:
        where: the folder or the hub name.
        name: what the model is called from now on.
        revision: branch, tag or commit of a hub name.
        dtype: of the weights.

    Raises:
        InputError: there is no such checkpoint, it is quantised or made for another task, tensors are missing,
            unexpected, of another shape or not those in the files.
    """
    at = _at(where, name, revision)
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
    return Source(name, model, _tokenizer(where, name, options), at.commit or revision, notes=notes)


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
    at = _at(where, name, revision)
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
        _tokenizer(where, name, at.options),
        at.commit or revision,
        tuple(files),
        generation,
        code_note(at.config, str(next(iter(at.config.architectures or ["model"])))),
    )


@dataclass(frozen=True)
class _At:
    """Where a checkpoint is: its folder, its commit if it has a hub name, and what `transformers` is asked with."""

    folder: Path
    is_whole: bool
    commit: str | None
    options: dict[str, Any]
    config: Any


def _at(where: str, name: str, revision: str | None) -> _At:
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
    return _At(folder, is_folder, commit, options, config)


def code_note(config: Any, architecture: str) -> tuple[str, ...]:
    """Return a note where a checkpoint brings code for a model that `transformers` has too: only the latter runs."""
    own = dict(getattr(config, "auto_map", None) or {})
    return (f"its own code ({few(map(str, own.values()))}) was not run: a {architecture} it is",) if own else ()


@contextmanager
def at_the_door(what: str) -> Iterator[None]:
    """Make one sentence, which begins with `what`, of whatever a library stumbles over in a file.

    Only a library's calls stand in it: what our own code stumbles over is no fault of a file. A lack of memory says
    nothing about the file, and passes as it is.

    Raises:
        InputError: as a library said.
    """
    try:
        yield
    except LOADING_ERRORS as error:
        if isinstance(error, InputError) or is_lack_of_memory(error):
            raise
        raise InputError(f"{what}: {first_line(error)}") from error


def _commit(where: str, name: str, options: dict[str, Any]) -> str | None:
    with at_the_door(f"cannot load {name}"):
        file = cached_file(where, "config.json", **ABSENT, **options)
    return commit_in(file)


def _is_adapter(where: str, name: str, options: dict[str, Any]) -> bool:
    with at_the_door(f"cannot load {name}"):
        return find_adapter_config_file(where, **options) is not None


def _tokenizer(where: str, name: str, options: dict[str, Any]) -> PreTrainedTokenizerBase | InputError | None:
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


def few(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
    return ", ".join(ordered[:NAMED]) + more


def first_line(error: BaseException) -> str:
    """Return what an error says first, as words of a sentence also where it has none of its own."""
    if OTHERS_CODE in str(error):
        return "it brings code of its own (auto_map), which is never run: expected what transformers itself can read"
    said, *more = str(error).strip().split("\n")[:2]
    if said.endswith(":") and more:  # "Validation error for field 'x':" says what is wrong in the next line
        said = f"{said} {re.sub(r'^[A-Za-z]+Error: ', '', more[0].strip())}"
    if isinstance(error, KeyError):
        return f"{said} is not known" if said else "a name is not known"
    return said or re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()
