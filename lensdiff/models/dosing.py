"""A copy of a base into which the tuned model's weights are written at any dose, whole or by group.

    theta(a) = theta_b + a (theta_t - theta_b)        a = 0 the base, 1 the tuned model; also below 0 and above 1

Groups of weights have names (`weight_groups`). What is outside of the group stays the base's. Tied embeddings move
together; where the vocabularies differ, the rows of shared tokens move, where the contexts do, the shared positions.
Interpolated in float64 and rounded once to the base's dtype: a = 0 and a = 1 are the two models' own numbers. In half
precision a dose between them is blurred wherever the change is about one unit in the last place.

The user's models are read and never written. The copy is run once with all weights of the tuned model: where that does
not give the tuned model's logits (another rotary base, another soft cap: something beside the weights differs), there
is nothing to dose towards, and it is refused.

Memory: a third model; one weight in float64; the embeddings again where the vocabularies differ.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.models.change import PARAMETER, RealChange, vocabulary_axis
from lensdiff.models.controlling.copying import Copied, copied, uncovered
from lensdiff.models.decoding import ROUNDING
from lensdiff.models.inside.parts import ATTENTION, Weight
from lensdiff.models.inside.precision import as_double
from lensdiff.models.inside.storage import covers
from lensdiff.models.others import is_split, own_name
from lensdiff.models.pair import ModelPair
from lensdiff.models.view import ModelView, view_of
from lensdiff.models.weight_groups import Group, Part, group_of
from lensdiff.results import InputError

PROBED = 16  # tokens on which the end of the dose is looked at


def interpolated(base: Float[Tensor, "..."], tuned: Float[Tensor, "..."], amount: float) -> Float[Tensor, "..."]:
    """Return base + amount (tuned - base) in float64; the very tensors at 0 and 1."""
    if amount in (0, 1):
        return tuned if amount else base
    start = as_double(base)
    return start + amount * (as_double(tuned).to(start.device) - start)


class Ends(NamedTuple):
    """One part: where it is written, and what it is in the base and in the tuned model, in the base's shape."""

    into: Tensor
    base: Tensor
    tuned: Tensor


@dataclass(frozen=True, eq=False)
class DosedModel:
    """The copy, which has the base's weights whenever nothing is written; see the module.

    Attributes:
        view: of the copy.
        ends: every part of the model.
        tied: whether the unembedding is the embedding.
    """

    view: ModelView
    ends: Mapping[Part, Ends]
    tied: bool

    @cached_property
    def changed(self) -> Group:
        """The parts that differ between the two models."""
        return frozenset(part for part, (_, old, new) in self.ends.items() if not torch.equal(old, new.to(old)))

    def group(self, name: str) -> Group:
        """Return the parts of a group.

        Raises:
            InputError: there is no such group, with those that there are.
        """
        return group_of(name, self.ends.keys(), tied=self.tied)

    def energy(self, group: Group) -> float:
        """Return the squared Frobenius norm of a group's change, tied embeddings counted once."""
        return math.fsum(self._energies.get(part, 0.0) for part in group)  # exact: a set has no order to repeat

    @cached_property
    def _energies(self) -> dict[Part, float]:
        found = {}
        for part in self.changed:
            if self.tied and part.name == "W_U":
                continue
            old, new = as_double(self.ends[part].base), as_double(self.ends[part].tuned)
            found[part] = float((new.to(old.device) - old).square().sum())
        return found

    @contextmanager
    def at(self, group: Group, amount: float) -> Iterator[ModelView]:
        """Give the copy, while the context lasts, a dose of the change of a group."""
        parts = group & self.changed
        values = ((part, interpolated(self.ends[part].base, self.ends[part].tuned, amount)) for part in parts)
        with self._written(values):
            yield self.view

    @contextmanager
    def holding(self, values: Mapping[Part, Tensor]) -> Iterator[ModelView]:
        """Give the copy, while the context lasts, other weights in place of the base's.

        Raises:
            InputError: the base has no such weight, or one of another shape.
        """
        for part, value in values.items():
            if part not in self.ends or self.ends[part].into.shape != value.shape:
                shape = tuple(self.ends[part].into.shape) if part in self.ends else None
                raise InputError(f"{part.name} of layer {part.layer} is {tuple(value.shape)}, expected {shape}")
        with self._written(iter(values.items())):
            yield self.view

    @contextmanager
    def _written(self, values: Iterator[tuple[Part, Tensor]]) -> Iterator[None]:
        touched: list[Part] = []
        try:
            with torch.no_grad():
                for part, value in values:
                    touched.append(part)
                    self.ends[part].into.copy_(value)
            yield
        finally:
            with torch.no_grad():
                for part in touched:
                    self.ends[part].into.copy_(self.ends[part].base)


def dosed_model(pair: ModelPair) -> DosedModel:
    """Return a copy of a pair's base that takes any dose of its change.

    Raises:
        InputError: the pair keeps one model, the models are in two wrappers, one is folded and the other not, both are
            folded TransformerBridges, a weight has another shape, or the tuned model is more than its weights.
    """
    change = pair.change()
    base, tuned = view_of(pair.base), view_of(pair.tuned)
    if base.info.wrapper != tuned.info.wrapper:
        raise InputError("a dose needs both models in one wrapper: give wrapper=... to load_pair")
    if base.info.wrapper == "bridge" and base.info.weights == "folded":
        raise InputError("a dose needs weights='raw' where the models are TransformerBridges")
    made = copied(base, half=True)
    ends = dict(_parts(base, tuned, made, change))
    view = made.viewed(replace(base.info, id=f"{base.info.id} + a dose"))
    tied = change.tied and torch.equal(tuned.weights.W_U, tuned.weights.W_E.T)
    found = DosedModel(view, ends, tied)
    _check_end(found, tuned, pair)
    return found


def _parts(base: ModelView, tuned: ModelView, made: Copied, change: RealChange) -> Iterator[tuple[Part, Ends]]:
    """Yield every part: heads apart, then other weights, then the parameters that no weight covers."""
    seen: list[Tensor] = []
    embedding = made.weights.stored(Weight("W_E"))
    for weight in base.weights.known():
        sides = [weights.stored(weight) for weights in (made.weights, base.weights, tuned.weights)]
        if any(side is None for side in sides):
            continue  # not understood in one of them: it comes under its parameter's name
        into, old, new = (side for side in sides if side is not None)
        if weight.name == "W_U" and embedding is not None and embedding.data_ptr() == into.data_ptr():
            _check_tied(tuned)
            continue
        _check_view(made, weight, into)
        seen.append(old)
        new = _aligned(change, weight.name, old, new)
        if weight.name in ATTENTION:
            for head_index, three in enumerate(zip(into, old, new, strict=True)):
                yield Part(*weight, head_index), Ends(*three)
        else:
            yield Part(*weight), Ends(into, old, new)
    written, theirs = (dict(model.named_parameters()) for model in (made.model, tuned.model))
    positions = base.weights.stored(Weight("W_pos"))
    for name, parameter in uncovered(base.model, seen, theirs):
        if is_split(name, written):
            continue
        of_positions = positions is not None and covers(parameter, positions)
        old, new = parameter.detach(), theirs[name].detach()
        part = Part("W_pos") if of_positions else Part(name, own_name(name).layer)
        new = _aligned(change, "W_pos" if of_positions else PARAMETER + name, old, new)
        yield part, Ends(written[name].detach(), old, new)


def _aligned(change: RealChange, name: str, base: Tensor, tuned: Tensor) -> Tensor:
    """Return the tuned model's weight in the base's shape; the base's own numbers where the tuned model has none.

    Raises:
        InputError: the shapes differ, and not by the vocabulary or the context.
    """
    axis = vocabulary_axis(name, base, change.base.sizes.d_vocab)
    if change.rows is not None and axis is not None:
        mine, theirs = (rows.to(base.device) for rows in change.rows)
        return base.index_copy(axis, mine, tuned.to(base).index_select(axis, theirs))
    if base.shape == tuned.shape:
        return tuned
    if name == "W_pos" and base.shape[1:] == tuned.shape[1:]:
        n = min(len(base), len(tuned))
        return torch.cat([tuned[:n].to(base), base[n:]])
    said = name.removeprefix(PARAMETER)
    raise InputError(f"{said} is {tuple(base.shape)} in the base and {tuple(tuned.shape)} in the tuned model")


def _check_view(made: Copied, weight: Weight, into: Tensor) -> None:
    again = made.weights.stored(weight)
    if again is None or again.data_ptr() != into.data_ptr():
        raise InputError(f"{weight.name} of {made.base.info.id} is computed from its parameters and cannot be dosed")


def _check_tied(tuned: ModelView) -> None:
    if not torch.equal(tuned.weights.W_U, tuned.weights.W_E.T):
        raise InputError(
            "the base's unembedding is its embedding and the tuned model's is not: no dose of the base becomes the "
            "tuned model; load both with the wrapper that keeps them apart (wrapper='hooked')"
        )


def _check_end(dosed: DosedModel, tuned: ModelView, pair: ModelPair) -> None:
    """Refuse a pair whose tuned model is more than its weights."""
    mine, theirs = pair.shared_tokens
    places = torch.linspace(0, len(mine) - 1, min(PROBED, dosed.view.n_ctx, tuned.n_ctx)).long()
    with dosed.at(dosed.group("all"), 1.0) as view:
        found = view.forward.logits(mine[places][None].to(view.device))[0][:, mine.to(view.device)]
    expected = tuned.forward.logits(theirs[places][None].to(tuned.device))[0][:, theirs.to(tuned.device)].to(found)
    if not bool((found - expected).abs().max() <= ROUNDING[view.dtype] * expected.abs().max()):
        raise InputError(
            "the base with all weights of the tuned model does not compute what the tuned model does: they differ in "
            "more than weights (`pair.differences()` says in what), and a dose of weights has no end"
        )
