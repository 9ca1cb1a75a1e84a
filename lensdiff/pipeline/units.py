"""Names that the steps of prompts share: units of a model and a prompt, and the keys of the config behind them."""

import pandas as pd

from lensdiff.pipeline.both import SIDES
from lensdiff.pipeline.workspace import Workspace

PROMPT_KEYS = ("prompts", "prompt", "max_prompts", "max_new_tokens")
CONTROLLED = ("controls.kinds", "controls.data", "seed")
CONTROL_KEYS = (*PROMPT_KEYS, *CONTROLLED, "controls.prompts", "controls.attention", "controls.attribution")


def sides_and_prompts(workspace: Workspace) -> list[str]:
    """Return units named model/prompt: all prompts of the base, then all of the tuned model."""
    return [f"{side}/{prompt}" for side in SIDES for prompt in workspace.prompts]


def split_unit(unit: str) -> tuple[str, str]:
    """Return the model and the prompt's id of such a unit."""
    model, _, prompt_id = unit.partition("/")
    return model, prompt_id


def one_unit(workspace: Workspace) -> list[str]:
    """Return the only unit of a step that is done at once."""
    return ["all"]


def model_columns(workspace: Workspace, model: str) -> dict[str, object]:
    """Return the columns of a table that say which model a row is of."""
    if model in SIDES:
        return {"model": model, "kind": "", "seed": pd.NA}
    control = workspace.control_of(model)
    return {"model": "control", "kind": control.kind, "seed": control.seed}
