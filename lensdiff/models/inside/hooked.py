"""A HookedTransformer, raw."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lensdiff.models.inside.parts import ATTENTION, BiasName, MatrixName
from lensdiff.models.inside.wrapper import Wrapper


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
    def embeddings(self) -> list[nn.Module]:
        return [self.model.hook_embed]

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
        # padding on the left: without a mask transformer-lens takes every token that is the padding's for padding; else
        # none is the faster, since no position is looked up
        if mask is None and getattr(self.model.tokenizer, "padding_side", None) == "left":
            mask = torch.ones_like(tokens)
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
        logits, cap = self.model.unembed(hidden)[:, 0], self.final_soft_cap()
        return logits if cap is None else cap * torch.tanh(logits / cap)
