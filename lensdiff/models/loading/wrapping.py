"""A `transformers` model goes into a HookedTransformer or a TransformerBridge, which takes its storage over."""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lensdiff.models.info import ModelInfo
from lensdiff.models.inside.meaning import Meaning, measure
from lensdiff.models.inside.widened import HALF
from lensdiff.models.inside.wrappers import Model, is_hooked, wrapper_of
from lensdiff.models.loading.architectures import build_hooked, supported_architectures
from lensdiff.models.loading.sources import Source
from lensdiff.models.view import ModelView
from lensdiff.results import InputError
from lensdiff.results.memory import is_lack_of_memory

# what a wrapper raises on a checkpoint that it was not made for
STUMBLES = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def build(
    found: Source,
    kind: str,
    tokenizer: PreTrainedTokenizerBase | None,
    info: ModelInfo,
    weights: str,
    device: str,
    dtype: torch.dtype,
    *,
    meaning: Meaning | None = None,
) -> ModelView:
    """Return the view of a model in one wrapper; whatever the wrapper stumbles over becomes one sentence.

    Args:
        meaning: of its parts, where it is known; else it is measured.
    """
    source = found.model
    with _told(found.id, kind, info.architecture):
        if kind == "bridge":
            if found.borrowed:
                source = _apart(source, shared=weights == "raw")
            model = _build_bridge(source, tokenizer, found.id, info.architecture, device, dtype)
        else:
            model = build_hooked(source, architecture=info.architecture, device=device, dtype=dtype, name=found.id)
            _give_tokenizer(model, tokenizer)
        if weights == "folded":
            _fold(model)
            info = replace(info, weights="folded")
        wrapper = wrapper_of(model)
    view = ModelView(info, tokenizer, wrapper)
    # measured before anybody hooks in; only its pass is told of the checkpoint: the rest is ours
    view.meaning = meaning or measure(wrapper, passing=_told(found.id, kind, info.architecture))
    return view


@contextmanager
def _told(name: str, kind: str, architecture: str) -> Iterator[None]:
    """Make one sentence of what a wrapper raises while the context lasts."""
    try:
        yield
    except STUMBLES as error:
        if isinstance(error, InputError) or is_lack_of_memory(error):
            raise
        held = "HookedTransformer" if kind == "hooked" else "TransformerBridge"
        what = str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
        raise InputError(f"transformer-lens cannot hold {name}, a {architecture}, as a {held}: {what}") from error


def _give_tokenizer(model: Model, tokenizer: PreTrainedTokenizerBase | None) -> None:
    if tokenizer is None:
        return
    given, _ = _copied(tokenizer)
    try:
        model.set_tokenizer(given)
    except (OSError, ValueError, KeyError) as error:  # it was made in code: transformer-lens reads it again
        if is_lack_of_memory(error):
            raise
        model.tokenizer = given
    # padded on the left, a first token that is also the padding's would be masked
    model.tokenizer = copy.copy(model.tokenizer)
    model.tokenizer.padding_side = "right"
    added = tokenizer.encode("a", add_special_tokens=True)
    model.cfg.default_prepend_bos = tokenizer.bos_token_id is not None and added[:1] == [tokenizer.bos_token_id]


def _copied(tokenizer: PreTrainedTokenizerBase) -> tuple[PreTrainedTokenizerBase, bool]:
    """Return the wrapper's own copy of a tokenizer, and whether transformer-lens takes it without reading it again.

    It is for to_tokens and to_string, where transformer-lens wants one that adds a BOS, and gives it the special tokens
    that it lacks; lensdiff itself always asks the checkpoint's own.
    """
    given: Any = _without_code(copy.deepcopy(tokenizer))
    if tokenizer.bos_token is None:
        return given, True
    with suppress(AttributeError, ValueError):  # a tokenizer of another kind, a token that no template can hold
        if not given.add_bos_token:
            given.add_bos_token = True
        if given.encode("a")[:1] == [given.bos_token_id]:
            # transformer-lens asks one that was made in code for a name, too, before it sees that it need not read it
            given.init_kwargs = {"name_or_path": "", **given.init_kwargs, "add_bos_token": True}
            return given, True
    return _without_code(copy.deepcopy(tokenizer)), False


def _without_code(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    # transformer-lens reads it again with the options that it has, where a file may have put an answer to that question
    tokenizer.init_kwargs = {**tokenizer.init_kwargs, "trust_remote_code": False}
    return tokenizer


def _apart(source: PreTrainedModel, *, shared: bool) -> PreTrainedModel:
    # a bridge rebuilds the modules that it is given, and folds in place: the user's object keeps its own
    memo: dict[int, Any] = {}
    if shared:
        memo = {id(p): torch.nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in source.parameters()}
        memo |= {id(buffer): buffer for buffer in source.buffers()}
    return copy.deepcopy(source, memo)


def _build_bridge(
    source: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    name: str,
    architecture: str,
    device: str,
    dtype: torch.dtype,
) -> Model:
    from transformer_lens.model_bridge import TransformerBridge

    if architecture not in supported_architectures():
        raise InputError(
            f"{name} is a {architecture}, which transformer-lens cannot hold; "
            f"it can hold {', '.join(supported_architectures())}"
        )
    _cast(source, device, dtype)
    source.eval()
    with tempfile.TemporaryDirectory() as folder:
        source.config.architectures = [architecture]
        source.config.save_pretrained(folder)  # the bridge reads the config by path, also of a model made in memory
        again = _no_tokenizer(folder) if tokenizer is None else _for_bridge(tokenizer, folder)
        model = TransformerBridge.boot_transformers(
            folder, hf_model=source, tokenizer=again, device=device, dtype=dtype
        )
    model.cfg.model_name = name
    if tokenizer is None:
        model.tokenizer = None
    return model


def _cast(model: PreTrainedModel, device: str, dtype: torch.dtype) -> None:
    """Bring a model to a device and dtype; what its modules compute themselves is not rounded to half precision.

    `transformers` keeps it in float32 too: rotary frequencies in bfloat16 turn the 500th token by up to a radian too
    far, or too little.
    """
    own = {
        (module, name): buffer
        for module in model.modules()
        for name in module._non_persistent_buffers_set
        if (buffer := module._buffers[name]) is not None and buffer.is_floating_point()
    }
    torch.nn.Module.to(model, device=device, dtype=dtype)
    for (module, name), buffer in own.items() if dtype in HALF else ():
        if buffer.dtype not in HALF:
            module._buffers[name] = buffer.to(device, torch.float32)


def _for_bridge(tokenizer: PreTrainedTokenizerBase, folder: str) -> PreTrainedTokenizerBase:
    given, is_ready = _copied(tokenizer)
    if is_ready:
        return given
    tokenizer.save_pretrained(folder)  # one that was made in code has no other place where it could be read again
    return _without_code(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))


def _no_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    # the bridge insists on one; it is taken away again
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"?": 0}, unk_token="?")), unk_token="?"
    ).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _fold(model: Model) -> None:
    if is_hooked(model):
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        for parameter in model.parameters():  # folded values are copied in: into storage that nothing shares
            parameter.data = torch.empty_like(parameter)
        model.load_and_process_state_dict(state)
    else:
        model.enable_compatibility_mode()
