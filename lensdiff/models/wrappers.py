"""The two views: of a HookedTransformer, and of a TransformerBridge."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lensdiff.models.precision import double_precision
from lensdiff.models.view import Model, ModelView, is_hooked
from lensdiff.models.weights import GainName, MatrixName, ModelInfo
from lensdiff.results import InputError

ATTENTION = ("W_Q", "W_K", "W_V", "W_O")


def _soft_capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if not cap else cap * torch.tanh(logits / cap)


class HookedView(ModelView):
    """A HookedTransformer: weights as they stand, key and value heads repeated to the query heads."""

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.model.embed.W_E.detach()

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self.model.unembed.W_U.detach()

    def matrix(self, layer: int, name: MatrixName) -> Tensor | None:
        block = self.model.blocks[layer]
        owner = block.attn if name in ATTENTION else block.mlp
        # grouped-query attention: the plain names are repeated to the query heads
        weight = getattr(owner, f"_{name}", None) if name in ("W_K", "W_V") else None
        weight = getattr(owner, name, None) if weight is None else weight
        return None if weight is None else weight.detach()

    def gain(self, name: GainName, layer: int = 0) -> Tensor | None:
        if name == "final":
            return _gain_of(getattr(self.model, "ln_final", None))
        block = self.model.blocks[layer]
        if name in ("q_norm", "k_norm"):
            return _gain_of(getattr(block.attn, name, None))
        return _gain_of(block.ln1 if name == "attn" else block.ln2)

    @property
    def attention_soft_cap(self) -> float | None:
        cap = self.model.cfg.attn_scores_soft_cap
        return cap if cap > 0 else None

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return self.model.embed(tokens)

    def unembed_input(
        self, tokens: Int[Tensor, "batch pos"], embedded: Float[Tensor, "batch pos d_model"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        hooks = [] if embedded is None else [("hook_embed", _replace_by(embedded))]
        resid = self.model.run_with_hooks(tokens, stop_at_layer=self.n_layers, fwd_hooks=hooks)
        return self.model.ln_final(resid) if self.model.cfg.normalization_type is not None else resid

    def unembed(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        logits = hidden @ self.W_U + self.model.unembed.b_U.detach()
        return _soft_capped(logits, self.info.final_soft_cap)


class BridgeView(ModelView):
    """A TransformerBridge: per-head weights from its properties, norm gains from the module they wrap."""

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.model.W_E.detach()

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self.model.W_U.detach()

    def matrix(self, layer: int, name: MatrixName) -> Tensor | None:
        block = self.model.blocks[layer]
        weight = getattr(block.attn if name in ATTENTION else block.mlp, name, None)
        return None if weight is None else weight.detach()

    def gain(self, name: GainName, layer: int = 0) -> Tensor | None:
        if name == "final":
            return self._gain(self.model.ln_final)
        block = self.model.blocks[layer]
        if name in ("q_norm", "k_norm"):
            return self._gain(getattr(block.attn.original_component, name, None))
        # OLMo 2 and 3 normalise what a layer writes, not what it reads
        post_norm = self.info.architecture in ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
        return None if post_norm else self._gain(block.ln1 if name == "attn" else block.ln2)

    def _gain(self, norm: Any) -> Tensor | None:
        weight = getattr(norm, "weight", None)
        if weight is None:
            return None
        # Gemma stores its gain minus one
        return weight.detach() + 1.0 if self.info.architecture.startswith("Gemma") else weight.detach()

    @property
    def attention_soft_cap(self) -> float | None:
        return getattr(self.model.blocks[0].attn.original_component, "attn_logit_softcapping", None)

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        with self._precision():
            return self._capture(tokens, "hook_embed")

    def unembed_input(
        self, tokens: Int[Tensor, "batch pos"], embedded: Float[Tensor, "batch pos d_model"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        hooks = [] if embedded is None else [("hook_embed", _replace_by(embedded))]
        with self._precision():
            return self._capture(tokens, "unembed.hook_in", hooks)

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        with self._precision():
            return super().logits(tokens)

    def static_attention_scores(
        self, tokens: Int[Tensor, "batch pos"], embedded: Float[Tensor, "batch pos d_model"], layers: Sequence[int]
    ) -> list[Float[Tensor, "batch head_index key_pos"]]:
        with self._precision():
            return super().static_attention_scores(tokens, embedded, layers)

    def _precision(self) -> AbstractContextManager[None]:
        return double_precision(self.dtype == torch.float64)

    def unembed(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        bias = self.model.b_U
        logits = hidden @ self.W_U
        return _soft_capped(logits if bias is None else logits + bias.detach(), self.info.final_soft_cap)


def _gain_of(norm: Any) -> Tensor | None:
    weight = getattr(norm, "w", None)
    return None if weight is None else weight.detach()


def _replace_by(embedded: Tensor) -> Callable[..., Tensor]:
    return lambda value, hook: embedded


def is_bridge(model: object) -> bool:
    from transformer_lens.model_bridge import TransformerBridge

    return isinstance(model, TransformerBridge)


def make_view(model: Model, tokenizer: PreTrainedTokenizerBase | None, info: ModelInfo) -> ModelView:
    """Return the view that fits the wrapper."""
    return (HookedView if is_hooked(model) else BridgeView)(model, tokenizer, info)


def wrap(model: Model) -> ModelView:
    """Return the view of a model that somebody else wrapped; its tokenizer and weights are taken as they are."""
    if not (is_hooked(model) or is_bridge(model)):
        raise InputError(
            f"expected a HookedTransformer or a TransformerBridge, got {type(model).__name__}; "
            "load_model makes one of any other model"
        )
    hooked = is_hooked(model)
    config = model.cfg
    tokenizer = getattr(model, "tokenizer", None)
    eos = getattr(tokenizer, "eos_token_id", None)
    info = ModelInfo(
        id=str(getattr(config, "model_name", None) or "unnamed"),
        architecture=str(getattr(config, "original_architecture", None) or getattr(config, "architecture", "")),
        wrapper="hooked" if hooked else "bridge",
        weights="folded" if str(config.normalization_type).endswith("Pre") else "as given",
        eos_token_ids=() if eos is None else (eos,),
        final_soft_cap=_final_soft_cap(model),
        chat_template=getattr(tokenizer, "chat_template", None),
    )
    return make_view(model, tokenizer, info)


def _final_soft_cap(model: Model) -> float | None:
    if is_hooked(model):
        cap = model.cfg.output_logits_soft_cap
        return cap if cap and cap > 0 else None
    return getattr(model.original_model.config.get_text_config(), "final_logit_softcapping", None)
