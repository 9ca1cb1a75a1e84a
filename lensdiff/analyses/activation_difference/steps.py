"""The steps of the activation difference: of the pair, of controls, and both together."""

from collections.abc import Iterable
from typing import Any

from lensdiff.analyses.activation_difference import ActivationDifferenceOptions
from lensdiff.analyses.activation_difference.measure import activation_difference, control_difference
from lensdiff.analyses.activation_difference.result import READINGS, ActivationDifference, ControlDifference
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
ENTRY_SECONDS = 2e-9  # per number of the streams that are summed
TEXT_SECONDS = 3e-4  # to tokenise a text in both models


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
    entries = n * options.positions * (1 + probe.n_layers(unit, options.layers)) * probe.view.d_model
    return n * TEXT_SECONDS + 2 * (probe.read(n * (1 + options.positions)) + ENTRY_SECONDS * entries)


def _lens(probe: Probe, unit: Unit, options: ActivationDifferenceOptions) -> float:
    """Return the seconds of the last block, as a text of one token, and the unembedding, for both signs."""
    view = probe.view
    rows = 2 * options.positions * (1 + probe.n_layers(unit, options.layers))
    return rows * 2 * (probe.parameters / view.n_layers + view.d_model * view.d_vocab) / probe.rate


_COMMON: Any = {"options": ActivationDifferenceOptions, "keys": ("layers", "positions", "max_texts")}
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
)
