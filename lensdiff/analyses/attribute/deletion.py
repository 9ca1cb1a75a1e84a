"""The trust number of an attribution map: what really happens when its most important tokens are taken away.

    effect(D) = mean over response tokens of target(y_m | prompt) - target(y_m | prompt without D)

D is the set of the k prompt tokens with the highest total score, against random sets of k. A map that says something
has an effect above the random ones. Deleting tokens moves the later ones, as it would if the prompt had been written
without them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.analyses.attribute.fitting import how_many, of_pass
from lensdiff.models import ModelView
from lensdiff.models.plain.branching import final_of
from lensdiff.models.text import Encoded

TOKENS = 3
UNEMBEDDED = 256  # rows that go through the unembedding together: enough that it is not read for each text


@dataclass(frozen=True)
class DeletionCheck:
    """Effect of deleting the k highest-scored prompt tokens, and of deleting k random ones, in units of the target.

    Attributes:
        k: tokens deleted at a time.
        effect: of the highest-scored ones; positive where the target falls.
        random: effect of each random draw.
    """

    k: int
    effect: float
    random: tuple[float, ...]

    @property
    def beaten(self) -> float:
        """The share of random deletions with a smaller effect: 1 is the best a map can do, 0.5 is chance."""
        below = sum(r < self.effect for r in self.random) + 0.5 * sum(r == self.effect for r in self.random)
        return below / len(self.random)


def deletion_check(
    view: ModelView,
    encoded: Encoded,
    target: Callable[[Tensor, Tensor], Tensor],
    scores: Float[Tensor, "in_pos out_pos"],
    targets: Float[Tensor, " out_pos"],
    *,
    draws: int,
    k: int = TOKENS,
    seed: int = 0,
) -> DeletionCheck | None:
    """Return the check, or None for a prompt of one token, which cannot be deleted from.

    Args:
        targets: of the response tokens as the prompt is.
    """
    n = encoded.n_prompt
    k = min(k, n - 1)
    if k < 1:
        return None
    generator = torch.Generator().manual_seed(seed)
    top = scores.sum(dim=1).topk(k).indices.cpu()
    sets = [top, *(torch.randperm(n, generator=generator)[:k] for _ in range(draws))]
    effects = (targets.mean().cpu() - _mean_targets(view, encoded, target, sets)).tolist()
    return DeletionCheck(k, effects[0], tuple(effects[1:]))


@torch.no_grad()
def _mean_targets(
    view: ModelView, encoded: Encoded, target: Callable[[Tensor, Tensor], Tensor], deleted: list[Tensor]
) -> Float[Tensor, " set"]:
    """Return the mean target without each set of tokens; what is left is read once, however many sets leave it."""
    ids = torch.tensor(encoded.response_ids, device=view.device)
    left = []
    for gone in deleted:
        skip = {encoded.n_special + int(i) for i in gone}
        left.append(tuple(token for i, token in enumerate(encoded.ids[:-1]) if i not in skip))
    texts, means = list(dict.fromkeys(left)), {}
    at_once = how_many(view, len(texts), of_pass(view, len(texts[0])))
    for start in range(0, len(texts), at_once):
        some = texts[start : start + at_once]
        groups = final_of(view, some, len(ids)).split(max(1, UNEMBEDDED // len(ids)))
        logits = chain.from_iterable(view.forward.unembed(group) for group in groups)
        for text, own in zip(some, logits, strict=True):
            means[text] = target(own, ids).mean()
    return torch.stack([means[text] for text in left]).cpu()
