"""The material that the paper's authors released, read from a clone of their repository; nothing of it is shipped here.

    datasets/FinalDataset.tsv                                    prompts, reference responses, annotated spans
    datasets/AnnotatedDataset.tsv                                ratings of responses
    results/attribution_interpret/ifa_{llama,vicuna}_7b/ID.pkl   attributions, as levels 0..10 (b = 0)
    results/bilinear_interpret/bilinear_words_split.tsv*         word pairs of attention heads, one file in pieces
    results/linear_interpret/linear_words.tsv                    words of feed-forward components

Only the first is required; the rest is read when asked for. Pickles can run any code, so they are opened by an
unpickler that knows no code but this module's own: it rebuilds plain containers and numeric arrays and refuses
everything else by name.

Source: github.com/JacksonWuxs/Interpret_Instruction_Tuning_LLMs; Wu et al., NAACL 2024, doi
10.18653/v1/2024.naacl-long.130.
"""

import math
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int8
from torch import Tensor

from lensdiff.inputs.masks import token_mask
from lensdiff.inputs.prompts import PROMPT_COLUMNS, Prompt, load_prompts
from lensdiff.inputs.spans import shorten
from lensdiff.inputs.tables import (
    CONCEPT_COLUMNS,
    PAIR_COLUMNS,
    ReleasedWords,
    read_rows,
    read_words,
    split_spans,
    unescape,
)
from lensdiff.results import InputError
from lensdiff.results.paths import as_path

Model = Literal["base", "tuned"]

SETS = {"lima_author": "LIMA", "user_oriented_task": "Self-Instruct", "mtbench": "MT-Bench"}
FOLDERS: dict[Model, str] = {"base": "ifa_llama_7b", "tuned": "ifa_vicuna_7b"}
TOP_LEVEL = 10

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def set_of(prompt_id: str) -> str | None:
    """Return the set (LIMA, Self-Instruct, MT-Bench) that a released prompt id belongs to."""
    return next((name for prefix, name in SETS.items() if prompt_id.startswith(f"{prefix}_")), None)


# ---- pickles -------------------------------------------------------------------------------------------------------


class _StoredType:
    """Stands in for a numpy dtype: a checked kind and size of number, and the order of its bytes."""

    def __init__(self, code: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?([biu][1248]|f[248])", code)):
            raise InputError(f"holds an array of type {shorten(code)}, expected numbers")
        self.code, self.order = code.lstrip("<>|="), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def values(self, data: Any) -> np.ndarray:
        return np.frombuffer(data, dtype=np.dtype(self.order + self.code))


class _StoredArray:
    """Stands in for a numpy array, which it holds as `array` once its state has been read and checked."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, columns_first, data = state
        values = kind.values(data)
        if math.prod(shape) != values.size:
            raise InputError(f"holds an array of shape {shape} with {values.size} numbers")
        self.array = values.reshape(shape, order="F" if columns_first else "C")


class _Unpickler(pickle.Unpickler):
    """Knows what the released files name, as bound methods: a pickle could set the attributes of a plain function."""

    def find_class(self, module: str, name: str, /) -> Any:
        known: dict[str, Any] = {}
        if module == "numpy":
            known = {"ndarray": "numpy.ndarray", "dtype": self._type}  # the first is only ever passed to _reconstruct
        elif module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # as numpy 1 and numpy 2 call it
            known = {"_reconstruct": self._array, "scalar": self._scalar}
        if name not in known:
            raise InputError(f"asks for {module}.{name}, expected numeric arrays and plain containers only")
        return known[name]

    def _type(self, code: Any, *_: Any) -> _StoredType:
        return _StoredType(code)

    def _array(self, *_: Any) -> _StoredArray:
        return _StoredArray()

    def _scalar(self, kind: _StoredType, data: Any) -> Any:
        return kind.values(data)[0].item()


def read_pickle(path: Path) -> Any:
    """Return a pickle's plain containers, with a value that has `.array` for each numpy array; no code of it runs.

    Raises:
        InputError: the file asks for anything but numeric numpy arrays, or is no pickle.
    """
    with path.open("rb") as file:
        try:
            return _Unpickler(file).load()
        except InputError as error:
            raise InputError(f"{path} {error}") from None
        except Exception as error:  # a damaged pickle can raise anything
            raise InputError(f"{path} is not a readable pickle ({str(error) or type(error).__name__})") from None


# ---- attributions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ReleasedAttribution:
    """One released map: levels 0..10 of every prompt token for every token of the model's own response."""

    id: str
    in_tokens: tuple[str, ...]
    out_tokens: tuple[str, ...]
    levels: Int8[Tensor, "in_pos out_pos"]

    def mask(self, spans: Iterable[str]) -> tuple[Bool[Tensor, " in_pos"], int]:
        """Return which prompt tokens the spans cover, each at its first hit, and how many spans were not found.

        The pieces are joined to text as bytes (`▁` a space, `<0xHH>` a byte), which needs no tokenizer. Pieces that are
        only a word boundary, a newline, or a word boundary with a double quote do not count at a span's two ends.
        """
        pieces = [_piece_bytes(token) for token in self.in_tokens]
        text = b"".join(pieces)
        offsets = list(pairwise(accumulate((len(piece) for piece in pieces), initial=0)))
        ranges = []
        missing = 0
        for span in (span.encode() for span in spans):
            start = text.find(span)
            missing += start < 0
            ranges += [(start, start + len(span))] if start >= 0 else []
        seen = b"".join(b"  " if piece == b' "' else piece for piece in pieces)
        return token_mask(ranges, offsets, seen), missing


def _piece_bytes(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()


def _read_attribution(path: Path) -> ReleasedAttribution:
    record = read_pickle(path)
    if not isinstance(record, dict) or not {"ID", "Input", "Output", "Explain"} <= record.keys():
        raise InputError(f"{path} is no attribution, expected a dict with ID, Input, Output and Explain")
    tokens = [record["Input"], record["Output"]]
    if not all(isinstance(row, list) and all(isinstance(piece, str) for piece in row) for row in tokens):
        raise InputError(f"{path}: Input and Output must be lists of token pieces")
    levels = getattr(record["Explain"], "array", np.zeros(0))
    shape = (len(tokens[0]), len(tokens[1]))
    if shape[1] == 0:  # an empty response has no map, whatever was stored in its place
        levels = np.zeros(shape)
    if levels.shape != shape:
        raise InputError(f"{path}: Explain has the shape {levels.shape}, expected {shape} (Input, Output)")
    if not np.isin(levels, np.arange(TOP_LEVEL + 1)).all():
        raise InputError(f"{path}: Explain holds other values than the levels 0..{TOP_LEVEL}")
    return ReleasedAttribution(
        str(record["ID"]), tuple(tokens[0]), tuple(tokens[1]), torch.from_numpy(levels.astype(np.int8))
    )


# ---- the repository ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Published:
    """A clone of the authors' repository; each part is read when it is first asked for, and kept."""

    path: Path
    prompts: Mapping[str, Prompt]
    """Prompts by id, their annotated spans widened to sentences."""
    spans: Mapping[str, tuple[str, ...]]
    """Instruction spans by prompt id as they were annotated."""
    references: Mapping[str, str]
    """Reference responses by prompt id."""

    @cached_property
    def ratings(self) -> pd.DataFrame:
        """Ratings of responses: columns prompt_id, model, rating (-1: none), response; no rows without the file."""
        path = self.path / "datasets" / "AnnotatedDataset.tsv"
        rows = []
        for number, row in read_rows(path, ("File", "Model", "Response", "Rating")) if path.is_file() else ():
            try:
                rating = int(row["Rating"])
            except ValueError:
                raise InputError(f"{path}, line {number}: the rating {row['Rating']!r} is no whole number") from None
            rows.append((row["File"].removesuffix(".pkl"), row["Model"], rating, unescape(row["Response"])))
        return pd.DataFrame(rows, columns=["prompt_id", "model", "rating", "response"])

    @cached_property
    def attributions(self) -> Mapping[Model, Mapping[str, ReleasedAttribution]]:
        """Released attributions by model and prompt id, in the prompts' order; only those that are present."""
        return {model: self._read_folder(folder) for model, folder in FOLDERS.items()}

    def _read_folder(self, name: str) -> Mapping[str, ReleasedAttribution]:
        root = self.path / "results" / "attribution_interpret"
        folders = [p for p in root.iterdir() if p.name.lower() == name] if root.is_dir() else []
        files = {file.stem: file for folder in folders for file in folder.glob("*.pkl")}
        return {key: _read_attribution(files[key]) for key in self.prompts if key in files}

    def sets(self) -> tuple[str, ...]:
        """Return the names of the sets that have attributions of the tuned model."""
        present = {set_of(key) for key in self.attributions["tuned"]}
        return tuple(name for name in SETS.values() if name in present)

    def word_pairs(self) -> Iterator[ReleasedWords]:
        """Yield the released word pairs of attention heads, one line a dimension; nothing if they are not present."""
        root = self.path / "results" / "bilinear_interpret"
        whole = [p for p in [root / "bilinear_words.tsv"] if p.is_file()]
        return read_words(whole or sorted(root.glob("bilinear_words_split.tsv*")), PAIR_COLUMNS)

    def concepts(self) -> Iterator[ReleasedWords]:
        """Yield the released words of feed-forward components, one line each; nothing if they are not present."""
        return read_words(
            sorted((self.path / "results" / "linear_interpret").glob("linear_words.tsv")), CONCEPT_COLUMNS
        )


def load_published(path: str | Path) -> Published:
    """Open a clone of the authors' repository.

    Args:
        path: of the clone's folder.

    Returns:
        `Published`, its prompts, ratings, attributions and word pairs, each read when it is asked for.

    Raises:
        InputError: the folder does not hold datasets/FinalDataset.tsv, or that file is unusable. Other parts
            raise it when they are read.
    """
    path = as_path(path, "a clone of the authors' repository")
    table = path / "datasets" / "FinalDataset.tsv"
    if not table.is_file():
        raise InputError(f"{path} is no clone of the authors' repository, expected datasets/FinalDataset.tsv in it")
    prompts = {prompt.id: prompt for prompt in load_prompts(table)}
    rows = [row for _, row in read_rows(table, PROMPT_COLUMNS)]
    spans = {row["ID"]: split_spans(row["Instruct&Context"])[0] for row in rows}
    return Published(path, prompts, spans, {row["ID"]: unescape(row["Response"]) for row in rows})
