"""One model as everything else reads it: its weights, its forward passes, its tokenizer and what is known of it.

    view.weights    `weights.Weights`: matrices, gains, biases, a tensor at a time
    view.forward    `forward.Forward`: passes that are read and written at points of one meaning

A control is such a view too: its weights are the base's with a change, computed as they are read, and a model is only
made of them when a pass is asked for.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lensdiff.inputs.spans import no_tokenizer
from lensdiff.models.info import ModelInfo
from lensdiff.models.inside.forward import Forward
from lensdiff.models.inside.meaning import Meaning, measure
from lensdiff.models.inside.parts import Weight, sizes_of
from lensdiff.models.inside.weights import ModelWeights, Weights
from lensdiff.models.inside.widened import HALF, Widened
from lensdiff.models.inside.wrappers import Model, Wrapper, is_hooked, wrapper_of
from lensdiff.results import Control, Provenance
from lensdiff.results.printed import printed


@runtime_checkable
class OfFiles(Protocol):
    """What is known of a model whose weights are streamed, since every layer was read once."""

    @property
    def digest(self) -> str:
        """A hash of all tensors as the files hold them."""
        ...

    @property
    def n_parameters(self) -> int:
        """How many there are, each once."""
        ...

    @property
    def others(self) -> Mapping[Weight, Tensor]:
        """What there is beside matrices, embeddings and gains (`others`)."""
        ...


class ModelView:
    """One model; see the module.

    Attributes:
        info: what is known of it beside its weights.
        control: what control it is, or None.
    """

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: PreTrainedTokenizerBase | None,
        wrapper: Wrapper | None = None,
        *,
        weights: Weights | None = None,
        make: "Callable[[], ModelView] | None" = None,
        control: Control | None = None,
    ):
        """A model in a wrapper; or, for a control, its `weights` and how to `make` a whole model of them."""
        self.info, self.control = info, control
        self._wrapper, self._tokenizer, self._weights, self._make = wrapper, tokenizer, weights, make
        self._made: ModelView | None = None
        self._wide: ModelView | None = None

    def __repr__(self) -> str:
        """Return which model, its sizes, of a control how it was made, and what leads on."""
        sizes = self.weights.sizes
        lines = [f"  {self.info.architecture}, {sizes_of(sizes)}, {str(sizes.dtype).removeprefix('torch.')}"]
        if self.control is None:
            return printed(f"ModelView of {self.info.id}", lines, calls=("weights", "forward", "model"))
        made = "in memory" if self.is_made else "made at its first forward pass"
        lines.append(f"  a meaningless change: {self.control.kind}, seed {self.control.seed}; whole model {made}")
        lines.append("  stands beside a pair where an analysis takes controls=[...]")
        return printed(f"Control {self.info.id}", lines, calls=("free()", "weights", "forward", "model"))

    @property
    def weights(self) -> Weights:
        """The weights, without a forward pass."""
        if self._made is not None:
            return self._made.weights
        if self._weights is None:
            assert self._wrapper is not None
            self._weights = ModelWeights(self._wrapper, lambda: self.info.id, lambda: self.meaning)
        return self._weights

    @property
    def forward(self) -> Forward:
        """The forward passes; of a control, those of the whole model that is made here.

        Raises:
            InputError: no whole model can be made of a control.
        """
        return self.whole()._own_forward

    @cached_property
    def _own_forward(self) -> Forward:
        assert self._wrapper is not None
        return Forward(self._wrapper, lambda: self.info.id, lambda: self.meaning)

    @cached_property
    def meaning(self) -> Meaning:
        """What the parts of the model mean, measured by one short forward pass when first asked for."""
        assert self._wrapper is not None
        return measure(self._wrapper)

    @property
    def model(self) -> Model:
        """The HookedTransformer or TransformerBridge; of a control, the whole model that is made here."""
        wrapper = self.whole()._wrapper
        assert wrapper is not None
        return wrapper.model

    @property
    def config(self) -> Any:
        """What says how the model computes: transformer-lens's config, or that of `transformers` behind a bridge."""
        return self.model.cfg if is_hooked(self.model) else self.model.original_model.config

    @property
    def streamed(self) -> "OfFiles | None":
        """What is known of all weights where they are streamed from files, else None."""
        return None

    def whole(self) -> "ModelView":
        """Return the view of the model in memory: itself, or what is made of a control when first asked for."""
        if self._make is None:
            return self
        if self._made is None:
            found = self._make()
            if found.control is None:  # no change: the base itself, which is not this control's to let go of
                return found
            self._made = found
        return self._made

    def widened(self) -> "ModelView":
        """Return the view of a model in half precision that computes in float32 (`inside.widened`); else itself."""
        whole = self.whole()
        if whole.dtype not in HALF:
            return whole
        assert whole._wrapper is not None
        with whole._wrapper.lock:
            if whole._wide is None:
                whole._wide = ModelView(whole.info, whole._tokenizer, Widened(whole._wrapper))
            whole._wide.info = whole.info  # a pair may have renamed it
            return whole._wide

    @property
    def is_made(self) -> bool:
        """Whether a whole model is in memory for this view alone."""
        return self._make is None or self._made is not None

    def free(self) -> None:
        """Let go of a control's whole model; it is made again when it is needed."""
        if self._made is not None:
            forget(self._made.model)
            self._made = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's own tokenizer, with its own habit of adding special tokens."""
        if self._tokenizer is None:
            raise no_tokenizer(f"model {self.info.id!r}")
        return self._tokenizer

    def provenance(self, analysis: str, options: dict[str, Any], seed: int | None = None) -> Provenance:
        """Return where a result of this model comes from."""
        info, dtype = self.info, str(self.dtype).removeprefix("torch.")
        return Provenance(
            analysis, info.id, info.revision, info.weights, info.wrapper, dtype, options, seed, control=self.control
        )

    # sizes
    @property
    def n_layers(self) -> int:
        return self.weights.sizes.n_layers

    @property
    def n_heads(self) -> int:
        return self.weights.sizes.n_heads

    @property
    def n_key_value_heads(self) -> int:
        return self.weights.sizes.n_key_value_heads

    @property
    def d_model(self) -> int:
        return self.weights.sizes.d_model

    @property
    def d_head(self) -> int:
        return self.weights.sizes.d_head

    @property
    def d_mlp(self) -> int:
        return self.weights.sizes.d_mlp

    @property
    def d_vocab(self) -> int:
        return self.weights.sizes.d_vocab

    @property
    def n_ctx(self) -> int:
        return self.weights.sizes.n_ctx

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.sizes.dtype

    @property
    def device(self) -> torch.device:
        return self.weights.sizes.device


_VIEW = "_lensdiff_view"  # a model carries its view: a table of them would keep every model in memory


def register(view: ModelView) -> None:
    """Remember a model's view, so that analyses can be given the model alone."""
    vars(view.model)[_VIEW] = view


def forget(model: Model) -> None:
    """Drop a model's remembered view, so that the model goes as soon as nothing else holds it."""
    vars(model).pop(_VIEW, None)


def view_of(model: Model) -> ModelView:
    """Return the view of a HookedTransformer or TransformerBridge, made here if the model was wrapped elsewhere.

    Raises:
        InputError: `model` is neither (a `transformers` model has to go through `load_model` first).
    """
    if isinstance(model, ModelView):
        return model
    found = getattr(model, "__dict__", {}).get(_VIEW)
    if found is None:
        found = _wrap(model)
        register(found)
    return found


def _is_folded(model: Model) -> bool:
    # a bridge says it by a mode of its own
    return str(model.cfg.normalization_type).endswith("Pre") or bool(getattr(model, "compatibility_mode", False))


def _wrap(model: Model) -> ModelView:
    """Return the view of a model that somebody else wrapped; its tokenizer and weights are taken as they are."""
    wrapper, config, tokenizer = wrapper_of(model), model.cfg, getattr(model, "tokenizer", None)
    eos = getattr(tokenizer, "eos_token_id", None)
    info = ModelInfo(
        id=str(getattr(config, "model_name", None) or "unnamed"),
        architecture=str(getattr(config, "original_architecture", None) or getattr(config, "architecture", "")),
        wrapper=wrapper.kind,
        weights="folded" if _is_folded(model) else "as given",
        eos_token_ids=() if eos is None else (eos,),
        chat_template=getattr(tokenizer, "chat_template", None),
    )
    return ModelView(info, tokenizer, wrapper)
