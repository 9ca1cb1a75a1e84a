"""What heads read and write, in one model or in both, and how word pairs score beside the first token."""

import numpy as np
from torch import Tensor

from lensdiff.analyses.heads.ov_reading import OV_SIDES, POLES, OVReading, ov_changes
from lensdiff.analyses.heads.qk_reading import QKReading
from lensdiff.analyses.heads.view_grid import Block, HeadsData, SideData, grid_widget, places
from lensdiff.results import Diff
from lensdiff.views.numbers import rounded_all
from lensdiff.views.show import register_diff, register_view
from lensdiff.views.widget import Role, Widget
from lensdiff.views.words import WordIndex


@register_view
def show_ov(result: OVReading) -> Widget:
    """Return the grid of one model's OV components; a head shows what it reads and writes."""
    share = result.share[..., 0].flatten()
    return _ov_widget(
        [("control", result.provenance.model, result)],
        share,
        [f"its first component holds {value:.0%} of W_OV" for value in share.tolist()],
        "share of the first component in W_OV",
    )


@register_diff(OVReading)
def show_ov_of_both(result: Diff) -> Widget:
    """Return both models' OV components, head by head, coloured by the part of their words that changed."""
    changes = ov_changes(result.base, result.tuned)
    components = result.base.share.shape[-1]
    shared = changes["shared"].to_numpy(dtype=np.float64).reshape(-1, components).mean(axis=1)
    lines = [f"{value:.0%} of the listed words are the same in both models" for value in shared]
    sides: list[tuple[Role, str, OVReading]] = [("base", "base", result.base), ("tuned", "tuned", result.tuned)]
    return _ov_widget(sides, 1 - shared, lines, "part of the listed words that changed")


def _ov_widget(
    runs: list[tuple[Role, str, OVReading]], values: Tensor | np.ndarray, lines: list[str], meaning: str
) -> Widget:
    words, last = WordIndex(), runs[-1][2]
    sides = [
        SideData(role, name, [_components(run, words, *place) for place in places(run)]) for role, name, run in runs
    ]
    data = HeadsData(
        last.layers,
        last.heads,
        values=rounded_all(values, 3),
        meaning=meaning,
        lines=lines,
        sides=sides,
        words=words.words(),
        notes=[
            "Leading singular directions of W_OV: a head that attends to a word on the left writes the words on its "
            "right and suppresses those of the other pole. Signs and the order of near-equal components are arbitrary.",
            "The direct path from head to logits, from weights alone; later layers are left out.",
        ],
    )
    title = f"What heads read and write: {' and '.join(run.provenance.model for *_, run in runs)}"
    return grid_widget(title, data, last.top(10))


def _components(result: OVReading, words: WordIndex, i: int, j: int) -> list[Block]:
    blocks = []
    for component, share in enumerate(result.share[i, j].tolist()):
        for p, pole in enumerate(POLES):
            reads, writes = (
                [[words(result.words[w])] for w in result.word_index[i, j, component, s, p].tolist()]
                for s in range(len(OV_SIDES))
            )
            name = f"component {component} ({share:.0%} of W_OV), pole {'+' if pole > 0 else '−'}: reads, writes"
            blocks.append(Block(name, [reads, writes]))
    return blocks


@register_view
def show_qk(result: QKReading) -> Widget:
    """Return the grid of the first token's share against the pairs' keys; a head shows its pairs by it."""
    words = WordIndex()
    pairs = [(words(q), words(k)) for q, k in zip(result.query_words, result.key_words, strict=True)]
    mean = result.sink_share.mean(dim=(-2, -1)).flatten()
    heads = [
        [
            Block(
                f"distance {distance}, least taken by the first token first",
                [[list(pairs[p]) for p in result.sink_share[i, j, :, d].argsort(stable=True).tolist()]],
            )
            for d, distance in enumerate(result.distances)
        ]
        for i, j in places(result)
    ]
    data = HeadsData(
        result.layers,
        result.heads,
        values=rounded_all(mean, 3),
        meaning="first token's share against the key word, mean over pairs and distances",
        lines=[
            f"the first token would take {value:.0%} of it, mean over pairs and distances" for value in mean.tolist()
        ],
        sides=[SideData("control", result.provenance.model, heads)],
        words=words.words(),
        notes=[
            f"Real scores before softmax with norms, biases and positions, the query at position {result.query_pos} "
            f"after the first token {result.first_token!r}; words stand for themselves in every layer."
        ],
    )
    return grid_widget(f"Query-key scores of word pairs: {result.provenance.model}", data, result.top(10))
