"""The section of the report, and what the command prints."""

from typing import Any

import pandas as pd

from lensdiff.analyses.first_divergence.result import FirstDivergence
from lensdiff.steps.found import Found
from lensdiff.steps.headline import Headline, band_of, beside_envelope, is_beyond
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

NAME = "first_divergence"
TABLES = {
    NAME: "A row per prompt after which the models part, and layer: portable, matched and interaction in logits, and "
    "the four cells, whose stream and whose late layers (b base, t tuned).",
    "first_divergence_means": "A row per kind of position, unembedding, model, layer and effect: the mean over prompts "
    "with its interval; controls stand in the tuned model's place.",
    "first_divergence_prompts": "A row per prompt: where the models part after it, or why they do not.",
}


def first_divergence_section(found: Found) -> list[Widget | Table | str]:
    """Return the cells and the tables of a results directory."""
    result = found.maybe(NAME, FirstDivergence)
    return [*([] if result is None else [show(result)]), *tables(found, TABLES)]


def summary(found: Found) -> pd.DataFrame:
    """Return each effect's mean at the headline layer, at the divergence and beside it, with the range of controls."""
    result = found.maybe(NAME, FirstDivergence)
    if result is None:
        return pd.DataFrame()
    frame: Any = result.means()
    frame = frame[frame.layer == result.headline]
    pair = frame[frame.model == "tuned"].drop(columns=["model", "kind"])
    controls = frame[frame.kind != ""]

    def beside(at: str, unembed: str, effect: str) -> str:
        means = controls[controls.effect == effect]["mean"]
        if at != "first" or unembed != result.unembed or means.empty:
            return "none"
        return f"{means.min():.3g} to {means.max():.3g} ({len(means)})"

    return pair.assign(controls=[beside(*row) for row in zip(pair["at"], pair["unembed"], pair["effect"], strict=True)])


def prompts(found: Found) -> pd.DataFrame:
    """Return where the models part after each prompt."""
    frame = found.table("first_divergence_prompts")
    columns = ["prompt_id", "position", "n_out", "base_token", "tuned_token", "text", "agreed"]
    return pd.DataFrame() if frame is None else frame.filter(items=columns)


def controls_beside(found: Found) -> dict[str, list[str]]:
    """Return the kinds of the controls that stand beside the effects."""
    result = found.maybe(NAME, FirstDivergence)
    return {} if result is None else {"first divergence": list(result.provenance.control_kinds)}


def headlines(found: Found) -> list[Headline]:
    """Return what the tuned model's late layers do at the first token at which the models part."""
    result = found.maybe(NAME, FirstDivergence)
    if result is None or not result.prompt_id:
        return []
    effect = float(result.values("portable").mean())
    beside = result.beside("portable")
    text = (
        f"On the base's stream, the tuned layers from {result.headline} on raise the first token at which the models "
        f"part by {effect:+.3g} logits"
    )
    beyond = is_beyond(effect, *band_of(beside))
    return [Headline("layers", text, effect, " logits", beside_envelope(beside, " logits"), beyond)]


SUMMARIES = {
    "First divergence, mean over prompts, logits": summary,
    "First divergence: where the models part": prompts,
}


SECTION = Section(
    "Which layers bring the first token at which models part",
    "Lines are the logit of the tuned model's token less that of the base's, by the layer at which one model's stream "
    "enters the other's late layers; a broken line crosses models. Where the orange broken line lies above the blue "
    "one, tuned late layers bring the token on the base's stream; grey is what meaningless changes do there.",
    17,
    first_divergence_section,
)
