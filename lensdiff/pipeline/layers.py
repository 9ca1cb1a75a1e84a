"""Units that are some layers of a model, and how their results become one: long analyses are stopped between them."""

from collections.abc import Callable, Iterator, Sequence

from lensdiff.pipeline.both import R
from lensdiff.pipeline.workspace import Workspace

LAYERS_AT_ONCE = 8


def layer_groups(layers: Sequence[int] | None, n_layers: int, size: int) -> Iterator[tuple[int, ...]]:
    """Yield the layers in groups of `size`, all of the model's where none are named."""
    chosen = tuple(range(n_layers)) if layers is None else tuple(layers)
    for start in range(0, len(chosen), size):
        yield chosen[start : start + size]


def layer_units(workspace: Workspace, models: Sequence[str], layers: list[int] | None) -> list[str]:
    """Return units named model/first,...,last, for groups of layers of each model."""
    groups = list(layer_groups(layers, workspace.n_layers, LAYERS_AT_ONCE))
    return [f"{model}/{','.join(map(str, group))}" for model in models for group in groups]


def split_layers(unit: str) -> tuple[str, list[int]]:
    """Return the model and the layers of such a unit."""
    model, _, layers = unit.partition("/")
    return model, [int(layer) for layer in layers.split(",")]


def join_units(
    workspace: Workspace, name: str, units: Sequence[str], kind: type[R], join: Callable[[list[R]], R]
) -> None:
    """Save each model's results `parts/NAME/UNIT` as one, `NAME/MODEL`, and remove them; harmless if done before."""
    store = workspace.store
    for model in dict.fromkeys(split_layers(unit)[0] for unit in units):
        parts = [f"parts/{name}/{unit}" for unit in units if split_layers(unit)[0] == model]
        if all(store.has(part) for part in parts):
            store.save_result(f"{name}/{model}", join([store.load_result(part, kind) for part in parts]))
        for part in parts:
            store.remove(part)
