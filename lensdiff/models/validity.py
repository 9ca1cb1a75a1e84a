"""Whether a control still is a language model: its loss on texts of the base's own.

A control is invalid where that loss, nats per token on samples of the base at temperature 1, is above the larger of a
uniform guess's, log d_vocab, and the tuned model's own: a change of that size then ruins the base, and what the control
shows is ruin.

Ignores: texts with a token that the tuned model does not have.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from lensdiff.models.change import SharedTokens, generator_for
from lensdiff.models.controlling.samples import loss_of, own_samples
from lensdiff.models.inside.parts import Weight
from lensdiff.models.inside.wrappers import Model
from lensdiff.models.pair import ModelPair
from lensdiff.models.view import view_of

_KEPT = "_own_texts"  # a pair carries them, with its models' losses: a hundred controls are checked on one text


@dataclass(frozen=True)
class Validity:
    """The loss of a control on the base's own samples, nats per token, and those that it is compared with.

    Attributes:
        loss: the control's.
        base, tuned: the two models' own.
        uniform: a uniform guess's, log d_vocab.
        n_tokens: over which the means are taken.
    """

    loss: float
    base: float
    tuned: float
    uniform: float
    n_tokens: int

    @property
    def limit(self) -> float:
        """The largest loss that is valid."""
        return max(self.uniform, self.tuned)

    @property
    def valid(self) -> bool:
        """Whether the control is a language model still; a loss that is not a number is none."""
        return self.loss <= self.limit


def validity(pair: ModelPair, model: Model, *, rows: int = 16, length: int = 64, seed: int = 0) -> Validity:
    """Return the loss of a control (or of any model of the base's vocabulary) on the base's own samples.

    Args:
        rows, length: how many samples are drawn, and of how many tokens (the context may hold fewer).
        seed: of the samples.

    Raises:
        InputError: no whole model can be made of the control.
    """
    length = min(length, view_of(pair.base).n_ctx - 1)
    kept = vars(pair).setdefault(_KEPT, {})
    if (rows, length, seed) not in kept:
        kept[(rows, length, seed)] = _texts(pair, rows, length, seed)
    texts, base, tuned = kept[(rows, length, seed)]
    uniform = math.log(view_of(pair.base).d_vocab)
    return Validity(loss_of(view_of(model), texts), base, tuned, uniform, texts[:, 1:].numel())


def _texts(pair: ModelPair, rows: int, length: int, seed: int) -> tuple[Int[Tensor, "row pos"], float, float]:
    """Return samples of the base, and the loss of either model on them."""
    base, generator = view_of(pair.base), generator_for("validity", seed, Weight("samples"))
    texts = own_samples(base, rows, length, generator)
    theirs = _translated(texts, pair.shared_tokens)
    # without a text that both can read, a uniform guess is the limit
    tuned = loss_of(view_of(pair.tuned), theirs) if len(theirs) else -math.inf
    return texts, loss_of(base, texts), tuned


def _translated(texts: Int[Tensor, "row pos"], shared: SharedTokens) -> Int[Tensor, "readable pos"]:
    """Return texts in the tuned model's ids, without those that it cannot spell."""
    mine, theirs = shared
    table = torch.full((max(int(texts.max()), int(mine.max())) + 1,), -1)
    table[mine] = theirs
    found = table[texts]
    return found[(found >= 0).all(dim=1)]
