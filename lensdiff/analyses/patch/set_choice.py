"""Which heads make a set: those whose instruction verbs rose most, and random ones beside them."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lensdiff.analyses.patch.defaults import SET_LEAST, SET_SHARE
from lensdiff.results import InputError

TRIES = 20  # to draw a set that was not drawn before, for each
Head = tuple[int, int]  # layer, head


def risen_heads(rises: pd.DataFrame, n_heads: int, size: int | None = None) -> tuple[Head, ...]:
    """Return the heads whose count rose most: a tenth of all, at least 5, at most half of them, and none that did not.

    Args:
        rises: `verb_shift(...).heads()`, the largest rise first.
        n_heads: of the whole model; size: how many are taken instead.
    """
    most = max(SET_LEAST, round(SET_SHARE * n_heads)) if size is None else size
    risen: Any = rises[rises["rise"] > 0].head(min(most, n_heads // 2))
    return tuple((int(row.layer), int(row.head_index)) for row in risen.itertuples())


def random_sets(heads: Sequence[Head], n_layers: int, n_heads: int, *, draws: int, seed: int) -> list[tuple[Head, ...]]:
    """Return random sets of as many other heads, each once: of the same layers as far as there are enough of them.

    Where that leaves fewer sets than asked for, the rest are of any layers, and where there are fewer still, all are
    returned.

    Raises:
        InputError: fewer heads are left than the set has.
    """
    taken = set(heads)
    left = [(layer, head) for layer in range(n_layers) for head in range(n_heads) if (layer, head) not in taken]
    if len(left) < len(heads):
        raise InputError(f"a set of {len(heads)} heads leaves {len(left)} others, expected as many at least")
    wanted, found = Counter(layer for layer, _ in heads), {}
    for attempt in range(2 * TRIES * draws):
        chance, drawn = random.Random(f"{seed} {attempt}"), []
        for layer, n in sorted(wanted.items()) if attempt < TRIES * draws else ():
            own = [head for head in left if head[0] == layer]
            drawn += chance.sample(own, min(n, len(own)))
        rest = [head for head in left if head not in drawn]
        drawn += chance.sample(rest, len(heads) - len(drawn))
        found[tuple(sorted(drawn))] = None
        if len(found) == draws:
            break
    return list(found)
