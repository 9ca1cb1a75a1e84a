"""The steps that read directions: the pair's with their effects, those of controls, and all together."""

from collections.abc import Iterable, Mapping
from typing import Any

from lensdiff.analyses.directions import DirectionOptions
from lensdiff.analyses.directions.measure import check_layer, control_directions, directions
from lensdiff.analyses.directions.result import HOW, Directions
from lensdiff.results import InputError
from lensdiff.steps import responses
from lensdiff.steps.beside import of_controls, tell_failures, told_once
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import NotPossible, Read, Step, no_cost, no_units, none_kept, one_unit
from lensdiff.steps.tables import TableDoc, of_one
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE
from lensdiff.steps.validity import of_unit as validity_of

PAIR_STEP, CONTROL_STEP, STEP = "directions_pair", "directions_control", "directions"
HALF = 0.5  # of a pass: changed ones begin at half of the layers


def of_pair(inputs: Inputs, unit: Unit, options: DirectionOptions) -> Directions:
    """Read both models, and their responses with the directions added and projected out.

    Raises:
        NotPossible: fewer than two prompts mark an instruction and can be read, or streams cannot be.
        InputError: there is no such layer.
    """
    names = inputs.found.prompts(responses.RESPONSES_STEP, *SIDES)
    texts = {name: responses.shared_text(inputs, name) for name in names}
    texts = {name: text for name, text in texts.items() if text is not None and inputs.prompts[name].instruction}
    if not texts:
        raise NotPossible("no prompt that marks an instruction was answered")
    given: Any = {name: getattr(options, name) for name in DirectionOptions.model_fields} | {"seed": inputs.seed}
    check_layer(inputs.pair, options.layer)
    prompts = [inputs.prompts[name] for name in texts]
    try:
        with told_once():
            found = directions(inputs.pair, prompts=prompts, response=list(texts.values()), **given)
    except InputError as error:
        raise NotPossible(str(error)) from None
    tell_failures(inputs, "directions", found.failures)
    return found


def of_control(inputs: Inputs, unit: Unit, options: DirectionOptions) -> Directions:
    """Read a control on the same prompts."""
    pair = inputs.found.one(PAIR_STEP, Directions)
    return control_directions(inputs.pair, inputs.model, [inputs.prompts[name] for name in pair.prompt_id], pair)


def both(inputs: Inputs, unit: Unit, options: DirectionOptions) -> Directions:
    """Set the pair beside its controls."""
    alone = inputs.found.one(PAIR_STEP, Directions)
    return alone.with_controls(list(inputs.found.each(CONTROL_STEP, Directions)))


def pair_reads(plan: Plan, unit: Unit, options: DirectionOptions) -> Iterable[Read]:
    return responses.of_all(plan)


def control_reads(plan: Plan, unit: Unit, options: DirectionOptions) -> Iterable[Read]:
    # what the pair cannot be asked, no control is
    return [*validity_of(plan, unit), Read(PAIR_STEP)]


def both_reads(plan: Plan, unit: Unit, options: DirectionOptions) -> Iterable[Read]:
    return [Read(PAIR_STEP), *of_controls(plan, "directions", CONTROL_STEP)]


def cost(probe: Probe, unit: Unit, options: DirectionOptions) -> float:
    # each prompt with and without its instruction in both models; both directions added, each beside its random
    # vectors, and projected out beside random ones, from half of the layers on
    reading = len(SIDES) * len(HOW) * len(probe.prompts) * probe.read(probe.n_prompt)
    if unit.control:
        return reading
    n = probe.n_prompt + min(probe.n_response, options.max_tokens)
    rows = 2 + 2 * len(SIDES) + 3 * options.draws  # unchanged, with directions, with random vectors
    return reading + len(SIDES) * len(probe.prompts) * HALF * probe.read(rows * n, passes=2 * len(HOW))


def lacking(found: Directions) -> Mapping[str, str]:
    """Return why prompts are not in a result."""
    return found.failures


_common: Any = {"options": DirectionOptions, "result": Directions}
_needs: Any = frozenset({"pair", "prompts"})
STEPS: tuple[Step[Any, Any], ...] = (
    responses.RESPONSES,
    VALIDITY,
    Step(PAIR_STEP, "directions", units=no_units, work=of_pair, cost=cost, reads=pair_reads, needs=_needs | {"seed"},
         keys=tuple(DirectionOptions.model_fields), kept=none_kept, **_common),
    Step(CONTROL_STEP, "directions of controls", units=no_units, work=of_control, cost=cost, reads=control_reads,
         needs=_needs | {"model"}, kept=none_kept, **_common),
    Step(STEP, "directions beside controls", units=one_unit, work=both, cost=no_cost, reads=both_reads, lacks=lacking,
         **_common),
)  # fmt: skip
TABLES: tuple[TableDoc[Any], ...] = (
    responses.RESPONSES_TABLE,
    VALIDITY_TABLE,
    TableDoc(
        "directions",
        "a layer; the number of layers stands for what leaves the last one",
        {
            "layer": "whose entering stream is read, at the last prompt token",
            "cosine": "of both models' directions: mean stream with the instruction, less that without",
            "auroc_base": "how well the base's direction tells held-out prompts apart in the base; 1/2: not",
            "auroc_tuned": "the same of the tuned model",
            "auroc_base_in_tuned": "the base's direction in the tuned model",
            "auroc_tuned_in_base": "the tuned model's direction in the base",
            "permuted_low": "limits of auroc_base and auroc_tuned with permuted labels",
            "permuted_high": "as permuted_low",
        },
        of=(STEP,),
        build=of_one(STEP, Directions),
    ),
    TableDoc(
        "direction_effects",
        "a changed model, a direction and a change",
        {
            "into": "the model whose streams are changed",
            "direction": "whose direction it is: base or tuned",
            "how": "add (to prompts without their instruction) or project (out of prompts with it)",
            "layer": "at whose entering stream, from the last prompt token on",
            "n": "prompts",
            "effect": "log-probability of the response with the change - without, nats per token, mean over prompts",
            "low": "limits of effect over prompts",
            "high": "as low",
            "random_low": "limits within which one more random vector of the same length lies; missing with few",
            "random_high": "as random_low",
        },
        of=(STEP,),
        build=of_one(STEP, Directions, Directions.effects),
    ),
)
