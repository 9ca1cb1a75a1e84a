"""How coherent the components' words are, layer by layer, beside random directions: base and tuned model."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lensdiff.analyses.mlp.coherence import SIGNIFICANT, Coherence, adjusted_together
from lensdiff.results import Diff
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import rounded, rounded_all
from lensdiff.views.show import register_diff, register_view
from lensdiff.views.small_table import SmallTable
from lensdiff.views.widget import Role, Widget

TOP = 8
NULLS = ("expected without meaning", "random directions")


Run = tuple[Role, str, Coherence]  # the colour, the name, and the result


@dataclass(frozen=True)
class MeasureData:
    """What the curve can show: its name, and the unit of its axis."""

    name: str
    unit: str


@dataclass(frozen=True)
class ModelData:
    """One model's curves; of the measures the first is in %, the second a cosine.

    Attributes:
        role: its colour.
        name: its name.
        null_name: of the line of its random directions.
        values: [measure][side][layer], None where no component has enough words.
        nulls: [measure][side], without any meaning.
        top: the most coherent components.
    """

    role: Role
    name: str
    null_name: str
    values: list[list[list[float | None]]]
    nulls: list[list[float]]
    top: SmallTable


@dataclass(frozen=True)
class CoherenceData:
    """What the script of the curve is given.

    Attributes:
        layers: their numbers.
        sides: kinds of vectors, one of which is chosen.
        measures: one of which is chosen.
        facts: paragraphs above.
        expected: name of the line that chance gives for the first measure, which all models share.
        models: base and tuned, or one.
    """

    layers: Sequence[int]
    sides: Sequence[str]
    measures: list[MeasureData]
    facts: list[str]
    expected: str
    models: list[ModelData]


@register_view
def show_coherence(result: Coherence) -> Widget:
    """Return the curve of one model."""
    return _widget([("tuned", result.provenance.model, result)])


@register_diff(Coherence)
def show_coherence_of_both(result: Diff) -> Widget:
    """Return the curves of both models, whose components are one family of tests."""
    base, tuned = adjusted_together(result.base, result.tuned)
    return _widget([("base", "base", base), ("tuned", "tuned", tuned)])


def _widget(runs: list[Run]) -> Widget:
    first = runs[0][2]
    data = CoherenceData(
        layers=first.layers,
        sides=first.sides,
        measures=[
            MeasureData("share above random", "components above random, %"),
            MeasureData("mean coherence", "mean cosine of two top words"),
        ],
        facts=_facts(runs),
        expected=NULLS[0],
        models=[_model(run, several=len(runs) > 1) for run in runs],
    )
    frames = [result.by_layer().assign(model=name) for _, name, result in runs]
    title = f"Coherence of concepts: {' and '.join(run.provenance.model for *_, run in runs)}"
    return Widget("coherence", data, title, height=760, fallback=table_html(pd.concat(frames), "By layer"))


def _facts(runs: list[Run]) -> list[str]:
    options = runs[0][2].provenance.options
    shares = ", ".join(f"{name} {_share(result):.1%}" for _, name, result in runs)
    return [
        f"More coherent than 95 % of random directions: {shares} of all components; without any meaning it would be "
        f"{SIGNIFICANT:.0%}.",
        f"Coherence is the mean cosine between the word vectors of a component's first {options['top_words']} words "
        f"({options['reading']} score). Word vectors: {options['vectors']}. "
        f"Null: {options['n_directions']} random directions, named by the same words.",
    ]


def _share(result: Coherence) -> float:
    known = result.p[~result.p.isnan()]
    return float((known <= SIGNIFICANT).double().mean())


def _model(run: Run, *, several: bool) -> ModelData:
    role, name, result = run
    frame = result.by_layer().set_index(["layer", "side"])
    percent = 100 * frame.share_above
    of_null = f"{NULLS[1]} of {name}" if several else NULLS[1]
    top = result.top(TOP).loc[:, ["layer", "side", "component", "coherence", "p", "p_adjusted"]]
    return ModelData(
        role,
        name,
        of_null,
        values=[_by_side(result, values) for values in (percent, frame.mean_coherence)],
        nulls=[[100 * SIGNIFICANT] * len(result.sides), rounded_all(result.null.nanmean(dim=1))],
        top=SmallTable.of(top, f"The most coherent components: {name}"),
    )


def _by_side(result: Coherence, values: pd.Series) -> list[list[float | None]]:
    """Return [side][layer], None where no component of a layer has enough words."""
    found = values.to_dict()
    return [
        [rounded(found[layer, side]) if (layer, side) in found else None for layer in result.layers]
        for side in result.sides
    ]
