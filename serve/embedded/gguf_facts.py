"""What a GGUF file says about itself: its keys, its tensors, and the numbers that follow from them.

A reader of its own, because the package `gguf` takes 2.5 s for a vocabulary of 49,000 words (it
makes an array of every one) and this takes some tens of milliseconds; the tests compare the two.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.embedded.gguf_names import FILE_TYPES, TENSOR_TYPES

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY, _FLOAT32, _BOOL = 8, 9, 6, 7
_SCALARS: Mapping[int, struct.Struct] = {
    number: struct.Struct("<" + code)
    for number, code in {
        0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
    }.items()
}  # fmt: skip
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_BILLION, _MILLION, _THOUSAND = 10**9, 10**6, 10**3


@dataclass(frozen=True, slots=True)
class Facts:
    """The keys of a GGUF file (arrays as None unless asked for) and its tensors in file order."""

    keys: Mapping[str, Any]
    tensors: tuple[tuple[str, tuple[int, ...], str], ...]

    @property
    def architecture(self) -> str:
        """`llama`, `bert`, …"""
        return str(self.keys.get("general.architecture", "unknown"))

    def number(self, name: str) -> int:
        """The architecture's own key `name`, or 0: absent, or one value a layer."""
        value = self.keys.get(f"{self.architecture}.{name}")
        return int(value) if isinstance(value, int | float) else 0

    @property
    def parameter_count(self) -> int:
        """Weights in all tensors together."""
        total = 0
        for _, shape, _ in self.tensors:
            size = 1
            for dimension in shape:
                size *= dimension
            total += size
        return total

    @property
    def file_type(self) -> str:
        """The quantization's name, as `Q4_1`; `unknown` for one that has none here."""
        return FILE_TYPES.get(self.keys.get("general.file_type", -1), "unknown")


def read(path: Path, *, arrays: bool = False) -> Facts:
    """The facts of the file at `path`; with `arrays`, those of its keys too.

    Raises `ValueError` if it isn't a GGUF file that llama.cpp would read, `OSError` if it can't be
    opened.
    """
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise ValueError("not a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data, arrays=arrays).facts()
            except struct.error:
                raise ValueError("a GGUF file that ends too early") from None


def human_count(number: int) -> str:
    """134515008 → `134.52M`, as Ollama prints parameter counts."""
    if number >= _BILLION:
        return _scaled(number / _BILLION, 1) + "B"
    if number >= _MILLION:
        return _scaled(number / _MILLION, 2) + "M"
    return f"{number / _THOUSAND:.0f}K" if number >= _THOUSAND else str(number)


def shortest(value: float) -> float:
    """The double whose shortest decimals are those of the float32 `value`: 0.1, not 0.100000001."""
    if not math.isfinite(value):
        return value
    value = float32(value)
    for digits in range(6, 10):
        candidate = float(f"{value:.{digits}g}")
        if float32(candidate) == value:
            return candidate
    return value


def float32(value: float) -> float:
    """The nearest number that a float32 can hold."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("nan")


def _scaled(number: float, decimals: int) -> str:
    return f"{number:.0f}" if number == int(number) else f"{number:.{decimals}f}"


class _Reader:
    """One pass over the head of a file."""

    def __init__(self, data: mmap.mmap, *, arrays: bool) -> None:
        self._data = data
        self._arrays = arrays
        self._at = len(_MAGIC)

    def facts(self) -> Facts:
        version = self._take(_U32)
        if version not in _VERSIONS:
            raise ValueError(f"a GGUF file of version {version}; known: 2 and 3")
        tensors, keys = self._take(_U64), self._take(_U64)
        return Facts(
            keys={self._string(): self._value(self._take(_U32)) for _ in range(keys)},
            tensors=tuple(self._tensor() for _ in range(tensors)),
        )

    def _take(self, layout: struct.Struct) -> Any:
        (value,) = layout.unpack_from(self._data, self._at)
        self._at += layout.size
        return value

    def _string(self) -> str:
        size = self._take(_U64)
        start, self._at = self._at, self._at + size
        return self._data[start : self._at].decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise ValueError(f"a GGUF file with a value of unknown type {kind}")
        value = self._take(_SCALARS[kind])
        return shortest(value) if kind == _FLOAT32 else value

    def _array(self) -> list[Any] | None:
        kind, count = self._take(_U32), self._take(_U64)
        if self._arrays or kind == _ARRAY:
            values = [self._value(kind) for _ in range(count)]
            return values if self._arrays else None
        if kind == _STRING:
            for _ in range(count):
                self._at += _U64.size + _U64.unpack_from(self._data, self._at)[0]
        else:
            self._at += count * _SCALARS[kind].size
        return None

    def _tensor(self) -> tuple[str, tuple[int, ...], str]:
        name = self._string()
        shape = tuple(self._take(_U64) for _ in range(self._take(_U32)))
        kind = self._take(_U32)
        self._take(_U64)  # its offset
        return name, shape, TENSOR_TYPES.get(kind, str(kind))
