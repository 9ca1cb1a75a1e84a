"""The steps that set control models beside the real change, as far as whole models are made of them.

One unit per control does all that is chosen, so that each is made once; each is run on the base's own samples as well,
which tells whether it still is a language model.
"""

from dataclasses import replace

import pandas as pd
import torch

from lensdiff.analyses.attention.patterns import AttentionPatterns
from lensdiff.analyses.attention.shift import ControlAttention, attention_shift, control_attention
from lensdiff.analyses.attribute.replication import replication
from lensdiff.analyses.instruction_use.measure import BY
from lensdiff.models import view_of
from lensdiff.models.validity import validity
from lensdiff.pipeline.attention_steps import attended
from lensdiff.pipeline.attribution_steps import attribute_unit, attributions, join_responses, respond
from lensdiff.pipeline.both import SIDES
from lensdiff.pipeline.config import Analysis
from lensdiff.pipeline.instruction_use_steps import BESIDE, read_use
from lensdiff.pipeline.step import NotPossible, Step
from lensdiff.pipeline.units import CONTROL_KEYS, model_columns, one_unit
from lensdiff.pipeline.workspace import Counted, Workspace, split_control
from lensdiff.results import InputError

CONTROL_ANALYSES = "analyses of controls"  # a control does what is chosen of these at once
CHECKED = 3  # controls of a kind that are run on text where nothing else needs whole models
CHECKED_FOR: dict[Counted, Analysis] = {"heads": "heads", "rotation": "mlp"}
READ_BY: dict[Counted, tuple[Analysis, ...]] = {
    "prompts": ("instruction_use",),
    "attention": ("attention",),
    "attribution": ("attribution",),
}


def _names(workspace: Workspace) -> list[str]:
    """Return the controls that are made as whole models: those that read prompts, and a few of every kind to check."""
    config = workspace.config
    wanted: set[str] = set()
    for name, analyses in READ_BY.items():
        if config.chosen(*analyses):
            wanted |= set(workspace.controls(name))
    runs = config.dtype in ("float32", "float64")  # a control in half precision cannot be run
    for name, analysis in CHECKED_FOR.items():
        if config.chosen(analysis) and runs:
            wanted |= {control for control in workspace.controls(name) if split_control(control)[1] < CHECKED}
    order = [str(kind) for kind in config.controls.kinds]
    return sorted(wanted, key=lambda control: (order.index(split_control(control)[0]), split_control(control)[1]))


def control(workspace: Workspace, unit: str) -> None:
    """Do with a control model what the chosen analyses need, while it is made."""
    store, config = workspace.store, workspace.config
    model = workspace.model(unit)
    found = validity(workspace.pair, model)
    row = {"control": view_of(model).info.id, **model_columns(workspace, unit), "loss": found.loss}
    row |= {"limit": found.limit, "base_loss": found.base, "tuned_loss": found.tuned, "valid": found.valid}
    if config.chosen("instruction_use") and unit in workspace.controls("prompts"):
        for by in [by for by in BY if store.has(f"parts/instruction_use/{by}")]:
            store.save_result(f"parts/instruction_use/{by}/{unit}", read_use(workspace, model, by))
    if config.chosen("attention") and unit in workspace.controls("attention"):
        attend_apart(workspace, unit)
    if config.chosen("attribution") and unit in workspace.controls("attribution"):
        _attribute(workspace, unit)
    store.save_table(f"validity/{unit}", pd.DataFrame([row]))  # last: what it stands for is done


def _attribute(workspace: Workspace, unit: str) -> None:
    """Attribute a control's own responses; a prompt that fails in it fails alone."""
    for prompt_id in workspace.prompts_with_responses():
        try:
            respond(workspace, f"{unit}/{prompt_id}")
            attribute_unit(workspace, f"{unit}/{prompt_id}")
        except InputError as error:
            failures = workspace.store.step("controls").failures | {f"{unit}/{prompt_id}": str(error)}
            workspace.store.update_step("controls", failures=failures)


def _join(workspace: Workspace) -> None:
    """Write the tables of all responses and of the controls' losses."""
    store = workspace.store
    if workspace.config.chosen("attribution"):
        join_responses(workspace)
    names = [f"validity/{name}" for name in _names(workspace)]
    parts = [store.load_table(name) for name in names if store.has_table(name)]
    store.save_table("control_validity", pd.concat(parts, ignore_index=True).astype({"seed": "Int64"}))


def score_instructions(workspace: Workspace, unit: str) -> None:
    """Score every response's instruction, for both models and every control: one table."""
    rows = []
    for name, found in attributions(workspace, [*SIDES, *workspace.controls("attribution")]):
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
    if workspace.config.attribution.target == "probability":  # the paper's
        own = [[found for _, found in attributions(workspace, [side])] for side in SIDES]
        workspace.store.save_table("replication", replication(*own).to_df())


def attend_apart(workspace: Workspace, unit: str) -> None:
    """Read how far a control's attention lies from the base's, without keeping its patterns."""
    store, prompts = workspace.store, _attended(workspace)
    if not prompts:
        return
    base = workspace.stored([f"attention/base/{prompt}" for prompt in prompts], AttentionPatterns)
    found = control_attention(base, (attended(workspace, unit, prompt) for prompt in prompts))
    store.save_result(f"parts/attention/{unit}", found)


def _attended(workspace: Workspace) -> list[str]:
    return workspace.prompts_with(*(f"attention/{side}" for side in SIDES))


def shift_attention(workspace: Workspace, unit: str) -> None:
    """Compare the attention of both models, and of the controls, on the prompts that both could read."""
    store, prompts = workspace.store, _attended(workspace)
    if not prompts:
        raise NotPossible("there is no prompt whose attention both models could be read on")
    names = [f"parts/attention/{name}" for name in workspace.controls("attention")]
    controls = workspace.stored([name for name in names if store.has(name)], ControlAttention)
    runs = [workspace.stored([f"attention/{name}/{p}" for p in prompts], AttentionPatterns) for name in SIDES]
    found = attention_shift(runs[0], runs[1], controls, seed=workspace.config.seed)
    store.save_result("attention_shift", found)
    store.save_table("attention_shift", found.to_df())


def _drop_patterns(workspace: Workspace) -> None:
    """Keep whole patterns of the first prompts alone: they are most of what a run writes."""
    store = workspace.store
    for name in store.names("parts/attention/"):
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
        ("instruction_use", "attribution", "attention", "heads", "mlp"),
        _names,
        control,
        _join,
        (*CONTROL_KEYS, "instruction_use", "attribution", "attention", CONTROL_ANALYSES),
        of_prompts=True,
    ),
    BESIDE,
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
