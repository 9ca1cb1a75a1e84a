"""What tuning changed, and so what a control trains."""

from torch import Tensor

from lensdiff.models.change import PARAMETER, RealChange, flatten
from lensdiff.models.controlling.copying import uncovered
from lensdiff.models.inside.parts import Weight
from lensdiff.models.view import ModelView

LOW_RANK = 0.5  # of the smaller side: full training fills it


def targets(base: ModelView, tuned: ModelView, change: RealChange) -> list[Weight]:
    """Return the weights that differ, and by the wrapper's names the parameters that are no weight.

    Without the unembedding where it is the embedding. Where the wrappers differ, weights alone.
    """
    found: list[Weight] = []
    for weight in base.weights.known():
        if weight.name == "W_U" and change.tied:
            continue
        before, after = base.weights.read(weight), tuned.weights.read(weight)
        if before is not None and after is not None and change.differs(weight.name, before, after):
            found.append(weight)
    if base.info.wrapper != tuned.info.wrapper:
        return found
    others, names = covered_by_weights(base), dict(tuned.model.named_parameters())
    for name, parameter in uncovered(base.model, others, names):
        if change.differs(PARAMETER + name, parameter.detach(), names[name].detach()):
            found.append(Weight(PARAMETER + name))
    return found


def covered_by_weights(view: ModelView) -> list[Tensor]:
    """Return every known weight as it is stored."""
    found = (view.weights.stored(weight) for weight in view.weights.known())
    return [value for value in found if value is not None]


def rank_of(base: ModelView, tuned: ModelView, change: RealChange, weights: list[Weight]) -> int | None:
    """Return the rank of the real change of a LoRA pair: the largest of its matrices', or None for another pair.

    In a LoRA pair every matrix that changed did so by less than half of its rank.
    """
    ranks = []
    names = dict(base.model.named_parameters()), dict(tuned.model.named_parameters())
    for weight in weights:
        if weight.name.startswith(PARAMETER):
            before, after = (side[weight.name.removeprefix(PARAMETER)].detach() for side in names)
            shape, values = flatten(before, weight.name).shape, change.values_of(weight.name, before, after)
        else:
            stored = base.weights.stored(weight)
            assert stored is not None
            shape, values = flatten(stored, weight.name).shape, change.singular_values(weight)
        if min(shape) == 1:
            continue  # a vector has no rank to keep
        if len(values) >= LOW_RANK * min(shape):
            return None
        ranks.append(len(values))
    return max(ranks, default=None)
