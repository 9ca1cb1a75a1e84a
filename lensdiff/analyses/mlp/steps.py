"""The steps that read feed-forward layers from weights alone: concepts of both models, and how far they turned."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from lensdiff.analyses.mlp import MLPOptions
from lensdiff.analyses.mlp.coherence import DIRECTIONS, Coherence, adjusted_together, coherence
from lensdiff.analyses.mlp.components import ConceptDirections, concept_directions
from lensdiff.analyses.mlp.concepts import MLPConcepts, mlp_concepts
from lensdiff.analyses.mlp.rotation import Rotation, rotation
from lensdiff.results.manifest import Kept
from lensdiff.steps.beside import of_controls
from lensdiff.steps.found import Found
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan, layer_units
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import SMALL, Read, Step, no_units, none_kept, one_unit
from lensdiff.steps.tables import TableDoc, of_both, of_one
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE

COHERENCE_SECONDS = 2e-4  # per component or random direction, to compare its words
VECTOR_SECONDS, VECTOR_ENTRY = 5e-6, 6e-8  # to make a word's vector, beside that per entry
WORD_SECONDS = 1e-8  # per word and component, to find the best ones
TURN_SECONDS = 1e-3  # per control, layer and side, to match its components and measure their angles
TURN_ENTRY = 4.5e-8  # per number of these components, beside that


# concepts, a unit per group of layers
def units(plan: Plan, options: MLPOptions) -> list[Unit]:
    return [unit for side in SIDES for unit in layer_units(plan, side, options.layers)]


def work(inputs: Inputs, unit: Unit, options: MLPOptions) -> MLPConcepts:
    """Read the concepts of some layers of a model."""
    return mlp_concepts(
        inputs.model,
        inputs.vocabulary,
        layers=unit.layers,
        sides=options.sides,
        n_components=options.n_components,
        top_words=options.top_words,
        fold_gain=options.fold_gain,
    )


def cost(probe: Probe, unit: Unit, options: MLPOptions) -> float:
    # the principal components of that many layers, and either their words or (a control) the weights themselves
    sizes, seconds = probe.sizes, probe.decompose(probe.sizes.d_model)
    operations = 2 * sizes.d_model**2 * sizes.d_mlp
    if unit.control:
        seconds += probe.drawing(unit, sizes.d_mlp)
    else:
        words = _n_components(probe, options) * probe.n_words
        operations += 4 * words * sizes.d_model
        seconds += WORD_SECONDS * words
    return probe.n_layers(unit, options.layers) * len(options.sides) * (seconds + operations / probe.rate)


def size(probe: Probe, unit: Unit, options: MLPOptions, kept: Kept) -> float:
    parts = probe.n_layers(unit, options.layers) * len(options.sides) * _n_components(probe, options)
    return (
        SMALL + probe.word_list + parts * (4 * probe.sizes.d_model + 24 * options.top_words)
    )  # words of either pole too


def _n_components(probe: Probe, options: MLPOptions) -> int:
    return min(options.n_components, probe.sizes.d_model)


def concept_reads(plan: Plan, side: str, options: MLPOptions) -> list[Read]:
    return [Read("concepts", unit) for unit in layer_units(plan, side, options.layers)]


# whether the words of a component belong together
def coherence_units(plan: Plan, options: MLPOptions) -> list[Unit]:
    return [Unit(side) for side in SIDES]


def coherence_reads(plan: Plan, unit: Unit, options: MLPOptions) -> Iterable[Read]:
    assert unit.model is not None
    return concept_reads(plan, unit.model, options)


def cohere(inputs: Inputs, unit: Unit, options: MLPOptions) -> Coherence:
    """Measure how alike the words of each of a model's components are."""
    assert unit.model is not None
    concepts = inputs.found.of_model("concepts", MLPConcepts, unit.model)
    return coherence(inputs.model, concepts, inputs.vectors, seed=inputs.seed)


def coherence_cost(probe: Probe, unit: Unit, options: MLPOptions) -> float:
    components = probe.n_layers(unit, options.layers) * len(options.sides) * _n_components(probe, options)
    vectors = probe.n_words * (VECTOR_SECONDS + VECTOR_ENTRY * probe.sizes.d_model)  # made once, for both models
    return COHERENCE_SECONDS * (components + DIRECTIONS) + vectors / len(SIDES)


def coherence_table(found: Found, options: Any) -> Iterable[pd.DataFrame]:
    """Return both models' coherence, adjusted as one family."""
    if not all(found.has("coherence", Unit(side)) for side in SIDES):
        return
    results = adjusted_together(*(found.one("coherence", Coherence, Unit(side)) for side in SIDES))
    for side, result in zip(SIDES, results, strict=True):
        frame = result.to_df()
        frame.insert(0, "model", side)
        yield frame


# how far they turned, beside controls
def control_reads(plan: Plan, unit: Unit, options: MLPOptions) -> Iterable[Read]:
    return concept_reads(plan, "base", options)


def read_control(inputs: Inputs, unit: Unit, options: MLPOptions) -> ConceptDirections:
    """Read the components of a control model: directions alone, no words."""
    base = inputs.found.of_model("concepts", MLPConcepts, "base")
    return concept_directions(
        inputs.model,
        layers=base.layers,
        sides=base.sides,
        n_components=base.components.shape[2],
        fold_gain=options.fold_gain,
    )


def rotation_reads(plan: Plan, unit: Unit, options: MLPOptions) -> Iterable[Read]:
    own = (read for side in SIDES for read in concept_reads(plan, side, options))
    return [*own, *of_controls(plan, "mlp", "control_concepts")]


def turn(inputs: Inputs, unit: Unit, options: MLPOptions) -> Rotation:
    """Measure how far the concepts turned, beside the controls."""
    base, tuned = (inputs.found.of_model("concepts", MLPConcepts, side) for side in SIDES)
    controls = inputs.found.each("control_concepts", ConceptDirections)
    return rotation(base, tuned, ranks=options.ranks or (), controls=controls)


def rotation_cost(probe: Probe, unit: Unit, options: MLPOptions) -> float:
    entries = _n_components(probe, options) * probe.sizes.d_model
    turns = (1 + probe.n_controls("mlp")) * probe.n_layers(unit, options.layers) * len(options.sides)
    return turns * (TURN_SECONDS + TURN_ENTRY * entries)


def rotation_size(probe: Probe, unit: Unit, options: MLPOptions, kept: Kept) -> float:
    parts = probe.n_layers(unit, options.layers) * len(options.sides) * _n_components(probe, options)
    return SMALL + probe.word_list + parts * 12 * options.top_words  # those that were lost and gained, and the angles


STEPS: tuple[Step[Any, Any], ...] = (
    VALIDITY,
    Step(
        name="concepts",
        title="concepts",
        options=MLPOptions,
        result=MLPConcepts,
        units=units,
        work=work,
        cost=cost,
        size=size,
        needs=frozenset({"model", "vocabulary"}),
        keys=("sides", "n_components", "top_words", "fold_gain"),
    ),
    Step(
        name="coherence",
        title="coherence",
        options=MLPOptions,
        result=Coherence,
        units=coherence_units,
        work=cohere,
        cost=coherence_cost,
        reads=coherence_reads,
        needs=frozenset({"model", "vectors", "seed"}),
    ),
    Step(
        name="control_concepts",
        title="controls of the rotation",
        options=MLPOptions,
        result=ConceptDirections,
        units=no_units,
        work=read_control,
        cost=cost,
        reads=control_reads,
        needs=frozenset({"model"}),
        keys=("fold_gain",),
        kept=none_kept,
    ),
    Step(
        name="rotation",
        title="rotation",
        options=MLPOptions,
        result=Rotation,
        units=one_unit,
        work=turn,
        cost=rotation_cost,
        size=rotation_size,
        reads=rotation_reads,
        keys=("ranks",),
    ),
)
TABLES: tuple[TableDoc[Any], ...] = (
    VALIDITY_TABLE,
    TableDoc(
        "concepts",
        "a word of a component of a feed-forward layer",
        {"score": "cosine of word and component, signed"},
        of=("concepts",),
        build=of_both("concepts", MLPConcepts),
    ),
    TableDoc(
        "coherence",
        "a component",
        {"coherence": "mean cosine of its words' vectors", "p": "its rank among random directions"},
        of=("coherence",),
        build=coherence_table,
    ),
    TableDoc(
        "rotation",
        "a layer, side and rank of the compared subspaces",
        {
            "rank": "of the subspaces",
            "mean_angle": "mean principal angle, radians",
            "largest_angle": "the largest one",
        },
        of=("rotation",),
        build=of_one("rotation", Rotation),
    ),
    TableDoc(
        "matched_components",
        "a component of the base",
        {
            "tuned_component": "the tuned component that it is matched with",
            "angle": "between the two, radians",
            "base_variance": "its share of the variance",
            "tuned_variance": "the matched one's",
            "variance_change": "tuned - base",
            "lost": "its words that the matched one does not have",
            "gained": "words of the matched one alone",
        },
        of=("rotation",),
        build=of_one("rotation", Rotation, Rotation.matched),
    ),
)
