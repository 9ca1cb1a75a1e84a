"""The steps that set control models beside the real change, as far as prompts are read.

One unit per control and prompt does all that is chosen, so that each control is made once.
"""

from dataclasses import replace

import pandas as pd
import torch

from lensdiff.analyses.attention import AttentionPatterns
from lensdiff.analyses.attention_shift import attention_shift
from lensdiff.pipeline.attention_steps import attend
from lensdiff.pipeline.attribution_steps import attribute_unit, attributions, join_responses, respond
from lensdiff.pipeline.both import SIDES
from lensdiff.pipeline.step import NotPossible, Step
from lensdiff.pipeline.units import CONTROL_KEYS, model_columns, one_unit
from lensdiff.pipeline.workspace import Workspace

CONTROL_ANALYSES = "analyses of controls"  # a control does what is chosen of these at once


def _controls_and_prompts(workspace: Workspace) -> list[str]:
    if not workspace.config.chosen("attribution", "attention"):
        return []
    return [f"{control}/{prompt}" for control in workspace.controls("prompts") for prompt in workspace.prompts]


def control(workspace: Workspace, unit: str) -> None:
    """Do with a control model what the chosen analyses need: its own response attributed, its attention read."""
    respond(workspace, unit)
    if workspace.config.chosen("attribution"):
        attribute_unit(workspace, unit)
    if workspace.config.chosen("attention"):
        attend(workspace, unit)


def score_instructions(workspace: Workspace, unit: str) -> None:
    """Score every response's instruction, for both models and every control: one table."""
    rows = []
    for name, found in attributions(workspace, [*SIDES, *workspace.controls("prompts")]):
        if bool(found.instruction.any()):
            n_in, n_out = found.scores.shape
            score = found.instruction_score()
            sizes = {"n_in": n_in, "n_out": n_out}
            rows.append(
                {"prompt_id": found.prompt_id, **model_columns(workspace, name)} | {"instruction_score": score} | sizes
            )
    if not rows:
        raise NotPossible("no prompt marks an instruction")
    workspace.store.save_table("instruction_scores", pd.DataFrame(rows).astype({"seed": "Int64"}))


def shift_attention(workspace: Workspace, unit: str) -> None:
    """Compare the attention of both models, and of the controls, on the prompts that all of them could read."""
    store, seed = workspace.store, workspace.config.seed
    models = [*SIDES, *(c for c in workspace.controls("prompts") if store.names(f"attention/{c}/"))]
    prompts = workspace.prompts_with(*(f"attention/{name}" for name in models))
    if not prompts:
        raise NotPossible("there is no prompt whose attention both models could be read on")
    runs = [workspace.stored([f"attention/{name}/{p}" for p in prompts], AttentionPatterns) for name in models]
    found = attention_shift(runs[0], runs[1], runs[2:], seed=seed)
    store.save_result("attention_shift", found)
    store.save_table("attention_shift", found.to_df())


def _drop_patterns(workspace: Workspace) -> None:
    """Keep whole patterns of the first prompts alone: they are most of what a run writes."""
    store = workspace.store
    for control in workspace.controls("prompts"):
        for name in store.names(f"attention/{control}/"):
            store.remove(name)
    for side in SIDES:
        for prompt_id in workspace.prompts_with(f"attention/{side}")[workspace.config.attention.keep_patterns :]:
            name = f"attention/{side}/{prompt_id}"
            found = store.load_result(name, AttentionPatterns)
            if found.patterns.numel():
                store.save_result(name, replace(found, patterns=torch.empty(*found.patterns.shape[:2], 0, 0)))


STEPS = (
    Step(
        "controls",
        "controls",
        ("attribution", "attention"),
        _controls_and_prompts,
        control,
        join_responses,
        (*CONTROL_KEYS, "attribution", "attention", CONTROL_ANALYSES),
        of_prompts=True,
    ),
    Step(
        "instruction_scores",
        "instruction scores",
        ("attribution",),
        one_unit,
        score_instructions,
        keys=(*CONTROL_KEYS, "attribution"),
    ),
    Step(
        "attention_shift",
        "attention shift",
        ("attention",),
        one_unit,
        shift_attention,
        _drop_patterns,
        (*CONTROL_KEYS, "attention"),
    ),
)
