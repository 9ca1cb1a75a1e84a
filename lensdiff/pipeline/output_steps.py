"""The step that compares both models' next-token distributions: one unit per prompt, or per block of prompts."""

import warnings

from lensdiff.analyses.outputs.output_shift import OutputShift, output_shift
from lensdiff.pipeline.step import Step
from lensdiff.pipeline.units import PROMPT_KEYS
from lensdiff.pipeline.workspace import Workspace
from lensdiff.results import InputError

BLOCK = 16  # prompts whose logits are compared at once where one model is held at a time


def _output_units(workspace: Workspace) -> list[str]:
    if workspace.keep == "both":
        return list(workspace.prompts)
    # one model at a time: a unit of many prompts changes the model twice, not twice per prompt
    return [f"block {i}" for i in range(-(-len(workspace.prompts) // BLOCK))]


def shift_outputs(workspace: Workspace, unit: str) -> None:
    """Compare both models' next-token distributions over a prompt's response, or over those of a block of prompts."""
    if workspace.keep == "both":
        _shift_outputs(workspace, [unit])
        return
    first = BLOCK * int(unit.removeprefix("block "))
    prompts = list(workspace.prompts)[first : first + BLOCK]
    try:
        reasons = _shift_outputs(workspace, prompts)
    except InputError:
        reasons = [reason for prompt_id in prompts if (reason := _output_failure(workspace, prompt_id))]
    if reasons:
        raise InputError("; ".join(reasons))


def _output_failure(workspace: Workspace, prompt_id: str) -> str:
    try:
        _shift_outputs(workspace, [prompt_id])
    except InputError as error:
        return str(error)
    return ""


def _shift_outputs(workspace: Workspace, prompt_ids: list[str]) -> list[str]:
    """Keep what can be had of the prompts, and return why some failed."""
    responses = []
    for prompt_id in prompt_ids:
        response = workspace.shared_response(prompt_id)
        if response is None:
            raise InputError(f"both models answer prompt {prompt_id!r} with nothing: there is no text to compare on")
        responses.append(response)
    prompts = [workspace.prompts[prompt_id] for prompt_id in prompt_ids]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "prompt .* failed: ", UserWarning)  # the unit tells it
        shifts = output_shift(workspace.pair, prompts, responses, progress=False)
    for found in shifts:
        workspace.store.save_result(f"outputs/{found.prompt_id}", found)
    return list(shifts.failures.values())


def _output_table(workspace: Workspace) -> None:
    names = [f"outputs/{prompt_id}" for prompt_id in workspace.prompts_with("outputs")]
    workspace.store.save_table("outputs", (workspace.store.load_result(n, OutputShift).to_df() for n in names))


STEPS = (
    Step(
        "outputs",
        "outputs",
        ("outputs",),
        _output_units,
        shift_outputs,
        _output_table,
        PROMPT_KEYS,
        of_prompts=True,
    ),
)
