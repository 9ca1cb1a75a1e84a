"""Where what a control costs is kept between runs: a safetensors file a digest, in a folder of the user's cache.

A file is written beside its place and moved there whole. It is believed only if it says for which digest it is, and its
tensors have the hash that it says; one that does not is as good as none, and is made again.
"""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lensdiff.inputs.cache_folder import cache_folder
from lensdiff.results.memory import is_lack_of_memory

SCHEMA = 1  # of what is kept and how it is made
Tensors = Mapping[str, Tensor]


def user_folder() -> Path:
    """Return the folder of the user's cache that controls are kept in."""
    return cache_folder() / "controls"


def digest_of(facts: Mapping[str, Any]) -> str:
    """Return a digest of what decides a control's numbers, JSON types all."""
    text = json.dumps({"schema": SCHEMA, **facts}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class OnDisk(Mapping[str, Tensor]):
    """The tensors of a file, each read when it is asked for."""

    def __init__(self, path: Path):
        self._path = path
        with safe_open(path, framework="pt") as file:
            self._names = list(file.keys())
            self.said: dict[str, str] = file.metadata() or {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self._path, framework="pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def load(folder: Path, digest: str) -> OnDisk | None:
    """Return what is kept for a digest, or None where there is nothing that can be believed."""
    try:
        found = OnDisk(_path(folder, digest))
        right = found.said.get("digest") == digest and found.said.get("hash") == _hash(found, found.said)
    except (OSError, SafetensorError) as error:
        if is_lack_of_memory(error):
            raise
        return None
    return found if right else None


def save(folder: Path, digest: str, tensors: Tensors, said: Mapping[str, str]) -> None:
    """Keep tensors for a digest, with texts; where the folder cannot be written, a warning says so."""
    held = {name: tensor.contiguous() for name, tensor in tensors.items()}
    said = {**said, "digest": digest, "hash": _hash(held, said)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=folder, prefix=digest, suffix=".part")
        os.close(handle)
        try:
            save_file(held, beside, metadata=said)
            os.replace(beside, _path(folder, digest))
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
    except (OSError, SafetensorError) as error:
        logging.getLogger(__name__).warning("a control cannot be kept in %s, and is made again: %s", folder, error)


def _path(folder: Path, digest: str) -> Path:
    return folder / f"{digest}.safetensors"


def _hash(tensors: Tensors, said: Mapping[str, str]) -> str:
    found = hashlib.blake2b(digest_size=16)
    found.update(repr(sorted(item for item in said.items() if item[0] not in ("digest", "hash"))).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
