"""The steps of the dose: the pair's curves, each control's W_out in the base, then both together."""

from collections.abc import Iterable
from typing import Any

from lensdiff.analyses.dose import DoseOptions
from lensdiff.analyses.dose.measure import control_dose, dose
from lensdiff.analyses.dose.result import HEADLINE, WHOLE, ControlDose, Dose
from lensdiff.inputs.prompts import Prompt
from lensdiff.models.response import Response
from lensdiff.results import InputError
from lensdiff.steps import responses
from lensdiff.steps.beside import of_controls, tell_failures, told_once
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import NotPossible, Read, Step, no_cost, no_units, none_kept, one_unit
from lensdiff.steps.tables import TableDoc, of_one
from lensdiff.steps.unit import SIDES, Unit

NAME, OF_PAIR, OF_CONTROL = "dose", "dose_pair", "dose_control"
READINGS = 2  # of a text: with the instruction and without
HELD_SECONDS, HELD_PARAMETER = 0.04, 1.5e-8  # to put a control's weights into the base, beside that per parameter
Texts = dict[str, list[str | Response | None]]


def forced_texts(inputs: Inputs, options: DoseOptions) -> tuple[list[Prompt], Texts]:
    """Return the prompts that both models answered, and both responses to each, their first `max_tokens` tokens.

    Raises:
        NotPossible: no prompt has a response.
    """
    ids = inputs.found.prompts(responses.RESPONSES_STEP, *SIDES)
    prompts = [inputs.prompts[name] for name in ids]
    texts: Texts = {
        side: [_there(text) for text in responses.own_texts(inputs, prompts, side, options.max_tokens)]
        for side in SIDES
    }
    if not any(text for side in texts.values() for text in side):
        raise NotPossible("no prompt has a response")
    return prompts, texts


def _there(text: str | Response) -> str | Response | None:
    empty = not text.strip() if isinstance(text, str) else not text.token_ids
    return None if empty else text


def amounts_of(options: DoseOptions) -> dict[str, list[float]]:
    """Return the groups that are dosed, each with its amounts; 0 and 1 are always among them."""
    parts = [HEADLINE, *(part for part in options.parts if part not in (HEADLINE, WHOLE))]
    wanted = {WHOLE: options.amounts} | dict.fromkeys(parts, options.part_amounts)
    return {group: sorted({0.0, 1.0, *map(float, amounts)}) for group, amounts in wanted.items()}


def pair_work(inputs: Inputs, unit: Unit, options: DoseOptions) -> Dose:
    """Read every dose of the pair.

    Raises:
        NotPossible: the pair cannot be dosed, or has no group of a name.
    """
    (prompts, texts), amounts = forced_texts(inputs, options), amounts_of(options)
    try:
        with told_once():
            found = dose(inputs.pair, prompts, texts, amounts=amounts, groups=list(amounts), progress=False)
    except InputError as error:
        raise NotPossible(str(error)) from None
    tell_failures(inputs, "dose", found.failures)
    return found


def control_work(inputs: Inputs, unit: Unit, options: DoseOptions) -> ControlDose:
    """Read the base with a control's W_out, on the prompts of the pair."""
    prompts, texts = forced_texts(inputs, options)
    read = set(inputs.found.one(OF_PAIR, Dose).prompt_id)
    said = [(p, text) for p, text in zip(prompts, texts[SIDES[1]], strict=True) if p.id in read and text is not None]
    if not said:
        raise NotPossible("the tuned model answers no prompt")
    return control_dose(inputs.pair, inputs.model, [prompt for prompt, _ in said], [text for _, text in said])


def both_work(inputs: Inputs, unit: Unit, options: DoseOptions) -> Dose:
    """Set the controls beside the pair."""
    return inputs.found.one(OF_PAIR, Dose).with_controls(list(inputs.found.each(OF_CONTROL, ControlDose)))


def pair_reads(plan: Plan, unit: Unit, options: DoseOptions) -> Iterable[Read]:
    return responses.of_all(plan)


def control_reads(plan: Plan, unit: Unit, options: DoseOptions) -> Iterable[Read]:
    # no validity: W_out alone is put into the base, and whether that ruins it is what is measured
    return [*responses.of_all(plan), Read(OF_PAIR)]


def both_reads(plan: Plan, unit: Unit, options: DoseOptions) -> Iterable[Read]:
    return [Read(OF_PAIR), *of_controls(plan, NAME, OF_CONTROL)]


def pair_cost(probe: Probe, unit: Unit, options: DoseOptions) -> float:
    # the two models for their distributions and then for their measures; 0 is the base, read once for all groups
    doses = sum(len(set(amounts) - {0.0}) for amounts in amounts_of(options).values())
    passes = len(SIDES) * (doses + 2 * len(SIDES))  # a text of each model
    return probe.read(passes * READINGS * _tokens(probe, options), passes)


def control_cost(probe: Probe, unit: Unit, options: DoseOptions) -> float:
    # a reading, and a model that takes the control's W_out and gives it back
    return HELD_SECONDS + HELD_PARAMETER * probe.parameters + probe.read(_tokens(probe, options))


def _tokens(probe: Probe, options: DoseOptions) -> float:
    """Return the tokens of one model's responses after their prompts."""
    return len(probe.prompts) * (probe.n_prompt + min(probe.n_response, options.max_tokens))


COMMON: Any = {"options": DoseOptions}
NEEDS: Any = frozenset({"pair", "both", "prompts"})
STEPS: tuple[Step[Any, Any], ...] = (
    responses.RESPONSES,
    Step(OF_PAIR, "doses", result=Dose, units=no_units, work=pair_work, cost=pair_cost, reads=pair_reads, needs=NEEDS,
         keys=("amounts", "parts", "part_amounts", "max_tokens"), kept=none_kept, **COMMON),
    Step(OF_CONTROL, "doses of controls", result=ControlDose, units=no_units, work=control_work, cost=control_cost,
         reads=control_reads, needs=NEEDS | {"model"}, keys=("max_tokens",), kept=none_kept, **COMMON),
    Step(NAME, "doses beside controls", result=Dose, units=one_unit, work=both_work, cost=no_cost, reads=both_reads,
         **COMMON),
)  # fmt: skip
TABLES: tuple[TableDoc[Any], ...] = (
    responses.RESPONSES_TABLE,
    TableDoc(
        "dose",
        "a group of weights at an amount of its change, and a prompt",
        {
            "group": "which weights: all, layer 3, a kind of matrix, ...; the others are the base's",
            "amount": "of their change: 0 is the base, 1 the tuned model's",
            "base_response_log_prob": "mean log-probability of the tokens of the base's own response, nats",
            "tuned_response_log_prob": "the same of the tuned model's own response",
            "kl_to_base": "KL(dosed || base), mean over the tokens of both responses, nats",
            "kl_to_tuned": "KL(dosed || tuned) likewise",
            "instruction_use": "log-probability less that without the instruction, mean over both responses, nats",
        },
        of=(NAME,),
        build=of_one(NAME, Dose),
    ),
    TableDoc(
        "dose_effects",
        "a group of weights at amount 1, and a measure",
        {
            "group": "as in dose",
            "measure": "a column of dose",
            "n": "prompts",
            "effect": "the measure less the base's, mean over prompts",
            "low": "limits of the effect over prompts",
            "high": "as low",
            "share": "effect over the tuned model's own; missing where that is about 0; shares do not add up",
            "half": "the amount that does half of the effect; 0.5 where it follows the dose evenly",
        },
        of=(NAME,),
        build=of_one(NAME, Dose, Dose.summary),
    ),
    TableDoc(
        "dose_controls",
        "a control, whose W_out is put into the base",
        {
            "control": "its name",
            "kind": "of the control",
            "gain": "log-probability of the tuned model's response less the base's, mean over prompts, nats per token",
        },
        of=(NAME,),
        build=of_one(NAME, Dose, Dose.controls),
    ),
)
