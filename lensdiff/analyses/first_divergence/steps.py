"""The steps that ask which layers bring the first token at which the models part: the pair, controls, both together."""

from collections.abc import Iterable
from typing import Any

from lensdiff.analyses.first_divergence import FirstDivergenceOptions
from lensdiff.analyses.first_divergence.measure import control_divergence, first_divergence
from lensdiff.analyses.first_divergence.result import ControlDivergence, FirstDivergence, headline_of
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES
from lensdiff.steps.beside import of_controls, tell_failures, told_once
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import NotPossible, Read, Step, no_cost, no_units, none_kept, one_unit
from lensdiff.steps.tables import TableDoc, of_one
from lensdiff.steps.unit import Unit
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE
from lensdiff.steps.validity import of_unit as validity_of

SOON = 8  # tokens of a response before the models of most pairs part
NAME, OF_PAIR, OF_CONTROL = "first_divergence", "first_divergence_pair", "first_divergence_control"


def of_pair(inputs: Inputs, unit: Unit, options: FirstDivergenceOptions) -> FirstDivergence:
    """Find where the models part, and read the four cells there.

    Raises:
        NotPossible: no prompt could be read, or there is no such layer.
    """
    try:
        with told_once():
            found = first_divergence(
                inputs.pair,
                list(inputs.prompts.values()),
                layers=options.layers,
                max_new_tokens=options.max_tokens,
                unembed=options.unembed,
                draws=options.draws,
                seed=inputs.seed,
                progress=False,
            )
    except InputError as error:
        raise NotPossible(str(error)) from None
    tell_failures(inputs, "first divergence", found.failures)
    return found


def of_control(inputs: Inputs, unit: Unit, options: FirstDivergenceOptions) -> ControlDivergence:
    """Read the cells of a control in the tuned model's place, at the headline layer."""
    return control_divergence(inputs.base, inputs.model, inputs.found.one(OF_PAIR, FirstDivergence))


def control_reads(plan: Plan, unit: Unit, options: FirstDivergenceOptions) -> Iterable[Read]:
    return [*validity_of(plan, unit), Read(OF_PAIR)]


def both_reads(plan: Plan, unit: Unit, options: FirstDivergenceOptions) -> Iterable[Read]:
    return [Read(OF_PAIR), *of_controls(plan, NAME, OF_CONTROL)]


def both(inputs: Inputs, unit: Unit, options: FirstDivergenceOptions) -> FirstDivergence:
    """Set the controls' cells beside the pair's."""
    alone = inputs.found.one(OF_PAIR, FirstDivergence)
    return alone.with_controls(list(inputs.found.each(OF_CONTROL, ControlDivergence)))


def pair_cost(probe: Probe, unit: Unit, options: FirstDivergenceOptions) -> float:
    # the tuned model's drafts and their check; what both choose along them; their streams, and those that are exchanged
    n_prompts, n_layers = len(probe.prompts), probe.n_layers(unit)
    layers = options.layers or range(n_layers + 1)
    crossed = sum(2 * (1 - layer / n_layers) for layer in layers if layer <= n_layers)
    passes = n_prompts * (1 + 2 * len(SIDES) + crossed)
    drafts = n_prompts * probe.step * min(options.max_tokens, SOON)
    return drafts + probe.read(passes * _n_read(probe, options), passes=round(passes))


def _n_read(probe: Probe, options: FirstDivergenceOptions) -> float:
    """Return the tokens of a prompt and of what follows it up to a divergence, which most pairs reach soon."""
    return probe.n_prompt + min(options.max_tokens, SOON)


def control_cost(probe: Probe, unit: Unit, options: FirstDivergenceOptions) -> float:
    n_prompts, n_layers = len(probe.prompts), probe.n_layers(unit)
    headline = headline_of(options.layers or range(n_layers + 1), n_layers)
    passes = n_prompts * (len(SIDES) + 2 * max(0.0, 1 - headline / n_layers))
    return probe.read(passes * _n_read(probe, options), passes=round(passes))


_COMMON: Any = {"options": FirstDivergenceOptions}
STEPS: tuple[Step[Any, Any], ...] = (
    VALIDITY,
    Step(
        name=OF_PAIR,
        title="first divergence",
        result=FirstDivergence,
        units=no_units,
        work=of_pair,
        cost=pair_cost,
        needs=frozenset({"pair", "prompts", "seed"}),
        keys=("layers", "max_tokens", "unembed", "draws"),
        kept=none_kept,
        **_COMMON,
    ),
    Step(
        name=OF_CONTROL,
        title="first divergence with controls",
        result=ControlDivergence,
        units=no_units,
        work=of_control,
        cost=control_cost,
        reads=control_reads,
        needs=frozenset({"model", "base"}),
        kept=none_kept,
        **_COMMON,
    ),
    Step(
        name=NAME,
        title="first divergence beside controls",
        result=FirstDivergence,
        units=one_unit,
        work=both,
        cost=no_cost,
        reads=both_reads,
        **_COMMON,
    ),
)
_CELL = "logit of tuned_token - logit of base_token, {} stream through {} blocks from the layer on"
_EFFECTS = {
    "portable": "yield_bt - yield_bb, logits: what the tuned model's late layers do on the base's stream",
    "matched": "yield_tt - yield_tb: what they do on their own",
    "interaction": "matched - portable",
}
TABLES: tuple[TableDoc[Any], ...] = (
    VALIDITY_TABLE,
    TableDoc(
        NAME,
        "a prompt after which the models part, and a layer",
        {
            "position": "of the text, special tokens in front counted, whose next token is the first that differs",
            "base_token": "the base's choice there, of the tokens that both models have",
            "tuned_token": "the tuned model's",
            "layer": "at which the stream enters; the number of layers: behind the last block",
            **_EFFECTS,
            "yield_bb": _CELL.format("the base's", "the base's"),
            "yield_bt": _CELL.format("the base's", "the tuned model's"),
            "yield_tb": _CELL.format("the tuned model's", "the base's"),
            "yield_tt": _CELL.format("the tuned model's", "the tuned model's"),
        },
        of=(NAME,),
        build=of_one(NAME, FirstDivergence),
    ),
    TableDoc(
        "first_divergence_means",
        "a kind of position, a final norm and unembedding, a model, a layer and an effect",
        {
            "at": "first (the divergence), later (positions where the choices differ again) or earlier ones",
            "unembed": "whose final norm and unembedding read the streams; of a control tuned is its own",
            "model": "tuned, or the name of a control in its place",
            "kind": "of the control, empty for tuned",
            "layer": "at which the stream enters",
            "effect": "portable, matched or interaction, as in first_divergence",
            "n": "prompts that have such a position",
            "mean": "of the effect over them, logits",
            "low": "limits of the mean over prompts",
            "high": "as low",
        },
        of=(NAME,),
        build=of_one(NAME, FirstDivergence, FirstDivergence.means),
    ),
    TableDoc(
        "first_divergence_prompts",
        "a prompt that was read",
        {
            "position": "as in first_divergence; missing where the models do not part",
            "n_out": "response tokens that both choose before they part",
            "base_token": "the base's choice then",
            "tuned_token": "the tuned model's",
            "text": "the tokens that both choose",
            "agreed": "why the models do not part, where they do not",
            "n_later": "later positions that stand beside it",
            "n_earlier": "earlier ones",
        },
        of=(NAME,),
        build=of_one(NAME, FirstDivergence, FirstDivergence.prompts),
    ),
)
