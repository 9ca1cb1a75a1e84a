"""What the difference does where it is written: curves over scales before other directions, words, a row per change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lensdiff import stats
from lensdiff.analyses.activation_difference.causal import RANDOM_DIFFERENCE
from lensdiff.analyses.activation_difference.directions import DIFFERENCE, NONE, RANDOM, TUNED_MEAN
from lensdiff.analyses.activation_difference.effects import DifferenceEffects
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known, known_all, rounded, rounded_all
from lensdiff.views.show import register_view
from lensdiff.views.small_table import SmallTable
from lensdiff.views.widget import Role, Widget

BASE, TUNED = SIDES
BESIDE = 3  # controls, and random vectors, whose words are drawn
NOTHING = "0"  # the column of what nothing is added to
READ = "The probability, all together, of the first words that the difference reads ({words})"
PICTURES = {  # by the measure of steering: its name, unit, and how to read it
    "kl_to_tuned": (
        "steering: distance to tuned",
        "KL to the tuned model, nats",
        "The base with so many times the difference added at all positions. Where the orange line falls below the "
        "grey bands, the difference makes the base the tuned model as no other vector of its length does.",
    ),
    "kl_to_base": (
        "steering: distance to base",
        "KL to the base, nats",
        "How far the same vectors move the base at all.",
    ),
    "prob": ("steering: its words", "probability", READ + " in the steered base."),
}
PATCHSCOPE = (
    "patchscope: its words",
    "probability",
    READ + ", where so many lengths of the stream along it stand at the last token of prompts that repeat. No scale is "
    "picked.",
)
CAUSAL = {
    TUNED: "The tuned model, its component along each direction set to the base's",
    BASE: "The base, its component along each direction set to the tuned model's",
}


@dataclass(frozen=True)
class EffectLine:
    """A line: its colour, whether it is broken, its name, and its values by column."""

    role: Role
    broken: bool
    name: str
    values: list[float | None]


@dataclass(frozen=True)
class EffectBand:
    """A band by column, and what it is of; `dotted`: of random vectors."""

    name: str
    low: list[float | None]
    high: list[float | None]
    dotted: bool


@dataclass(frozen=True)
class EffectDots:
    """Dots in place of a band where they are few: [column][dot]."""

    name: str
    values: list[list[float]]


@dataclass(frozen=True)
class EffectPicture:
    """One picture, which is chosen by its label."""

    label: str
    axis: str
    unit: str
    how: str
    columns: list[str]
    lines: list[EffectLine]
    bands: list[EffectBand]
    dots: list[EffectDots]


@dataclass(frozen=True)
class EffectRow:
    """A row of dots on an axis; low and high: the interval over texts, None without one."""

    name: str
    role: Role
    values: list[float]
    low: float | None
    high: float | None


@dataclass(frozen=True)
class EffectAxis:
    """What one model's cross-entropy does: a title, its rows, and the same in words."""

    title: str
    rows: list[EffectRow]
    told: str


@dataclass(frozen=True)
class DifferenceEffectsData:
    """What the script of the view is given.

    Attributes:
        title: of all; facts: paragraphs below it.
        pictures: one of which is chosen.
        words: the most probable word by direction and scale.
        axes: of the replaced component, one per model.
        limits: what none of it says.
    """

    title: str
    facts: list[str]
    pictures: list[EffectPicture]
    words: SmallTable
    axes: list[EffectAxis]
    limits: Sequence[str]


LIMITS = (
    "Random vectors hold next to nothing of what the models differ by. A control model's difference, and a difference "
    "of two random places of the stream, are directions that a stream does vary along: they are the harder test.",
)


@register_view
def show_difference_effects(result: DifferenceEffects) -> Widget:
    """Return the interventions at one place of one pair."""
    data = DifferenceEffectsData(
        title=f"What the difference does at {_place(result)}, position {result.position}",
        facts=_facts(result),
        pictures=[_patchscope(result), *(_steering(result, measure) for measure in PICTURES)],
        words=_words(result),
        axes=[_axis(result, side) for side in CAUSAL],
        limits=LIMITS,
    )
    title = f"What the difference does: {result.provenance.model}"
    fallback = table_html(result.to_df(), "Interventions beside other directions")
    return Widget("difference_effects", data, title, height=1100, fallback=fallback)


def _place(result: DifferenceEffects) -> str:
    return "what leaves the last layer" if result.layer == result.n_layers else f"layer {result.layer}"


def _quoted(result: DifferenceEffects) -> str:
    return ", ".join(map(repr, result.words)) or "none that both models have"


def _patchscope(result: DifferenceEffects) -> EffectPicture:
    label, unit, how = PATCHSCOPE
    said: Any = result.table("patchscope")
    said = said[said["rank"] == 1]
    tuned, base = said[said["model"] == TUNED], said[said["model"] == BASE]
    scales = [*dict.fromkeys(tuned["scale"])]
    lines = _lines(tuned, "prob_read", "the difference, in the tuned model")
    lines.append(EffectLine("base", False, "the difference, in the base", known_all(base["prob_read"].tolist())))
    columns = [f"{scale:g}" for scale in scales]
    how = how.format(words=_quoted(result))
    return EffectPicture(label, "length, in streams", unit, how, columns, lines, *_beside(result, "patchscope", tuned))


def _steering(result: DifferenceEffects, measure: str) -> EffectPicture:
    label, unit, how = PICTURES[measure]
    steered: Any = result.table("steering")
    none, rest = steered[steered["reading"] == NONE].iloc[0], steered[steered["reading"] != NONE]
    start = known(none[measure])
    lines = [
        EffectLine(line.role, line.broken, line.name, [start, *line.values])
        for line in _lines(rest, measure, "the difference")
    ]
    bands, dots = _beside(result, measure, rest)
    bands = [EffectBand(band.name, [start, *band.low], [start, *band.high], band.dotted) for band in bands]
    dots = [EffectDots(one.name, [[], *one.values]) for one in dots]
    columns = [NOTHING, *(f"{scale:g}" for scale in dict.fromkeys(rest["scale"]))]
    how = how.format(words=_quoted(result))
    return EffectPicture(label, "times the difference's length", unit, how, columns, lines, bands, dots)


def _lines(frame: Any, measure: str, name: str) -> list[EffectLine]:
    """Return the lines of the difference and of the tuned model's own mean."""
    own, mean = (known_all(frame[frame["reading"] == one][measure].tolist()) for one in (DIFFERENCE, TUNED_MEAN))
    return [EffectLine("tuned", False, name, own), EffectLine("control", True, "the tuned model's own mean", mean)]


def _beside(result: DifferenceEffects, measure: str, frame: Any) -> tuple[list[EffectBand], list[EffectDots]]:
    """Return the bands of controls and random vectors, or their dots where they are too few."""
    measure = "prob_read" if measure == "patchscope" else measure
    groups = [own for _, own in frame.groupby("scale", sort=False)]
    found = [result.beside(own, measure) for own in groups]
    controls = [control.name for control in result.provenance.controls]
    bands, dots = [], []
    for name, readings, what in (("control", controls, "control"), ("random", [RANDOM], "random vector")):
        values = [rounded_all(own[own["reading"].isin(readings)][measure].tolist()) for own in groups]
        n = len(values[0])
        if not np.isnan([one[f"{name}_low"] for one in found]).any():
            limits = [known_all([one[f"{name}_{end}"] for one in found]) for end in ("low", "high")]
            bands.append(EffectBand(f"where one more {what} would lie ({n})", *limits, dotted=name == "random"))
        elif n and np.isfinite(values).all():
            dots.append(EffectDots(n_of(n, what), values))
    return bands, dots


def _words(result: DifferenceEffects) -> SmallTable:
    """Return the most probable word of each direction and scale, of a few controls and random vectors."""
    said: Any = result.table("patchscope")
    said = said[said["rank"] == 1]
    names = [(DIFFERENCE, TUNED, 0), (DIFFERENCE, BASE, 0), (TUNED_MEAN, TUNED, 0)]
    names += [(control.name, TUNED, 0) for control in result.provenance.controls[:BESIDE]]
    names += [(RANDOM, TUNED, draw) for draw in range(BESIDE)]
    rows = []
    for reading, model, draw in names:
        own = said[(said["reading"] == reading) & (said["model"] == model) & (said["draw"] == draw)]
        if len(own):
            label = f"{reading}, in the {model}{' model' * (model == TUNED)}"
            cells = [f"{token} {rounded(prob, 2):g}" for token, prob in zip(own["token"], own["prob"], strict=True)]
            rows.append([label if reading in (DIFFERENCE, TUNED_MEAN) else reading, *cells])
    scales = [f"{scale:g}" for scale in dict.fromkeys(said["scale"])]
    return SmallTable("Patchscope: the most probable word and its probability, by length", ["", *scales], rows)


def _axis(result: DifferenceEffects, into: str) -> EffectAxis:
    causal: Any = result.table("causal")
    own = causal[causal["into"] == into]

    def row(name: str, role: Role, readings: Sequence[str], *, interval: bool = False) -> EffectRow:
        some = own[own["reading"].isin(list(readings))]
        limits = [known(some[end].iloc[0]) if interval and len(some) else None for end in ("low", "high")]
        return EffectRow(name, role, rounded_all(some["change"].tolist()), *limits)

    whole = f"all of the {'base' if into == TUNED else 'tuned model'}"
    rows = [
        row("the difference", "tuned", [DIFFERENCE], interval=True),
        row(whole, "base" if into == TUNED else "tuned", ["other"]),
        row("tuned model's mean", "control", [TUNED_MEAN]),
        row("control models", "control", [control.name for control in result.provenance.controls]),
        row("random vectors", "control", [RANDOM]),
        row("random differences", "control", [RANDOM_DIFFERENCE]),
    ]
    rows = [one for one in rows if one.values]
    told = "; ".join(f"{one.name} {_range(one.values)}" for one in rows)
    return EffectAxis(CAUSAL[into], rows, f"Change of cross-entropy, nats per token: {told}.")


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _facts(result: DifferenceEffects) -> list[str]:
    why = (
        "as it was asked for"
        if result.chosen
        else "half of the layers and the last position that every text has, fixed before anything was read"
    )
    facts = [f"The place: {_place(result)}, position {result.position}, {why}. Grey: other directions of equal length."]
    steered: Any = result.table("steering")
    kl = steered[steered["scale"] == 1.0].groupby("reading")["kl_to_tuned"].apply(list)
    if DIFFERENCE in kl:
        unchanged = float(steered[steered["reading"] == NONE]["kl_to_tuned"].iloc[0])
        facts.append(
            f"Steering: with the difference added as it is, the base is {kl[DIFFERENCE][0]:.3g} nats from the tuned "
            f"model, and {unchanged:.3g} with nothing added{_others(result, kl)}."
        )
    causal: Any = result.table("causal")
    for into, what in ((TUNED, "the tuned model's component along it set to the base's"), (BASE, "the reverse")):
        own = causal[causal["into"] == into].set_index("reading")
        row, by = own.loc[DIFFERENCE], own["change"].groupby(level=0).apply(list)
        low, high = row["low"], row["high"]
        interval = "" if np.isnan(low) else f" ({low:+.3g} to {high:+.3g} over texts)"
        facts.append(
            f"Causal: {what} changes the cross-entropy by {row['change']:+.3g} nats per token{interval}; the whole "
            f"other model by {result.other(into):+.3g}{_others(result, by)}."
        )
    if len(result.provenance.controls) < stats.FEWEST_FOR_RANK:
        facts.append(f"A band takes {stats.FEWEST_FOR_RANK} controls of a kind.")
    return facts


def _others(result: DifferenceEffects, by: Any) -> str:
    """Return in words where random vectors, random differences and controls lie."""
    controls = [value for control in result.provenance.controls for value in by.get(control.name, [])]
    given = (("random vector", by.get(RANDOM, [])), ("random difference", by.get(RANDOM_DIFFERENCE, [])),
             ("control", controls))  # fmt: skip
    return "".join(f"; {n_of(len(values), what)} {_range(values)}" for what, values in given if values)
