"""The steps that read prompts: responses, attribution, attention, outputs, and the control models' share of them.

Base and tuned model: one unit per model and prompt, all prompts of a model after each other. Control models: one unit
per control and prompt that does everything, so that each control is made once.
"""

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import torch

from lensdiff.analyses.attention import AttentionPatterns, attention
from lensdiff.analyses.attention_shift import attention_shift
from lensdiff.analyses.attribution import Attribution, attribute
from lensdiff.analyses.output_shift import OutputShift, output_shift
from lensdiff.models.text import Response, generate
from lensdiff.models.view import view_of
from lensdiff.pipeline.step import NotPossible, Step
from lensdiff.pipeline.workspace import SIDES, Workspace
from lensdiff.results import InputError

CONTROL_ANALYSES = "analyses of controls"  # a control does what is chosen of these at once
BLOCK = 16  # prompts whose logits are compared at once where one model is held at a time
PROMPT_KEYS = ("prompts", "prompt", "max_prompts", "max_new_tokens")
CONTROL_KEYS = (*PROMPT_KEYS, "controls.kind", "controls.prompts", "seed")


def _sides_and_prompts(workspace: Workspace) -> list[str]:
    return [f"{side}/{prompt}" for side in SIDES for prompt in workspace.prompts]


def _controls_and_prompts(workspace: Workspace) -> list[str]:
    if not workspace.config.chosen("attribution", "attention"):
        return []
    return [f"{control}/{prompt}" for control in workspace.controls("prompts") for prompt in workspace.prompts]


def _split(unit: str) -> tuple[str, str]:
    model, _, prompt_id = unit.partition("/")
    return model, prompt_id


# responses
def respond(workspace: Workspace, unit: str) -> None:
    """Generate a model's own response to a prompt, or take the one that is given."""
    name, prompt_id = _split(unit)
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
        **_names(name, workspace.config.seed),
        "text": response.text,
        "token_ids": list(response.token_ids),
        "source": "generated" if given is None else "given",
        "model_id": response.model,
    }
    workspace.store.save_table(f"responses/{name}/{prompt_id}", pd.DataFrame([row]))


def _names(model: str, seed: int) -> dict[str, object]:
    kind, _, number = model.rpartition("-")
    if model in SIDES:
        return {"model": model, "kind": "", "seed": pd.NA}
    return {"model": "control", "kind": kind, "seed": seed + int(number)}


def _responses(workspace: Workspace) -> None:
    parts = [workspace.store.load_table(name) for name in workspace.store.table_names("responses/")]
    workspace.store.save_table("responses", pd.concat(parts, ignore_index=True).astype({"seed": "Int64"}))


# attribution
def attribute_unit(workspace: Workspace, unit: str) -> None:
    """Attribute a model's own response to the prompt."""
    name, prompt_id = _split(unit)
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


def _attributions(workspace: Workspace, models: list[str]) -> Iterator[tuple[str, Attribution]]:
    for name in models:
        for prompt_id in workspace.prompts_with(f"attribution/{name}"):
            yield name, workspace.store.load_result(f"attribution/{name}/{prompt_id}", Attribution)


def _attribution_table(workspace: Workspace) -> None:
    def parts() -> Iterator[pd.DataFrame]:
        for name, found in _attributions(workspace, list(SIDES)):
            frame = found.to_df()
            frame.insert(0, "model", name)
            yield frame

    workspace.store.save_table("attribution", parts())


def score_instructions(workspace: Workspace, unit: str) -> None:
    """Score every response's instruction, for both models and every control: one table."""
    rows = []
    for name, found in _attributions(workspace, [*SIDES, *workspace.controls("prompts")]):
        if bool(found.instruction.any()):
            n_in, n_out = found.scores.shape
            score = found.instruction_score()
            sizes = {"n_in": n_in, "n_out": n_out}
            rows.append(
                {"prompt_id": found.prompt_id, **_names(name, workspace.config.seed)}
                | {"instruction_score": score}
                | sizes
            )
    if not rows:
        raise NotPossible("no prompt marks an instruction")
    workspace.store.save_table("instruction_scores", pd.DataFrame(rows).astype({"seed": "Int64"}))


# attention
def attend(workspace: Workspace, unit: str) -> None:
    """Read a model's attention over a prompt and the response that all models are read on."""
    name, prompt_id = _split(unit)
    options = workspace.config.attention
    found = attention(
        workspace.model(name),
        workspace.prompts[prompt_id],
        workspace.shared_response(prompt_id),
        layers=options.layers,
        sink=options.sink,
    )
    workspace.store.save_result(f"attention/{name}/{prompt_id}", found)


def _attention_table(workspace: Workspace) -> None:
    def parts() -> Iterator[pd.DataFrame]:
        for name in SIDES:
            for prompt_id in workspace.prompts_with(f"attention/{name}"):
                frame = workspace.store.load_result(f"attention/{name}/{prompt_id}", AttentionPatterns).to_df()
                frame.insert(0, "model", name)
                yield frame

    workspace.store.save_table("attention", parts())


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


# outputs
def _output_units(workspace: Workspace) -> list[str]:
    if workspace.keep == "both":
        return list(workspace.prompts)
    # one model at a time: a unit of many prompts changes the model twice, not twice per prompt
    return [f"block {i}" for i in range(-(-len(workspace.prompts) // BLOCK))]


def shift_outputs(workspace: Workspace, unit: str) -> None:
    """Compare both models' next-token distributions over a prompt's response, or over those of a block of prompts."""
    if workspace.keep == "both":
        return _shift_outputs(workspace, [unit])
    first = BLOCK * int(unit.removeprefix("block "))
    prompts = list(workspace.prompts)[first : first + BLOCK]
    try:
        return _shift_outputs(workspace, prompts)
    except InputError:
        reasons = [reason for prompt_id in prompts if (reason := _output_failure(workspace, prompt_id))]
        raise InputError("; ".join(reasons)) from None


def _output_failure(workspace: Workspace, prompt_id: str) -> str:
    try:
        _shift_outputs(workspace, [prompt_id])
    except InputError as error:
        return str(error)
    return ""


def _shift_outputs(workspace: Workspace, prompt_ids: list[str]) -> None:
    responses = []
    for prompt_id in prompt_ids:
        response = workspace.shared_response(prompt_id)
        if response is None:
            raise InputError(f"both models answer prompt {prompt_id!r} with nothing: there is no text to compare on")
        responses.append(response)
    prompts = [workspace.prompts[prompt_id] for prompt_id in prompt_ids]
    for found in output_shift(workspace.pair, prompts, responses):
        workspace.store.save_result(f"outputs/{found.prompt_id}", found)


def _output_table(workspace: Workspace) -> None:
    names = [f"outputs/{prompt_id}" for prompt_id in workspace.prompts_with("outputs")]
    workspace.store.save_table("outputs", (workspace.store.load_result(n, OutputShift).to_df() for n in names))


# controls
def control(workspace: Workspace, unit: str) -> None:
    """Do with a control model what the chosen analyses need: its own response attributed, its attention read."""
    respond(workspace, unit)
    if workspace.config.chosen("attribution"):
        attribute_unit(workspace, unit)
    if workspace.config.chosen("attention"):
        attend(workspace, unit)


def _one(name: str):
    return lambda workspace: [name]


STEPS = (
    Step(
        "responses",
        "responses",
        ("attribution", "outputs", "attention"),
        _sides_and_prompts,
        respond,
        _responses,
        PROMPT_KEYS,
        of_prompts=True,
    ),
    Step(
        "attribution",
        "attribution",
        ("attribution",),
        _sides_and_prompts,
        attribute_unit,
        _attribution_table,
        (*PROMPT_KEYS, "attribution"),
        of_prompts=True,
    ),
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
    Step(
        "attention",
        "attention",
        ("attention",),
        _sides_and_prompts,
        attend,
        _attention_table,
        (*PROMPT_KEYS, "attention"),
        of_prompts=True,
    ),
    Step(
        "controls",
        "controls",
        ("attribution", "attention"),
        _controls_and_prompts,
        control,
        _responses,
        (*CONTROL_KEYS, "attribution", "attention", CONTROL_ANALYSES),
        of_prompts=True,
    ),
    Step(
        "instruction_scores",
        "instruction scores",
        ("attribution",),
        _one("all"),
        score_instructions,
        keys=(*CONTROL_KEYS, "attribution"),
    ),
    Step(
        "attention_shift",
        "attention shift",
        ("attention",),
        _one("all"),
        shift_attention,
        _drop_patterns,
        (*CONTROL_KEYS, "attention"),
    ),
)
