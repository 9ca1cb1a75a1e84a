"""The concept browser: components of a layer with their words at both poles, base beside tuned."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lensdiff.analyses.mlp.concepts import MLPConcepts
from lensdiff.analyses.mlp.subspaces import Matching, matched
from lensdiff.results import Diff
from lensdiff.views.fallback import table_html
from lensdiff.views.show import register_diff, register_view
from lensdiff.views.widget import Widget

WORDS = 10  # at each pole
MOST, BUDGET = 100, 6000  # components of a layer, and of the whole widget
SCORES = (
    "A number beside a word is the cosine of the component with the word's mean embedding (output embedding for "
    "values, input embedding for keys and gates). Which pole is positive is arbitrary."
)
BOTH = (
    "The tuned component is the base's match, by the assignment with the largest |cosine|, turned to the same side. "
    "A dot marks words that the other model does not show here. Components of nearly equal variance mix freely: see "
    "the rotation for how far a meaningless change would turn them."
)


@dataclass
class _Words:
    """The words that a widget mentions, each once."""

    index: dict[str, int] = field(default_factory=dict)

    def __call__(self, word: str) -> int:
        return self.index.setdefault(word, len(self.index))


@register_view
def show_concepts(result: MLPConcepts) -> Widget:
    """Return the browser of one model's concepts."""
    return _widget([result], ["control"], [result.provenance.model], [SCORES])


@register_diff(MLPConcepts)
def show_concepts_of_both(result: Diff) -> Widget:
    """Return the browser of both models' concepts, matched."""
    sides = [result.base, result.tuned]
    names = [f"{role}: {side.provenance.model}" for role, side in zip(("base", "tuned"), sides, strict=True)]
    return _widget(sides, ["base", "tuned"], names, [SCORES, BOTH])


def _widget(results: list[MLPConcepts], roles: list[str], names: list[str], facts: list[str]) -> Widget:
    first, words = results[0], _Words()
    n = first.index.shape[2]
    shown = min(n, MOST, max(1, BUDGET // (len(first.layers) * len(first.sides))))
    if shown < n:
        facts = [*facts, f"The first {shown} of {n} components of each layer are shown; the results hold all."]
    components = [
        [_components(results, words, layer, side, shown) for side in range(len(first.sides))]
        for layer in range(len(first.layers))
    ]
    data = {
        "layers": list(first.layers),
        "sides": list(first.sides),
        "roles": roles,
        "names": names,
        "facts": facts,
        "components": components,
        "words": list(words.index),
    }
    top = results[-1].top(10)
    title = f"Concepts of feed-forward layers: {' and '.join(r.provenance.model for r in results)}"
    return Widget("concepts", data, title, height=760, fallback=table_html(top, "Components with most variance"))


def _components(results: list[MLPConcepts], words: _Words, layer: int, side: int, shown: int) -> list[dict[str, Any]]:
    match = matched(*(r.components[layer, side] for r in results)) if len(results) > 1 else None
    return [
        {
            "angle": None if match is None else float(f"{np.degrees(float(match.angle[i])):.3g}"),
            "models": [_model(results[0], words, (layer, side, i), 1)]
            + ([] if match is None else [_matched_model(results, words, (layer, side, i), match)]),
        }
        for i in range(shown)
    ]


def _matched_model(
    results: list[MLPConcepts], words: _Words, place: tuple[int, int, int], match: Matching
) -> dict[str, Any]:
    base, tuned = results
    layer, side, i = place
    found = layer, side, int(match.index[i])
    turned = float(base.components[place] @ tuned.components[found])
    return _model(tuned, words, found, -1 if turned < 0 else 1)


def _model(result: MLPConcepts, words: _Words, place: tuple[int, int, int], sign: int) -> dict[str, Any]:
    poles = [
        [
            [words(result.words[word]), round(100 * sign * score)]
            for word, score in zip(index[:WORDS], scores[:WORDS], strict=True)
        ]
        for index, scores in zip(result.pole_index[place].tolist(), result.pole_score[place].tolist(), strict=True)
    ]
    return {
        "number": place[2],
        "variance": float(f"{float(result.explained_variance_ratio[place]):.3g}"),
        "poles": poles if sign > 0 else poles[::-1],
    }
