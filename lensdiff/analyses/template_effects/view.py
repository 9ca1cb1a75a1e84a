"""The table of the four cells and of the effects of model, template and both together."""

from dataclasses import dataclass

from lensdiff.analyses.template_effects.result import TemplateEffects
from lensdiff.views.fallback import table_html
from lensdiff.views.show import register_view
from lensdiff.views.small_table import SmallTable
from lensdiff.views.widget import Widget

NOTES = (
    "model: tuned − base, mean over both renderings. template: in the chat template − raw, mean over both models. "
    "interaction: tuned − base in the template, less the same in raw prompts.",
    "output shift is a distance between two of the four: between the models (model), between the renderings "
    "(template), which is never negative and has no p. Its interaction is the models' distance in the template less "
    "that in raw prompts.",
)


@dataclass(frozen=True)
class TemplateEffectsData:
    """What the script is given: a line of facts, the two tables, and how to read them."""

    facts: list[str]
    cells: SmallTable
    effects: SmallTable
    notes: list[str]


@register_view
def show_template_effects(result: TemplateEffects) -> Widget:
    """Return both tables of a pair."""
    cells, effects = result.cell_means(), result.to_df()
    for frame in (cells, effects):
        frame["measure"] = frame["measure"].str.replace("_", " ")
    n = len(result.prompt_id)
    facts = [
        f"{n} prompts, each raw and in the tuned model's chat template, the same response in all: other sections read "
        "other texts, so that what has the same name there has other numbers."
    ]
    facts += [f"Without {name.replace('_', ' ')}: {reason}." for name, reason in result.without.items()]
    cells.columns = [str(name).replace("_", ", ") for name in cells]
    effects = effects.rename(columns={"p_adjusted": "p adjusted"})
    data = TemplateEffectsData(
        facts,
        SmallTable.of(cells, "Means over prompts"),
        SmallTable.of(effects, "Effects, paired over prompts"),
        [note for note in NOTES if "output shift" not in note or "output_shift" in result.measures],
    )
    title = f"Model and template: {result.provenance.model}"
    fallback = table_html(result.to_df(), "Effects of model and template")
    return Widget("template_effects", data, title, height=640, fallback=fallback)
