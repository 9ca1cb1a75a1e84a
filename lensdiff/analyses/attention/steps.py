"""The steps that read attention, all models on the same text, and set the two models beside controls."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from lensdiff.analyses.attention import AttentionOptions
from lensdiff.analyses.attention.control import ControlAttention, control_attention
from lensdiff.analyses.attention.patterns import AttentionPatterns, attention
from lensdiff.analyses.attention.shift import AttentionShift, attention_shift
from lensdiff.results.manifest import Kept
from lensdiff.steps import responses
from lensdiff.steps.beside import of_controls
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan, sides_and_prompts
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import SMALL, NotPossible, Read, Step, no_units, none_kept, one_unit
from lensdiff.steps.tables import TableDoc, of_one, of_prompts
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE
from lensdiff.steps.validity import of_unit as validity_of

READ_KEYS = ("layers", "sink")
ENTRY_SECONDS = 4e-8  # per number of the patterns that two models are compared by


# attention of both models, a unit per prompt
def read_reads(plan: Plan, unit: Unit, options: AttentionOptions) -> Iterable[Read]:
    assert unit.prompt is not None
    return responses.of_prompt(unit.prompt)


def read(inputs: Inputs, unit: Unit, options: AttentionOptions) -> AttentionPatterns:
    """Read a model's attention over a prompt and the response that all models are read on."""
    return _attended(inputs, inputs.prompt.id, options)


def _attended(inputs: Inputs, prompt: str, options: AttentionOptions) -> AttentionPatterns:
    text = responses.shared_text(inputs, prompt)
    return attention(inputs.model, inputs.prompt_of(prompt), text, layers=options.layers, sink=options.sink)


def read_cost(probe: Probe, unit: Unit, options: AttentionOptions) -> float:
    return probe.until(options.layers) * probe.read(probe.n_text)


def kept(plan: Plan, unit: Unit, options: AttentionOptions) -> Kept:
    """Return that the patterns, which are most of what a run writes, stay of the first prompts alone."""
    return "whole" if unit.prompt in list(plan.prompts)[: options.keep_patterns] else "part"


def size(probe: Probe, unit: Unit, options: AttentionOptions, kept: Kept) -> float:
    whole = 4 * probe.n_layers(unit, options.layers) * probe.sizes.n_heads * probe.n_text**2  # float32
    return SMALL + (whole if kept == "whole" else 0.0)


def without_patterns(result: AttentionPatterns) -> AttentionPatterns:
    return replace(result, patterns=torch.empty(*result.patterns.shape[:2], 0, 0))


# attention of controls, a unit per control
def control_reads(plan: Plan, unit: Unit, options: AttentionOptions) -> Iterable[Read]:
    base = [Read("attention", Unit("base", prompt), required=False) for prompt in plan.prompts]
    tuned = [Read("attention", Unit("tuned", prompt), required=False) for prompt in plan.prompts]
    return [*validity_of(plan, unit), *responses.of_all(plan), *base, *tuned]


def read_control(inputs: Inputs, unit: Unit, options: AttentionOptions) -> ControlAttention:
    """Read how far a control's attention lies from the base's, without keeping its patterns.

    Raises:
        NotPossible: there is no prompt whose attention both models could be read on.
    """
    prompts = _prompts(inputs)
    base = inputs.found.some("attention", AttentionPatterns, [Unit("base", prompt) for prompt in prompts])
    return control_attention(base, (_attended(inputs, prompt, options) for prompt in prompts))


def control_cost(probe: Probe, unit: Unit, options: AttentionOptions) -> float:
    return len(probe.prompts) * (read_cost(probe, unit, options) + _comparing(probe, unit, options))


def _comparing(probe: Probe, unit: Unit, options: AttentionOptions) -> float:
    """Return the seconds to compare two models' patterns on one prompt."""
    return ENTRY_SECONDS * probe.n_layers(unit, options.layers) * probe.sizes.n_heads * probe.n_text**2


def _prompts(inputs: Inputs) -> list[str]:
    prompts = inputs.found.prompts("attention", *SIDES)
    if not prompts:
        raise NotPossible("there is no prompt whose attention both models could be read on")
    return prompts


# both models and the controls together
def shift_reads(plan: Plan, unit: Unit, options: AttentionOptions) -> Iterable[Read]:
    own = [Read("attention", unit, required=False) for unit in sides_and_prompts(plan)]
    return [*own, *of_controls(plan, "attention", "control_attention")]


def shift(inputs: Inputs, unit: Unit, options: AttentionOptions) -> AttentionShift:
    """Compare the attention of both models, and of the controls, on the prompts that both could read.

    Raises:
        NotPossible: there is no such prompt.
    """
    prompts, found = _prompts(inputs), inputs.found
    units = [[Unit(side, prompt) for prompt in prompts] for side in SIDES]
    runs = [found.some("attention", AttentionPatterns, own) for own in units]  # patterns are large: one at a time
    controls = found.each("control_attention", ControlAttention)
    return attention_shift(runs[0], runs[1], controls, seed=inputs.seed)


def shift_cost(probe: Probe, unit: Unit, options: AttentionOptions) -> float:
    return len(probe.prompts) * _comparing(probe, unit, options)


STEPS: tuple[Step[Any, Any], ...] = (
    responses.RESPONSES,
    VALIDITY,
    Step(
        name="attention",
        title="attention",
        options=AttentionOptions,
        result=AttentionPatterns,
        units=sides_and_prompts,
        work=read,
        cost=read_cost,
        size=size,
        reads=read_reads,
        needs=frozenset({"model", "pair", "prompt"}),
        keys=READ_KEYS,
        kept=kept,
        part=without_patterns,
    ),
    Step(
        name="control_attention",
        title="attention of controls",
        options=AttentionOptions,
        result=ControlAttention,
        units=no_units,
        work=read_control,
        cost=control_cost,
        reads=control_reads,
        needs=frozenset({"model", "pair", "prompts"}),
        keys=READ_KEYS,
        kept=none_kept,
    ),
    Step(
        name="attention_shift",
        title="attention shift",
        options=AttentionOptions,
        result=AttentionShift,
        units=one_unit,
        work=shift,
        cost=shift_cost,
        reads=shift_reads,
        needs=frozenset({"seed"}),
    ),
)
SHARES = {
    "sink_share": "mean attention to the first key",
    "entropy": "of the attention, in bits",
    "instruction_share": "attention of the response to the instruction, the first key kept apart; missing: none marked",
    "context_share": "the same to the context",
    "template_share": "the same to what a chat template wrote; missing: raw prompts",
}
TABLES: tuple[TableDoc[Any], ...] = (
    responses.RESPONSES_TABLE,
    VALIDITY_TABLE,
    TableDoc(
        "attention",
        "a prompt and a head, for each model",
        SHARES,
        of=("attention",),
        build=of_prompts("attention", AttentionPatterns),
    ),
    TableDoc(
        "attention_shift",
        "a head, over all prompts",
        {
            "js_distance": "Jensen-Shannon distance of the two models' attention, log base 2, mean over queries and "
            "prompts",
            "js_distance_no_sink": "the same without the first key",
            **SHARES,
            "rest_share": "the same to the rest",
        },
        of=("attention_shift",),
        build=of_one("attention_shift", AttentionShift),
    ),
)
