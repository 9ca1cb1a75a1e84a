"""What is checked before anything large is loaded: prompts, word lists, texts, files of vectors, layers, the device.

A prompt of a file that no model can be given, or no result filed by, fails by itself later, and the others go on; one
that stands in the config is the config's fault, and refused here.
"""

from collections.abc import Iterator
from typing import Any

from lensdiff.inputs.characters import lone_surrogate
from lensdiff.inputs.prompts import Prompt
from lensdiff.inputs.spans import shorten
from lensdiff.models.layers import chosen_indices
from lensdiff.models.loading import usable_device
from lensdiff.models.pair import ModelPair
from lensdiff.pipeline.config import PromptEntry, RunConfig
from lensdiff.pipeline.estimate import n_layers
from lensdiff.pipeline.material import Material
from lensdiff.results import InputError, ResultStore
from lensdiff.steps.options import are_layers, choosable
from lensdiff.steps.responses import RESPONSES_STEP
from lensdiff.steps.unit import SIDES, Unit, name_of


def prepare(config: RunConfig) -> Material:
    """Read what a config names beside the models, and refuse what is unusable before anything large is loaded.

    Raises:
        InputError: the device, a prompt, a word list, a text, a file of vectors or a choice of layers is unusable.
    """
    check_device(config.device)
    material = Material(config)
    for number, entry in enumerate(config.prompt, start=1):
        _check_entry(entry, repr(entry.id or str(number)))
    _check_texts(config)
    _check_ids(config, material)
    _check_layers(config)
    _ = material.data
    if config.asks("words"):
        _ = material.vocabulary
        if config.vectors not in ("base", "glove") and not config.path(config.vectors).is_file():
            raise InputError(f"no file of word vectors at {config.path(config.vectors)}")
    if config.asks("texts"):
        _ = material.texts
    return material


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


def _check_ids(config: RunConfig, material: Material) -> None:
    """Refuse an id that no file can be named by; of a file's prompts, if there is no other one."""
    faults = {prompt.id: error for prompt in material.prompts.values() if (error := _unnameable(prompt))}
    if faults and (config.prompt or len(faults) == len(material.prompts)):
        name, error = next(iter(faults.items()))
        raise InputError(f"no result can be kept by the id {shorten(name)} of a prompt: {error}")


def _unnameable(prompt: Prompt) -> InputError | None:
    try:
        ResultStore(".").check_name(name_of(RESPONSES_STEP, Unit(SIDES[1], prompt.id)))
    except InputError as error:
        return error
    return None


def _check_layers(config: RunConfig) -> None:
    """Refuse layers that the models do not have; where that is not known yet, their own step does."""
    chosen = [
        (analysis.name, name, layers, field)
        for analysis in config.chosen
        for name, field in analysis.options.model_fields.items()
        if are_layers(field) and (layers := getattr(config.options(analysis), name)) is not None
    ]
    available = n_layers(config.source("base"), config.revision("base")) if chosen else None
    if available is None:
        return
    for analysis, name, layers, field in chosen:
        try:
            chosen_indices(layers, choosable(field, available), name)
        except InputError as error:
            raise InputError(f"{analysis}.{error}") from None


def check_tokenizers(config: RunConfig, pair: ModelPair) -> None:
    """Refuse a pair of which a model has no tokenizer, where something that is asked for reads text.

    Raises:
        InputError: with the names of the analyses.
    """
    reading = list(dict.fromkeys([*config.asks("prompts"), *config.asks("words"), *config.asks("texts")]))
    without = [name for name, digest in zip(pair.ids, pair.digests, strict=True) if not digest]
    if reading and without:
        raise InputError(
            f"no tokenizer of {' and '.join(without)} was found, and what is asked for reads text "
            f"({', '.join(reading)}): put its files into the checkpoint's folder, or leave that out"
        )


def check_device(name: str) -> None:
    """Refuse a device that torch does not know or this machine does not have."""
    if name != "auto":
        usable_device(name)
