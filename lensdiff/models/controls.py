"""Controls: models made from the base by a meaningless change of the size of the real one, weight by weight.

A difference means little until a meaningless change of the same size has been shown beside it. Three kinds:

    spectrum   base + U' S V'^T: the real change's singular values S, random orthonormal U' and V' (the headline)
    norm       base + Gaussian noise of the real change's Frobenius norm
    self       the base itself: no change

What is treated how (`change` has the formulas):
- matrices: each of the checkpoint's own, all heads of W_Q as one, keys and values with their key-value heads;
- vectors (norm gains, biases): a random direction with the norm of the real change, which is the same for both kinds;
- embeddings: as matrices; where the base ties its unembedding to its embedding, so does the control; where the
  vocabularies differ only the rows of shared tokens change;
- what did not change in the tuned model stays exactly as it is in the base.
The change is added in float64 and rounded to the base's dtype. A control of models in half precision is read in
float32 and cannot be run: rounding would take away the part of the change that is below half a unit in the last place,
and a smaller change makes the real one look large.

A control is lazy: a weight is computed when it is read and only the last one, of all controls of a pair, is kept, so 99
of them cost a weights-only analysis the memory of one weight. A forward pass needs a whole model: it is made on first
use, and `free` lets go of it.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.models.change import KINDS, PARAMETER, Kind, RealChange, Weight, read, stored, weights_of
from lensdiff.models.meaning import Meaning, Unknown
from lensdiff.models.view import Model, ModelView, forget, is_hooked, register
from lensdiff.models.weights import GainName, MatrixName, ModelInfo
from lensdiff.models.wrappers import BridgeView, HookedView
from lensdiff.results import InputError

NAMES = {"spectrum": "spectrum-matched change", "norm": "norm-matched change"}


class ControlView(ModelView):
    """The base with a meaningless change, read as any model is; made by `ModelPair.control`.

    Deterministic: a weight depends on the kind, the seed, its name and its layer, not on what was read before it. The
    two kinds of one seed draw from the same random numbers, so they are not independent of each other.
    """

    def __init__(self, change: RealChange, kind: Kind | str = "spectrum", seed: int = 0):
        if kind not in KINDS:
            raise InputError(f"kind={kind!r} is none of {', '.join(KINDS)}")
        self.kind: Kind = kind  # pyright: ignore[reportAttributeAccessIssue] (checked)
        self.seed = seed
        self.info = control_info(change.base.info, self.kind, seed)
        self._change = change
        self._tokenizer = change.base._tokenizer
        self._made: ModelView | None = None

    # sizes: the base's, without making a model
    @property
    def n_layers(self) -> int:
        return self._change.base.n_layers

    @property
    def n_heads(self) -> int:
        return self._change.base.n_heads

    @property
    def n_key_value_heads(self) -> int:
        return self._change.base.n_key_value_heads

    @property
    def d_model(self) -> int:
        return self._change.base.d_model

    @property
    def d_head(self) -> int:
        return self._change.base.d_head

    @property
    def d_mlp(self) -> int:
        return self._change.base.d_mlp

    @property
    def d_vocab(self) -> int:
        return self._change.base.d_vocab

    @property
    def n_ctx(self) -> int:
        return self._change.base.n_ctx

    @property
    def dtype(self) -> torch.dtype:
        return self._change.base.dtype

    @property
    def device(self) -> torch.device:
        return self._change.base.device

    @property
    def attention_soft_cap(self) -> float | None:
        return self._change.base.attention_soft_cap

    # weights
    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self._required(Weight("W_E"))

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self._required(Weight("W_U"))

    @property
    def meaning(self) -> Meaning:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What parts of the model mean: a change of weights leaves that as it is in the base."""
        return self._change.base.meaning

    def stored_matrix(self, layer: int, name: MatrixName) -> Tensor | None:
        return self._read(Weight(name, layer))

    def gain(self, name: GainName, layer: int = 0) -> Tensor | None:
        if name == "mlp" and self.meaning.shared(layer):
            name = "attn"
        return self._read(Weight(f"{name}_gain", None if name == "final" else layer))

    def stored_gain(self, name: GainName, layer: int = 0) -> Tensor | None:
        found, gain = self.meaning.gains[(name, layer)], self.gain(name, layer)
        return gain if gain is None or isinstance(found, Unknown) else gain - found.offset

    def _required(self, weight: Weight) -> Tensor:
        value = self._read(weight)
        assert value is not None
        return value

    def _read(self, weight: Weight) -> Tensor | None:
        if self._made is not None:
            return read(self._made, weight)
        if weight.name == "W_U" and self._change.tied and self.kind != "self":
            return self._required(Weight("W_E")).T
        change, key = self._change, (self.kind, self.seed, weight)
        if change.last is None or change.last[0] != key:
            change.last = None  # never two at a time
            change.last = key, self._changed(weight, read(change.base, weight))
        return change.last[1]

    def _changed(self, weight: Weight, base: Tensor | None) -> Tensor | None:
        if base is None or self.kind == "self":
            return base
        values = self._change.singular_values(weight)
        changed = self._change.apply(self.kind, self.seed, weight, base, values)
        return changed.to(torch.promote_types(changed.dtype, torch.float32))  # as those that did change

    # functions: of a whole model, made when first needed
    @property
    def model(self) -> Model:
        """The control as a HookedTransformer or TransformerBridge, like the base; made on first use."""
        return self._whole().model

    @property
    def is_made(self) -> bool:
        """Whether a whole model is in memory for this control."""
        return self._made is not None

    def free(self) -> None:
        """Let go of the whole model and of the last weight; either is made again when it is needed."""
        if self._made is not None:
            forget(self._made.model)
        self._made = self._change.last = None

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return self._whole().embed(tokens)

    def unembed_input(
        self, tokens: Int[Tensor, "batch pos"], embedded: Float[Tensor, "batch pos d_model"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        return self._whole().unembed_input(tokens, embedded)

    def unembedded(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        return self._whole().unembedded(hidden)

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        return self._whole().logits(tokens)

    @property
    def trusts_cache(self) -> bool:
        """Whether the whole model's cache is believed."""
        return self._whole().trusts_cache

    @trusts_cache.setter
    def trusts_cache(self, value: bool) -> None:
        self._whole().trusts_cache = value

    def new_cache(self, batch: int) -> Any:
        return self._whole().new_cache(batch)

    def cached_logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch total_pos"], cache: Any
    ) -> Float[Tensor, "batch d_vocab"]:
        return self._whole().cached_logits(tokens, mask, cache)

    def attention_patterns(
        self, tokens: Int[Tensor, " pos"], layers: Sequence[int] | None = None, *, max_bytes: int = 2**28
    ) -> Iterator[Float[Tensor, "head_index query_pos key_pos"]]:
        return self._whole().attention_patterns(tokens, layers, max_bytes=max_bytes)

    def static_attention_scores(
        self, tokens: Int[Tensor, "batch pos"], embedded: Float[Tensor, "batch pos d_model"], layers: Sequence[int]
    ) -> list[Float[Tensor, "batch head_index key_pos"]]:
        return self._whole().static_attention_scores(tokens, embedded, layers)

    def _whole(self) -> ModelView:
        if self.kind == "self":
            return self._change.base
        if self.dtype.itemsize < torch.float32.itemsize:
            name = str(self.dtype).removeprefix("torch.")
            raise InputError(
                f"a control cannot be run in {name}, whose rounding takes away a part of the change: "
                "load the pair with dtype='float32'"
            )
        if self._made is None:
            self._made = materialise(self)
            self._change.last = None
        return self._made


def control_info(base: ModelInfo, kind: Kind, seed: int) -> ModelInfo:
    """Return what a control says of itself: the base's facts under a name that shows the change."""
    made = "no change" if kind == "self" else f"{NAMES[kind]} (seed {seed})"
    return replace(base, id=f"{base.id} + {made}")


def materialise(control: ControlView) -> ModelView:
    """Return the view of a whole model with a control's weights: a copy of the base, the changed parameters written in.

    Parameters that no weight of a view covers (biases, position embeddings, norms after a layer) change by the same
    rule, named as in the wrapper.

    Raises:
        InputError: the pair holds one model as a HookedTransformer and the other as a TransformerBridge, or a folded
            TransformerBridge, whose parameters are not all of its weights.
    """
    change = control._change
    base, tuned = change.base, change.tuned
    hooked = is_hooked(base.model)
    if hooked != is_hooked(tuned.model):
        raise InputError("a control's forward pass needs both models in one wrapper: give wrapper=... to load_pair")
    if not hooked and base.info.weights == "folded":
        raise InputError("a control's forward pass needs weights='raw' where the models are TransformerBridges")
    with torch.no_grad():  # a wrapper keeps tensors of its last pass; only those without a graph can be copied
        base.logits(torch.zeros(1, 1, dtype=torch.int64, device=base.device))
    forget(base.model)  # its view is not the copy's
    try:
        model = copy.deepcopy(base.model)
    finally:
        register(base)
    made = (
        HookedView(model, base._tokenizer, control.info) if hooked else BridgeView(model, base._tokenizer, control.info)
    )
    vars(made)["meaning"] = base.meaning
    written: list[Tensor] = []
    with torch.no_grad():
        _share_again(base.model, model)
        for weight in weights_of(base):
            into, old = stored(made, weight), stored(base, weight)
            new = control._changed(weight, old) if weight.name.endswith("_gain") else control._read(weight)
            assert new is not None
            into.copy_(new)
            if not torch.equal(into, stored(made, weight)):
                raise RuntimeError(f"{weight} of the model cannot be written through its view")
            written.append(old)
        _write_the_rest(control, model, written)
    register(made)
    return made


def _write_the_rest(control: ControlView, model: Model, written: list[Tensor]) -> None:
    change = control._change
    copies, tuned = dict(model.named_parameters()), dict(change.tuned.model.named_parameters())
    # parts first: a fused parameter of which a part is written is written with it
    for name, parameter in sorted(change.base.model.named_parameters(), key=lambda item: item[1].numel()):
        if name not in tuned or any(_covers(parameter, other) for other in written):
            continue
        weight = Weight(PARAMETER + name)
        values = change.values_of(weight.name, parameter.detach(), tuned[name].detach())
        copies[name].copy_(change.apply(control.kind, control.seed, weight, parameter.detach(), values))
        written.append(parameter)


def _share_again(base: Model, model: Model) -> None:
    # copying separates a parameter from the fused one that it is a part of (queries, keys and values; gate and up)
    copies, parameters = dict(model.named_parameters()), list(base.named_parameters())
    for name, part in parameters:
        for other, whole in parameters:
            if whole.numel() > part.numel() and _covers(whole, part):
                offset = (part.data_ptr() - whole.data_ptr()) // part.itemsize
                copies[name].data = copies[other].data.as_strided(part.shape, part.stride(), offset)


def _covers(parameter: Tensor, other: Tensor) -> bool:
    # one tensor seen twice, or a fused one and its part; queries, keys and values that lie interleaved are neither
    if parameter.data_ptr() == other.data_ptr():
        return True
    (start, end), (first, last) = _span(parameter), _span(other)
    return parameter.numel() > other.numel() and start <= first and last <= end


def _span(tensor: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.itemsize
