"""The steps that read heads from weights alone: word pairs of both models and of controls, and what changed in them."""

import pandas as pd

from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs, head_word_pairs
from lensdiff.analyses.heads.ov_reading import OVReading, ov_reading
from lensdiff.analyses.heads.pair_overlap import pair_overlap
from lensdiff.analyses.heads.verb_shift import verb_shift
from lensdiff.pipeline.both import SIDES, save_of_both
from lensdiff.pipeline.layers import join_units, layer_units, split_layers
from lensdiff.pipeline.step import Step
from lensdiff.pipeline.units import CONTROLLED, one_unit
from lensdiff.pipeline.workspace import Stored, Workspace

HEAD_KEYS = ("heads", "vocabulary", "vectors")


def _models(workspace: Workspace) -> list[str]:
    return [*SIDES, *workspace.controls("heads")]


def _units(workspace: Workspace) -> list[str]:
    return layer_units(workspace, _models(workspace), workspace.config.heads.layers)


def pairs_unit(workspace: Workspace, unit: str) -> None:
    """Read the word pairs of some layers of a model."""
    model, layers = split_layers(unit)
    options = workspace.config.heads
    found = head_word_pairs(
        workspace.model(model),
        workspace.vocabulary,
        workspace.vectors,
        layers=layers,
        top_k=options.top_k,
        threshold_words=options.threshold_words,
        threshold_std=options.threshold_std,
    )
    workspace.store.save_result(f"parts/heads/{unit}", found)


def _join(workspace: Workspace) -> None:
    def table(pairs: HeadWordPairs) -> pd.DataFrame:
        return pairs.table(workspace.config.heads.table_top).astype({"key_word": str, "query_word": str})

    join_units(workspace, "heads", _units(workspace), HeadWordPairs, HeadWordPairs.join)
    save_of_both(workspace.store, "heads", HeadWordPairs, table)


def _pairs_of(workspace: Workspace) -> tuple[HeadWordPairs, HeadWordPairs, Stored[HeadWordPairs]]:
    base, tuned = (workspace.store.load_result(f"heads/{side}", HeadWordPairs) for side in SIDES)
    return base, tuned, workspace.stored([f"heads/{name}" for name in workspace.controls("heads")], HeadWordPairs)


def shift_verbs(workspace: Workspace, unit: str) -> None:
    """Compare how many word pairs of instruction verbs the heads of both models hold."""
    base, tuned, controls = _pairs_of(workspace)
    config = workspace.config
    options = {"layers_per_group": config.heads.layers_per_group, "frequencies": workspace.vocabulary}
    found = verb_shift(base, tuned, controls=controls, seed=config.seed, **options)
    workspace.store.save_result("verb_shift", found)
    workspace.store.save_table("verb_shift", found.to_df())


def overlap_pairs(workspace: Workspace, unit: str) -> None:
    """Compare the word pairs of every head before and after."""
    base, tuned, controls = _pairs_of(workspace)
    found = pair_overlap(base, tuned, controls=controls)
    workspace.store.save_result("pair_overlap", found)
    workspace.store.save_table("pair_overlap", found.to_df())


def _drop_controls(workspace: Workspace) -> None:
    """Remove the controls' word pairs: they are large, and what they were for is done."""
    for name in workspace.controls("heads"):
        workspace.store.remove(f"heads/{name}")


def read_outputs(workspace: Workspace, unit: str) -> None:
    """Read which words each head writes when it reads a word, in one model."""
    found = ov_reading(workspace.model(unit), workspace.vocabulary, layers=workspace.config.heads.layers)
    workspace.store.save_result(f"ov_reading/{unit}", found)


def _ov_table(workspace: Workspace) -> None:
    save_of_both(workspace.store, "ov_reading", OVReading)


PAIR_KEYS = (*HEAD_KEYS, *CONTROLLED, "controls.heads")
STEPS = (
    Step("heads", "word pairs of heads", ("heads",), _units, pairs_unit, _join, PAIR_KEYS),
    Step("verb_shift", "verbs of heads", ("heads",), one_unit, shift_verbs, keys=PAIR_KEYS),
    Step("pair_overlap", "overlap of word pairs", ("heads",), one_unit, overlap_pairs, _drop_controls, PAIR_KEYS),
    Step("ov_reading", "output words of heads", ("heads",), lambda w: list(SIDES), read_outputs, _ov_table, HEAD_KEYS),
)
