"""The steps that have prompts answered, and the answers attributed: one unit per model and prompt."""

from collections.abc import Iterator

import pandas as pd

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.models import view_of
from lensdiff.models.text import Response, generate
from lensdiff.pipeline.both import SIDES
from lensdiff.pipeline.step import Step
from lensdiff.pipeline.units import PROMPT_KEYS, model_columns, sides_and_prompts, split_unit
from lensdiff.pipeline.workspace import Workspace
from lensdiff.results import InputError


def respond(workspace: Workspace, unit: str) -> None:
    """Generate a model's own response to a prompt, or take the one that is given."""
    name, prompt_id = split_unit(unit)
    model, given = workspace.model(name), workspace.given_response(prompt_id)
    if given is None:
        tokens = workspace.config.max_new_tokens
        response = generate(model, workspace.prompts[prompt_id], max_new_tokens=tokens)
    elif given.strip():
        response = Response(given, (), view_of(model).info.id)
    else:
        raise InputError("the response is an empty text: leave it out for the model's own response")
    row = {
        "prompt_id": prompt_id,
        **model_columns(workspace, name),
        "text": response.text,
        "token_ids": list(response.token_ids),
        "source": "generated" if given is None else "given",
        "model_id": response.model,
        "tokenizer": response.tokenizer,
    }
    workspace.store.save_table(f"responses/{name}/{prompt_id}", pd.DataFrame([row]))


def join_responses(workspace: Workspace) -> None:
    """Write the table of all responses."""
    parts = [workspace.store.load_table(name) for name in workspace.store.table_names("responses/")]
    workspace.store.save_table("responses", pd.concat(parts, ignore_index=True).astype({"seed": "Int64"}))


def attribute_unit(workspace: Workspace, unit: str) -> None:
    """Attribute a model's own response to the prompt."""
    name, prompt_id = split_unit(unit)
    options = workspace.config.attribution
    response = workspace.response(name, prompt_id)
    if options.retokenise and isinstance(response, Response) and response.text.strip():
        response = response.text
    found = attribute(
        workspace.model(name),
        workspace.prompts[prompt_id],
        response,
        target=options.target,
        method=options.method,
        deletion_draws=options.deletion_draws if name in SIDES else 0,
    )
    workspace.store.save_result(f"attribution/{name}/{prompt_id}", found)


def attributions(workspace: Workspace, models: list[str]) -> Iterator[tuple[str, Attribution]]:
    """Yield the attributions of models one by one, each with its model's name."""
    for name in models:
        for prompt_id in workspace.prompts_with(f"attribution/{name}"):
            yield name, workspace.store.load_result(f"attribution/{name}/{prompt_id}", Attribution)


def _attribution_table(workspace: Workspace) -> None:
    def parts() -> Iterator[pd.DataFrame]:
        for name, found in attributions(workspace, list(SIDES)):
            frame = found.to_df()
            frame.insert(0, "model", name)
            yield frame

    workspace.store.save_table("attribution", parts())


STEPS = (
    Step(
        "responses",
        "responses",
        ("instruction_use", "attribution", "outputs", "attention"),
        sides_and_prompts,
        respond,
        join_responses,
        PROMPT_KEYS,
        of_prompts=True,
    ),
    Step(
        "attribution",
        "attribution",
        ("attribution",),
        sides_and_prompts,
        attribute_unit,
        _attribution_table,
        (*PROMPT_KEYS, "attribution"),
        of_prompts=True,
    ),
)
