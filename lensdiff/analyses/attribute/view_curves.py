"""Deletion and insertion curves: both models as tokens go, and their difference, before the band of random orders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lensdiff.analyses.attribute.curves import BY, DIFFERENCE, RANDOM, DeletionCurve
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known_all, rounded_all
from lensdiff.views.prompts import how_rendered
from lensdiff.views.show import register_view
from lensdiff.views.widget import Role, Widget

WAYS = {"deletion": "tokens removed", "insertion": "tokens put in"}
ORDERS = {
    "base": "the base's map",
    "tuned": "the tuned model's map",
    "difference": "the difference of the maps, tuned − base",
    "density": "the model's own map",
    "given": "the numbers that were given",
}
RANDOM_IN = {"base": f"{RANDOM} in the base", "tuned": f"{RANDOM} in the tuned model"}
LOST = {"deletion": "loss", "insertion": "gain"}


@dataclass(frozen=True)
class LineData:
    """One curve, mean over prompts; of whom."""

    role: Role
    name: str
    values: list[float]


@dataclass(frozen=True)
class BandData:
    """Where one more random order lies, mean over prompts; behind whose curve."""

    role: Role
    name: str
    low: list[float | None]
    high: list[float | None]


@dataclass(frozen=True)
class ChartData:
    """Curves before their bands, under a heading; a band is missing with fewer than 19 random orders."""

    label: str
    series: list[LineData]
    bands: list[BandData]


@dataclass(frozen=True)
class WayData:
    """One order, one way: what is said of it, and its charts."""

    facts: list[str]
    charts: list[ChartData]


@dataclass(frozen=True)
class CurvesData:
    """What the script is given.

    Attributes:
        orders, ways: of which one each is chosen; columns: shares of the tokens, in per cent.
        facts: paragraphs below.
        found: [order][way].
    """

    orders: list[str]
    ways: list[str]
    columns: Sequence[str]
    facts: list[str]
    found: list[list[WayData]]


@register_view
def show_curves(result: DeletionCurve) -> Widget:
    """Return the curves of one model, or of both and their difference."""
    points = result.removed.shape[1]
    data = CurvesData(
        orders=[ORDERS[order] for order in result.orders],
        ways=list(WAYS.values()),
        columns=[f"{100 * i / (points - 1):.0f}" for i in range(points)],
        facts=_facts(result),
        found=[[_way(result, order, by) for by in BY] for order in result.orders],
    )
    title = f"Tokens removed, most important first: {result.provenance.model}"
    return Widget("deletion_curves", data, title, height=620, fallback=table_html(result.summary(), "Areas"))


def _facts(result: DeletionCurve) -> list[str]:
    prompts, draws = len(result.prompt_id), result.random_deleted.shape[1]
    return [
        f"{n_of(prompts, 'prompt')}, each by the mean over its response's tokens; "
        f"{how_rendered(result.provenance)}. A removed token is left "
        f"out of the input. Bands: where one more random order of the tokens would lie, of {draws} that models share.",
    ]


def _way(result: DeletionCurve, order: str, by: str) -> WayData:
    own = result.summary().query("order == @order and by == @by")
    facts = ["Area under the curve: " + "; ".join(_area(row) for row in own.itertuples()) + "."]
    charts = [_chart(result, order, by, result.models, f"{LOST[by].capitalize()} of the response")]
    if DIFFERENCE in result.shown:
        charts.append(_chart(result, order, by, (DIFFERENCE,), f"The tuned model's {LOST[by]} less the base's"))
    return WayData(facts, charts)


def _area(row: Any) -> str:
    beside = "" if np.isnan(row.random) else f", random orders {row.random:.3g}"
    limits = "" if np.isnan(row.random_low) else f" ({row.random_low:.3g} to {row.random_high:.3g})"
    return f"{row.model} {row.area:.3g}{beside}{limits}"


def _chart(result: DeletionCurve, order: str, by: str, models: Sequence[str], label: str) -> ChartData:
    series, bands = [], []
    for model in models:
        role: Role = model if model in SIDES else "tuned" if model == DIFFERENCE else "model"  # type: ignore[assignment]
        series.append(LineData(role, model, rounded_all(result.curve(order, model, by).mean(dim=0).numpy())))
        band = result.mean_band(model, by)
        if not np.isnan(band.low).any():
            bands.append(BandData(role, RANDOM_IN.get(model, RANDOM), known_all(band.low), known_all(band.high)))
    return ChartData(label, series, bands)
