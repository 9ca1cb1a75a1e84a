"""What is checked before anything large is loaded: prompts, word lists, files of vectors, the device."""

from lensdiff.inputs.characters import lone_surrogate
from lensdiff.inputs.spans import shorten
from lensdiff.models.loading import usable_device
from lensdiff.pipeline.config import PromptEntry, RunConfig
from lensdiff.pipeline.material import Material
from lensdiff.results import InputError


def prepare(config: RunConfig) -> Material:
    """Read what a config names beside the models, and refuse what is unusable before anything large is loaded.

    Raises:
        InputError: the device, a prompt, a word list or a file of vectors is unusable.
    """
    check_device(config.device)
    material = Material(config)
    _ = material.prompts
    for number, entry in enumerate(config.prompt, start=1):
        _check_entry(entry, repr(entry.id or str(number)))
    _ = material.data
    if config.asks("words"):
        _ = material.vocabulary
        if config.vectors not in ("base", "glove") and not config.path(config.vectors).is_file():
            raise InputError(f"no file of word vectors at {config.path(config.vectors)}")
    return material


def _check_entry(entry: PromptEntry, name: str) -> None:
    for key, text in (("text", entry.text), ("response", entry.response)):
        if (
            text is not None and lone_surrogate(text) is not None
        ):  # the manifest, which keeps the config, cannot hold it
            raise InputError(
                f"the {key} of prompt {name} holds half a character ({shorten(text)}), expected whole ones"
            )
    if entry.response is not None and not entry.response.strip():
        raise InputError(f"the response of prompt {name} is an empty text: leave it out for the model's own response")


def check_device(name: str) -> None:
    """Refuse a device that torch does not know or this machine does not have."""
    if name != "auto":
        usable_device(name)
