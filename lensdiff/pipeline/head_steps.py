"""The steps that read heads from weights alone: word pairs of both models and of controls, and what changed in them."""

from collections.abc import Iterator

import pandas as pd

from lensdiff.analyses.heads import HeadWordPairs, head_word_pairs
from lensdiff.pipeline.joining import join_pairs
from lensdiff.pipeline.step import Step
from lensdiff.pipeline.workspace import SIDES, Workspace, layer_groups

HEAD_KEYS = ("heads", "vocabulary", "vectors")
LAYERS_AT_ONCE = 8


def _models(workspace: Workspace) -> list[str]:
    return [*SIDES, *workspace.controls("heads")]


def layer_units(workspace: Workspace, models: list[str], layers: list[int] | None) -> list[str]:
    """Return units named model/first-last, for groups of layers of each model."""
    groups = list(layer_groups(layers, workspace.n_layers, LAYERS_AT_ONCE))
    return [f"{model}/{','.join(map(str, group))}" for model in models for group in groups]


def split_layers(unit: str) -> tuple[str, list[int]]:
    """Return the model and the layers of such a unit."""
    model, _, layers = unit.partition("/")
    return model, [int(layer) for layer in layers.split(",")]


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
    store = workspace.store
    units = _units(workspace)
    for model in _models(workspace):
        names = [f"parts/heads/{unit}" for unit in units if unit.startswith(f"{model}/")]
        if all(store.has(name) for name in names):  # not if this was done before
            store.save_result(f"heads/{model}", join_pairs([store.load_result(n, HeadWordPairs) for n in names]))
        for name in names:
            store.remove(name)

    def parts() -> Iterator[pd.DataFrame]:
        for side in SIDES:
            frame = store.load_result(f"heads/{side}", HeadWordPairs).table(workspace.config.heads.table_top)
            frame.insert(0, "model", side)
            yield frame.astype({"key_word": str, "query_word": str})

    store.save_table("heads", parts())


STEPS = (Step("heads", "word pairs of heads", ("heads",), _units, pairs_unit, _join, (*HEAD_KEYS, "controls", "seed")),)
