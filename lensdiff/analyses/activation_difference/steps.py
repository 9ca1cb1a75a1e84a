"""The steps of the activation difference: of the pair, of controls, and both together."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd

from lensdiff.analyses.activation_difference import ActivationDifferenceOptions
from lensdiff.analyses.activation_difference.control import ControlDifference
from lensdiff.analyses.activation_difference.defaults import AMOUNTS, SCALES
from lensdiff.analyses.activation_difference.directions import READINGS
from lensdiff.analyses.activation_difference.effects import DifferenceEffects
from lensdiff.analyses.activation_difference.measure import activation_difference, control_difference
from lensdiff.analyses.activation_difference.patchscope import PROMPTS
from lensdiff.analyses.activation_difference.result import ActivationDifference
from lensdiff.results import InputError
from lensdiff.steps.beside import of_controls
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import NotPossible, Read, Step, no_cost, no_units, none_kept, one_unit
from lensdiff.steps.tables import TableDoc, of_one
from lensdiff.steps.unit import Unit
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE
from lensdiff.steps.validity import of_unit as validity_of

NAME, OF_PAIR, OF_CONTROL = (
    "activation_difference",
    "activation_difference_pair",
    "activation_difference_control",
)
EFFECTS = "activation_difference_effects"
ENTRY_SECONDS = 2e-9  # per number of the streams that are summed
TEXT_SECONDS = 1e-4  # to tokenise a text in both models
LOGIT_SECONDS = 2e-8  # per logit of a text that is written into, to compare it with both models'
HALF = 0.5  # of a pass: what is written into begins at half of the layers
TEXT_TOKENS, PROMPT_TOKENS = 16, 20  # of an example sentence, and of a prompt that repeats


def of_pair(inputs: Inputs, unit: Unit, options: ActivationDifferenceOptions) -> ActivationDifference:
    """Read both models.

    Raises:
        NotPossible: the models do not read the texts alike, or a stream cannot be read.
    """
    try:
        return activation_difference(inputs.pair, inputs.texts, **_asked(options))
    except InputError as error:
        raise NotPossible(str(error)) from None


def of_control(inputs: Inputs, unit: Unit, options: ActivationDifferenceOptions) -> ControlDifference:
    """Read the base and a control."""
    return control_difference(inputs.pair, inputs.model, inputs.texts, **_asked(options))


def _asked(options: ActivationDifferenceOptions) -> dict[str, Any]:
    return {"layers": options.layers, "positions": options.positions, "max_texts": options.max_texts}


def both(inputs: Inputs, unit: Unit, options: ActivationDifferenceOptions) -> ActivationDifference:
    """Set the controls beside the pair."""
    return inputs.found.one(OF_PAIR, ActivationDifference).with_controls(
        inputs.found.each(OF_CONTROL, ControlDifference)
    )


def effects(inputs: Inputs, unit: Unit, options: ActivationDifferenceOptions) -> DifferenceEffects:
    """Intervene with the difference of one place, and with what stands beside it.

    Raises:
        InputError: the place was not read.
        NotPossible: nothing differs there, or a stream cannot be written.
    """
    found = inputs.found.one(NAME, ActivationDifference)
    at = found.usual_place(options.layer, options.position)
    read: dict[str, Any] = {"texts": inputs.texts, "max_texts": options.effect_texts}
    try:
        made = found.effects(inputs.pair, *at, **read, draws=options.draws, seed=inputs.seed)
    except InputError as error:
        raise NotPossible(str(error)) from None
    return replace(made, chosen=not (options.layer is options.position is None))


def effects_reads(plan: Plan, unit: Unit, options: ActivationDifferenceOptions) -> Iterable[Read]:
    return [Read(NAME)]


def effects_cost(probe: Probe, unit: Unit, options: ActivationDifferenceOptions) -> float:
    """Return the seconds of texts and of short prompts that all directions are written into, from half of all on."""
    directions = 2 + options.draws + probe.n_controls(NAME)  # the difference, the tuned model's mean
    texts = min(options.effect_texts, probe.n_texts) * TEXT_TOKENS
    steered, replaced = directions * len(AMOUNTS), 2 * (directions + options.draws)
    said = (1 + directions) * len(SCALES) * len(PROMPTS) * PROMPT_TOKENS
    written = (steered + replaced) * texts
    logits = LOGIT_SECONDS * (written + said) * probe.sizes.d_vocab
    return 4 * probe.read(texts) + _above(probe, options) * probe.read(written + said) + logits


def _above(probe: Probe, options: ActivationDifferenceOptions) -> float:
    """Return the share of the layers above the place that is written into: half of them, or as it is chosen."""
    n, chosen = probe.sizes.n_layers, options.layers if options.layer is None else [options.layer]
    return 1 - min(chosen, key=lambda layer: abs(layer - n / 2)) / n if chosen else HALF


def control_reads(plan: Plan, unit: Unit, options: ActivationDifferenceOptions) -> Iterable[Read]:
    return [*validity_of(plan, unit), Read(OF_PAIR)]  # what cannot be asked of the pair is not asked of a control


def both_reads(plan: Plan, unit: Unit, options: ActivationDifferenceOptions) -> Iterable[Read]:
    return [Read(OF_PAIR), *of_controls(plan, NAME, OF_CONTROL)]


def pair_cost(probe: Probe, unit: Unit, options: ActivationDifferenceOptions) -> float:
    return _read(probe, unit, options) + len(READINGS) * _lens(probe, unit, options)


def control_cost(probe: Probe, unit: Unit, options: ActivationDifferenceOptions) -> float:
    return _read(probe, unit, options) + _lens(probe, unit, options)


def _read(probe: Probe, unit: Unit, options: ActivationDifferenceOptions) -> float:
    """Return the seconds of two models over the texts' first tokens, a BOS before them."""
    n = min(probe.n_texts, options.max_texts or probe.n_texts)
    entries = n * options.positions * (1 + probe.n_layers(unit, options.layers)) * probe.sizes.d_model
    passes = probe.until(options.layers) * probe.read(n * (1 + options.positions))
    return n * TEXT_SECONDS + 2 * (passes + ENTRY_SECONDS * entries)


def _lens(probe: Probe, unit: Unit, options: ActivationDifferenceOptions) -> float:
    """Return the seconds of the last block, as a text of one token, and the unembedding, for both signs."""
    sizes = probe.sizes
    rows = 2 * options.positions * (1 + probe.n_layers(unit, options.layers))
    return rows * 2 * (probe.parameters / sizes.n_layers + sizes.d_model * sizes.d_vocab) / probe.rate


def _table(name: str) -> Any:
    def table(result: DifferenceEffects) -> pd.DataFrame:
        return result.table(name)

    return of_one(EFFECTS, DifferenceEffects, table)


_COMMON: Any = {"options": ActivationDifferenceOptions, "keys": ("layers", "positions", "max_texts")}
_BESIDE = {
    "reading": "difference, tuned mean, a control's difference, random vector; none: with nothing written",
    "draw": "which of the random ones",
}
STEPS: tuple[Step[Any, Any], ...] = (
    VALIDITY,
    Step(
        name=OF_PAIR,
        title="activation differences",
        result=ActivationDifference,
        units=no_units,
        work=of_pair,
        cost=pair_cost,
        needs=frozenset({"pair", "both", "texts"}),
        kept=none_kept,
        **_COMMON,
    ),
    Step(
        name=OF_CONTROL,
        title="activation differences of controls",
        result=ControlDifference,
        units=no_units,
        work=of_control,
        cost=control_cost,
        reads=control_reads,
        needs=frozenset({"model", "pair", "texts"}),
        kept=none_kept,
        **_COMMON,
    ),
    Step(
        name=NAME,
        title="activation differences beside controls",
        options=ActivationDifferenceOptions,
        result=ActivationDifference,
        units=one_unit,
        work=both,
        cost=no_cost,
        reads=both_reads,
    ),
    Step(
        name=EFFECTS,
        title="what the activation difference does",
        options=ActivationDifferenceOptions,
        result=DifferenceEffects,
        units=one_unit,
        work=effects,
        cost=effects_cost,
        reads=effects_reads,
        needs=frozenset({"pair", "both", "texts", "seed"}),
        keys=("layer", "position", "effect_texts", "draws"),
    ),
)
TABLES: tuple[TableDoc[Any], ...] = (
    VALIDITY_TABLE,
    TableDoc(
        "activation_difference",
        "a layer, and a position of the texts",
        {
            "layer": "whose entering stream is read; the number of layers stands for what leaves the last",
            "position": "from a text's first own token",
            "constant_share": "|mean of tuned - base| / mean |tuned - base| over texts; missing where nothing differs",
            "control_low": "limits within which one more control lies; missing with fewer than 19 of a kind",
            "control_high": "as control_low",
            "size": "mean |tuned - base|",
            "relative_size": "size over the mean length of the base's stream",
            "n": "texts that have the position",
        },
        of=(NAME,),
        build=of_one(NAME, ActivationDifference),
    ),
    TableDoc(
        "activation_difference_words",
        "a word that a direction of the stream speaks for, or against",
        {
            "reading": "difference (by the tuned model's head; by the base's), tuned mean, or a control",
            "sign": "+ for the direction, - for its opposite",
            "layer": "as in activation_difference",
            "position": "as in activation_difference",
            "rank": "of the word",
            "word": "a token",
            "logit": "that the direction adds, at the length of the model's stream, before a soft cap",
        },
        of=(NAME,),
        build=of_one(NAME, ActivationDifference, ActivationDifference.reads),
    ),
    TableDoc(
        "activation_difference_controls",
        "a control, a layer and a position",
        {
            "kind": "of the control",
            "control": "its name",
            "layer": "as in activation_difference",
            "position": "as in activation_difference",
            "constant_share": "the control's",
        },
        of=(NAME,),
        build=of_one(NAME, ActivationDifference, ActivationDifference.controls),
    ),
    TableDoc(
        EFFECTS,
        "an intervention with the difference of one place, a model that is changed, a scale and a measure",
        {
            "intervention": "patchscope, steer or causal",
            "into": "the model that is changed",
            "scale": "of the direction: lengths of the stream (patchscope), of the difference (steer); else missing",
            "measure": "prob_read and prob: probability of the words that the difference reads; kl_to_tuned and "
            "kl_to_base: nats from that model; change: of the cross-entropy, nats per token",
            "unchanged": "with nothing written",
            "difference": "of the difference",
            "low": "limits of that over texts; of causal alone",
            "high": "as low",
            "tuned_mean": "of the tuned model's own mean in its place",
            "random_low": "limits within which one more random vector lies; missing with fewer than 19",
            "random_high": "as random_low",
            "random_difference_low": "the same of differences of two random places; of causal alone",
            "random_difference_high": "as random_difference_low",
            "control_low": "limits within which one more control's difference lies; missing with few of a kind",
            "control_high": "as control_low",
        },
        of=(EFFECTS,),
        build=of_one(EFFECTS, DifferenceEffects),
    ),
    TableDoc(
        "activation_difference_patchscope",
        "a direction, a scale and a word: what a model says where the direction stands at the last token of prompts "
        "that repeat",
        {
            **_BESIDE,
            "model": "that says it",
            "scale": "length of the direction, in mean lengths of the tuned model's stream",
            "rank": "of the word",
            "token": "the word",
            "prob": "its probability, mean over prompts",
            "prob_before": "the same with nothing written",
            "prob_read": "of the first words that the difference reads, all together",
            "prob_read_before": "the same with nothing written",
        },
        of=(EFFECTS,),
        build=_table("patchscope"),
    ),
    TableDoc(
        "activation_difference_steering",
        "a direction that is added to the base's stream at all positions, and a scale",
        {
            **_BESIDE,
            "into": "the model that is changed",
            "scale": "of the direction, in lengths of the difference",
            "prob": "of the first words that the difference reads, all together, mean over texts and positions",
            "kl_to_base": "KL(steered || base), nats",
            "kl_to_tuned": "KL(steered || tuned), nats",
        },
        of=(EFFECTS,),
        build=_table("steering"),
    ),
    TableDoc(
        "activation_difference_causal",
        "a model, and a direction along which its stream's component is set to the other model's",
        {
            **_BESIDE,
            "reading": f"{_BESIDE['reading']}; random difference; other: all of the other model",
            "into": "the model that is changed",
            "cross_entropy": "of the texts' own tokens, nats per token",
            "change": "of it",
            "low": "limits of change over texts",
            "high": "as low",
        },
        of=(EFFECTS,),
        build=_table("causal"),
    ),
)
