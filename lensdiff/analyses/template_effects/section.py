"""The section of the report, and what the command prints.

It gives no line for "What changed": its numbers are about the template, of one and the same pair, and no meaningless
change of the pair stands beside them. What tuning shifted is said by the analyses whose numbers it sets side by side.
"""

import pandas as pd

from lensdiff.analyses.template_effects.result import TemplateEffects
from lensdiff.steps.found import Found
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

CAPTIONS = {
    "template_effects": "A row per number and effect, paired over prompts.",
    "template_cells": "A row per number: its means in the four.",
}


def template_section(found: Found) -> list[Widget | Table | str]:
    """Return both tables of a results directory."""
    effects = found.maybe("template_effects", TemplateEffects)
    return [] if effects is None else [show(effects), *tables(found, CAPTIONS)]


def cells(found: Found) -> pd.DataFrame:
    """Return the means of the four; or nothing."""
    frame = found.table("template_cells")
    return pd.DataFrame() if frame is None else frame


def effects(found: Found) -> pd.DataFrame:
    """Return the effects; or nothing."""
    frame = found.table("template_effects")
    return pd.DataFrame() if frame is None else frame


SUMMARIES = {"Models and renderings, means over prompts": cells, "Effects of model and template": effects}


SECTION = Section(
    "What the chat template does, apart from the tuning",
    "Both models read each prompt twice, raw and in the tuned model's chat template, and the same response. What "
    "differs between the models in either rendering is the tuning's; what differs between the renderings in either "
    "model is the template's; the interaction is what tuning does in the template alone.",
    16,
    template_section,
)
