"""Controls: models made from the base by a meaningless change of the size of the real one, weight by weight.

A difference means little until a meaningless change of the same size has been shown beside it; and what is meaningless
must be what meaningless *training* does: gradients are not isotropic, and a random matrix is too easily beaten. No kind
alone is the null; an effect stands only beyond every kind that was made:

    distilled        the base trained on its own samples, which teach it nothing; each weight's change rescaled to the
                     real one's norm. In a LoRA pair through factors of the same rank and targets
    shuffled         the same on tuning data with the responses permuted over the prompts
    gradient-noise   base + U S V^T: U and V of the base's gradients, summed over tokens with random signs; the real
                     change's singular values S
    spectrum         base + U' S V'^T with random orthonormal U' and V' (Haar): a geometric reference
    norm             base + Gaussian noise of the real change's Frobenius norm: a reference
    self             the base itself: no change

What is treated how (`change`, `controlling.training` and `controlling.gradients` have the formulas):
- matrices: each of the checkpoint's own, all heads of W_Q as one, keys and values with their key-value heads;
- vectors (norm gains, biases): trained where a control is, else in a random direction; with the real change's norm;
- embeddings: as matrices, of gradient noise norm-matched; where the base ties its unembedding to its embedding, so does
  the control; where the vocabularies differ only the rows of shared tokens change, and a padding token's row of zeros
  in both models stays;
- a weight that training left alone although tuning changed it, and a parameter without gradient noise (positions,
  experts of a mixture), gets a norm-matched change;
- what did not change in the tuned model stays exactly as it is in the base.
The change is added in float64 and rounded to the base's dtype. A control of models in half precision is read in
float32 and cannot be run or trained: rounding would take away the part of the change that is below half a unit in the
last place, and a smaller change makes the real one look large.

A control is lazy: a weight is computed when it is read and never kept, so 99 of them cost a weights-only analysis the
memory of one weight. What a trained control costs is spent when its first weight is read, and kept on disk (`cache`);
one trained change a pair is in memory at a time. A forward pass needs a whole model: it is made on first use, and
`free` lets go of it. Biases and position embeddings are read from the whole model.

A weight depends on the control's kind, options and seed, its name and its layer alone, not on what was read before it.
The kinds of one seed share no random numbers.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lensdiff.models.change import PARAMETER, Maker, RealChange
from lensdiff.models.controlling.copying import check_runs, copied, uncovered
from lensdiff.models.controlling.options import KINDS, Kind, checked, unusual
from lensdiff.models.controlling.store import user_folder
from lensdiff.models.controlling.workshop import Workshop
from lensdiff.models.info import ModelInfo
from lensdiff.models.inside.meaning import Meaning
from lensdiff.models.inside.parts import Sizes, Weight
from lensdiff.models.inside.weights import Weights
from lensdiff.models.inside.wrappers import Model
from lensdiff.models.progress import tracked
from lensdiff.models.view import ModelView
from lensdiff.results import Control, InputError
from lensdiff.results.numbers import check_seed

__all__ = ["KINDS", "NAMES", "ChangedWeights", "Kind", "control_view"]

NAMES = {
    "distilled": "distilled change",
    "shuffled": "shuffled change",
    "gradient-noise": "gradient-noise change",
    "spectrum": "spectrum-matched change",
    "norm": "norm-matched change",
}
_OF_THE_WHOLE = ("b_", "W_pos")


class ChangedWeights(Weights):
    """The base's weights with a meaningless change, computed as they are read."""

    def __init__(self, change: RealChange, maker: Maker | None, name: str, whole: Callable[[], Weights]):
        """Changes come from `maker`; from None comes no change."""
        self._change, self._maker, self._title, self._whole = change, maker, name, whole

    @property
    def name(self) -> str:
        return self._title

    @property
    def sizes(self) -> Sizes:
        return self._change.base.sizes

    @property
    def meaning(self) -> Meaning:
        """What parts of the model mean: a change of weights leaves that as it is in the base."""
        return self._change.base.meaning

    @property
    def attention_soft_cap(self) -> float | None:
        return self._change.base.attention_soft_cap

    def has(self, weight: Weight) -> bool:
        return self._change.base.has(weight)

    def stored(self, weight: Weight) -> Tensor | None:
        base = self._change.base
        if self._maker is None:
            return base.stored(weight)
        if weight.name.startswith(_OF_THE_WHOLE):
            return self._whole().stored(weight) if base.has(weight) else None
        if weight.name == "W_U" and self._change.tied:
            return self.W_E.T
        if weight.name == "mlp_gain" and self.meaning.shared(weight.layer or 0):
            weight = Weight("attn_gain", weight.layer)
        old = base.stored(weight)
        if old is None:
            return None
        changed = self._change.apply(self._maker, weight, old, self._change.singular_values(weight))
        return changed.to(torch.promote_types(changed.dtype, torch.float32))  # as those that did change


def control_view(
    base: ModelView,
    tuned: ModelView,
    change: RealChange,
    kind: Kind | str = "spectrum",
    seed: int = 0,
    *,
    options: Mapping[str, Any] | None = None,
    workshop: Workshop | None = None,
) -> ModelView:
    """Return the base with a meaningless change, read as any model is.

    Args:
        options: of the kind, as `ModelPair.control` takes them.
        workshop: of the pair, which keeps what its controls share; None for one of this control's own.

    Raises:
        InputError: `kind` is unknown, or an option is unknown, another kind's or not what is expected.
    """
    check_seed(seed)
    chosen = checked(kind, options or {}, user_folder())
    control = Control(kind, seed, chosen.recorded(kind))
    maker = (workshop or Workshop(base, tuned, change)).maker(kind, seed, chosen)
    info = _info(base.info, control)
    weights = ChangedWeights(change, maker, info.id, lambda: _there(itself()).whole().weights)

    def make() -> ModelView:
        return base if maker is None else _materialise(base, tuned, change, info, control, maker)

    found = ModelView(info, base._tokenizer, weights=weights, make=make, control=control)
    itself = weakref.ref(found)  # weights that held their view would keep it until a collection
    return found


def _there(view: ModelView | None) -> ModelView:
    if view is None:
        raise InputError("biases and positions of a control are read from its whole model: keep the control itself")
    return view


def _info(base: ModelInfo, control: Control) -> ModelInfo:
    if control.kind == "self":
        return replace(base, id=f"{base.id} + no change")
    made = ", ".join([f"seed {control.seed}", *unusual(control.kind, control.options)])
    return replace(base, id=f"{base.id} + {NAMES[control.kind]} ({made})")


def _materialise(
    base: ModelView, tuned: ModelView, change: RealChange, info: ModelInfo, control: Control, maker: Maker
) -> ModelView:
    """Return the view of a whole model with a control's weights: a copy of the base, the changed parameters written in.

    Parameters that no weight covers (biases, position embeddings, norms after a layer) change by the same rule, named
    as in the wrapper.

    Raises:
        InputError: the models are in half precision, the pair holds one as a HookedTransformer and the other as a
            TransformerBridge, or a folded TransformerBridge, whose parameters are not all of its weights.
    """
    check_runs(base)
    if base.info.wrapper != tuned.info.wrapper:
        raise InputError("a control's forward pass needs both models in one wrapper: give wrapper=... to load_pair")
    made = copied(base)
    written: list[Tensor] = []
    with torch.no_grad():
        drawn = ChangedWeights(change, maker, info.id, lambda: made.weights)
        for weight in tracked(list(base.weights.known()), f"making {info.id}"):
            into, old, new = made.weights.stored(weight), base.weights.stored(weight), drawn.stored(weight)
            assert into is not None
            assert old is not None
            assert new is not None
            into.copy_(new)
            again = made.weights.stored(weight)
            if again is None or not torch.equal(into, again):
                raise RuntimeError(f"{weight} of the model cannot be written")
            written.append(old)
        _write_the_rest(change, maker, (base.model, tuned.model, made.model), written)
    return made.viewed(info, control)


def _write_the_rest(
    change: RealChange, maker: Maker, models: tuple[Model, Model, Model], written: list[Tensor]
) -> None:
    tuned, made = (dict(model.named_parameters()) for model in models[1:])
    for name, parameter in uncovered(models[0], written, tuned):
        weight, old = Weight(PARAMETER + name), parameter.detach()
        values = change.values_of(weight.name, old, tuned[name].detach())
        made[name].copy_(change.apply(maker, weight, old, values))
