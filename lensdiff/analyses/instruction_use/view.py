"""How far responses need their instruction: a row of dots per prompt, base and tuned model, before grey controls."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lensdiff import stats
from lensdiff.analyses.instruction_use.result import MEAN, REFERENCE, InstructionUse
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import rounded, rounded_all
from lensdiff.views.show import register_view
from lensdiff.views.widget import Role, Widget

TOP = 40  # rows of the table for readers without scripts
HOW = {
    "swap": "with the instructions of other prompts in its place, averaged",
    "deletion": "with the instruction deleted from the prompt",
}
MEANING = (
    "Instruction use: log-probability of the response after its prompt, less that {how}; nats per token. 0: the "
    "response does not depend on the instruction. Both models read the same texts."
)
NAMES = {
    MEAN: "mean of all texts",
    "base": "the base's response",
    "tuned": "the tuned model's response",
    REFERENCE: "the reference",
}


@dataclass(frozen=True)
class ModelData:
    """A model whose dots are drawn: its colour, and its name in the legend."""

    role: Role
    name: str


@dataclass(frozen=True)
class RowData:
    """One prompt; all numbers in nats per token.

    Attributes:
        id: of the prompt.
        values: of each model.
        band: in which one more control would lie; None where a kind has too few for one.
        controls: their values where there is no band.
    """

    id: str
    values: list[float]
    band: list[float] | None
    controls: list[float]


@dataclass(frozen=True)
class TextData:
    """One text that both models read, or the mean of all.

    Attributes:
        name: whose response it is.
        rows: prompts, those that rose most first.
        means: of each model over prompts, nats per token; empty where no prompt has a use.
        facts: what is said of the text.
    """

    name: str
    rows: list[RowData]
    means: list[float]
    facts: list[str]


@dataclass(frozen=True)
class InstructionUseData:
    """What the script of the view is given.

    Attributes:
        models: whose dots are drawn.
        texts: one of which is chosen.
        facts: paragraphs above.
    """

    models: list[ModelData]
    texts: list[TextData]
    facts: list[str]


@register_view
def show_instruction_use(result: InstructionUse) -> Widget:
    """Return the use of every prompt, of one model or of a pair beside its controls."""
    texts = list(result.texts)
    if len(texts) > 1 and result.is_pair:
        texts.insert(0, MEAN)
    pair = [ModelData("base", "base"), ModelData("tuned", "tuned")]
    data = InstructionUseData(
        models=pair if result.is_pair else [ModelData("tuned", result.models[0])],
        texts=[_text(result, text) for text in texts],
        facts=[MEANING.format(how=HOW[result.by]), _counts(result)],
    )
    title = f"Instruction use by {result.by}: {result.provenance.model}"
    return Widget(
        "instruction_use",
        data,
        title,
        height=700,
        fallback=table_html(result.top(TOP), f"Instruction use by {result.by}, nats per token"),
    )


def _text(result: InstructionUse, text: str) -> TextData:
    """Return one text's rows, those that rose most first, and what is said of them."""
    uses = result.uses(text)
    prompts = list(uses)
    values = np.array([uses[prompt] for prompt in prompts]).reshape(len(prompts), len(result.models))
    shown = 2 if result.is_pair else 1
    order = np.argsort(-(values[:, 1] - values[:, 0] if result.is_pair else values[:, 0]), kind="stable")
    band, controls = _controls(result, values)
    rows = [
        RowData(
            prompts[i],
            values=rounded_all(values[i, :shown]),
            band=None if band is None else [rounded(float(limit[i])) for limit in (band.low, band.high)],
            controls=rounded_all(controls[i]) if band is None else [],
        )
        for i in order.tolist()
    ]
    means = rounded_all(values[:, :shown].mean(axis=0)) if len(values) else []
    return TextData(NAMES.get(text, f"{text} response"), rows, means, _facts(result, text))


def _controls(
    result: InstructionUse, values: Float[np.ndarray, "prompt model"]
) -> tuple[stats.Band | None, Float[np.ndarray, "prompt control"]]:
    """Return each prompt's band of controls, where every kind has enough of them, and their values."""
    controls = values[:, 2:] if result.is_pair else values[:, :0]
    if not controls.size:
        return None, controls
    of_kinds = stats.by_kind(controls.T, result.provenance.control_kinds)
    band = stats.against_controls(values[:, 1], of_kinds, level=result.level).band
    return None if np.isnan(band.low).any() else band, controls


def _facts(result: InstructionUse, text: str) -> list[str]:
    if not result.is_pair:
        return []
    try:
        facts = [f"Over prompts, tuned - base: {result.difference(text)}."]
        beside = result.beside(text)
    except stats.TooFew as error:
        return [f"{error}."]
    if beside is not None:
        facts.append(f"Beside controls, mean over prompts of the model - base: {beside}.")
    return facts


def _counts(result: InstructionUse) -> str:
    return (
        f"{n_of(len(set(result.prompt_id)), 'prompt')}; left out: {n_of(result.n_left_out, 'response')} too short, "
        f"{n_of(result.n_nothing_left, 'prompt')} of which nothing would be left, {len(result.failures)} that failed."
    )
