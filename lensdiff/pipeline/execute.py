"""From a config to every analysis and a results directory.

A run is a list of steps (`STEPS`), each of units that are recorded once they are on disk: stopped at any point, the
next run repeats at most the unit it was in. Two runs on one directory at once: the second refuses.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch

from lensdiff.inputs.characters import lone_surrogate
from lensdiff.inputs.spans import shorten
from lensdiff.pipeline.attention_steps import STEPS as ATTENTION_STEPS
from lensdiff.pipeline.attribution_steps import STEPS as ATTRIBUTION_STEPS
from lensdiff.pipeline.both import SIDES
from lensdiff.pipeline.claims import claims_of
from lensdiff.pipeline.concept_steps import STEPS as CONCEPT_STEPS
from lensdiff.pipeline.config import Analysis, PromptEntry, RunConfig
from lensdiff.pipeline.control_steps import CONTROL_ANALYSES
from lensdiff.pipeline.control_steps import STEPS as CONTROL_STEPS
from lensdiff.pipeline.estimate import announce, choose_keep, memory_of
from lensdiff.pipeline.head_steps import STEPS as HEAD_STEPS
from lensdiff.pipeline.instruction_use_steps import STEPS as INSTRUCTION_USE_STEPS
from lensdiff.pipeline.listener import Listener, Silent
from lensdiff.pipeline.output_steps import STEPS as OUTPUT_STEPS
from lensdiff.pipeline.step import ALWAYS, Step, run_step
from lensdiff.pipeline.tables import write_description
from lensdiff.pipeline.threads import threads_for
from lensdiff.pipeline.toml import check_config, load_config
from lensdiff.pipeline.weight_steps import STEPS as WEIGHT_STEPS
from lensdiff.pipeline.workspace import Workspace, prompts_of, tuning_data_of, vocabulary_of
from lensdiff.results import InputError, ResultStore

STEPS: tuple[Step, ...] = (
    *WEIGHT_STEPS,
    *ATTRIBUTION_STEPS,
    *OUTPUT_STEPS,
    *ATTENTION_STEPS,
    *INSTRUCTION_USE_STEPS,
    *CONTROL_STEPS,
    *HEAD_STEPS,
    *CONCEPT_STEPS,
)
OF_CONTROLS: tuple[Analysis, ...] = ("instruction_use", "attribution", "attention")
MODEL_FILES = (".safetensors", ".bin", ".gguf", ".json", ".model", ".txt")
SAMPLE = 2**20  # bytes at the beginning, middle and end of a large file by which it is known again


def execute(
    config: RunConfig | dict[str, Any] | str | Path,
    *,
    listener: Listener | None = None,
    command: str = "run",
    estimate: bool = True,
) -> ResultStore:
    """Do every chosen analysis that the results directory does not have yet, and return the directory's store.

    Args:
        config: a config, a mapping with its keys, or the path of a TOML file.
        listener: is told what happens; by default nobody.
        command: what asks for the run. A command other than "run" replaces its own earlier results if it is now given
            another config; a run refuses that.
        estimate: tell the listener before the work how long it will take; that itself takes a few seconds.

    Raises:
        InputError: the config or an input is unusable, the directory holds the results of another config, or another
            run is writing to it.
        OSError: something could not be written (a full disk); run again to go on.
    """
    config = read_config(config)
    listener = listener or Silent()
    prepare(config)
    store = ResultStore(config.path(config.out))
    identity = identify(config) | {"command": command}
    replace = command != "run" and store.manifest.config.get("command") == command
    memory = memory_of(config)
    with store.writing(identity, free=free_keys(store, identity), replace=replace), threads_for(memory.parameters):
        begun = store.manifest.pair.get("keep")
        keep = begun if begun and config.keep == "auto" else choose_keep(config, memory, listener)  # as it began
        workspace = Workspace(config, store, listener, keep)
        steps = [step for step in STEPS if config.chosen(*step.analyses)]
        if estimate:
            announce(workspace, steps)
        try:
            for step in steps:
                run_step(step, workspace)
        finally:
            workspace.free()
        found = claims_of(store)
        store.save_result("claims", found)
        store.save_table("claims", found.to_df())
        store.save_table("claim_controls", found.controls())
        write_description(store)
    return store


def read_config(given: RunConfig | dict[str, Any] | str | Path) -> RunConfig:
    """Return a config given as such, as a mapping or as a file."""
    if isinstance(given, RunConfig):
        return given
    if isinstance(given, dict):
        return check_config(given)
    return load_config(given)


def prepare(config: RunConfig) -> None:
    """Refuse unusable inputs before anything large is loaded.

    Raises:
        InputError: a prompt, a word list or a file of vectors is unusable.
    """
    check_device(config.device)
    if config.prompts or config.prompt:
        prompts_of(config)
    for number, entry in enumerate(config.prompt, start=1):
        _check_entry(entry, repr(entry.id or str(number)))
    tuning_data_of(config)
    if config.chosen("heads", "mlp"):
        vocabulary_of(config)
        if config.vectors not in ("base", "glove") and not config.path(config.vectors).is_file():
            raise InputError(f"no file of word vectors at {config.path(config.vectors)}")


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
    if name == "auto":
        return
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not there ({str(error).splitlines()[0]})") from None


def identify(config: RunConfig) -> dict[str, Any]:
    """Return what a results directory is known by: the config, and fingerprints of the files it names."""
    found = config.model_dump(mode="json", exclude={"out", "keep"})
    found[CONTROL_ANALYSES] = [name for name in OF_CONTROLS if config.chosen(name)]
    files = {
        name: config.path(given) for name in ("prompts", "vocabulary", "vectors") if (given := getattr(config, name))
    }
    files |= {side: Path(config.source(side)) for side in SIDES}
    if config.controls.data is not None:
        files["controls.data"] = config.path(config.controls.data)
    return found | {f"{name} file": fingerprint(path) for name, path in files.items()}


def free_keys(store: ResultStore, identity: dict[str, Any]) -> tuple[str, ...]:
    """Return the keys of a config that no finished unit depends on: those may change between runs."""
    bound: set[str] = set()
    for step in STEPS:
        if store.step(step.name).done:
            bound |= {*"command", *ALWAYS, *step.keys}
    known = {*identity, *store.manifest.config} - {"controls"} | {f"controls.{key}" for key in identity["controls"]}
    return tuple(key for key in known if key.removesuffix(" file") not in bound)


def fingerprint(path: Path) -> str | None:
    """Return a hash of a file, or of a folder's files, by which it is known again; None where there is none.

    Of a file above 3 MB its size and three parts of it count.
    """
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.is_file() and item.suffix.lower() in MODEL_FILES)
    elif path.is_file():
        files = [path]
    else:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name if path.is_dir() else ''}\0{size}\0".encode())
        with file.open("rb") as opened:
            for start in (0, size // 2, size - SAMPLE) if size > 3 * SAMPLE else (0,):
                opened.seek(start)
                digest.update(opened.read(SAMPLE if size > 3 * SAMPLE else -1))
    return digest.hexdigest()
