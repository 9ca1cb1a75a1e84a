"""The lens by layer: base against tuned before the controls' band, or their dots where they are few."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lensdiff import stats
from lensdiff.analyses.residual_stream.lens_shift import MEASURES, LensShift
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known_all, rounded_all
from lensdiff.views.prompts import how_rendered
from lensdiff.views.show import register_view
from lensdiff.views.widget import Widget

NAMES = {
    "kl": (
        "KL to the output",
        "nats",
        "KL(own output ‖ what the layer's stream says), nats: 0 where a layer says it all.",
    ),
    "prob": (
        "probability of the token",
        "probability",
        "Probability of the response's token in what a layer's stream says.",
    ),
}


@dataclass(frozen=True)
class CurveData:
    """One measure by layer.

    Attributes:
        label: under which it is chosen; unit: of the axis; how: to read it.
        base, tuned: means over prompts.
        low, high: the interval of tuned - base, set upon the base; None with one prompt.
        control_low, control_high: where one more control would lie; empty with fewer than 19 of a kind.
        controls: [layer][control], their values where there is no band.
    """

    label: str
    unit: str
    how: str
    base: list[float]
    tuned: list[float]
    low: list[float | None]
    high: list[float | None]
    control_low: list[float]
    control_high: list[float]
    controls: list[list[float]]


@dataclass(frozen=True)
class LensCurvesData:
    """What the script of the curves is given.

    Attributes:
        layers: their labels.
        n_controls: how many stand beside.
        curves: one of which is chosen.
        facts: paragraphs above.
    """

    layers: Sequence[str]
    n_controls: int
    curves: list[CurveData]
    facts: list[str]


@register_view
def show_lens_shift(result: LensShift) -> Widget:
    """Return the layer curves of a pair."""
    data = LensCurvesData(
        layers=[*map(str, result.layers[:-1]), "out"],
        n_controls=len(result.provenance.controls),
        curves=[_curve(result, measure) for measure in MEASURES],
        facts=_facts(result),
    )
    title = f"Logit lens by layer: {result.provenance.model}"
    return Widget("lens_curves", data, title, height=520, fallback=table_html(result.to_df(), "The lens by layer"))


def _curve(result: LensShift, measure: str) -> CurveData:
    found = result.differences(measure)
    base, values = found["base"], getattr(result, measure).mean(dim=1).numpy()
    band = not np.isnan(found["control_low"]).any()
    return CurveData(
        *NAMES[measure],
        base=rounded_all(base),
        tuned=rounded_all(found["tuned"]),
        low=known_all(base + found["low"]),
        high=known_all(base + found["high"]),
        control_low=rounded_all(_within(base + found["control_low"], measure)) if band else [],
        control_high=rounded_all(_within(base + found["control_high"], measure)) if band else [],
        controls=[] if band else [rounded_all(layer) for layer in values[2:].T],
    )


def _within(limits: Float[np.ndarray, " layer"], measure: str) -> Float[np.ndarray, " layer"]:
    """Return limits as far as the measure goes."""
    return limits.clip(0, 1 if measure == "prob" else np.inf)


def _facts(result: LensShift) -> list[str]:
    base, tuned = result.committed[:2].mean(dim=1).tolist()
    facts = [
        f"{n_of(len(result.prompt_id), 'prompt')}, each by the mean over its response, which all models read; "
        f"{how_rendered(result.provenance)}. A layer is read by each model's own final norm and unembedding: a curve "
        "moves with these as well as with the stream.",
        f"The most probable token is the output's from layer {base:.3g} on in the base and {tuned:.3g} in the tuned "
        "model, on average.",
    ]
    test, beside = result.commitment(), result.beside()
    if test is not None:
        facts.append(f"That layer, tuned − base over prompts: {test}.")
    if beside is not None:
        facts.append(f"Beside controls, mean over prompts of the model − base: {beside}.")
    else:
        n = stats.FEWEST_FOR_RANK
        facts.append(f"Without controls nothing says what a meaningless change would do; a band takes {n} of a kind.")
    return facts
