"""What is checked before a model is loaded, beyond what is told before anything large is imported (`door`).

A prompt of a file that no model can be given, or no result filed by, fails by itself later, and the others go on; one
that stands in the config is the config's fault, and refused here.
"""

from pathlib import Path

from lensdiff.inputs.prompts import Prompt
from lensdiff.inputs.spans import shorten
from lensdiff.models.loading.places import stated_layers
from lensdiff.models.pair import ModelPair
from lensdiff.pipeline import door
from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.material import Material
from lensdiff.pipeline.memory import n_layers
from lensdiff.results import InputError, ResultStore
from lensdiff.steps.responses import RESPONSES_STEP
from lensdiff.steps.unit import SIDES, Unit, name_of


def prepare(config: RunConfig, command: str = door.RUN) -> Material:
    """Read what a config names beside the models, and refuse what is unusable before a model is loaded.

    Args:
        command: as in `door.check`.

    Raises:
        InputError: as `door.check`, a prompt's id can name no file, or the model's library tells of fewer layers.
    """
    material = door.check(config, command)
    _check_ids(config, material)
    source = config.source("base")
    if door.chosen_layers(config) and stated_layers(Path(source)) is None:
        available = n_layers(source, config.revision("base"))  # None where only loading tells: its own step refuses
        if available is not None:
            door.check_layers(config, available, command)
    return material


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
