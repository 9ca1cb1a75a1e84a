"""A checkpoint as it lies in its files: which tensor is which parameter of its model, read one at a time.

What stands where is told from headers and from the model's own names, on the meta device; a tensor that has no place,
a parameter that has no tensor and a tensor of another shape are refused before any is read.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from lensdiff.models.loading.adapters import CONFIG as ADAPTER
from lensdiff.models.loading.checkpoints import old_names, own_of, unneeded
from lensdiff.models.loading.gguf_file import OpenedGGUF, open_gguf
from lensdiff.models.loading.opening import EMPTY_OPTIONS, Opened, open_checkpoint
from lensdiff.models.loading.probe import TOLERANCE
from lensdiff.models.loading.stated import SAFE
from lensdiff.models.loading.stumbles import at_the_door, few
from lensdiff.results import InputError


class Stored(ABC):
    """One checkpoint's tensors, by the names of its model's parameters.

    Attributes:
        id: what the model is called.
        config: its own, of all layers.
        tokenizer: or why it cannot be read, or None where there is none.
        generation: its settings of generation, or None.
    """

    generation: Any = None

    def __init__(
        self,
        id: str,
        config: Any,
        tokenizer: PreTrainedTokenizerBase | InputError | None,
        revision: str | None,
        notes: tuple[str, ...],
    ):
        self.id, self.config, self.tokenizer, self.revision, self.notes = id, config, tokenizer, revision, notes

    @cached_property
    def empty(self) -> Any:
        """The model without values, on the meta device."""
        with at_the_door(f"cannot load {self.id}"), torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.config, **EMPTY_OPTIONS)

    @property
    def architecture(self) -> str:
        return type(self.empty).__name__

    @cached_property
    def shapes(self) -> Mapping[str, torch.Size]:
        """The shape of every tensor that the model keeps, by its name; of one that is tied both names."""
        return {name: tensor.shape for name, tensor in self.empty.state_dict().items()}

    @property
    @abstractmethod
    def names(self) -> Mapping[str, Any]:
        """Where each of the model's tensors lies; of tied ones the one that is in the files."""

    @abstractmethod
    def read(self, name: str, rows: int | None = None) -> Tensor:
        """Return a tensor by the model's name of it, or its first rows."""

    @cached_property
    def same(self) -> Mapping[str, str]:
        """The name under which a tied tensor lies in the files, by every name of the model's."""
        tensors = self.empty.state_dict(keep_vars=True)
        here = {id(tensors[name]): name for name in self.names}
        return {name: here[id(tensor)] for name, tensor in tensors.items() if id(tensor) in here}

    @cached_property
    def n_parameters(self) -> int:
        """How many parameters there are, a tied one once."""
        own = dict(self.empty.named_parameters())
        return sum(self.shapes[name].numel() for name in {self.same[name] for name in own})


class StoredSafetensors(Stored):
    """A folder or a hub name with safetensors files, mapped into memory."""

    def __init__(self, opened: Opened):
        super().__init__(opened.id, opened.config, opened.tokenizer, opened.revision, opened.notes)
        if not opened.files or any(file.suffix != SAFE for file in opened.files):
            raise InputError(
                f"{self.id} has no {SAFE} files, expected them (or a GGUF file) where weights are streamed"
            )
        self._files, self.generation = opened.files, opened.generation

    @cached_property
    def names(self) -> Mapping[str, tuple[Path, str]]:
        """File and key by the model's name.

        Raises:
            InputError: a key has no place, a parameter has no key, or a shape is another.
        """
        model = self.empty
        own, changes, computed = {name: name for name in self.shapes}, old_names(model), unneeded(model)
        found: dict[str, tuple[Path, str]] = {}
        unknown = []
        for file in self._files:
            with at_the_door(f"cannot load {self.id}"), safe_open(file, framework="pt") as opened:
                headers = {key: torch.Size(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
            for key, shape in headers.items():
                name, fused = own_of(key, own, model.base_model_prefix, changes)
                if fused:
                    raise InputError(
                        f"{key} of {self.id} is one of several tensors that are made into one (a mixture of experts), "
                        "which cannot be streamed"
                    )
                if name is not None:
                    if shape != self.shapes[name]:
                        raise InputError(
                            f"{key} of {self.id} has the shape {tuple(shape)}, expected {tuple(self.shapes[name])}"
                        )
                    found[name] = (file, key)
                elif not computed.search(key):
                    unknown.append(key)
        if unknown:
            raise InputError(
                f"the files of {self.id} hold {few(unknown)}, for which a {self.architecture} has no place"
            )
        tensors = model.state_dict(keep_vars=True)
        there = {id(tensors[name]) for name in found}
        if lacking := [name for name, tensor in model.named_parameters() if id(tensor) not in there]:
            raise InputError(f"the files of {self.id} lack {few(lacking)}")
        return found

    def read(self, name: str, rows: int | None = None) -> Tensor:
        file, key = self.names[self.same[name]]
        with at_the_door(f"cannot load {self.id}"), safe_open(file, framework="pt") as opened:
            found = opened.get_slice(key)[:rows] if rows is not None else opened.get_tensor(key)
        if found.dtype not in TOLERANCE:
            raise InputError(
                f"{key} of {self.id} is stored as {found.dtype}: expected an unquantised checkpoint or a GGUF file"
            )
        return found


class StoredGGUF(Stored):
    """A GGUF file, mapped into memory; a tensor is dequantised when it is read."""

    def __init__(self, opened: OpenedGGUF):
        super().__init__(opened.id, opened.config, opened.tokenizer, None, opened.notes)
        self._opened = opened

    @cached_property
    def names(self) -> Mapping[str, str]:
        return {parameter: name for name, parameter in self._opened.parts.items()}

    def read(self, name: str, rows: int | None = None) -> Tensor:
        return self._opened.read(self.names[self.same[name]], rows)


def can_be_streamed(source: str | Path) -> bool:
    """Return whether a source looks like one whose weights can be streamed; a hub name does."""
    path = Path(source)
    if path.is_dir():
        return any(file.suffix == SAFE for file in path.iterdir()) and not (path / ADAPTER).is_file()
    return True


def open_stored(source: str | Path, *, revision: str | None) -> Stored:
    """Return what is in a checkpoint's files, nothing of it read but headers, config and tokenizer.

    Raises:
        InputError: there is no such checkpoint, or it cannot be streamed.
    """
    from lensdiff.models.loading.places import GGUF, place_of
    from lensdiff.models.loading.sources import is_adapter

    path = place_of(source)
    if path.suffix.lower() == GGUF:
        return StoredGGUF(open_gguf(path))
    if is_adapter(path):
        raise InputError(
            f"{path} is a LoRA adapter, which cannot be streamed: merge it into its base and save that, or load it "
            "without stream=True"
        )
    is_folder = path.is_dir()
    return StoredSafetensors(
        open_checkpoint(str(path) if is_folder else str(source), path.name if is_folder else str(source), revision)
    )
