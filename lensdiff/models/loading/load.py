"""Any checkpoint of a supported architecture becomes a HookedTransformer or a TransformerBridge that checks itself.

Memory: the wrapper takes over the storage of the `transformers` model, so one copy of the weights stays and a load
peaks near it.
Safety: no remote code, `.bin` files only with `weights_only=True`.
"""

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from lensdiff.models.decoding import uncached_note
from lensdiff.models.info import ModelInfo
from lensdiff.models.inside.wrappers import Model, is_bridge, is_hooked, wrapper_of
from lensdiff.models.loading.architectures import why_not_hooked
from lensdiff.models.loading.devices import default_device, rounded_products, usable_device
from lensdiff.models.loading.probe import TOLERANCE
from lensdiff.models.loading.sources import Source, read_source
from lensdiff.models.loading.verification import expect
from lensdiff.models.loading.verification import verify as check
from lensdiff.models.loading.wrapping import build
from lensdiff.models.progress import bar
from lensdiff.models.view import ModelView, register, view_of
from lensdiff.results import InputError

NAME = 60  # characters of a source that are shown, the last ones
WeightState = Literal["raw", "folded"]
WrapperChoice = Literal["auto", "hooked", "bridge"]


def load_model(
    source: Any,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    base: Any = None,
    revision: str | None = None,
    weights: WeightState | str = "raw",
    wrapper: WrapperChoice | str = "auto",
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    verify: bool = True,
    stream: bool = False,
) -> Model:
    """Load a checkpoint as a HookedTransformer where one can hold it, else as a TransformerBridge.

    Args:
        source: a hub name, a folder, a `.gguf` file, a folder with a LoRA adapter, a `transformers` model, or a model
            that transformer-lens wraps already (then only `tokenizer` is used).
        tokenizer: the tokenizer, where `source` brings none.
        base: the model a LoRA adapter belongs on; by default the one that the adapter names.
        revision: branch, tag or commit of a hub name.
        weights: "raw", as the checkpoint has them, or "folded": TransformerLens's folding of norms and centring.
        wrapper: "auto", or force "hooked" or "bridge".
        device: "cpu", "cuda", "mps", ...; by default the fastest present.
        dtype: of the weights and of every computation.
        verify: compare logits and greedy tokens on a short probe with the `transformers` model. On disagreement a
            HookedTransformer gives way to a TransformerBridge where `wrapper` is "auto" (a note says why), else the
            load is refused.
        stream: build no model: a `ModelView` is returned whose weights come layer by layer from the checkpoint's
            safetensors or GGUF file, in the memory of one layer or of the embeddings. Every layer is read, and verified
            as a model of that one layer, before it is returned. Analyses of weights take it, those with forward passes
            refuse it.

    Returns:
        The model, with its checkpoint's weights and tokenizer; what was chosen or left out is in
        `view_of(model).info.notes`.

    Raises:
        InputError: there is no such checkpoint, its architecture has no wrapper, a weight is not finite (named), an
            option is not one of its choices, there is no such device, the wrapped model disagrees with the
            `transformers` model, or what is to be streamed cannot be (an adapter, a `.bin` file, a mixture of experts,
            a model in memory, folded weights).
    """
    _check_choice("weights", weights, ("raw", "folded"))
    _check_choice("wrapper", wrapper, ("auto", "hooked", "bridge"))
    if is_hooked(source) or is_bridge(source):
        view = view_of(source)
        if tokenizer is not None:
            register(ModelView(view.info, tokenizer, wrapper_of(source)))
        return source
    dtype = as_dtype(dtype)
    device = usable_device(str(device or default_device()))
    if stream:
        options: dict[str, Any] = {"revision": revision, "wrapper": wrapper, "dtype": dtype, "verify": verify}
        return _streamed(source, tokenizer, base=base, weights=weights, device=device, **options)
    with quiet(), bar(f"loading {_called(source)}"):
        found = read_source(source, base=base, revision=revision, dtype=dtype, needs_tokenizer=tokenizer is None)
        tokenizer = _chosen(tokenizer, found)
        model = _wrap(found, tokenizer, weights=weights, wrapper=wrapper, device=device, dtype=dtype, verify=verify)
    view = view_of(model)
    for note in view.info.notes:
        logging.getLogger(__name__).warning("%s: %s", found.id, note)
    if (note := rounded_products(dtype)) is not None:
        logging.getLogger(__name__).warning("%s: %s", found.id, note)
    if view.forward.cache_fault is not None:
        logging.getLogger(__name__).warning("%s", uncached_note(view))
    return model


def _streamed(source: Any, tokenizer: Any, *, base: Any, weights: str, device: str, **options: Any) -> ModelView:
    from lensdiff.models.streaming.view import open_streamed

    if not isinstance(source, str | Path):
        raise InputError(f"stream=True reads a checkpoint's files, but a {type(source).__name__} was given")
    if base is not None:
        raise InputError("stream=True reads a whole checkpoint, but base=... was given, which an adapter has")
    if weights != "raw":
        raise InputError(f'stream=True reads weights as they are, but weights="{weights}" was given')
    with quiet():
        view = open_streamed(source, tokenizer=tokenizer, device=device, **options)
    for note in view.info.notes:
        logging.getLogger(__name__).warning("%s: %s", view.info.id, note)
    return view


def _called(source: Any) -> str:
    return str(source)[-NAME:] if isinstance(source, str | Path) else f"a {type(source).__name__}"


def _wrap(
    found: Source,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    weights: WeightState | str,
    wrapper: WrapperChoice | str,
    device: str,
    dtype: torch.dtype,
    verify: bool,
) -> Model:
    source = found.model
    check_finite(source)
    architecture = type(source).__name__
    expected = expect(source, dtype) if verify else None
    info = _info(found, tokenizer, architecture)
    why_not = why_not_hooked(source.config, architecture)
    if wrapper == "hooked" and why_not:
        raise InputError(f"{found.id} cannot be a HookedTransformer: {why_not}")
    tried = ("hooked", "bridge") if wrapper == "auto" and not why_not else ("bridge" if why_not else wrapper,)
    for kind in tried:
        try:
            view = build(found, kind, tokenizer, replace(info, wrapper=kind), weights, device, dtype)
            if expected is not None:
                check(view, expected, folded=weights == "folded")
            break
        except InputError as error:
            if kind == tried[-1]:
                if found.notes:  # one of them may say why
                    raise InputError("; ".join((str(error), *found.notes))) from error
                raise
            info = replace(info, notes=(*info.notes, f"a TransformerBridge in place of a HookedTransformer: {error}"))
    found.model = None  # the wrapper holds the storage now; nothing else should
    del source
    gc.collect()
    register(view)
    return view.model


def _chosen(given: PreTrainedTokenizerBase | None, found: Source) -> PreTrainedTokenizerBase | None:
    if given is not None:
        return given
    if isinstance(found.tokenizer, InputError):
        raise found.tokenizer
    return found.tokenizer


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return a floating dtype given as such or by name."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in TOLERANCE:
        names = ", ".join(str(t).removeprefix("torch.") for t in TOLERANCE)
        raise InputError(f"dtype {dtype!r} is none of {names}")
    return found


def check_finite(model: torch.nn.Module) -> None:
    """Refuse a model with a NaN or infinite weight, named by its tensor."""
    for name, tensor in model.named_parameters():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"weight {name} of the checkpoint is not finite (NaN or infinity)")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name}={value!r} is none of {', '.join(choices)}")


def _info(found: Source, tokenizer: PreTrainedTokenizerBase | None, architecture: str) -> ModelInfo:
    generation = getattr(found.model, "generation_config", None)
    return info_of(found, found.model.config, generation, tokenizer, architecture)


def info_of(
    found: Any, config: Any, generation: Any, tokenizer: PreTrainedTokenizerBase | None, architecture: str
) -> ModelInfo:
    """Return what is known of a checkpoint beside its weights.

    Args:
        found: what has its id, revision and notes.
    """
    stops: list[int] = []
    for ids in (
        getattr(generation, "eos_token_id", None),
        config.get_text_config().eos_token_id,
        getattr(tokenizer, "eos_token_id", None),
    ):
        stops += [ids] if isinstance(ids, int) else list(ids or ())
    return ModelInfo(
        id=found.id,
        architecture=architecture,
        wrapper="hooked",
        revision=found.revision,
        eos_token_ids=tuple(dict.fromkeys(stops)),
        chat_template=getattr(tokenizer, "chat_template", None),
        notes=found.notes,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the wrappers' and loaders' notices: what matters of them is checked here and raised."""
    before = logging.root.manager.disable
    bars = is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        if bars:
            enable_progress_bar()
