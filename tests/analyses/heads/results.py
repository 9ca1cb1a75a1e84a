"""Results about heads made by hand, without a model."""

from typing import Any

import numpy as np
import torch

from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs
from lensdiff.analyses.heads.ov_reading import OVReading
from lensdiff.analyses.heads.pair_overlap import PairOverlap, pair_overlap
from lensdiff.analyses.heads.qk_reading import QKReading
from lensdiff.analyses.heads.verb_shift import VerbShift, verb_shift
from lensdiff.results import Provenance
from tests.analyses.heads.head_models import Named, made

VERBS = tuple(f"do{i}" for i in range(8))
CONTROLS = tuple(f"be{i}" for i in range(24))
WORDS = (*VERBS, *CONTROLS, *(f"thing{i}" for i in range(40)))
PLAIN = ("sea", "moon", "write", "poem", "tell", "story")


def head_pairs(words: tuple[str, ...] = PLAIN, *, swap: bool = False) -> HeadWordPairs:
    """Two layers of three heads; head (1, 2) differs between `swap` and not, the others do not."""
    a, b, c, d, *rest = words
    usual: list[Named] = [[(a, b), (c, d)], [(c, d)]]
    edited: list[Named] = [[(a, c), (c, d), (rest[0], rest[1])], [(c, d), (a, c)]] if swap else usual
    return made([[usual, usual, usual], [usual, usual, edited]], words)


def overlap(words: tuple[str, ...] = PLAIN, *, controls: bool = True) -> PairOverlap:
    """One head changed beyond its controls, the others did not change."""
    near = [*[head_pairs(words)] * 18, head_pairs(words, swap=True)] if controls else []
    found = pair_overlap(head_pairs(words), head_pairs(words, swap=True), controls=near)
    band = torch.stack([torch.full_like(found.jaccard, 0.8), torch.ones_like(found.jaccard)])
    return PairOverlap(**{**vars(found), "band": band}) if controls else found


def with_counts(counts: np.ndarray) -> HeadWordPairs:
    """Build a result in which head h of layer l has counts[l, h, v] for every verb, each with things of its own."""
    things = WORDS[len(VERBS) + len(CONTROLS) :]
    verbs = (*VERBS, *CONTROLS)
    dims = [
        [[[(verbs[v], things[i]) for v, n in enumerate(head) for i in range(n)]] * 2 for head in layer]
        for layer in counts.tolist()
    ]
    return made(dims, WORDS)


def drawn(seed: int, *, n_layers: int = 3, n_heads: int = 6, mean: float = 3.0) -> np.ndarray:
    shape = n_layers, n_heads, len(VERBS) + len(CONTROLS)
    return np.random.default_rng(seed).poisson(mean, shape)


def run(base: np.ndarray, tuned: np.ndarray, **options: Any) -> VerbShift:
    return verb_shift(with_counts(base), with_counts(tuned), verbs=VERBS, control_verbs=CONTROLS, **options)


def verbs(*, controls: int = 19) -> VerbShift:
    """Instruction verbs rose in every group."""
    base, tuned = drawn(0), drawn(1)
    tuned[..., :8] += 2
    return run(base, tuned, layers_per_group=2, controls=[with_counts(drawn(s)) for s in range(2, 2 + controls)])


def reading(words: tuple[str, ...] = PLAIN, *, shift: int = 0) -> OVReading:
    """Components of two words per pole; `shift` moves the words of the last head."""
    shape = 2, 3, 2, 2, 2, 2  # layer head component side pole rank
    index = torch.from_numpy(np.arange(np.prod(shape)).reshape(shape) % len(words)).int()
    index[1, 2] = (index[1, 2] + shift) % len(words)
    share = torch.tensor([0.5, 0.25]).expand(2, 3, 2).clone()
    origin = Provenance("ov_reading", "made")
    return OVReading(origin, (0, 1), (0, 1, 2), words, share * 4, share, index, torch.ones(shape))


def scores(words: tuple[str, ...] = PLAIN) -> QKReading:
    """Three pairs at two distances; the first token takes least from the last pair."""
    sink = torch.tensor([[0.9, 0.8], [0.5, 0.7], [0.1, 0.2]]).expand(2, 3, 3, 2).clone()
    origin, pair = Provenance("qk_reading", "made"), (tuple(words[:3]), tuple(words[3:6]))
    zero = torch.zeros(2, 3, 3, 2)
    return QKReading(origin, (0, 1), (0, 1, 2), *pair, (1, 3), "<s>", 4, zero, zero[..., 0], sink)
