"""The two views: of a HookedTransformer, and of a TransformerBridge."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lensdiff.models.precision import double_precision
from lensdiff.models.view import Model, ModelView, is_hooked
from lensdiff.models.weights import ATTENTION, MatrixName, ModelInfo
from lensdiff.results import InputError


class HookedView(ModelView):
    """A HookedTransformer: weights as they stand, key and value heads repeated to the query heads."""

    embedding = "hook_embed"

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.model.embed.W_E.detach()

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self.model.unembed.W_U.detach()

    def stored_matrix(self, layer: int, name: MatrixName) -> Tensor | None:
        block = self.model.blocks[layer]
        owner = block.attn if name in ATTENTION else block.mlp
        # grouped-query attention: the plain names are repeated to the query heads
        weight = getattr(owner, f"_{name}", None) if name in ("W_K", "W_V") else None
        weight = getattr(owner, name, None) if weight is None else weight
        return None if weight is None else weight.detach()

    @property
    def attention_soft_cap(self) -> float | None:
        cap = self.model.cfg.attn_scores_soft_cap
        return cap if cap > 0 else None

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return self.model.embed(tokens)

    def unembed_input(
        self, tokens: Int[Tensor, "batch pos"], embedded: Float[Tensor, "batch pos d_model"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        hooks = [] if embedded is None else [(self.embedding, _replace_by(embedded))]
        resid = self.model.run_with_hooks(tokens, stop_at_layer=self.n_layers, fwd_hooks=hooks)
        return self.model.ln_final(resid) if self.model.cfg.normalization_type is not None else resid

    def new_cache(self, batch: int) -> Any:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        return TransformerLensKeyValueCache.init_cache(self.model.cfg, self.device, batch)

    def cached_logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch total_pos"], cache: Any
    ) -> Float[Tensor, "batch d_vocab"]:
        # the mask is always given: else a token that is the padding's would be taken for padding
        resid = self.model(
            tokens,
            attention_mask=mask[:, -tokens.shape[1] :],
            past_kv_cache=cache,
            stop_at_layer=self.n_layers,
        )[:, -1:]
        hidden = self.model.ln_final(resid) if self.model.cfg.normalization_type is not None else resid
        return self.unembed(hidden[:, 0])

    def unembedded(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        return hidden @ self.W_U + self.model.unembed.b_U.detach()


class BridgeView(ModelView):
    """A TransformerBridge: per-head weights from its properties, norm gains from the module they wrap."""

    embedding = "embed.hook_out"  # its hook_embed lies behind a norm where one follows the embedding (BLOOM)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.model.W_E.detach()

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self.model.W_U.detach()

    def stored_matrix(self, layer: int, name: MatrixName) -> Tensor | None:
        block = self.model.blocks[layer]
        weight = getattr(block.attn if name in ATTENTION else block.mlp, name, None)
        return None if weight is None else weight.detach()

    @property
    def attention_soft_cap(self) -> float | None:
        return getattr(self.model.blocks[0].attn.original_component, "attn_logit_softcapping", None)

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        with self._precision():
            return self._capture(tokens, self.embedding)

    def unembed_input(
        self, tokens: Int[Tensor, "batch pos"], embedded: Float[Tensor, "batch pos d_model"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        hooks = [] if embedded is None else [(self.embedding, _replace_by(embedded))]
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

    def new_cache(self, batch: int) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.original_model.config)

    def cached_logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch total_pos"], cache: Any
    ) -> Float[Tensor, "batch d_vocab"]:
        source = self.model.original_model
        taken = inspect.signature(source.forward).parameters
        # transformers 5.24 renamed the argument
        name = "cache" if "cache" in taken else "past_key_values"
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        options = {"position_ids": positions, "logits_to_keep": 1}
        options = {key: value for key, value in options.items() if key in taken}
        with self._precision(), _handed_down(self.model):
            out = source(input_ids=tokens, attention_mask=mask, use_cache=True, **{name: cache}, **options)
        return out.logits[:, -1]

    def _precision(self) -> AbstractContextManager[None]:
        return double_precision(self.dtype == torch.float64)

    def unembedded(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        bias = self.model.b_U
        return hidden @ self.W_U if bias is None else hidden @ self.W_U + bias.detach()


@contextmanager
def _handed_down(model: Model) -> Iterator[None]:
    """Give the attention of a bridge its cache by the name that it knows: since 5.24 transformers says `cache`."""

    def rename(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if kwargs.get("cache") is not None:
            kwargs = kwargs | {"past_key_values": kwargs["cache"]}
            del kwargs["cache"]
        return args, kwargs

    from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

    # where a bridge hands the call on to transformers' own attention, that knows the new name
    own = [block.attn for block in model.blocks if type(block.attn).forward is not AttentionBridge.forward]
    handles = [attn.register_forward_pre_hook(rename, with_kwargs=True) for attn in own]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
