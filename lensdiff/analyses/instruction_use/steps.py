"""The steps that ask how far responses depend on their instructions: the pair, controls, and both together.

Each is there twice: by another instruction in its place (swap), and by none (deletion).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from lensdiff.analyses.instruction_use import InstructionUseOptions
from lensdiff.analyses.instruction_use.measure import instruction_use
from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.results import InputError
from lensdiff.steps import responses
from lensdiff.steps.beside import of_controls, tell_failures, told_once
from lensdiff.steps.found import Found
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import NotPossible, Read, Step, no_cost, no_units, none_kept, one_unit
from lensdiff.steps.tables import TableDoc
from lensdiff.steps.unit import SIDES, WHOLE, Unit
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE
from lensdiff.steps.validity import of_unit as validity_of

NAMES = {"swap": "instruction_use", "deletion": "instruction_use_deletion"}


def forced_texts(
    inputs: Inputs, options: InstructionUseOptions
) -> tuple[list[Prompt], dict[str, Sequence[str | Response | None]]]:
    """Return the prompts that both models answered, and the texts that are forced after each, in the base's ids.

    Texts, as far as they are asked for: "base" and "tuned", the models' own; "given" in place of both where the config
    gives them all; "reference" where a prompt has one. Of those that a model generated, the first `max_tokens` tokens.

    Raises:
        NotPossible: no prompt marks an instruction.
        InputError: none of these texts is there.
    """
    ids, asked = inputs.found.prompts(responses.RESPONSES_STEP, *SIDES), options.texts
    prompts = [inputs.prompts[name] for name in ids]
    if not any(prompt.instruction for prompt in prompts):
        raise NotPossible("no prompt marks an instruction")
    texts: dict[str, Sequence[str | Response | None]] = {
        side: responses.own_texts(inputs, prompts, side, options.max_tokens) for side in SIDES if side in asked
    }
    if texts and all(inputs.given(prompt.id) is not None for prompt in prompts):
        texts = {"given": next(iter(texts.values()))}
    if "reference" in asked and any(prompt.reference.strip() for prompt in prompts):
        texts["reference"] = [prompt.reference.strip() or None for prompt in prompts]
    if not texts:
        raise InputError("instruction_use.texts asks for references alone, and no prompt brings one")
    return prompts, texts


def read_use(inputs: Inputs, options: InstructionUseOptions, model: Model | ModelPair, by: str) -> InstructionUse:
    """Return the instruction use of a model, or of the pair, on the texts that all models are read on."""
    prompts, texts = forced_texts(inputs, options)
    with told_once():
        return instruction_use(model, prompts, texts, by=by, draws=options.draws, seed=inputs.seed, progress=False)


def response_reads(plan: Plan, unit: Unit, options: InstructionUseOptions) -> Iterable[Read]:
    return responses.of_all(plan)


def _use_cost(probe: Probe, unit: Unit, options: InstructionUseOptions, by: str) -> float:
    # every prompt's texts after the prompt, and after each donor or after the prompt without its instruction
    n_prompts, own = len(probe.prompts), min(probe.n_response, options.max_tokens)
    texts = [float(own) for text in options.texts if text != "reference"]
    if "reference" in options.texts and (length := probe.n_reference):
        texts.append(length)
    readings = 1 + (min(options.draws, max(1, n_prompts - 1)) if by == "swap" else 1)
    tokens = sum(probe.n_prompt + length for length in texts)
    return (1 if unit.control else len(SIDES)) * probe.read(n_prompts * readings * tokens)


def _steps_by(by: str) -> list[Step[InstructionUseOptions, InstructionUse]]:
    """Return the steps by one means: the pair's and the controls' own use, then both together."""
    name = NAMES[by]
    of_pair, of_control = f"{name}_pair", f"{name}_control"
    needs: Any = frozenset({"pair", "prompts", "seed"})
    keys = ("texts", "draws", "max_tokens")

    def pair(inputs: Inputs, unit: Unit, options: InstructionUseOptions) -> InstructionUse:
        try:
            found = read_use(inputs, options, inputs.pair, by)
        except InputError as error:  # of one prompt alone there is no other instruction
            raise NotPossible(str(error)) from None
        tell_failures(inputs, f"instruction use by {by}", found.failures)
        return found

    def control(inputs: Inputs, unit: Unit, options: InstructionUseOptions) -> InstructionUse:
        return read_use(inputs, options, inputs.model, by)

    def control_reads(plan: Plan, unit: Unit, options: InstructionUseOptions) -> Iterable[Read]:
        return [
            *validity_of(plan, unit),
            *responses.of_all(plan),
            Read(of_pair),
        ]  # what the pair cannot be asked, no control is

    def both_reads(plan: Plan, unit: Unit, options: InstructionUseOptions) -> Iterable[Read]:
        return [Read(of_pair), *of_controls(plan, "instruction_use", of_control)]

    def both(inputs: Inputs, unit: Unit, options: InstructionUseOptions) -> InstructionUse:
        alone = inputs.found.one(of_pair, InstructionUse)
        return alone.with_controls(list(inputs.found.each(of_control, InstructionUse)))

    def cost(probe: Probe, unit: Unit, options: InstructionUseOptions) -> float:
        return _use_cost(probe, unit, options, by)

    common: Any = {"options": InstructionUseOptions, "result": InstructionUse}
    title = f"instruction use by {by}"
    return [
        Step(of_pair, title, units=no_units, work=pair, cost=cost, reads=response_reads, needs=needs, keys=keys,
             kept=none_kept, **common),
        Step(of_control, f"{title} of controls", units=no_units, work=control, cost=cost, reads=control_reads,
             needs=needs | {"model"}, keys=keys, kept=none_kept, **common),
        Step(name, f"{title} beside controls", units=one_unit, work=both, cost=no_cost, reads=both_reads,
             lacks=lambda found: found.failures, **common),
    ]  # fmt: skip


def _both(found: Found) -> list[tuple[str, InstructionUse]]:
    return [(by, found.one(name, InstructionUse)) for by, name in NAMES.items() if found.has(name, WHOLE)]


def table(found: Found, options: Any) -> Iterable[pd.DataFrame]:
    frames = [result.to_df() for _, result in _both(found)]
    return [pd.concat(frames, ignore_index=True)] if frames else []


def differences(found: Found, options: Any) -> Iterable[pd.DataFrame]:
    frames = [result.differences().assign(by=by) for by, result in _both(found)]
    return [pd.concat(frames, ignore_index=True)] if frames else []


STEPS: tuple[Step[Any, Any], ...] = (
    responses.RESPONSES,
    VALIDITY,
    *(step for by in NAMES for step in _steps_by(by)),
)
TABLES: tuple[TableDoc[Any], ...] = (
    responses.RESPONSES_TABLE,
    VALIDITY_TABLE,
    TableDoc(
        "instruction_use",
        "a prompt, a forced text and a model (base, tuned, or a control by its name)",
        {
            "model": "base, tuned, or a control's name",
            "by": "swap (another instruction in its place) or deletion",
            "text": "whose response is forced: base, tuned, reference, or given",
            "n_out": "tokens of the text that are read",
            "log_prob": "mean log-probability of its tokens after the prompt, nats",
            "log_prob_without": "the same with another instruction, mean over them, or without one",
            "use": "log_prob - log_prob_without, nats per token",
            "n_draws": "other prompts that log_prob_without is the mean over",
        },
        of=tuple(NAMES.values()),
        build=table,
    ),
    TableDoc(
        "instruction_use_differences",
        "a forced text (mean: of all of them) and a model beside the base",
        {
            "model": "tuned, or a control's name",
            "by": "swap or deletion",
            "text": "as in instruction_use; mean: of the texts that a prompt has",
            "kind": "of a control, empty for tuned",
            "n": "prompts",
            "base": "mean use of the base",
            "use": "mean use of the model",
            "difference": "use - base",
            "low": "limits of the difference over prompts",
            "high": "as low",
        },
        of=tuple(NAMES.values()),
        build=differences,
    ),
)
