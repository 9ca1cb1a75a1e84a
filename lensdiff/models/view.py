"""A model as the analyses read it, whichever wrapper holds it.

HookedTransformer and TransformerBridge share names, not meanings: the one repeats W_K to all query heads, the other
keeps the key-value heads; Gemma's norm weight is a gain minus one; OLMo 2 normalises after attention. A `ModelView`
gives the weights and functions in one meaning:

- `matrix(layer, name)`, `gain(name, layer)`: raw matrices that multiply from the right, and their input's gain;
- `attention(layer)`, `mlp(layer)`: the same, a layer at a time, keys and values repeated to the query heads;
- `embed`, `unembed_input`, `unembed`: from tokens to embeddings, to the unembedding's input, to logits.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lensdiff.models.architectures import HookedTransformer
from lensdiff.models.meaning import Meaning, Unknown, measure, norm_weight
from lensdiff.models.weights import ATTENTION, MATRICES, AttentionWeights, GainName, MatrixName, MLPWeights, ModelInfo
from lensdiff.results import InputError, Provenance

Model = Any  # HookedTransformer | TransformerBridge: version 4 has no HookedTransformer, so no class can be named here


class _Stop(Exception):
    """Ends a forward pass once what was asked for is there."""


class ModelView(ABC):
    """The weights and functions of one model; see the module's docstring.

    Attributes:
        embedding: the hook point of what the embedding module gives, before positions and norms.
    """

    embedding: str

    def __init__(self, model: Model, tokenizer: PreTrainedTokenizerBase | None, info: ModelInfo):
        self.model = model
        self.info = info
        self.trusts_cache = True  # until a draft of `decoding` turns out wrong
        self._tokenizer = tokenizer

    # sizes
    @property
    def n_layers(self) -> int:
        return self.model.cfg.n_layers

    @property
    def n_heads(self) -> int:
        return self.model.cfg.n_heads

    @property
    def n_key_value_heads(self) -> int:
        return self.model.cfg.n_key_value_heads or self.model.cfg.n_heads

    @property
    def d_model(self) -> int:
        return self.model.cfg.d_model

    @property
    def d_head(self) -> int:
        return self.model.cfg.d_head

    @property
    def d_mlp(self) -> int:
        return self.model.cfg.d_mlp or 4 * self.d_model

    @property
    def d_vocab(self) -> int:
        return int(self.W_E.shape[0])

    @property
    def n_ctx(self) -> int:
        return self.model.cfg.n_ctx

    @property
    def dtype(self) -> torch.dtype:
        return self.W_E.dtype

    @property
    def device(self) -> torch.device:
        return self.W_E.device

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's own tokenizer, with its own habit of adding special tokens."""
        if self._tokenizer is None:
            raise InputError(f"model {self.info.id!r} has no tokenizer: give one to load_model(..., tokenizer=...)")
        return self._tokenizer

    def provenance(self, analysis: str, options: dict[str, Any], seed: int | None = None) -> Provenance:
        """Return where a result of this model comes from."""
        info = self.info
        dtype = str(self.dtype).removeprefix("torch.")
        return Provenance(analysis, info.id, info.revision, info.weights, info.wrapper, dtype, options, seed)

    # weights
    @property
    @abstractmethod
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]: ...

    @property
    @abstractmethod
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]: ...

    @cached_property
    def meaning(self) -> Meaning:
        """What norms, matrices and hooks of the model mean, measured by one short forward pass when first asked for."""
        return measure(self)

    @abstractmethod
    def stored_matrix(self, layer: int, name: MatrixName) -> Tensor | None:
        """Return what the wrapper gives as a weight, unchecked; see `matrix`."""

    def matrix(self, layer: int, name: MatrixName) -> Tensor | None:
        """Return one weight as the checkpoint has it, or None where there is no such weight (W_gate of an ungated MLP).

        W_Q [head_index d_model d_head], W_K and W_V the same with the key-value heads, W_O [head_index d_head d_model],
        W_in and W_gate [d_model d_mlp], W_out [d_mlp d_model].

        Raises:
            InputError: the wrapper's tensor of that name does not do what the name says.
        """
        wrong = self.meaning.matrices.get((name, layer))
        if wrong:
            raise InputError(f"{name} of layer {layer} of {self.info.id} cannot be read: {wrong}")
        return self.stored_matrix(layer, name)

    def gain(self, name: GainName, layer: int = 0) -> Tensor | None:
        """Return the gain by which a norm scales what is read ("attn", "mlp", "final"), or queries and keys; or None.

        None where nothing is scaled at that place: folded weights, or a norm after the layer (OLMo 2).

        Raises:
            InputError: what is read there is scaled in a way that has not been understood.
        """
        found = self.meaning.gains[(name, layer)]
        if isinstance(found, Unknown):
            raise InputError(f"the {name} gain of layer {layer} of {self.info.id} cannot be read: {found.reason}")
        stored = self.stored_gain(name, layer)
        return stored + found.offset if stored is not None and found.offset else stored

    def stored_gain(self, name: GainName, layer: int = 0) -> Tensor | None:
        """Return the weight behind a gain as its norm stores it (the gain minus one where it scales by 1 + w)."""
        found = self.meaning.gains[(name, layer)]
        if isinstance(found, Unknown) or found.module is None:
            return None
        weight = norm_weight(self.model.get_submodule(found.module))
        return None if weight is None else weight.detach()

    def known(self, name: MatrixName | GainName, layer: int = 0) -> bool:
        """Whether a model has that weight, and it can be read."""
        if name in MATRICES:
            return not self.meaning.matrices.get((name, layer)) and self.stored_matrix(layer, name) is not None
        return self.stored_gain(name, layer) is not None

    def needed_matrix(self, layer: int, name: MatrixName) -> Tensor:
        """Return one weight of a model that has it.

        Raises:
            InputError: the layer has no single matrix of that name (a mixture of experts), or it cannot be read.
        """
        found = self.matrix(layer, name)
        if found is None:
            part = "attention" if name in ATTENTION else "MLP"
            kind = type(getattr(self.model.blocks[layer], "mlp" if part == "MLP" else "attn", None)).__name__
            raise InputError(
                f"layer {layer} of {self.info.id} has no single {name} (its {part} is a {kind}): "
                "this reading needs one matrix a layer, which a mixture of experts does not have"
            )
        return found

    @property
    @abstractmethod
    def attention_soft_cap(self) -> float | None: ...

    def attention(self, layer: int) -> AttentionWeights:
        """Return one layer's attention weights, keys and values repeated to the query heads."""
        W_Q, W_K, W_V, W_O = (self.needed_matrix(layer, name) for name in ("W_Q", "W_K", "W_V", "W_O"))
        repeats = W_Q.shape[0] // W_K.shape[0]
        return AttentionWeights(
            self.gain("attn", layer),
            W_Q,
            W_K.repeat_interleave(repeats, dim=0),
            W_V.repeat_interleave(repeats, dim=0),
            W_O,
            self.gain("q_norm", layer),
            self.gain("k_norm", layer),
            n_key_value_heads=W_K.shape[0],
            soft_cap=self.attention_soft_cap,
        )

    def mlp(self, layer: int) -> MLPWeights:
        """Return one layer's feed-forward weights."""
        W_in, W_out = self.needed_matrix(layer, "W_in"), self.needed_matrix(layer, "W_out")
        return MLPWeights(self.gain("mlp", layer), W_in, self.matrix(layer, "W_gate"), W_out)

    # functions
    @abstractmethod
    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Return what the embedding module gives: before positions and a norm behind it, with a scale of its own."""

    @abstractmethod
    def unembed_input(
        self, tokens: Int[Tensor, "batch pos"], embedded: Float[Tensor, "batch pos d_model"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return the unembedding's input (after the final norm and its gain), from the embeddings if they are given."""

    @abstractmethod
    def unembedded(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Return the unembedding's output, bias included, before any scale or soft cap."""

    def unembed(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Return the logits for the unembedding's input, scale and soft cap included.

        Raises:
            InputError: the logits follow from the unembedding's output in a way that has not been understood.
        """
        found = self.meaning.logits
        if isinstance(found, Unknown):
            raise InputError(f"the unembedding of {self.info.id} cannot be followed: {found.reason}")
        return found(self.unembedded(hidden))

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Return the logits without building a graph."""
        with torch.no_grad():
            return self.model(tokens.to(self.device))

    # decoding
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

    def attention_patterns(
        self, tokens: Int[Tensor, " pos"], layers: Sequence[int] | None = None, *, max_bytes: int = 2**28
    ) -> Iterator[Float[Tensor, "head_index query_pos key_pos"]]:
        """Yield the attention of each layer (all of them unless given): a head per query head, rows that sum to 1.

        A pass keeps as many layers as fit into `max_bytes`, at least one; what does not fit costs another pass.

        Raises:
            InputError: a layer's hook_pattern does not hold its attention.
        """
        self._check_hooks(self.meaning.pattern, layers)
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in (range(self.n_layers) if layers is None else layers)]
        bytes_per_layer = self.n_heads * len(tokens) ** 2 * self.dtype.itemsize
        at_once = max(1, max_bytes // bytes_per_layer)
        for start in range(0, len(names), at_once):
            wanted = names[start : start + at_once]
            with torch.no_grad():
                _, cache = self.model.run_with_cache(
                    tokens[None].to(self.device), names_filter=wanted, return_type=None
                )
            yield from (cache[name][0] for name in wanted)

    def static_attention_scores(
        self, tokens: Int[Tensor, "batch pos"], embedded: Float[Tensor, "batch pos d_model"], layers: Sequence[int]
    ) -> list[Float[Tensor, "batch head_index key_pos"]]:
        """Return the last query's scores before softmax (scaled, soft-capped, masked) in each layer, in order.

        Every position but the first brings its embedding, with whatever positions add to it, to every layer as it is;
        the first is computed as usual, since it sees only itself.

        Raises:
            InputError: a layer's hook_attn_scores does not hold what its softmax takes.
        """
        self._check_hooks(self.meaning.scores, layers)
        hooks, caught = [(self.embedding, lambda value, hook: embedded)], {}
        entered = self._capture(tokens, "blocks.0.hook_resid_pre", hooks)

        def keep(value: Tensor, hook: Any) -> Tensor:
            return torch.cat([value[:, :1], entered[:, 1:]], dim=1)

        def catch(value: Tensor, hook: Any) -> None:
            caught[hook.name] = value[:, :, -1]
            if len(caught) == len(layers):
                raise _Stop

        names = [f"blocks.{layer}.attn.hook_attn_scores" for layer in layers]
        hooks += [(f"blocks.{layer}.hook_resid_pre", keep) for layer in range(1, max(layers) + 1)]
        self._run(tokens, [*hooks, *((name, catch) for name in names)])
        return [caught[name] for name in names]

    def _check_hooks(self, reasons: dict[int, str], layers: Sequence[int] | None) -> None:
        for layer in range(self.n_layers) if layers is None else layers:
            if reasons[layer]:
                raise InputError(f"the attention of layer {layer} of {self.info.id} cannot be read: {reasons[layer]}")

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

    def _run(self, tokens: Tensor, hooks: Sequence[tuple[str, Callable]]) -> None:
        # a context takes away its own hooks alone, also from a pass that was stopped: those of the user stay
        with self.model.hooks(fwd_hooks=list(hooks)), suppress(_Stop):
            self.model(tokens)

    def _capture(self, tokens: Tensor, name: str, replace: Sequence[tuple[str, Callable]] = ()) -> Tensor:
        # forward hooks, never a cached activation: caches are detached, and a gradient through one is silently wrong
        caught: list[Tensor] = []

        def catch(value: Tensor, hook: Any) -> None:
            caught.append(value)
            raise _Stop

        self._run(tokens, [*replace, (name, catch)])
        if not caught:
            raise RuntimeError(f"{self.info.id}: the forward pass did not reach {name}")
        return caught[0]


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
        from lensdiff.models.wrappers import wrap

        found = wrap(model)
        register(found)
    return found


def is_hooked(model: object) -> bool:
    """Return whether a model is a HookedTransformer (false on versions that have none)."""
    return HookedTransformer is not None and isinstance(model, HookedTransformer)
