"""What the JSON files of a checkpoint say of it, checked before anything is built of it.

`transformers` finds out in the middle of its work that a size is no number, negative, or beyond what the files can
hold, and says so in its own terms, if it ever comes back: a model of a billion layers is made layer by layer. Here the
keys are read first, and a wrong one is named.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lensdiff.inputs.json_lines import parsed
from lensdiff.inputs.spans import shorten
from lensdiff.results import InputError
from lensdiff.results.paths import unreadable

WIDTH = ("hidden_size", "n_embd")
# what is counted of a model, as its family calls it; all of it is at least 1
SIZES = (
    *(*WIDTH, "vocab_size", "num_hidden_layers", "n_layer", "num_attention_heads", "n_head", "num_key_value_heads"),
    *("head_dim", "intermediate_size", "max_position_embeddings", "n_positions"),
)
STORED = ("vocab_size", "num_hidden_layers", "n_layer", "intermediate_size")  # each stands for that many rows or more
PER_BYTE, ALLOWED = 8, 2**24  # numbers that a byte of a file can hold at most, and those that are no matter
INDEX, SAFE = ".index.json", ".safetensors"
# where transformers looks for weights, the first before the others; a config may name a file of its own
LOOKED_FOR = tuple(f"{name}{ending}" for name in ("model.safetensors", "pytorch_model.bin") for ending in ("", INDEX))
NAMED = "transformers_weights"
WEIGHTS = (".safetensors", ".bin", ".gguf")


def read_object(path: Path) -> dict[str, Any]:
    """Return the object of keys that a JSON file holds.

    Raises:
        InputError: it cannot be read, is no JSON or holds something else.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text that can be read ({error})") from None
    found = parsed(text, str(path))
    if not isinstance(found, dict):
        raise InputError(f"{path} holds {shorten(found)}, expected an object of keys")
    return found


def check_folder(folder: Path, *, whole: bool) -> None:
    """Refuse a checkpoint's folder whose config or index cannot be meant, before any of it is loaded.

    Args:
        whole: all of its files are there; those of a hub name come when they are asked for.

    Raises:
        InputError: a file is no JSON, a key is not of its kind, a size cannot be, or an index leads elsewhere.
    """
    config = read_object(folder / "config.json")
    place = f"config.json in {folder}"
    kind, architectures = config.get("model_type"), config.get("architectures")
    if kind is not None and not isinstance(kind, str):
        raise InputError(f"{place} has model_type={shorten(kind)}, expected a name such as 'llama'")
    if architectures is not None and not _are_texts(architectures):
        raise InputError(f"{place} has architectures={shorten(architectures)}, expected a list of names")
    if not isinstance(code := config.get("auto_map", {}), dict | None):
        raise InputError(f"{place} has auto_map={shorten(code)}, expected an object of names")
    for key in ("quantization_config", "compression_config"):
        if not isinstance(config.get(key, {}), dict | None):
            raise InputError(f"{place} has {key}={shorten(config[key])}, expected an object: is the model quantised?")
    if (folder / "generation_config.json").is_file():  # transformers goes on without one that it cannot read
        read_object(folder / "generation_config.json")
    size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in WEIGHTS) if whole else 0
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, dict)]
    for part in parts:
        check_sizes({key: part[key] for key in SIZES if part.get(key) is not None}, place, size or None)
    weight_files(folder, whole=whole)


def weight_files(folder: Path, *, whole: bool) -> list[Path]:
    """Return the files of weights that `transformers` reads in a folder; none where it finds none.

    Args:
        whole: as in `check_folder`.

    Raises:
        InputError: the config or an index names a file that is not in the folder, or the index is none.
    """
    config = read_object(folder / "config.json")
    if (named := config.get(NAMED)) is not None and not _is_inside(named):
        raise InputError(f"config.json in {folder} has {NAMED}={shorten(named)}, expected a file in the same folder")
    there = [folder / name for name in (LOOKED_FOR if named is None else [named]) if (folder / name).is_file()]
    if not there or not there[0].name.endswith(INDEX):
        return there[:1]
    return [folder / name for name in _listed(there[0], whole=whole)]


def check_sizes(
    sizes: Mapping[str, Any], place: str, n_bytes: int | None, called: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Refuse sizes of a model that are no whole numbers of at least 1, or that its files have no room for.

    Args:
        sizes: by key; a list is of layers that differ.
        place: where they stand, for errors.
        n_bytes: of the files of weights, where they are known.
        called: what a key is called at that place, where that is something else.

    Raises:
        InputError: with the key and its value.
    """
    for key, given in sizes.items():
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(
                    f"{place} has {called.get(key, key)}={shorten(given)}, expected a whole number of at least 1"
                )
    width = next((sizes[key] for key in WIDTH if key in sizes), 1)
    for key in STORED:
        value = sizes.get(key)
        if n_bytes is None or not isinstance(value, int) or not isinstance(width, int):
            continue
        if value * width > ALLOWED + PER_BYTE * n_bytes:
            name = called.get(key, key)
            raise InputError(
                f"{place} has {name}={shorten(value)} of width {shorten(width)}, expected what {n_bytes} bytes of "
                "weights can hold"
            )


def _listed(path: Path, *, whole: bool) -> list[str]:
    """Return the names of the files that an index lists, each in the index's own folder."""
    listed = read_object(path).get("weight_map")
    if not isinstance(listed, dict) or not listed or not _are_texts(list(listed.values())):
        raise InputError(f"{path} has weight_map={shorten(listed)}, expected the name of a file for every tensor")
    names = sorted(set(listed.values()))
    for name in names:
        if not _is_inside(name):
            raise InputError(f"{path} names the file {shorten(name)}, expected one in the same folder")
        if path.name.endswith(f"{SAFE}{INDEX}") and not name.endswith(SAFE):
            raise InputError(f"{path} names the file {shorten(name)}, expected one of {SAFE}")
        if whole and not (path.parent / name).is_file():
            raise InputError(f"{path} names the file {shorten(name)}, which is not there")
    return names


def _is_inside(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name and "\\" not in name


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
