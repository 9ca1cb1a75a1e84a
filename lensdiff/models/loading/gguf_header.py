"""The header of a GGUF file, read once for its counts alone: none may be larger than what is left of the file.

The `gguf` package believes them: past the end of a file an array of numbers that are not there grows for as long as
there is memory. Here nothing is made of the header, and every count is held against the bytes that it stands for.
"""

import math
import struct
from pathlib import Path
from typing import BinaryIO

from lensdiff.results import InputError

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a number, by its type
KEY, TENSOR, LENGTH = 8 + 4 + 1, 8 + 4 + 4 + 8, 8  # bytes of the shortest key with its value, tensor's entry, string
DEEPEST = 4  # arrays within arrays
MOST_AXES = 8
MOST_PER_BYTE = 8  # weights that a byte of data can hold: one bit each


def check_header(path: Path) -> None:
    """Refuse a GGUF file whose header speaks of more than the file holds, before any of it is read.

    Raises:
        InputError: with what it speaks of, and how many bytes are left for that.
    """
    with path.open("rb") as file:
        try:
            _Header(file, path.stat().st_size).check()
        except (ValueError, struct.error) as error:
            raise InputError(f"{path} cannot be read as a GGUF file: {error}") from None


class _Header:
    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size, self._order = file, size, "<"

    def check(self) -> None:
        if self._file.read(len(MAGIC)) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self._file.read(4)
        if version[:2] == b"\0\0":  # written on a machine of the other order
            self._order = ">"
        n_tensors, n_keys = self._number("Q"), self._number("Q")
        self._room(n_keys, KEY, "keys")
        for _ in range(n_keys):
            self._text("a key")
            self._value(self._number("I"), 0)
        self._room(n_tensors, TENSOR, "tensors")
        for _ in range(n_tensors):
            self._tensor()

    def _value(self, kind: int, depth: int) -> None:
        if kind == STRING:
            self._text("a text")
        elif kind in SIZES:
            self._skip(1, SIZES[kind], "a value")
        elif kind != ARRAY:
            raise ValueError(f"a value of the unknown type {kind}")
        elif depth == DEEPEST:
            raise ValueError(f"more than {DEEPEST} arrays within one another")
        else:
            inner, count = self._number("I"), self._number("Q")
            if inner in SIZES:
                self._skip(count, SIZES[inner], "an array")
                return
            self._room(count, LENGTH if inner == STRING else 4 + LENGTH, "an array")
            for _ in range(count):
                self._value(inner, depth + 1)

    def _tensor(self) -> None:
        self._text("a tensor's name")
        n_axes = self._number("I")
        if n_axes > MOST_AXES:
            raise ValueError(f"a tensor of {n_axes} axes, expected at most {MOST_AXES}")
        shape = [self._number("Q") for _ in range(n_axes)]
        self._number("I")
        start = self._number("Q")
        if math.prod(shape) > MOST_PER_BYTE * self._size or start > self._size:
            raise ValueError(
                f"a tensor of {' x '.join(map(str, shape))} at byte {start}, in {self._size} bytes of file"
            )

    def _text(self, what: str) -> None:
        self._skip(self._number("Q"), 1, what)

    def _skip(self, count: int, size: int, what: str) -> None:
        self._room(count, size, what)
        self._file.seek(count * size, 1)

    def _room(self, count: int, size: int, what: str) -> None:
        left = self._size - self._file.tell()
        if count * size > left:
            raise ValueError(f"{what} of {count} entries, with {left} bytes of the file left")

    def _number(self, kind: str) -> int:
        size = struct.calcsize(kind)
        self._room(1, size, "a count")
        return int(struct.unpack(self._order + kind, self._file.read(size))[0])
