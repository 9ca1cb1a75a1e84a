"""The steps that ask how far responses depend on their instructions: both models, then beside the controls."""

import warnings

import pandas as pd

from lensdiff.analyses.instruction_use.measure import BY, instruction_use
from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.models import Model
from lensdiff.models.pair import ModelPair
from lensdiff.pipeline.step import TOLD, NotPossible, Step
from lensdiff.pipeline.units import CONTROL_KEYS, PROMPT_KEYS, one_unit
from lensdiff.pipeline.workspace import Workspace
from lensdiff.results import InputError

NAMES = {"swap": "instruction_use", "deletion": "instruction_use_deletion"}


def read_use(workspace: Workspace, model: Model | ModelPair, by: str) -> InstructionUse:
    """Return the instruction use of a model, or of the pair, on the texts that all models are read on."""
    prompts, texts = workspace.forced_texts()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "prompt .* failed: ", UserWarning)  # told below, once for all models
        options = workspace.config.instruction_use
        seed = workspace.config.seed
        return instruction_use(model, prompts, texts, by=by, draws=options.draws, seed=seed, progress=False)


def use_of_pair(workspace: Workspace, unit: str) -> None:
    """Read both models' instruction use by one means."""
    marked = [name for name in workspace.prompts_with_responses() if workspace.prompts[name].instruction]
    if not marked:
        raise NotPossible("no prompt marks an instruction")
    try:
        found = read_use(workspace, workspace.pair, unit)
    except InputError as error:  # of one prompt alone there is no other instruction
        raise NotPossible(str(error)) from None
    for name, reason in list(found.failures.items())[:TOLD]:
        workspace.listener.say(f"instruction use by {unit}: without prompt {name!r}: {reason}")
    if len(found.failures) > TOLD:
        workspace.listener.say(f"instruction use by {unit}: without {len(found.failures) - TOLD} more prompts")
    workspace.store.save_result(f"parts/instruction_use/{unit}", found)


def use_beside(workspace: Workspace, unit: str) -> None:
    """Set the controls' instruction use beside the pair's."""
    store, frames, differences = workspace.store, [], []
    for by, name in NAMES.items():
        if not store.has(f"parts/instruction_use/{by}"):
            continue
        alone = store.load_result(f"parts/instruction_use/{by}", InstructionUse)
        names = [f"parts/instruction_use/{by}/{control}" for control in workspace.controls("prompts")]
        controls = workspace.stored([name for name in names if store.has(name)], InstructionUse)
        found = alone.with_controls(list(controls))
        store.save_result(name, found)
        frames.append(found.to_df())
        differences.append(found.differences().assign(by=by))
    if not frames:
        raise NotPossible("no prompt's instruction use could be read in both models")
    store.save_table("instruction_use", pd.concat(frames, ignore_index=True))
    store.save_table("instruction_use_differences", pd.concat(differences, ignore_index=True))


def _drop_parts(workspace: Workspace) -> None:
    for name in workspace.store.names("parts/instruction_use/"):
        workspace.store.remove(name)


USE_KEYS = (*PROMPT_KEYS, "instruction_use", "seed")
STEPS = (
    Step("instruction_use", "instruction use", ("instruction_use",), lambda w: list(BY), use_of_pair, keys=USE_KEYS),
)
BESIDE = Step(
    "instruction_use_controls",
    "instruction use beside controls",
    ("instruction_use",),
    one_unit,
    use_beside,
    _drop_parts,
    (*CONTROL_KEYS, "instruction_use"),
)
