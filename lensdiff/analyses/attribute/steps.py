"""The steps that attribute responses to their prompts, and score the instructions of all of them."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd

from lensdiff.analyses.attribute import AttributeOptions
from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.gradients import rows_of
from lensdiff.analyses.attribute.measure import Method, attribute
from lensdiff.analyses.attribute.replication import of_own
from lensdiff.inputs.prompts import Prompt
from lensdiff.models.text import Response, encode, generate
from lensdiff.results import InputError
from lensdiff.steps import responses
from lensdiff.steps.found import Found
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan, sides_and_prompts
from lensdiff.steps.probe import PROBED_TOKENS, Probe, seconds
from lensdiff.steps.step import NotPossible, Read, Step
from lensdiff.steps.tables import TableDoc, model_columns, of_prompts
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE


# a unit per model and prompt, controls among them
def units(plan: Plan, options: AttributeOptions) -> list[Unit]:
    controls = plan.controls.get("attribute", ())
    return [*sides_and_prompts(plan), *(Unit(control, prompt) for control in controls for prompt in plan.prompts)]


def reads(plan: Plan, unit: Unit, options: AttributeOptions) -> Iterable[Read]:
    return [Read(responses.CONTROL_STEP if unit.control else responses.RESPONSES_STEP, unit)]


def work(inputs: Inputs, unit: Unit, options: AttributeOptions) -> Attribution:
    """Attribute a model's own response to the prompt."""
    assert unit.model is not None
    response = responses.said(inputs.found, unit.model, inputs.prompt.id)
    if options.retokenise and isinstance(response, Response) and response.text.strip():
        response = response.text
    draws = 0 if unit.control else options.deletion_draws
    return attribute(
        inputs.model,
        inputs.prompt,
        response,
        target=options.target,
        path=options.path,
        baseline=options.baseline,
        nodes=options.nodes,
        method=options.method,
        deletion_draws=draws,
    )


def cost(probe: Probe, unit: Unit, options: AttributeOptions) -> float:
    each, per_row = probe.once("attribution", _seconds_of_rows)
    scores = each + per_row * _rows(probe, probe.n_prompt, probe.n_response, options.method)
    scores *= options.nodes if options.path == "integrated" else 1
    if unit.control or not options.deletion_draws:
        return scores
    return scores + probe.read((2 + options.deletion_draws) * probe.n_text, passes=2)  # as it is, its own, the draws'


def _rows(probe: Probe, n_in: int | float, n_out: int | float, method: Method) -> float:
    rows = rows_of(probe.view, n_in, n_out)
    return min(rows.values()) if method == "auto" else rows[method]


def _seconds_of_rows(probe: Probe) -> tuple[float, float]:
    """Return the seconds of an attribution, and of each row that it computes beside that: of two short responses."""
    for prompt in probe.prompts.values():
        try:
            response = generate(probe.view, prompt, max_new_tokens=PROBED_TOKENS)
            measured = [_measured(probe, prompt, response, n) for n in (1, len(response.token_ids))]
        except InputError:  # its own unit says why
            continue
        (few, short), (many, long) = measured
        per_row = max(0.0, long - short) / (many - few) if many > few else long / many
        return max(0.0, long - many * per_row), per_row
    return 0.0, 0.0


def _measured(probe: Probe, prompt: Prompt, response: Response, n: int) -> tuple[float, float]:
    """Return the rows of the first tokens of a response, and the seconds that they take."""
    cut = replace(response, token_ids=response.token_ids[:n])
    encoded = encode(probe.view, prompt, cut)
    if not encoded.n_response:
        raise InputError("the response is empty")
    took = seconds(lambda: attribute(probe.view, prompt, cut, deletion_draws=0))
    return _rows(probe, encoded.n_prompt, encoded.n_response, "auto"), took


def score_table(found: Found, options: Any) -> Iterable[pd.DataFrame]:
    """Score every response's instruction, for both models and every control: one table."""
    rows = []
    for unit in found.units("attribution"):
        result = found.one("attribution", Attribution, unit)
        if bool(result.instruction.any()):
            n_in, n_out = result.scores.shape
            row = {"prompt_id": result.prompt_id}
            row |= model_columns(unit.model or "", result.provenance.control)
            rows.append(row | {"instruction_score": result.instruction_score(), "n_in": n_in, "n_out": n_out})
    if not rows:
        raise NotPossible("no prompt marks an instruction")
    return [pd.DataFrame(rows).astype({"seed": "Int64"})]


def replication_table(found: Found, options: Any) -> Iterable[pd.DataFrame]:
    """Compare both models' scores as the paper does, where its target was attributed."""
    replicated = of_own(*(found.each("attribution", Attribution, side) for side in SIDES))
    return [] if replicated is None else [replicated.to_df()]


STEPS: tuple[Step[Any, Any], ...] = (
    responses.RESPONSES,
    VALIDITY,
    responses.CONTROL_RESPONSES,
    Step(
        name="attribution",
        title="attribution",
        options=AttributeOptions,
        result=Attribution,
        units=units,
        work=work,
        cost=cost,
        reads=reads,
        needs=frozenset({"model", "prompt"}),
        keys=("target", "path", "baseline", "nodes", "method", "deletion_draws", "retokenise"),
    ),
)
TABLES: tuple[TableDoc[Any], ...] = (
    responses.RESPONSES_TABLE,
    VALIDITY_TABLE,
    TableDoc(
        "attribution",
        "a token of the prompt and one of the response, for each model's own response",
        {
            "score": "importance: gradient of the target times input embedding",
            "level": "0 to 10 within its out_pos",
        },
        of=("attribution",),
        build=of_prompts("attribution", Attribution),
    ),
    TableDoc(
        "instruction_scores",
        "a prompt that marks an instruction, and a model",
        {
            "model": "base, tuned or control",
            "instruction_score": "summed normalised importance density / log2(2 + instruction tokens)",
            "n_in": "tokens of the prompt",
            "n_out": "tokens of the response",
        },
        of=("attribution",),
        build=score_table,
    ),
    TableDoc(
        "replication",
        "a way to have the paper's instruction score of the pair, paired by prompt",
        {
            "way": "own responses, both cut to one length, and each with the target log p",
            "n": "prompts with at least 5 response tokens in both models",
            "n_left_out": "prompts with a shorter response, left out",
            "n_empty": "those of them with an empty one",
            "base": "mean score of the base",
            "tuned": "of the tuned model",
            "difference": "tuned - base",
            "low": "limits of the difference over prompts",
            "high": "as low",
            "p": "paired by prompt; a description, no verdict",
            "answer": "rose, fell or no change shown",
            "depends_on_length": "whether the ways do not all answer alike",
        },
        of=("attribution",),
        build=replication_table,
    ),
)
