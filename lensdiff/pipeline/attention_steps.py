"""The step that reads attention: one unit per model and prompt, all models on the same text."""

from collections.abc import Iterator

import pandas as pd

from lensdiff.analyses.attention.patterns import AttentionPatterns, attention
from lensdiff.pipeline.both import SIDES
from lensdiff.pipeline.step import Step
from lensdiff.pipeline.units import PROMPT_KEYS, sides_and_prompts, split_unit
from lensdiff.pipeline.workspace import Workspace


def attended(workspace: Workspace, name: str, prompt_id: str) -> AttentionPatterns:
    """Return a model's attention over a prompt and the response that all models are read on."""
    options = workspace.config.attention
    return attention(
        workspace.model(name),
        workspace.prompts[prompt_id],
        workspace.shared_response(prompt_id),
        layers=options.layers,
        sink=options.sink,
    )


def attend(workspace: Workspace, unit: str) -> None:
    """Read a model's attention over a prompt and keep it."""
    name, prompt_id = split_unit(unit)
    workspace.store.save_result(f"attention/{name}/{prompt_id}", attended(workspace, name, prompt_id))


def _attention_table(workspace: Workspace) -> None:
    def parts() -> Iterator[pd.DataFrame]:
        for name in SIDES:
            for prompt_id in workspace.prompts_with(f"attention/{name}"):
                frame = workspace.store.load_result(f"attention/{name}/{prompt_id}", AttentionPatterns).to_df()
                frame.insert(0, "model", name)
                yield frame

    workspace.store.save_table("attention", parts())


STEPS = (
    Step(
        "attention",
        "attention",
        ("attention",),
        sides_and_prompts,
        attend,
        _attention_table,
        (*PROMPT_KEYS, "attention"),
        of_prompts=True,
    ),
)
