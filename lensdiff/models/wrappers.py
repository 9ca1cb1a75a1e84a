"""The two wrappers, raw: what a HookedTransformer and a TransformerBridge hold and how they are run, nothing measured.

They share names, not meanings: the one repeats W_K to all query heads, the other keeps the key-value heads; the one has
a hook at the embedding's output, the other behind the norm that may follow. `weights` and `forward` give both one
meaning, `meaning` and `points` measure which.
"""

import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lensdiff.models.architectures import HookedTransformer
from lensdiff.models.parts import ATTENTION, BiasName, MatrixName, Sizes
from lensdiff.models.precision import double_precision
from lensdiff.results import InputError

Model = Any  # HookedTransformer | TransformerBridge: version 4 has no HookedTransformer, so no class can be named here


class Wrapper(ABC):
    """One wrapped model.

    Attributes:
        kind: "hooked" or "bridge".
        model: the HookedTransformer or TransformerBridge.
        lock: held during every pass, since hooks are put on the model itself.
    """

    kind: str

    def __init__(self, model: Model):
        self.model = model
        self.lock = threading.RLock()

    def sizes(self) -> Sizes:
        """Return how large the model is."""
        cfg = self.model.cfg
        return Sizes(
            n_layers=cfg.n_layers,
            n_heads=cfg.n_heads,
            n_key_value_heads=cfg.n_key_value_heads or cfg.n_heads,
            d_model=cfg.d_model,
            d_head=cfg.d_head,
            d_mlp=cfg.d_mlp or 4 * cfg.d_model,
            d_vocab=int(self.W_E.shape[0]),
            n_ctx=cfg.n_ctx,
            dtype=self.W_E.dtype,
            device=self.W_E.device,
        )

    @property
    @abstractmethod
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]: ...

    @property
    @abstractmethod
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]: ...

    @property
    @abstractmethod
    def b_U(self) -> Float[Tensor, " d_vocab"] | None: ...

    @property
    @abstractmethod
    def embedding(self) -> nn.Module:
        """The module or hook point whose output is the embedding, before positions and norms."""

    @abstractmethod
    def matrix(self, layer: int, name: MatrixName) -> Tensor | None:
        """Return a weight as the wrapper gives it, keys and values with their own heads; None where it has none."""

    @abstractmethod
    def bias(self, layer: int, name: BiasName) -> Tensor | None:
        """Return a bias as the wrapper gives it; None where it has none."""

    @abstractmethod
    def W_pos(self) -> Float[Tensor, "pos d_model"] | None:
        """Return the learned position embeddings, one row a position, or None where there are none."""

    @abstractmethod
    def attention_soft_cap(self) -> float | None:
        """Return the cap of the attention scores, or None."""

    @abstractmethod
    def final_soft_cap(self) -> float | None:
        """Return the cap of the logits, or None."""

    @abstractmethod
    def __call__(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Return the logits of a pass; `mask` is 1 for a token and 0 for padding, on either side."""

    @abstractmethod
    def new_cache(self, batch: int) -> Any:
        """Return an empty key-value cache of the wrapper's kind."""

    @abstractmethod
    def cached_logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch total_pos"], cache: Any
    ) -> Float[Tensor, "batch d_vocab"]:
        """Return the logits at the last position, reading what came before from `cache` and adding to it.

        Args:
            mask: 1 for a token, 0 for padding on the left, over all positions so far and `tokens`.
        """

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Compute in the precision of the weights while the context lasts."""
        yield

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Switch weight gradients off, so that a backward pass computes none."""
        switched = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in switched:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in switched:
                parameter.requires_grad_(True)


class HookedWrapper(Wrapper):
    """A HookedTransformer."""

    kind = "hooked"

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.model.embed.W_E.detach()

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self.model.unembed.W_U.detach()

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"] | None:
        return self.model.unembed.b_U.detach()

    @property
    def embedding(self) -> nn.Module:
        return self.model.hook_embed

    def matrix(self, layer: int, name: MatrixName) -> Tensor | None:
        block = self.model.blocks[layer]
        owner = block.attn if name in ATTENTION else block.mlp
        # grouped-query attention: the plain names are repeated to the query heads
        weight = getattr(owner, f"_{name}", None) if name in ("W_K", "W_V") else None
        weight = getattr(owner, name, None) if weight is None else weight
        return None if weight is None else weight.detach()

    def bias(self, layer: int, name: BiasName) -> Tensor | None:
        block = self.model.blocks[layer]
        owner = block.attn if f"W{name[1:]}" in ATTENTION else block.mlp
        bias = getattr(owner, f"_{name}", None) if name in ("b_K", "b_V") else None
        bias = getattr(owner, name, None) if bias is None else bias
        return None if bias is None else bias.detach()

    def W_pos(self) -> Float[Tensor, "pos d_model"] | None:
        if self.model.cfg.positional_embedding_type != "standard":
            return None
        return self.model.pos_embed.W_pos.detach()

    def attention_soft_cap(self) -> float | None:
        cap = self.model.cfg.attn_scores_soft_cap
        return cap if cap > 0 else None

    def final_soft_cap(self) -> float | None:
        cap = self.model.cfg.output_logits_soft_cap
        return cap if cap and cap > 0 else None

    def __call__(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        return self.model(tokens, attention_mask=mask)

    def new_cache(self, batch: int) -> Any:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        return TransformerLensKeyValueCache.init_cache(self.model.cfg, self.W_E.device, batch)

    def cached_logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch total_pos"], cache: Any
    ) -> Float[Tensor, "batch d_vocab"]:
        # the mask is always given: else a token that is the padding's would be taken for padding
        new = mask[:, -tokens.shape[1] :]
        resid = self.model(tokens, attention_mask=new, past_kv_cache=cache, stop_at_layer=self.model.cfg.n_layers)
        hidden = resid[:, -1:]
        if self.model.cfg.normalization_type is not None:
            hidden = self.model.ln_final(hidden)
        return self.model.unembed(hidden)[:, 0]


class BridgeWrapper(Wrapper):
    """A TransformerBridge: per-head weights from its properties, everything else from the modules that it wraps."""

    kind = "bridge"

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.model.W_E.detach()

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self.model.W_U.detach()

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"] | None:
        bias = self.model.b_U
        return None if bias is None else bias.detach()

    @property
    def embedding(self) -> nn.Module:
        return self.model.embed.hook_out  # its hook_embed lies behind a norm where one follows (BLOOM)

    def matrix(self, layer: int, name: MatrixName) -> Tensor | None:
        block = self.model.blocks[layer]
        weight = getattr(block.attn if name in ATTENTION else block.mlp, name, None)
        return None if weight is None else weight.detach()

    def bias(self, layer: int, name: BiasName) -> Tensor | None:
        block = self.model.blocks[layer]
        bias = getattr(block.attn if f"W{name[1:]}" in ATTENTION else block.mlp, name, None)
        return None if bias is None else bias.detach()

    def W_pos(self) -> Float[Tensor, "pos d_model"] | None:
        module = getattr(getattr(self.model, "pos_embed", None), "original_component", None)
        weight = getattr(module, "weight", None)
        # OPT keeps two rows before the first position
        return None if weight is None else weight.detach()[getattr(module, "offset", 0) :]

    def attention_soft_cap(self) -> float | None:
        return getattr(self.model.blocks[0].attn.original_component, "attn_logit_softcapping", None)

    def final_soft_cap(self) -> float | None:
        return getattr(self.model.original_model.config.get_text_config(), "final_logit_softcapping", None)

    def __call__(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        if mask is None:
            return self.model(tokens)
        return self.model(tokens, attention_mask=mask, **self._taken(position_ids=_positions(mask)))

    def new_cache(self, batch: int) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.original_model.config)

    def cached_logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch total_pos"], cache: Any
    ) -> Float[Tensor, "batch d_vocab"]:
        # transformers 5.24 renamed the argument
        options = self._taken(position_ids=_positions(mask)[:, -tokens.shape[1] :], logits_to_keep=1, cache=cache)
        if "cache" not in options:
            options["past_key_values"] = cache
        with self._handed_down():
            out = self.model.original_model(input_ids=tokens, attention_mask=mask, use_cache=True, **options)
        return out.logits[:, -1]

    def _taken(self, **options: Any) -> dict[str, Any]:
        names = inspect.signature(self.model.original_model.forward).parameters
        return {name: value for name, value in options.items() if name in names}

    @contextmanager
    def _handed_down(self) -> Iterator[None]:
        """Give attention its cache by the name that it knows: since 5.24 transformers says `cache`."""

        def rename(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            if kwargs.get("cache") is not None:
                kwargs = kwargs | {"past_key_values": kwargs["cache"]}
                del kwargs["cache"]
            return args, kwargs

        from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

        # where a bridge hands the call on to transformers' own attention, that knows the new name
        own = [b.attn for b in self.model.blocks if type(b.attn).forward is not AttentionBridge.forward]
        handles = [attn.register_forward_pre_hook(rename, with_kwargs=True) for attn in own]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def precision(self) -> Iterator[None]:
        with double_precision(self.W_E.dtype == torch.float64):
            yield


def _positions(mask: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def wrapper_of(model: Model) -> Wrapper:
    """Return the raw access to a HookedTransformer or a TransformerBridge.

    Raises:
        InputError: `model` is neither.
    """
    if not (is_hooked(model) or is_bridge(model)):
        raise InputError(
            f"expected a HookedTransformer or a TransformerBridge, got {type(model).__name__}; "
            "load_model makes one of any other model"
        )
    return (HookedWrapper if is_hooked(model) else BridgeWrapper)(model)


def is_hooked(model: object) -> bool:
    """Return whether a model is a HookedTransformer (false on versions that have none)."""
    return HookedTransformer is not None and isinstance(model, HookedTransformer)


def is_bridge(model: object) -> bool:
    """Return whether a model is a TransformerBridge."""
    from transformer_lens.model_bridge import TransformerBridge

    return isinstance(model, TransformerBridge)
