"""Where the models part: the four cells over the layers, the effects at one of them, the texts with both choices."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from lensdiff import stats
from lensdiff.analyses.first_divergence.result import EFFECTS, FirstDivergence, effects_of
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import rounded_all
from lensdiff.views.prompts import how_rendered
from lensdiff.views.show import register_view
from lensdiff.views.small_table import Cell
from lensdiff.views.widget import Widget
from lensdiff.views.words import clipped

TOP = 40  # rows of the table for readers without scripts
CONTEXT = 300  # characters of a prompt that are shown before a response
TEXTS = 60  # prompts whose texts are listed under the mean
MEANING = (
    "At the first token where the models' greedy choices differ, one model's stream enters the other's late layers. "
    "Height: logit of the tuned model's token less that of the base's token; above 0 the tuned model's token wins."
)
SELECTED = (
    "The positions are selected on a disagreement: nothing here is about the average token, or about how much the "
    "models differ."
)
MEANINGS = (
    "portable: what the tuned model's late layers do on the base's stream; matched: what they do on their own; "
    "interaction: matched - portable, what they do only on a stream that tuning changed."
)


@dataclass(frozen=True)
class TextData:
    """A response up to where the models part.

    Attributes:
        id: of the prompt; prompt: how its text ends.
        common: what both choose first.
        base, tuned: their choices then.
    """

    id: str
    prompt: str
    common: str
    base: str
    tuned: str


@dataclass(frozen=True)
class ItemData:
    """What is chosen: the mean over prompts, or one prompt; all numbers in logits.

    Attributes:
        label: under which it is chosen.
        cells: [base-base, base-tuned, tuned-base, tuned-tuned][layer], whose stream and whose late layers.
        effects: [portable, matched, interaction][layer]; low, high: limits of a mean, empty for one prompt.
        cell_low, cell_high: by layer, where the cells of one more control in the tuned model's place lie; None where
            that was not read.
        effect_low, effect_high: the same of the effects, [effect][layer].
        rows: at the headline layer: an effect, here, with the other unembedding, at later and at earlier positions.
        text: of one prompt; None for the mean.
    """

    label: str
    cells: list[list[float]]
    effects: list[list[float]]
    low: list[list[float]]
    high: list[list[float]]
    cell_low: list[float | None]
    cell_high: list[float | None]
    effect_low: list[list[float | None]]
    effect_high: list[list[float | None]]
    rows: list[list[Cell]]
    text: TextData | None


@dataclass(frozen=True)
class FirstDivergenceData:
    """What the script of the view is given.

    Attributes:
        layers: at which streams enter; start: the place of the headline among them.
        items: of which one is chosen, the mean over prompts first.
        texts: where the models part, listed under the mean.
        columns: of each item's rows.
        facts: paragraphs above; limits: below.
    """

    layers: Sequence[int]
    start: int
    items: list[ItemData]
    texts: list[TextData]
    columns: list[str]
    facts: list[str]
    limits: list[str]


@register_view
def show_first_divergence(result: FirstDivergence) -> Widget:
    """Return the view of one pair."""
    texts = [_text(result, place) for place in range(len(result.prompt_id))]
    items = [_item(result, place, text) for place, text in enumerate(texts)]
    if len(items) > 1:
        items.insert(0, _item(result, None, None))
    other = SIDES[1 - SIDES.index(result.unembed)]
    data = FirstDivergenceData(
        layers=result.layers,
        start=result.layers.index(result.headline),
        items=items,
        texts=texts[:TEXTS] if len(texts) > 1 else [],
        columns=["effect", "here", f"unembedding of {other}", "later positions", "earlier positions"],
        facts=_facts(result),
        limits=[SELECTED, f"Effects of single layers do not add up. {how_rendered(result.provenance).capitalize()}."],
    )
    fallback = table_html(result.top(TOP), f"First divergence at layer {result.headline}, logits")
    title = f"First divergence: {result.provenance.model}"
    return Widget("first_divergence", data, title, height=1050, fallback=fallback)


def _text(result: FirstDivergence, place: int) -> TextData:
    prompt = result.prompt[place]
    shown = prompt if len(prompt) <= CONTEXT else f"… {prompt[-CONTEXT:]}"
    common = "".join(result.common[place])
    return TextData(result.prompt_id[place], shown, common, result.base_token[place], result.tuned_token[place])


def _item(result: FirstDivergence, place: int | None, text: TextData | None) -> ItemData:
    one = slice(None) if place is None else slice(place, place + 1)
    cells = result.yields[one].mean(dim=0).reshape(4, -1)
    effects = effects_of(result.yields[one].mean(dim=0).movedim(-1, 0)).T
    low, high = _limits(result) if place is None else ([], [])
    cell = [result.band(layer, place) for layer in result.layers]
    of_effects = [result.effect_band(layer, place) for layer in result.layers]
    return ItemData(
        label="mean over prompts" if text is None else clipped(f"{text.id}: {text.base} / {text.tuned}", 60),
        cells=[rounded_all(values) for values in cells],
        effects=[rounded_all(values) for values in effects],
        low=low,
        high=high,
        cell_low=[None if band is None else _beside_the_base(band.low).min() for band in cell],
        cell_high=[None if band is None else _beside_the_base(band.high).max() for band in cell],
        effect_low=[_of_layers(of_effects, 0, e) for e in range(len(EFFECTS))],
        effect_high=[_of_layers(of_effects, 1, e) for e in range(len(EFFECTS))],
        rows=_rows(result, one),
        text=text,
    )


def _beside_the_base(band: Float[np.ndarray, "upstream late"]) -> Float[np.ndarray, " cell"]:
    """Return the limits of the cells that a control has a part in: not those of the base alone."""
    return np.round(band.flatten()[1:], 4)


def _of_layers(bands: Sequence[stats.Band | None], limit: int, effect: int) -> list[float | None]:
    return [None if band is None else round(float(band[limit][effect]), 4) for band in bands]


def _limits(result: FirstDivergence) -> tuple[list[list[float]], list[list[float]]]:
    """Return the limits of the mean of each effect by layer."""
    frame: Any = result.means()
    frame = frame[(frame["at"] == "first") & (frame["unembed"] == result.unembed) & (frame["model"] == "tuned")]
    found = [frame[frame.effect == effect] for effect in EFFECTS]
    return [rounded_all(rows["low"]) for rows in found], [rounded_all(rows["high"]) for rows in found]


def _rows(result: FirstDivergence, one: slice) -> list[list[Cell]]:
    """Return each effect at the headline layer, here and beside it; missing where no such position was read."""
    at = result.layers.index(result.headline)
    values = (result.yields[one, ..., at], result.with_other[one, ..., at], result.later[one], result.earlier[one])
    means = [effects_of(cells)[~cells[:, 0, 0].isnan()].mean(dim=0).tolist() for cells in values]
    return [
        [effect, *(None if np.isnan(mean[e]) else round(mean[e], 3) for mean in means)]
        for e, effect in enumerate(EFFECTS)
    ]


def _facts(result: FirstDivergence) -> list[str]:
    n, agreed = len(result.prompt_id), len(result.agreed)
    facts = [MEANING, MEANINGS]
    counts = f"The models part after {n} of {n_of(n + agreed, 'prompt')}"
    counts += f"; {len(result.failures)} failed." if result.failures else "."
    if agreed:
        counts += f" After the others they do not: {next(iter(result.agreed.values()))}" + (
            ", ..." if agreed > 1 else "."
        )
    facts.append(counts)
    if not n:
        return facts
    where = f"At layer {result.headline} of {result.n_layers}, final norm and unembedding of the {_model(result)}"
    said = [f"{effect} {_mean(result, effect)}" for effect in EFFECTS]
    facts.append(f"{where}: {', '.join(said)} logits.")
    if n >= stats.FEWEST_PAIRS:
        facts.append(
            "With the labels base and tuned exchanged portable and matched change places and the interaction its sign: "
            f"{stats.format_p(result.swapped().p or 0.0)} over all exchanges."
        )
    return [*facts, _beside(result)]


def _model(result: FirstDivergence) -> str:
    return "base" if result.unembed == "base" else "tuned model"


def _mean(result: FirstDivergence, effect: str) -> str:
    values = result.values(effect)
    test = stats.mean_difference(values, level=result.level)
    return f"{values.mean():+.3g}" if test is None else test.numbers()


def _beside(result: FirstDivergence) -> str:
    if not len(result.controls):
        return "Without controls nothing says what a meaningless change of the same size does to these two tokens."
    kinds = Counter(result.provenance.control_kinds)
    counts = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    band = result.effect_band(result.headline)
    if band is None:
        told = ", ".join(n_of(n, f"{kind} control") for kind, n in kinds.items())
        return f"Beside {told}: too few to tell, or not at this layer."
    said = ", ".join(f"{effect} {low:.3g} to {high:.3g}" for effect, low, high in zip(EFFECTS, *band, strict=True))
    return (
        f"Controls in the tuned model's place, at the same tokens ({counts}): {said}. The positions are those where "
        "base and tuned model differ, not base and control: that alone sets the two apart."
    )
