"""What parts of the change do alone: the gain of each group beside controls, and curves over the dose of one group."""

from dataclasses import dataclass
from typing import Any

from lensdiff import stats
from lensdiff.analyses.dose.reading import GIVEN, MEASURES
from lensdiff.analyses.dose.result import GAIN, HEADLINE, Dose
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known, known_all, rounded_all
from lensdiff.views.show import register_view
from lensdiff.views.small_table import SmallTable
from lensdiff.views.widget import Widget

NAMES = {
    "base_response_log_prob": "base's response",
    "tuned_response_log_prob": "tuned model's response",
    "kl_to_base": "to the base",
    "kl_to_tuned": "to the tuned model",
    "instruction_use": "instruction use",
}
WORDS = dict(
    zip(MEASURES, ("log-prob of base's", "log-prob of tuned's", "KL to base", "KL to tuned", "use"), strict=True)
)
MEANING = (
    "A copy of the base whose weights of one group are base + amount × (tuned - base); all other weights are the "
    "base's. Amount 0 is the base, amount 1 of all weights the tuned model. Log-probabilities are per token of the "
    "{text}, forced; nats."
)
HALF = (
    "The amount of a group's change that does half of what it does at amount 1: 0.5 where the measure follows the dose "
    "evenly. A dash where the effect is about 0 (its interval holds 0), or no amount between 0 and 1 was read."
)
LIMITS = (
    "What groups do alone does not add up to what all do together: a group's change may need that of another.",
    "Bars are {level:.0%} intervals over prompts, taken as independent.",
)


@dataclass(frozen=True)
class KindData:
    """The W_out of one kind of controls: each one's gain, and the band where there are enough for one."""

    name: str
    values: list[float]
    band: list[float] | None


@dataclass(frozen=True)
class RowData:
    """A group at amount 1.

    Attributes:
        name: the group.
        gain: of the tuned model's response, nats per token; None where no prompt has it.
        interval: over prompts, where there is one.
        said: the gain in words, with the group's share of the whole and of the change.
        kinds: of the controls beside it.
    """

    name: str
    gain: float | None
    interval: list[float] | None
    said: str
    kinds: list[KindData]


@dataclass(frozen=True)
class CurveData:
    """A measure by amount, mean over prompts with its limits; None where there is none."""

    name: str
    role: str
    values: list[float | None]
    low: list[float | None]
    high: list[float | None]


@dataclass(frozen=True)
class ChartData:
    """One chart: the curves of measures with one unit."""

    unit: str
    label: str
    curves: list[CurveData]


@dataclass(frozen=True)
class GroupData:
    """A group's amounts and its charts."""

    name: str
    amounts: list[float]
    charts: list[ChartData]


@dataclass(frozen=True)
class DoseData:
    """What the script of the view is given.

    Attributes:
        facts: paragraphs above.
        rows: what each group does at amount 1.
        groups: one of which is chosen.
        half: the amount of each group that does half of what it does; half_note: what that means.
        limits: what the view does not say.
    """

    facts: list[str]
    rows: list[RowData]
    groups: list[GroupData]
    half: SmallTable
    half_note: str
    limits: list[str]


@register_view
def show_dose(result: Dose) -> Widget:
    """Return the gains, the curves and the amounts at half effect of one pair."""
    given = result.texts == (GIVEN,)
    data = DoseData(
        facts=[MEANING.format(text="given response" if given else "models' own responses"), *_facts(result)],
        rows=[_row(result, group) for group in result.groups if 1.0 in result.amounts(group)],
        groups=[_group(result, group, given) for group in result.groups],
        half=_half(result),
        half_note=HALF,
        limits=[text.format(level=result.level) for text in LIMITS],
    )
    title = f"What parts of the change do alone: {result.provenance.model}"
    fallback = table_html(result.summary(), "What each group does alone at amount 1")
    return Widget("dose", data, title, height=900, fallback=fallback)


def _facts(result: Dose) -> list[str]:
    said = f"{n_of(len(result.prompt_id), 'prompt')}; {len(result.failures)} failed."
    if result.has_gains:
        said += f" W_out alone, gain of the tuned model's response beside the W_out of controls: {result.beside()}."
    return [said]


def _row(result: Dose, group: str) -> RowData:
    summary = result.summary([GAIN]).set_index("group").loc[group]
    energy = float(result.energy[result.group.index(group)])
    said = f"gain {summary['effect']:.3g} nats per token"
    if known(summary["share"]) is not None:
        said += f", {summary['share']:.0%} of the tuned model's own"
    if known(energy) is not None:
        said += f"; the group holds {energy:.0%} of the change's squared norm"
    if known(summary["effect"]) is None:
        said = "no prompt has a response of the tuned model"
    interval = [known(summary["low"]), known(summary["high"])]
    whole = [limit for limit in interval if limit is not None]
    kinds = _kinds(result) if group == HEADLINE and result.has_gains else []
    return RowData(group, known(summary["effect"]), whole if len(whole) > 1 else None, said, kinds)


def _kinds(result: Dose) -> list[KindData]:
    found = []
    for kind, gains in stats.by_kind(result.effects()[1], result.provenance.control_kinds).items():
        band = stats.against_controls(None, {kind: gains}, level=result.level).band
        limits = known_all([float(band.low), float(band.high)])
        shown = [limit for limit in limits if limit is not None]
        found.append(KindData(kind, rounded_all(gains), shown if len(shown) > 1 else None))
    return found


def _group(result: Dose, group: str, given: bool) -> GroupData:
    likely = ["tuned_response_log_prob"] if given else ["base_response_log_prob", "tuned_response_log_prob"]
    charts = [
        ("log-probability", "log-probability of the responses", likely),
        ("divergence", "Kullback-Leibler divergence to both models", ["kl_to_base", "kl_to_tuned"]),
        ("instruction use", "log-probability that is lost without the instruction", ["instruction_use"]),
    ]
    shown = [
        ChartData(unit, label, [_curve(result, group, name, given) for name in names]) for unit, label, names in charts
    ]
    kept = [chart for chart in shown if any(v is not None for curve in chart.curves for v in curve.values)]
    return GroupData(group, result.amounts(group), kept)


def _curve(result: Dose, group: str, measure: str, given: bool) -> CurveData:
    frame: Any = result.curve(group, measure)
    role = "dosed" if measure == "instruction_use" else "base" if "base" in measure else "tuned"
    name = "given response" if given and measure == GAIN else NAMES[measure]
    limits = frame["low"].notna() & frame["high"].notna()
    low, high = (known_all(frame[name].where(limits)) for name in ("low", "high"))
    return CurveData(name, role, known_all(frame["mean"]), low, high)


def _half(result: Dose) -> SmallTable:
    rows = [[group, *(known(result.half(group, measure)) for measure in MEASURES)] for group in result.groups]
    return SmallTable("Amount of the change at half effect", ["group", *WORDS.values()], rows)
