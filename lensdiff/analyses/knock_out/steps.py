"""The steps that cut attention to the instruction: in the pair, in controls, and both together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lensdiff.analyses.knock_out import KnockOutOptions
from lensdiff.analyses.knock_out.beside import with_controls
from lensdiff.analyses.knock_out.both import knock_out_control, knock_out_shift
from lensdiff.analyses.knock_out.cuts import CUTS, sweep
from lensdiff.analyses.knock_out.defaults import SWEEP_DRAWS
from lensdiff.analyses.knock_out.shift import KnockOutShift
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
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE
from lensdiff.steps.validity import of_unit as validity_of

PAIR_STEP, CONTROL_STEP, STEP = "knock_out_pair", "knock_out_control", "knock_out"


def forced_texts(
    inputs: Inputs, options: KnockOutOptions
) -> tuple[list[Prompt], Mapping[str, Sequence[str | Response]]]:
    """Return the prompts that both models answered, and the models' own texts in the base's ids, their first tokens.

    Raises:
        NotPossible: no prompt marks an instruction.
    """
    prompts = [inputs.prompts[name] for name in inputs.found.prompts(responses.RESPONSES_STEP, *SIDES)]
    if not any(prompt.instruction for prompt in prompts):
        raise NotPossible("no prompt marks an instruction")
    texts = {side: responses.own_texts(inputs, prompts, side, options.max_tokens) for side in SIDES}
    given = all(inputs.given(prompt.id) is not None for prompt in prompts)
    return prompts, {"given": texts["base"]} if given else texts


def of_pair(inputs: Inputs, unit: Unit, options: KnockOutOptions) -> KnockOutShift:
    """Read both models."""
    prompts, texts = forced_texts(inputs, options)
    try:
        with told_once():
            found = knock_out_shift(inputs.pair, prompts, texts, draws=options.draws, seed=inputs.seed)
    except InputError as error:  # a family whose attention cannot be written, or no prompt that can be read
        raise NotPossible(str(error)) from None
    tell_failures(inputs, "knock-out", found.failures)
    return found


def of_control(inputs: Inputs, unit: Unit, options: KnockOutOptions) -> KnockOutShift:
    """Read a control on the same texts."""
    prompts, texts = forced_texts(inputs, options)
    with told_once():
        return knock_out_control(inputs.model, prompts, texts, seed=inputs.seed)


def both(inputs: Inputs, unit: Unit, options: KnockOutOptions) -> KnockOutShift:
    """Set the pair beside its controls."""
    alone = inputs.found.one(PAIR_STEP, KnockOutShift)
    found = with_controls(alone, list(inputs.found.each(CONTROL_STEP, KnockOutShift)))
    dropped = {prompt: why for prompt, why in found.failures.items() if prompt not in alone.failures}
    tell_failures(inputs, "knock-out beside controls", dropped)
    return found


def pair_reads(plan: Plan, unit: Unit, options: KnockOutOptions) -> Iterable[Read]:
    return responses.of_all(plan)


def control_reads(plan: Plan, unit: Unit, options: KnockOutOptions) -> Iterable[Read]:
    # what the pair cannot be asked, no control is
    return [*validity_of(plan, unit), *responses.of_all(plan), Read(PAIR_STEP)]


def both_reads(plan: Plan, unit: Unit, options: KnockOutOptions) -> Iterable[Read]:
    return [Read(PAIR_STEP), *of_controls(plan, "knock_out", CONTROL_STEP)]


def cost(probe: Probe, unit: Unit, options: KnockOutOptions) -> float:
    # both models' texts as they are, and with either cut; of the pair also with each draw, and in windows, which begin
    # at their first layer
    length = probe.n_prompt + min(probe.n_response, options.max_tokens)
    texts = len(probe.prompts) * len(SIDES) * length
    if unit.control:
        return probe.read(texts * (1 + len(CUTS)))
    n_layers, ways = probe.sizes.n_layers, 1 + min(options.draws, SWEEP_DRAWS)
    shares = sum((n_layers - first) / n_layers for first, _ in sweep(n_layers))
    readings = 2 + len(CUTS) * (1 + options.draws + ways * shares)
    return len(SIDES) * probe.read(texts * readings)


_common: Any = {"options": KnockOutOptions, "result": KnockOutShift}
_needs: Any = frozenset({"pair", "prompts", "seed"})
STEPS: tuple[Step[Any, Any], ...] = (
    responses.RESPONSES,
    VALIDITY,
    Step(PAIR_STEP, "knock-out", units=no_units, work=of_pair, cost=cost, reads=pair_reads, needs=_needs,
         keys=("draws", "max_tokens"), kept=none_kept, **_common),
    Step(CONTROL_STEP, "knock-out of controls", units=no_units, work=of_control, cost=cost, reads=control_reads,
         needs=_needs | {"model"}, keys=("max_tokens",), kept=none_kept, **_common),
    Step(STEP, "knock-out beside controls", units=one_unit, work=both, cost=no_cost, reads=both_reads,
         lacks=lambda found: found.failures, **_common),
)  # fmt: skip
_CUT = "response (queries of the response) or after (every query behind the instruction)"
_TEXT = "whose response is forced: base, tuned, or given"
TABLES: tuple[TableDoc[Any], ...] = (
    responses.RESPONSES_TABLE,
    VALIDITY_TABLE,
    TableDoc(
        "knock_out",
        "a response token in a model (base or tuned), with attention to the instruction cut in all layers",
        {
            "text": _TEXT,
            "cut": _CUT,
            "window_first": "the first layer that is cut",
            "window_last": "the last one",
            "log_prob": "of the token with nothing cut, nats",
            "drop": "log_prob less that with the instruction cut: positive where the token needs it",
            "random_drop": "the same with as many other prompt tokens cut, mean of the draws; missing with too few",
            "first": "whether the text's first token is cut too",
        },
        of=(STEP,),
        build=of_one(STEP, KnockOutShift, KnockOutShift.tokens),
    ),
    TableDoc(
        "knock_out_prompts",
        "a prompt, a forced text, a model (base, tuned, or a control by its name) and a cut",
        {
            "model": "base, tuned, or a control's name",
            "text": _TEXT,
            "cut": _CUT,
            "n_out": "tokens of the text that are read",
            "log_prob": "their mean log-probability with nothing cut, nats",
            "drop": "mean drop, nats per token",
            "drop_median": "median drop",
            "random_drop": "mean drop with as many other prompt tokens cut; missing for controls",
            "slope": "of drop over relative position: its change from the response's beginning to its end",
        },
        of=(STEP,),
        build=of_one(STEP, KnockOutShift),
    ),
    TableDoc(
        "knock_out_windows",
        "a window of layers in a model (base or tuned)",
        {
            "text": f"{_TEXT}; mean: of the texts that a prompt has",
            "cut": _CUT,
            "window_first": "the first layer that is cut",
            "window_last": "the last one",
            "n": "prompts that have both drop and random_drop; all of them where none has random_drop",
            "drop": "mean over prompts of the mean drop, nats per token",
            "drop_low": "limits of drop over prompts",
            "drop_high": "as drop_low",
            "random_drop": "the same with as many other prompt tokens cut",
            "random_drop_low": "limits of random_drop over prompts",
            "random_drop_high": "as random_drop_low",
        },
        of=(STEP,),
        build=of_one(STEP, KnockOutShift, KnockOutShift.over_windows),
    ),
    TableDoc(
        "knock_out_effects",
        "a forced text (mean: of all of them), a cut, a measure and a model, or tuned - base",
        {
            "model": "base, tuned, or tuned - base",
            "text": f"{_TEXT}; mean: of the texts that a prompt has",
            "cut": _CUT,
            "measure": "drop, drop_median or slope, as in knock_out_prompts",
            "n": "prompts",
            "estimate": "mean over prompts",
            "low": "limits of the estimate over prompts",
            "high": "as low",
            "control_low": "of tuned - base: limits within which one more control of any kind lies; missing with fewer "
            "than 19 of a kind",
            "control_high": "as control_low",
        },
        of=(STEP,),
        build=of_one(STEP, KnockOutShift, KnockOutShift.summary),
    ),
)
