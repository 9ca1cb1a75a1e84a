"""The two wrappers, raw: what a HookedTransformer and a TransformerBridge hold and how they are run, nothing measured.

They share names, not meanings: the one repeats W_K to all query heads, the other keeps the key-value heads; the one has
a hook at the embedding's output, the other behind the norm that may follow. `weights` and `forward` give both one
meaning, `meaning` and `points` measure which.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from jaxtyping import Float, Int
from torch import Tensor, nn

from lensdiff.models.inside.parts import BiasName, MatrixName, Sizes

try:  # the last transformer-lens with the class is 3.9
    from transformer_lens import HookedTransformer
except ImportError:
    HookedTransformer = None

Model = Any  # HookedTransformer | TransformerBridge: version 4 has no HookedTransformer, so no class can be named here


# beside the models and not on them: a model with a lock could not be copied
_LOCKS: "WeakKeyDictionary[nn.Module, threading.RLock]" = WeakKeyDictionary()
_GUARD = threading.Lock()


def lock_of(model: nn.Module) -> Any:
    """Return the lock of a model, the same one whoever wraps it."""
    with _GUARD:
        return _LOCKS.setdefault(model, threading.RLock())


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
        self.lock = lock_of(model)

    def sizes(self) -> Sizes:
        """Return how large the model is."""
        with self.lock:  # a pass of another thread may hold weights in another type for a while (`widened`)
            cfg, W_E = self.model.cfg, self.W_E
            return Sizes(
                n_layers=cfg.n_layers,
                n_heads=cfg.n_heads,
                n_key_value_heads=cfg.n_key_value_heads or cfg.n_heads,
                d_model=cfg.d_model,
                d_head=cfg.d_head,
                d_mlp=self._d_mlp,
                d_vocab=int(W_E.shape[0]),
                n_ctx=cfg.n_ctx,
                dtype=W_E.dtype,
                device=W_E.device,
            )

    @cached_property
    def _d_mlp(self) -> int:
        # as the first layer has it: what a wrapper's config says may be a guess (a bridge of OPT: 4 d_model)
        W_in, cfg = self.matrix(0, "W_in"), self.model.cfg
        return int(W_in.shape[-1]) if W_in is not None and W_in.ndim == 2 else cfg.d_mlp or 4 * cfg.d_model

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
    def embeddings(self) -> list[nn.Module]:
        """Modules and hook points whose output is the embedding, before positions and norms; the best one first."""

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
