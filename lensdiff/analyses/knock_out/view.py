"""What responses lose without their instruction: token by token, over windows of layers and over the response."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.knock_out.cuts import CUTS, Condition
from lensdiff.analyses.knock_out.result import KnockOut
from lensdiff.analyses.knock_out.shift import MEAN, PARTS, Curve, KnockOutShift, Measure, mean_and_band
from lensdiff.results import Diff
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known_all
from lensdiff.views.prompts import how_read, prompt_label, shared_prompts
from lensdiff.views.show import register_diff, register_many, register_view
from lensdiff.views.widget import Role, Widget

WAYS = {"response": "cut for the response", "after": "cut for all that stands behind it"}
TEXTS = {MEAN: "mean of both texts", "base": "the base's response", "tuned": "the tuned model's response"}
SAID: dict[Measure, str] = {
    "drop": "Loss, nats per token",
    "drop_median": "Median loss",
    "slope": "Slope over the response",
}
NEITHER = "Windows do not add up to all layers: what is cut in one is read again in another."

SIDES: tuple[Role, Role] = ("base", "tuned")


@dataclass(frozen=True)
class SideData:
    """One model on one response.

    Attributes:
        role: whose colour it takes; name: of the model.
        log_prob: of each token with nothing cut, nats.
        drop: [way][token], K in nats.
        random: [way][token], with as many other tokens cut; None where nothing could be drawn.
    """

    role: Role
    name: str
    log_prob: list[float | None]
    drop: list[list[float | None]]
    random: list[list[float | None]]


@dataclass(frozen=True)
class ResponseData:
    """One response: under which label it is chosen, what is said of it, its tokens, and each model on it."""

    label: str
    facts: str
    tokens: Sequence[str]
    models: list[SideData]


@dataclass(frozen=True)
class TokensData:
    """What the script of the tokens is given: the ways to cut, and responses, one of which is chosen."""

    ways: list[str]
    responses: list[ResponseData]


@dataclass(frozen=True)
class LineData:
    """Values over columns with their limits over prompts; of a model, or of a band."""

    role: Role
    name: str
    values: list[float | None]
    low: list[float | None]
    high: list[float | None]


@dataclass(frozen=True)
class ChartData:
    """One chart: what stands beneath, both models' lines, bands behind them, and controls where they are few.

    Attributes:
        columns: under the axis.
        series: base and tuned.
        bands: other tokens cut, by model; or where one more control lies.
        dots: of each column, the controls' values.
    """

    columns: list[str]
    series: list[LineData]
    bands: list[LineData]
    dots: list[list[float | None]]


@dataclass(frozen=True)
class WayData:
    """One text, cut in one way: what is said of it, and the charts over windows and over the response."""

    facts: list[str]
    windows: ChartData
    profile: ChartData


@dataclass(frozen=True)
class KnockOutData:
    """What the script of the curves is given: names of texts and of ways to cut, facts, and [text][way]."""

    texts: list[str]
    ways: list[str]
    facts: list[str]
    found: list[list[WayData]]


@register_view
def show_knock_out(result: KnockOut) -> Widget:
    """Return one response of one model, token by token."""
    return knock_outs([result])


@register_many(KnockOut)
def knock_outs(results: Sequence[KnockOut]) -> Widget:
    """Return responses of one model, one chosen at a time."""
    name = results[0].provenance.model
    return _tokens([[("model", name, result)] for result in results], f"Instruction cut: {name}")


@register_diff(KnockOut)
def knock_out_diff(result: Diff) -> Widget:
    """Return both models, each on the response that it was read on."""
    both = shared_prompts(result)
    named: list[list[tuple[Role, str, KnockOut]]] = [
        [("base", "base", base), ("tuned", "tuned", tuned)] for base, tuned in both
    ]
    return _tokens(named, f"Instruction cut: {result.tuned.provenance.model}" if len(both) == 1 else "Instruction cut")


def _tokens(prompts: Sequence[Sequence[tuple[Role, str, KnockOut]]], title: str) -> Widget:
    responses = []
    for sides in prompts:
        same = all(side.out_tokens == sides[0][2].out_tokens for _, _, side in sides)
        for group in [list(sides)] if same else [[side] for side in sides]:
            responses.append(_response(group, "" if same else f", {group[0][1]}'s own response"))
    fallback = "".join(
        table_html(one.top(), f"{one.prompt_id} what loses most") for sides in prompts for _, _, one in sides
    )
    ways = [_way(condition) for condition in prompts[0][0][2].conditions]
    return Widget("knock_out_tokens", TokensData(ways, responses), title, height=560, fallback=fallback)


def _response(sides: Sequence[tuple[Role, str, KnockOut]], which: str) -> ResponseData:
    one = sides[0][2]
    facts = [
        f"instruction of {n_of(one.n_instruction, 'token')}, {n_of(one.n_others, 'other')}",
        *how_read(one.response_kind, merged=one.merged, of=one.provenance),
    ]
    models = [
        SideData(role, name, known_all(k.log_prob), _rows(k.drop), _rows(k.mean_random())) for role, name, k in sides
    ]
    return ResponseData(prompt_label(one.prompt_id, one.prompt) + which, "; ".join(facts), one.out_tokens, models)


def _way(condition: Condition) -> str:
    first, last = condition.window_first, condition.window_last
    layers = f"layer {first}" if first == last else f"layers {first}–{last}"
    return f"{WAYS[condition.cut]}, {layers}{', with token 0' if condition.first else ''}"


def _rows(values: Float[Tensor, "way out_pos"]) -> list[list[float | None]]:
    return [known_all(row) for row in values]


# of a pair, over prompts


@register_view
def show_shift(result: KnockOutShift) -> Widget:
    """Return both models' curves over windows of layers and over the response."""
    texts = list(reversed(result.shown))  # their mean first
    data = KnockOutData(
        texts=[TEXTS.get(text, f"the {text} response") for text in texts],
        ways=list(WAYS.values()),
        facts=[_counts(result)],
        found=[[_of_way(result, text, cut) for cut in CUTS] for text in texts],
    )
    title = f"Instruction cut: {result.provenance.model}"
    return Widget("knock_out", data, title, height=900, fallback=table_html(result.summary(), "Instruction cut"))


def token_widget(result: KnockOutShift) -> Widget:
    """Return every response with both models on it, token by token."""
    ends = result.first_token.tolist()
    by_response: dict[tuple[str, str], list[int]] = {}
    for row, (start, end) in enumerate(pairwise(ends)):
        if end > start:
            by_response.setdefault((result.prompt_id[row], result.text[row]), []).append(row)
    responses = []
    # a prompt's texts with the tuned model's first
    for prompt, text in sorted(by_response, key=lambda key: (result.prompt_id.index(key[0]), key[1] != "tuned")):
        rows = by_response[prompt, text]
        tokens = slice(*ends[rows[0] : rows[0] + 2])
        models = [_side(result, row) for row in sorted(rows, key=lambda row: int(result.model[row]))]
        label = f"{prompt}, {TEXTS.get(text, f'the {text} response')}"
        responses.append(ResponseData(label, "", result.out_tokens[tokens], models))
    ways = [f"{WAYS[cut]}, all layers" for cut in CUTS]
    return Widget("knock_out_tokens", TokensData(ways, responses), "Instruction cut, token by token", height=560)


def _side(result: KnockOutShift, row: int) -> SideData:
    own, role = slice(*result.first_token[row : row + 2].tolist()), SIDES[int(result.model[row])]
    drop, random = _rows(result.token_drop[:, own]), _rows(result.token_random[:, own])
    return SideData(role, role, known_all(result.token_log_prob[own]), drop, random)


def _of_way(result: KnockOutShift, text: str, cut: str) -> WayData:
    windows = [str(first) if first == last else f"{first}–{last}" for first, last in result.windows]
    own = [_line(result, "window_drop", i, text, cut) for i in (0, 1)]
    bands = [_line(result, "window_random", i, text, cut, "other tokens cut") for i in (0, 1)]
    parts = [f"{100 * i // PARTS}–{100 * (i + 1) // PARTS}" for i in range(PARTS)]
    profile = [_line(result, "profile", i, text, cut) for i in (0, 1)]
    band, dots = _controls(result, text, cut)
    return WayData(_facts(result, text, cut), ChartData(windows, own, bands, []), ChartData(parts, profile, band, dots))


def _line(result: KnockOutShift, name: Curve, model: int, text: str, cut: str, what: str = "") -> LineData:
    values, low, high = mean_and_band(result.curve(name, model, text, cut), result.level)
    side = SIDES[model]
    label = f"{side}, {what}" if what else side
    return LineData(side, label, known_all(values), known_all(low), known_all(high))


def _controls(result: KnockOutShift, text: str, cut: str) -> tuple[list[LineData], list[list[float | None]]]:
    """Return the band in which one more control's profile lies; the controls' own where a kind has too few."""
    curves = [result.curve("profile", i, text, cut) for i in range(2, len(result.models))]
    means = [
        (curve.mean(axis=0), kind)
        for curve, kind in zip(curves, result.provenance.control_kinds, strict=True)
        if len(curve)
    ]
    if not means:
        return [], []
    of_kinds = stats.by_kind([mean for mean, _ in means], [kind for _, kind in means])
    band = stats.against_controls(None, {k: np.array(v) for k, v in of_kinds.items()}, level=result.level).band
    if np.isnan(band.low).any():
        return [], [known_all(values) for values in np.array([mean for mean, _ in means]).T]
    low, high = known_all(band.low), known_all(band.high)
    return [LineData("control", "where one more control lies", [], low, high)], []


def _facts(result: KnockOutShift, text: str, cut: str) -> list[str]:
    facts = []
    for measure, name in SAID.items():
        own = [result.own(measure, text, cut, i) for i in (0, 1)]
        difference = result.difference(measure, text, cut)
        if difference is None or None in own:
            return ["Fewer than two prompts: there is no interval."]
        said = [f"{side} {test.numbers()}" for side, test in zip(SIDES, own, strict=True) if test is not None]
        facts.append(f"{name}: {', '.join(said)}; tuned - base {difference.numbers()}.")
    beside = result.beside(text, "drop", cut)
    return facts if beside is None else [*facts, f"Beside controls, loss of the model - base: {beside}."]


def _counts(result: KnockOutShift) -> str:
    return (
        f"{n_of(len(set(result.prompt_id)), 'prompt')}; left out: {n_of(result.n_left_out, 'response')} too short, "
        f"{n_of(len(result.failures), 'prompt')} that failed. {NEITHER}"
    )
