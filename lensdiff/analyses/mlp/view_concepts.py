"""The concept browser: components of a layer with their words at both poles, base beside tuned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lensdiff.analyses.mlp.concepts import MLPConcepts
from lensdiff.analyses.mlp.subspaces import Matching, matched
from lensdiff.results import Diff
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import rounded
from lensdiff.views.show import register_diff, register_view
from lensdiff.views.widget import Role, Widget
from lensdiff.views.words import WordIndex

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


class PoleWord(NamedTuple):
    """A word at a pole: its number among the widget's words, and its score (a cosine) in hundredths."""

    word: int
    score: int


@dataclass(frozen=True)
class ModelComponent:
    """A component in one model.

    Attributes:
        number: of the component within its layer and side.
        variance: the share of the variance that it explains, from 0 to 1.
        poles: the words at the positive and at the negative pole, the largest |score| first.
    """

    number: int
    variance: float
    poles: list[list[PoleWord]]


@dataclass(frozen=True)
class ComponentData:
    """A component of the first model, and the one that it is matched with in the second.

    Attributes:
        angle: between the two, in degrees; None where there is one model.
        models: the component in each model.
    """

    angle: float | None
    models: list[ModelComponent]


@dataclass(frozen=True)
class ConceptsData:
    """What the script of the browser is given.

    Attributes:
        layers: their numbers, one of which is chosen.
        sides: kinds of vectors, one of which is chosen.
        roles: of the models, their colours.
        names: of the models.
        facts: paragraphs above.
        components: [layer][side], those with most variance first.
        words: that components mention.
    """

    layers: Sequence[int]
    sides: Sequence[str]
    roles: list[Role]
    names: list[str]
    facts: list[str]
    components: list[list[list[ComponentData]]]
    words: list[str]


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


def _widget(results: list[MLPConcepts], roles: list[Role], names: list[str], facts: list[str]) -> Widget:
    first, words = results[0], WordIndex()
    n = first.index.shape[2]
    shown = min(n, MOST, max(1, BUDGET // (len(first.layers) * len(first.sides))))
    if shown < n:
        facts = [*facts, f"The first {shown} of {n_of(n, 'component')} of each layer are shown; the results hold all."]
    components = [
        [_components(results, words, layer, side, shown) for side in range(len(first.sides))]
        for layer in range(len(first.layers))
    ]
    data = ConceptsData(first.layers, first.sides, roles, names, facts, components, words.words())
    top = results[-1].top(10)
    title = f"Concepts of feed-forward layers: {' and '.join(r.provenance.model for r in results)}"
    return Widget("concepts", data, title, height=760, fallback=table_html(top, "Components with most variance"))


def _components(results: list[MLPConcepts], words: WordIndex, layer: int, side: int, shown: int) -> list[ComponentData]:
    if len(results) == 1:
        return [ComponentData(None, [_model(results[0], words, (layer, side, i), 1)]) for i in range(shown)]
    match, found = matched(*(r.components[layer, side] for r in results)), []
    for i in range(shown):
        place = layer, side, i
        models = [_model(results[0], words, place, 1), _matched_model(results, words, place, match)]
        found.append(ComponentData(rounded(np.degrees(float(match.angle[i])), 3), models))
    return found


def _matched_model(
    results: list[MLPConcepts], words: WordIndex, place: tuple[int, int, int], match: Matching
) -> ModelComponent:
    base, tuned = results
    layer, side, i = place
    found = layer, side, int(match.index[i])
    turned = float(base.components[place] @ tuned.components[found])
    return _model(tuned, words, found, -1 if turned < 0 else 1)


def _model(result: MLPConcepts, words: WordIndex, place: tuple[int, int, int], sign: int) -> ModelComponent:
    poles = [
        [
            PoleWord(words(result.words[word]), round(100 * sign * score))
            for word, score in zip(index[:WORDS], scores[:WORDS], strict=True)
        ]
        for index, scores in zip(result.pole_index[place].tolist(), result.pole_score[place].tolist(), strict=True)
    ]
    variance = rounded(float(result.explained_variance_ratio[place]), 3)
    return ModelComponent(place[2], variance, poles if sign > 0 else poles[::-1])
