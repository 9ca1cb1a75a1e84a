"""Training a copy of the base, so that what it learned can be taken as a control's change.

    full       every weight that tuning changed is trained itself
    low-rank   W + A B for every such matrix, A Gaussian and B zero at first; vectors are trained themselves

by AdamW without weight decay on the mean next-token loss of each batch. Only the gradient of whole weights is asked of
a model, whatever wraps it; those of the factors follow: dL/dA = dL/dW B^T, dL/dB = A^T dL/dW.

Memory: a copy of the base, the gradients of what is trained, and for full training two moments and a copy of that.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lensdiff.models.change import PARAMETER, flatten, generator_for, unflatten
from lensdiff.models.controlling.copying import Copied, copied
from lensdiff.models.controlling.options import Recipe
from lensdiff.models.controlling.samples import cross_entropy
from lensdiff.models.controlling.trained import Trained
from lensdiff.models.inside.parts import Weight
from lensdiff.models.inside.points import Point
from lensdiff.models.inside.storage import covers
from lensdiff.models.progress import tracked
from lensdiff.models.view import ModelView
from lensdiff.results import InputError


class Batch(NamedTuple):
    """Rows of a step: token ids, the tokens that follow them (-1: no loss), and 1 where a token is no padding."""

    tokens: Int[Tensor, "row pos"]
    following: Int[Tensor, "row pos"]
    mask: Int[Tensor, "row pos"] | None = None


class Learner:
    """One trained weight: its place in the copy and what the optimiser moves.

    Attributes:
        moved: the weight as a matrix, or the two factors of its change.
    """

    def __init__(self, weight: Weight, into: Tensor, tied: Tensor | None, rank: int | None, generator: torch.Generator):
        self.weight, self.into, self.tied = weight, into, tied
        self.start = flatten(into, weight.name).clone()
        rows, columns = self.start.shape
        # a padding token's row of zeros is no vector: a norm would make a large one of any small change
        self.silent = ~self.start.any(dim=1) if weight.name == "W_E" else None
        if rank is None or min(rows, columns) == 1:
            self.moved = [self.start.clone()]
        else:
            a = torch.randn(rows, rank, generator=generator).to(self.start) / rows**0.5
            a = a if self.silent is None else a.masked_fill(self.silent[:, None], 0.0)
            self.moved = [a, self.start.new_zeros(rank, columns)]

    def learn(self, parameters: list[nn.Parameter]) -> None:
        """Take the gradients that a backward pass has left in the parameters."""
        gradient = gradient_of(self.into, parameters)
        if self.tied is not None:
            own = [p for p in parameters if not covers(p, self.into)]  # an unembedding with a storage of its own
            gradient = gradient + gradient_of(self.tied, own).T
        flat = flatten(gradient, self.weight.name)
        if self.silent is not None:
            flat = flat.masked_fill(self.silent[:, None], 0.0)
        if len(self.moved) == 1:
            self.moved[0].grad = flat.clone()
        else:
            a, b = self.moved
            a.grad, b.grad = flat @ b.T, a.T @ flat

    def write(self) -> None:
        """Put what was learned into the copy."""
        now = self.moved[0] if len(self.moved) == 1 else self.start + self.moved[0] @ self.moved[1]
        self.into.copy_(unflatten(now, self.into, self.weight.name))
        if self.tied is not None:
            self.tied.copy_(self.into.T)

    @property
    def change(self) -> tuple[Tensor, ...]:
        """What was learned: the change, or its two factors."""
        return (self.moved[0] - self.start,) if len(self.moved) == 1 else tuple(self.moved)


def gradient_of(part: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """Return the gradient of a view into parameters, summed over all those that hold it."""
    found = torch.zeros_like(part)
    for parameter in parameters:
        if parameter.grad is None or not covers(parameter, part):
            continue
        laid_out = torch.empty_strided(parameter.shape, parameter.stride(), dtype=part.dtype, device=part.device)
        laid_out.copy_(parameter.grad)  # in the parameter's own order in memory
        offset = (part.data_ptr() - parameter.data_ptr()) // part.itemsize
        found += laid_out.as_strided(part.shape, part.stride(), offset)
    return found


def train(
    base: ModelView,
    weights: list[Weight],
    batches: Iterable[Batch],
    recipe: Recipe,
    seed: tuple[str, int],
    *,
    tied: bool,
) -> Trained:
    """Return the change of some weights of the base that comes of training a copy of it on batches.

    Args:
        recipe: its rate and rank.
        seed: the kind and seed of the control, which decide the factors at the start.
        tied: whether the unembedding is the embedding.

    Raises:
        InputError: the base cannot be copied, or a loss is not finite.
    """
    made = copied(base)
    learners = [_learner(made, weight, recipe, seed, tied=tied) for weight in weights]
    parameters = list(made.model.parameters())
    for parameter in parameters:
        parameter.requires_grad_(any(_learns(parameter, learner) for learner in learners))
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    moved = [tensor for learner in learners for tensor in learner.moved]
    if not moved:
        return Trained({}, {})
    optimiser = torch.optim.AdamW(moved, lr=recipe.rate, weight_decay=0.0)
    view = made.viewed(base.info)
    for batch in tracked(batches, f"training a {seed[0]} control", recipe.steps):
        _step(view, batch, trained, recipe)
        with torch.no_grad():
            for learner in learners:
                learner.learn(trained)
            optimiser.step()
            for learner in learners:
                learner.write()
        made.model.zero_grad(set_to_none=True)
    return Trained.of({learner.weight: learner.change for learner in learners})


def _learner(made: Copied, weight: Weight, recipe: Recipe, seed: tuple[str, int], *, tied: bool) -> Learner:
    if weight.name.startswith(PARAMETER):
        into = made.model.get_parameter(weight.name.removeprefix(PARAMETER)).detach()
    else:
        into = made.weights.stored(weight)
    unembedding = made.weights.stored(Weight("W_U")) if weight.name == "W_E" and tied else None
    assert into is not None
    return Learner(weight, into, unembedding, recipe.rank, generator_for(*seed, weight))


def _learns(parameter: Tensor, learner: Learner) -> bool:
    return covers(parameter, learner.into) or (learner.tied is not None and covers(parameter, learner.tied))


def _step(view: ModelView, batch: Batch, trained: list[nn.Parameter], recipe: Recipe) -> None:
    with torch.enable_grad():
        read = Point("logits")
        logits = view.forward.run(batch.tokens, read=[read], mask=batch.mask)[read]
        loss = cross_entropy(logits, batch.following.to(logits.device))
        if not bool(torch.isfinite(loss)):
            raise InputError(
                f"training a control of {view.info.id} with rate={recipe.rate:g} gave the loss {loss.item()}: "
                "give a smaller rate"
            )
        if loss.requires_grad:
            loss.backward(inputs=trained)
