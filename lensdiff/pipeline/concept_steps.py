"""The steps that read feed-forward layers from weights alone: concepts of both models, and how far they turned."""

from lensdiff.analyses.mlp.coherence import Coherence, adjusted_together, coherence
from lensdiff.analyses.mlp.components import ConceptDirections, concept_directions
from lensdiff.analyses.mlp.concepts import MLPConcepts, mlp_concepts
from lensdiff.analyses.mlp.rotation import rotation
from lensdiff.analyses.value_rotation.measure import ControlRotation, ValueRotation, control_rotation, value_rotation
from lensdiff.pipeline.both import SIDES, save_of_both
from lensdiff.pipeline.layers import join_units, layer_units, split_layers
from lensdiff.pipeline.step import NotPossible, Step
from lensdiff.pipeline.units import CONTROLLED, one_unit
from lensdiff.pipeline.workspace import Workspace
from lensdiff.results import InputError

CONCEPT_KEYS = ("mlp", "vocabulary")
COHERENCE_KEYS = (*CONCEPT_KEYS, "vectors", "seed")
TURN_KEYS = (*CONCEPT_KEYS, *CONTROLLED, "controls.rotation")
SHARE_KEYS = ("mlp", *CONTROLLED, "controls.rotation")


def _units(workspace: Workspace) -> list[str]:
    return layer_units(workspace, list(SIDES), workspace.config.mlp.layers)


def concepts_unit(workspace: Workspace, unit: str) -> None:
    """Read the concepts of some layers of a model."""
    model, layers = split_layers(unit)
    options = workspace.config.mlp
    found = mlp_concepts(
        workspace.model(model),
        workspace.vocabulary,
        layers=layers,
        sides=options.sides,
        n_components=options.n_components,
        top_words=options.top_words,
        fold_gain=options.fold_gain,
    )
    workspace.store.save_result(f"parts/concepts/{unit}", found)


def _join(workspace: Workspace) -> None:
    join_units(workspace, "concepts", _units(workspace), MLPConcepts, MLPConcepts.join)
    save_of_both(workspace.store, "concepts", MLPConcepts)


def cohere(workspace: Workspace, unit: str) -> None:
    """Measure how alike the words of each of a model's components are."""
    concepts = workspace.store.load_result(f"concepts/{unit}", MLPConcepts)
    found = coherence(workspace.model(unit), concepts, workspace.vectors, seed=workspace.config.seed)
    workspace.store.save_result(f"coherence/{unit}", found)


def _coherence_table(workspace: Workspace) -> None:
    store = workspace.store
    found = adjusted_together(*(store.load_result(f"coherence/{side}", Coherence) for side in SIDES))
    frames = [result.to_df() for result in found]
    for side, frame in zip(SIDES, frames, strict=True):
        frame.insert(0, "model", side)
    store.save_table("coherence", iter(frames))


def _control_units(workspace: Workspace) -> list[str]:
    return workspace.controls("rotation")


def control_unit(workspace: Workspace, unit: str) -> None:
    """Read the components of a control model: directions alone, no words."""
    base = workspace.store.load_result("concepts/base", MLPConcepts)
    found = concept_directions(
        workspace.model(unit),
        layers=base.layers,
        sides=base.sides,
        n_components=base.components.shape[2],
        fold_gain=workspace.config.mlp.fold_gain,
    )
    workspace.store.save_result(f"parts/rotation/{unit}", found)


def turn_concepts(workspace: Workspace, unit: str) -> None:
    """Measure how far the concepts turned, beside the controls."""
    base, tuned = (workspace.store.load_result(f"concepts/{side}", MLPConcepts) for side in SIDES)
    names = [f"parts/rotation/{name}" for name in workspace.controls("rotation")]
    found = rotation(base, tuned, ranks=workspace.config.mlp.ranks, controls=workspace.stored(names, ConceptDirections))
    workspace.store.save_result("rotation", found)
    workspace.store.save_table("rotation", found.to_df())
    workspace.store.save_table("matched_components", found.matched())


def _drop_controls(workspace: Workspace) -> None:
    """Remove the controls' components: what they were for is done."""
    for name in workspace.store.names("parts/rotation/"):
        workspace.store.remove(name)


def _share_units(workspace: Workspace) -> list[str]:
    return ["pair", *workspace.controls("rotation")]


def share_unit(workspace: Workspace, unit: str) -> None:
    """Measure how much of the change of the values is a rotation, of the pair or of a control."""
    layers = workspace.config.mlp.layers
    if unit != "pair":
        found = control_rotation(workspace.pair.base, workspace.model(unit), layers=layers)
        workspace.store.save_result(f"parts/value_rotation/{unit}", found)
        return
    if workspace.keep == "one":
        raise NotPossible("values are compared with both models in memory, and one at a time is held")
    try:
        alone = value_rotation(workspace.pair, layers=layers)
    except InputError as error:  # a mixture of experts, or weights that cannot be compared
        raise NotPossible(str(error)) from None
    workspace.store.save_result("parts/value_rotation/pair", alone)


def _join_shares(workspace: Workspace) -> None:
    store, names = workspace.store, [f"parts/value_rotation/{name}" for name in workspace.controls("rotation")]
    if not store.has("parts/value_rotation/pair"):  # joined before
        for name in store.names("parts/value_rotation/"):
            store.remove(name)
        return
    alone = store.load_result("parts/value_rotation/pair", ValueRotation)
    found = alone.with_controls(workspace.stored(names, ControlRotation))
    store.save_result("value_rotation", found)
    store.save_table("value_rotation", found.to_df())
    store.save_table("value_rotation_controls", found.controls())
    for name in ["parts/value_rotation/pair", *names]:
        store.remove(name)


STEPS = (
    Step("concepts", "concepts", ("mlp",), _units, concepts_unit, _join, CONCEPT_KEYS),
    Step("coherence", "coherence", ("mlp",), lambda w: list(SIDES), cohere, _coherence_table, COHERENCE_KEYS),
    Step("rotation_controls", "controls of the rotation", ("mlp",), _control_units, control_unit, keys=TURN_KEYS),
    Step("rotation", "rotation", ("mlp",), one_unit, turn_concepts, _drop_controls, TURN_KEYS),
    Step("value_rotation", "rotation of values", ("mlp",), _share_units, share_unit, _join_shares, SHARE_KEYS),
)
