"""The steps that read heads from weights alone: word pairs of both models and of controls, and what changed in them."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from lensdiff.analyses.heads import HeadOptions
from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs, head_word_pairs
from lensdiff.analyses.heads.ov_reading import COMPONENTS, OVReading, ov_reading
from lensdiff.analyses.heads.pair_overlap import PairOverlap, pair_overlap
from lensdiff.analyses.heads.verb_shift import VerbShift, verb_shift
from lensdiff.results.manifest import Kept
from lensdiff.steps.found import Found, Stored
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan, layer_units
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import SMALL, Read, Step, one_unit
from lensdiff.steps.tables import TableDoc, of_both, of_one
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE

PAIR_SECONDS = 7.5e-9  # per candidate pair of a dimension, to look up its cosine and compare
LIST_SECONDS = 3.2e-5  # per word, to find its tokens in a model, and its vector and threshold
SHIFT_SECONDS = 7e-5  # per dimension of a model, to read its pairs and count their verbs
TEST_SECONDS = 0.9  # to test the verbs' shift, whatever the models
OVERLAP_SECONDS = 2.5e-5  # likewise, to compare its pairs with the base's
WORD_SECONDS = 1e-8  # per word and direction, to find the best ones
TOKEN_SECONDS = 4e-6  # per word, to find its tokens and embed them
PAIR_BYTES, PAIRS_FOUND = 12.0, 0.017  # of a word pair; how many of the candidates of a dimension are some
VERB_BYTES = 170e3  # per group of layers, of all verbs that are counted
RANKS = 10  # words of an end


# word pairs, a unit per group of layers; those of controls go once they were compared with
def units(plan: Plan, options: HeadOptions) -> list[Unit]:
    return [unit for side in SIDES for unit in layer_units(plan, side, options.layers)]


def work(inputs: Inputs, unit: Unit, options: HeadOptions) -> HeadWordPairs:
    """Read the word pairs of some layers of a model."""
    return head_word_pairs(
        inputs.model,
        inputs.vocabulary,
        inputs.vectors,
        layers=unit.layers,
        top_k=options.top_k,
        threshold_words=options.threshold_words,
        threshold_std=options.threshold_std,
    )


def cost(probe: Probe, unit: Unit, options: HeadOptions) -> float:
    sizes, n_layers = probe.sizes, probe.n_layers(unit, options.layers)
    per_head = 4 * probe.n_words * sizes.d_model * sizes.d_head / probe.rate
    per_head += PAIR_SECONDS * sizes.d_head * (2 * options.top_k) ** 2
    made = 2 * probe.drawing(unit, sizes.n_heads * sizes.d_head)  # W_Q and W_K
    return n_layers * (sizes.n_heads * per_head + made) + (LIST_SECONDS * probe.n_words if _is_first(unit) else 0.0)


def _is_first(unit: Unit) -> bool:
    """Return whether a unit is the first of a model of the pair, which reads the word list for all that follow."""
    return unit.control is None and unit.layers is not None and 0 in unit.layers


def size(probe: Probe, unit: Unit, options: HeadOptions, kept: Kept) -> float:
    dims = probe.n_layers(unit, options.layers) * probe.sizes.n_heads * probe.sizes.d_head
    return SMALL + probe.word_list + PAIR_BYTES * PAIRS_FOUND * options.top_k**2 * dims


def kept(plan: Plan, unit: Unit, options: HeadOptions) -> Kept:
    """Return that nothing stays of a control's word pairs: they are large, and what they were for is done."""
    return "nothing" if unit.control else "whole"


# what changed in them
def pair_reads(plan: Plan, unit: Unit, options: HeadOptions) -> Iterable[Read]:
    own = [Read("heads", unit) for side in SIDES for unit in layer_units(plan, side, options.layers)]
    controls = plan.controls.get("heads", ())
    theirs = [unit for control in controls for unit in layer_units(plan, control, options.layers)]
    return [*own, *(Read("heads", unit, required=False) for unit in theirs)]


def _pairs(inputs: Inputs) -> tuple[HeadWordPairs, HeadWordPairs, Stored[HeadWordPairs]]:
    found = inputs.found
    base, tuned = (found.of_model("heads", HeadWordPairs, side) for side in SIDES)
    controls = [model for model in found.models("heads") if model not in SIDES]
    return base, tuned, found.of_models("heads", HeadWordPairs, controls)


def shift_verbs(inputs: Inputs, unit: Unit, options: HeadOptions) -> VerbShift:
    """Compare how many word pairs of instruction verbs the heads of both models hold."""
    base, tuned, controls = _pairs(inputs)
    return verb_shift(
        base,
        tuned,
        controls=controls,
        seed=inputs.seed,
        layers_per_group=options.layers_per_group,
        frequencies=inputs.vocabulary,
    )


def overlap(inputs: Inputs, unit: Unit, options: HeadOptions) -> PairOverlap:
    """Compare the word pairs of every head before and after."""
    base, tuned, controls = _pairs(inputs)
    return pair_overlap(base, tuned, controls=controls)


def shift_cost(probe: Probe, unit: Unit, options: HeadOptions) -> float:
    return TEST_SECONDS + SHIFT_SECONDS * _dimensions(probe, unit, options)


def shift_size(probe: Probe, unit: Unit, options: HeadOptions, kept: Kept) -> float:
    return VERB_BYTES * probe.n_layers(unit, options.layers) / options.layers_per_group


def overlap_cost(probe: Probe, unit: Unit, options: HeadOptions) -> float:
    return OVERLAP_SECONDS * _dimensions(probe, unit, options)


def _dimensions(probe: Probe, unit: Unit, options: HeadOptions) -> int:
    """Return how many dimensions of heads are compared, of both models and the controls."""
    models = len(SIDES) + probe.n_controls("heads")
    return models * probe.n_layers(unit, options.layers) * probe.sizes.n_heads * probe.sizes.d_head


# what heads write
def ov_units(plan: Plan, options: HeadOptions) -> list[Unit]:
    return [Unit(side) for side in SIDES]


def read_outputs(inputs: Inputs, unit: Unit, options: HeadOptions) -> OVReading:
    """Read which words each head writes when it reads a word, in one model."""
    return ov_reading(inputs.model, inputs.vocabulary, layers=options.layers)


def outputs_cost(probe: Probe, unit: Unit, options: HeadOptions) -> float:
    directions = 2 * probe.n_layers(unit, options.layers) * probe.sizes.n_heads * COMPONENTS  # read and written
    per_word = TOKEN_SECONDS + directions * (2 * probe.sizes.d_model / probe.rate + WORD_SECONDS)
    return probe.n_words * per_word


def outputs_size(probe: Probe, unit: Unit, options: HeadOptions, kept: Kept) -> float:
    ends = 4 * probe.n_layers(unit, options.layers) * probe.sizes.n_heads * COMPONENTS  # read and written, both poles
    return SMALL + probe.word_list + 8 * RANKS * ends


def table(found: Found, options: HeadOptions) -> Iterable[pd.DataFrame]:
    def rows(pairs: HeadWordPairs) -> pd.DataFrame:
        return pairs.table(options.table_top).astype({"key_word": str, "query_word": str})

    return of_both("heads", HeadWordPairs, rows)(found, options)


STEPS: tuple[Step[Any, Any], ...] = (
    VALIDITY,
    Step(
        name="heads",
        title="word pairs of heads",
        options=HeadOptions,
        result=HeadWordPairs,
        units=units,
        work=work,
        cost=cost,
        size=size,
        needs=frozenset({"model", "vocabulary", "vectors"}),
        keys=("top_k", "threshold_words", "threshold_std"),
        kept=kept,
    ),
    Step(
        name="verb_shift",
        title="verbs of heads",
        options=HeadOptions,
        result=VerbShift,
        units=one_unit,
        work=shift_verbs,
        cost=shift_cost,
        size=shift_size,
        reads=pair_reads,
        needs=frozenset({"vocabulary", "seed"}),
        keys=("layers_per_group",),
    ),
    Step(
        name="pair_overlap",
        title="overlap of word pairs",
        options=HeadOptions,
        result=PairOverlap,
        units=one_unit,
        work=overlap,
        cost=overlap_cost,
        reads=pair_reads,
    ),
    Step(
        name="ov_reading",
        title="output words of heads",
        options=HeadOptions,
        result=OVReading,
        units=ov_units,
        work=read_outputs,
        cost=outputs_cost,
        size=outputs_size,
        needs=frozenset({"model", "vocabulary"}),
        keys=("layers",),
    ),
)
TABLES: tuple[TableDoc[Any], ...] = (
    VALIDITY_TABLE,
    TableDoc(
        "heads",
        "a word pair of a head's dimension, the best ones of each",
        {
            "dim": "the dimension of W_Q and W_K",
            "dim_rank": "its place by falling energy",
            "energy": "sum of the squared query and key activations of all words",
            "key_word": "the word on the key's side",
            "query_word": "the word on the query's side",
            "cosine": "of the two words' vectors",
            "pairs_in_dim": "how many pairs the dimension has; all are in the array file",
        },
        of=("heads",),
        build=table,
        options=HeadOptions,
        keys=("table_top",),
    ),
    TableDoc(
        "verb_shift",
        "a verb and a group of layers",
        {
            "group": "its first and last layer",
            "verb": "the verb",
            "kind": "instruction, or control: a general verb",
            "heads_up": "heads with more pairs of the verb in the tuned model",
            "heads_down": "heads with fewer",
            "share": "heads_up / (heads_up + heads_down)",
            "base_count": "pairs of the verb in the base",
            "tuned_count": "in the tuned model",
            "sign_mean": "mean over all heads of the sign of tuned_count - base_count",
            "log_mean": "mean over all heads of the change of log(1 + count)",
        },
        of=("verb_shift",),
        build=of_one("verb_shift", VerbShift),
    ),
    TableDoc(
        "pair_overlap",
        "a head",
        {
            "jaccard": "share of all its word pairs that both models have",
            "jaccard_control_low": "limits within which one more control of any kind lies; missing with fewer than 19",
            "jaccard_control_high": "as jaccard_control_low",
            "n_base": "pairs in the base",
            "n_tuned": "in the tuned model",
            "gained": "pairs of the tuned model alone",
            "lost": "pairs of the base alone",
        },
        of=("pair_overlap",),
        build=of_one("pair_overlap", PairOverlap),
    ),
    TableDoc(
        "ov_reading",
        "a word of a component of a head's W_OV",
        {
            "side": "read or write",
            "component": "the component, by falling singular value",
            "singular_value": "of the component",
            "share": "its share of the sum of squares",
            "pole": "plus or minus end; which one is called plus is arbitrary, and the same on both sides",
            "score": "cosine of word and direction",
        },
        of=("ov_reading",),
        build=of_both("ov_reading", OVReading),
    ),
)
