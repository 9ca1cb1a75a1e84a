"""The base of every result: a frozen dataclass of CPU arrays and JSON values, saved as one safetensors file.

Arrays (torch tensors) become the file's tensors; every other field becomes JSON in the file's metadata. Nothing is
pickled, so a result from a stranger can be opened safely.
"""

import dataclasses
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lensdiff.results.errors import InputError
from lensdiff.results.fields import adapter, checked_fields
from lensdiff.results.joining import joined
from lensdiff.results.memory import is_lack_of_memory
from lensdiff.results.paths import as_path, first_line, unreadable
from lensdiff.results.printed import models_of, printed, sizes, widget_html
from lensdiff.results.provenance import Provenance

SCHEMA = 2
R = TypeVar("R", bound="Result")


@dataclasses.dataclass(frozen=True, eq=False)
class Result(ABC):
    """A finished analysis: arrays on the CPU, and where they come from.

    A class says of itself:
        layer_by_layer: each layer is read without the others, so that `join` makes one result of several.
        calls: what leads on from it, told where it is printed.
        row_is: what a row is about, where its arrays count rows.
        ragged: by an axis whose rows are not all of one length, the field that says where each row begins (one entry
            more than there are rows, those of one layer after those of the other).

    Attributes:
        provenance: where it comes from: models with their revisions, options, seed, controls, versions.
    """

    layer_by_layer: ClassVar[bool] = False
    ragged: ClassVar[Mapping[str, str]] = {}

    calls: ClassVar[tuple[str, ...]] = ("top()", "to_df()", "show()")
    row_is: ClassVar[str] = ""

    provenance: Provenance

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):  # dataclass would write one that prints every array and word list
            cls.__repr__ = Result.__repr__

    def __repr__(self) -> str:
        """Return what it is, of which models, its sizes, what was found, and what to call next; see `printed`."""
        prompt = getattr(self, "prompt_id", "")
        where = f", {prompt}" if prompt and isinstance(prompt, str) else ""
        title = f"{type(self).__name__} of {models_of(self.provenance)}{where}"
        lines = [f"  {line}" for line in (sizes(self), *self.told()) if line]
        return printed(title, lines, calls=self.calls, notice=self.provenance.notice)

    def _repr_html_(self) -> str | None:
        """Return the widget, for a notebook."""
        return widget_html(self)

    def told(self) -> list[str]:
        """Return in a few short lines what was found, the most important first; none where the table alone says it."""
        return []

    @abstractmethod
    def to_df(self) -> pd.DataFrame:
        """Return the tidy table, one row per observation; the columns are documented per result."""

    @abstractmethod
    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k rows a reader looks at first, best first."""

    def show(self) -> Any:
        """Return the inline view (an object that a notebook displays)."""
        from lensdiff.views import show  # the one permitted look upwards: a result knows how to be seen

        return show(self)

    @classmethod
    def join(cls: type[R], parts: Sequence[R]) -> R:  # a type variable: shape checking does not know Self
        """Return the result of all layers, given in their order results of some of them each.

        Arrays with an axis `layer`, or with a ragged one, are put end to end, and so are `layers`; everything else has
        to be the same in every part.

        Raises:
            InputError: there are no parts, the result is not read layer by layer, a layer is in two of them, or they
                differ in anything else.
        """
        return joined(cls, parts)

    def save(self, path: str | Path) -> Path:
        """Write the result to one safetensors file, through a temporary name, and return its path."""
        path = Path(path)
        arrays, values = {}, {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                arrays[f.name] = value.detach().cpu().contiguous()
            else:
                values[f.name] = adapter(type(value)).dump_python(value, mode="json")
        header = {"class": type(self).__name__, "schema": str(SCHEMA), "values": json.dumps(values)}
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        os.close(handle)
        try:
            save_file(arrays, temporary, metadata=header)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return path

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, is no result, holds a result of another class, or a field that its class
                does not have or that is of another type or shape.
        """
        path = as_path(path, "a result")
        if not path.is_file():
            raise InputError(f"no result file at {path}")
        try:
            with safe_open(path, framework="pt") as stored:
                header = stored.metadata() or {}
                arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            if is_lack_of_memory(error):
                raise
            if isinstance(error, OSError) and error.errno is not None:  # of a damaged file libraries give none
                raise unreadable(path, error) from None
            raise InputError(f"{path} is not a saved result ({first_line(error)})") from error
        if header.get("class") != cls.__name__:
            raise InputError(f"{path} holds {header.get('class', 'no result')[:40]!r}, expected {cls.__name__!r}")
        if header.get("schema") != str(SCHEMA):
            raise InputError(f"{path} has schema {header.get('schema', 'none')[:40]}, this version reads {SCHEMA}")
        try:
            return cls(**checked_fields(cls, header.get("values", ""), arrays))
        except InputError as error:
            raise InputError(f"{path} is not a saved {cls.__name__}: {error}") from error
