"""A TransformerBridge, raw."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lensdiff.models.inside.parts import ATTENTION, BiasName, MatrixName
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.inside.wrapper import Wrapper


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
    def embeddings(self) -> list[nn.Module]:
        # the bridge's hook_embed lies behind a norm where one follows (BLOOM); where the embedding is scaled (Granite),
        # transformer-lens 4 comes by this hook point only if somebody hooked it its own way
        return [self.model.embed.hook_out, self.model.embed]

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
