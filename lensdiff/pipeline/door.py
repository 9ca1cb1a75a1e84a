"""What is refused before anything large is imported: a mistake in a path, a prompt, a choice of layers or a device.

Checkpoints are not opened here; how many layers one has is what its config says.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lensdiff.defaults import SIDES
from lensdiff.inputs.characters import lone_surrogate
from lensdiff.inputs.spans import shorten
from lensdiff.models.layers import chosen_indices
from lensdiff.models.loading.places import is_hub_name, place_of, stated_layers
from lensdiff.pipeline.config import PromptEntry, RunConfig
from lensdiff.pipeline.material import Material
from lensdiff.results.errors import InputError
from lensdiff.steps.options import are_layers, choosable, flag_of

RUN = "run"  # the command whose options are a config's keys
NO_RAY = "engine = \"ray\" needs the package ray: pip install 'lensdiff[ray]'"
LIGHT = ("auto", "cpu")  # devices that torch need not be asked of


def check(config: RunConfig, command: str = RUN) -> Material:
    """Read what a config names beside the models, and refuse what can be told to be unusable without them.

    Args:
        command: whose options the config's keys are; any but "run" has flags, and is told of those.

    Raises:
        InputError: a model is nowhere, or the device, a prompt, a word list, a text, a file of vectors or a choice of
            layers is unusable.
    """
    if config.engine == "ray" and find_spec("ray") is None:
        raise InputError(NO_RAY)
    material = Material(config)
    for number, entry in enumerate(config.prompt, start=1):
        _check_entry(entry, repr(entry.id or str(number)))
    _check_texts(config)
    _ = material.prompts
    _ = material.data
    if config.asks("words"):
        _ = material.vocabulary
        if config.vectors not in ("base", "glove") and not config.path(config.vectors).is_file():
            raise InputError(f"no file of word vectors at {config.path(config.vectors)}")
    if config.asks("texts"):
        _ = material.texts
    if config.device not in LIGHT:
        from lensdiff.models.loading.devices import usable_device

        usable_device(config.device)
    for side in SIDES:
        _check_place(config.source(side), config.revision(side))
    if (available := stated_layers(Path(config.source("base")))) is not None:
        check_layers(config, available, command)
    return material


def _check_place(source: str, revision: str | None) -> None:
    place_of(source)
    if is_hub_name(source):
        from lensdiff.models.loading.commits import reach  # of a folder the hub's client is not needed

        reach(source, revision)


def _check_entry(entry: PromptEntry, name: str) -> None:
    for key, text in _texts(entry.model_dump()):  # the manifest, which keeps the config, cannot hold it
        if lone_surrogate(text) is not None:
            raise InputError(
                f"the {key} of prompt {name} holds half a character ({shorten(text)}), expected whole ones"
            )
    if entry.response is not None and not entry.response.strip():
        raise InputError(f"the response of prompt {name} is an empty text: leave it out for the model's own response")


def _check_texts(config: RunConfig) -> None:
    for key, text in _texts(config.model_dump()):  # likewise
        if lone_surrogate(text) is not None:
            raise InputError(f"{key} of the config holds half a character ({shorten(text)}), expected whole ones")


def _texts(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the texts of a config with their keys, tables within tables one after the other."""
    left = [("", values)]
    while left:
        above, table = left.pop()
        inner = []
        for name, value in table.items():
            key = f"{above}{name}"
            if isinstance(value, dict):
                inner.append((f"{key}.", value))
                continue
            for place, item in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(item, str):
                    yield key, item
                elif isinstance(item, dict):
                    inner.append((f"{key}[{place}].", item))
        left += reversed(inner)


def check_layers(config: RunConfig, available: int, command: str = RUN) -> None:
    """Refuse layers that models of so many layers do not have.

    Raises:
        InputError: with the option as the user gave it.
    """
    for analysis, name, field in chosen_layers(config):
        called = f"{analysis.name}.{name}" if command == RUN else flag_of(name, field)
        chosen_indices(getattr(config.options(analysis), name), choosable(field, available), called)


def chosen_layers(config: RunConfig) -> list[tuple[Any, str, Any]]:
    """Return the options that choose layers: their analysis, name and field."""
    return [
        (analysis, name, field)
        for analysis in config.chosen
        for name, field in analysis.options.model_fields.items()
        if are_layers(field) and getattr(config.options(analysis), name) is not None
    ]
