"""Where a checkpoint lies, and how many layers it says that it has: known before anything large is imported."""

import json
from pathlib import Path

from lensdiff.results.errors import InputError
from lensdiff.results.paths import as_path

GGUF = ".gguf"
CONFIG, ADAPTER = "config.json", "adapter_config.json"
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # what families call their number


def is_hub_name(source: str | Path) -> bool:
    """Return whether `source` is read as a hub name, that is, neither is a path nor looks like one."""
    path, given = as_path(source, "a model"), str(source)
    looks = path.suffix.lower() == GGUF or given.startswith((".", "~")) or given.count("/") > 1
    return not (looks or path.is_absolute() or path.exists())


def place_of(source: str | Path) -> Path:
    """Return the path of a model that is given by name, which for a hub name is its name.

    Raises:
        InputError: nothing is there and it is no hub name, or it is a folder without a checkpoint or an adapter.
    """
    path = as_path(source, "a model")
    if path.suffix.lower() == GGUF:
        if not path.is_file():
            raise InputError(f"no GGUF file at {path}")
    elif path.is_dir():
        if not any((path / name).is_file() for name in (CONFIG, ADAPTER)):
            raise InputError(f"folder {path} has no {CONFIG}, so it is no checkpoint (nor has it an {ADAPTER})")
    elif not is_hub_name(source):
        raise InputError(f"no model folder at {source}")
    return path


def stated_layers(folder: Path) -> int | None:
    """Return how many layers the config of a checkpoint's folder says that it has, None where it does not say."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):  # loading says what is wrong with it
        return None
    parts = [
        part for part in (config, isinstance(config, dict) and config.get("text_config")) if isinstance(part, dict)
    ]
    stated = {part[key] for part in parts for key in LAYERS if type(part.get(key)) is int}
    return stated.pop() if len(stated) == 1 and min(stated) > 0 else None
