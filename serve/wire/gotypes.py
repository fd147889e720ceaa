"""Go's types as its JSON decoder sees them.

Only bodies that the pydantic models refuse come here, to learn what Go would have said. The shapes
are built from the models' own annotations (`gostruct`), so each type is stated once.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from serve.wire.gobase64 import corrupt_at
from serve.wire.godecoding import Decoding, DecodingEndedError, Shape, TypeFault, decode, fold, word
from serve.wire.goscan import Node, Number, Object

FLOAT32_MAX = 3.4028235677973366e38
"""From here on a number rounds to no float32."""

_INT_BITS = {"int": (-(1 << 63), (1 << 63) - 1), "uint8": (0, 255)}


@dataclass(frozen=True, slots=True)
class Plain:
    """`string` or `bool`."""

    name: str

    def take(self, node: Node, decoding: Decoding) -> None:
        """Take values of this kind alone."""
        if node is not None and word(node) != self.name:
            decoding.note(TypeFault(word(node), self.name))


@dataclass(frozen=True, slots=True)
class Integer:
    """`int` or `uint8`: a number written without point or exponent, in range."""

    name: str = "int"

    def take(self, node: Node, decoding: Decoding) -> None:
        """Take integers alone."""
        if isinstance(node, Number):
            low, high = _INT_BITS[self.name]
            digits = node.text.removeprefix("-")
            fits = digits.isdigit() and len(digits) < 20 and low <= int(node.text) <= high
            if not fits:
                decoding.note(TypeFault(f"number {node.text}", self.name))
        elif node is not None:
            decoding.note(TypeFault(word(node), self.name))


@dataclass(frozen=True, slots=True)
class Float:
    """`float64` or `float32`."""

    name: str = "float64"

    def take(self, node: Node, decoding: Decoding) -> None:
        """Take numbers that it can hold."""
        if isinstance(node, Number):
            limit = FLOAT32_MAX if self.name == "float32" else math.inf
            if abs(float(node.text)) >= limit:
                decoding.note(TypeFault(f"number {node.text}", self.name))
        elif node is not None:
            decoding.note(TypeFault(word(node), self.name))


@dataclass(frozen=True, slots=True)
class Any:
    """`interface {}`: anything, as long as its numbers fit."""

    name: str = "interface {}"

    def take(self, node: Node, decoding: Decoding) -> None:
        """Take everything; look for numbers that no float64 can hold."""
        if isinstance(node, Number):
            Float().take(node, decoding)
        elif isinstance(node, Object):
            for _, value in node.pairs:
                self.take(value, decoding)
        elif isinstance(node, list):
            for value in node:
                self.take(value, decoding)


@dataclass(frozen=True, slots=True)
class Raw:
    """`json.RawMessage`: the bytes as they are."""

    name: str = "json.RawMessage"

    def take(self, node: Node, decoding: Decoding) -> None:
        """Take everything."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """A slice of bytes: a string in base64, or an array of small numbers."""

    name: str

    def take(self, node: Node, decoding: Decoding) -> None:
        """Take base64, or numbers from 0 to 255."""
        if isinstance(node, str):
            at = corrupt_at(node)
            if at is not None:
                decoding.note(f"illegal base64 data at input byte {at}")
        else:
            Slice(self.name, Integer("uint8")).take(node, decoding)


@dataclass(frozen=True, slots=True)
class Slice:
    """`[]T`."""

    name: str
    element: Shape

    def take(self, node: Node, decoding: Decoding) -> None:
        """Take arrays of the element's type."""
        if isinstance(node, list):
            for value in node:
                self.element.take(value, decoding)
        elif node is not None:
            decoding.note(TypeFault(word(node), self.name))


@dataclass(frozen=True, slots=True)
class Map:
    """`map[string]T`."""

    name: str
    element: Shape

    def take(self, node: Node, decoding: Decoding) -> None:
        """Take objects with values of the element's type."""
        if isinstance(node, Object):
            for _, value in node.pairs:
                self.element.take(value, decoding)
        elif node is not None:
            decoding.note(TypeFault(word(node), self.name))


@dataclass(slots=True)
class Struct:
    """A struct; `fields` may be filled in later, since structs can hold themselves."""

    name: str
    short: str
    fields: Mapping[str, Shape] = field(default_factory=dict)

    def take(self, node: Node, decoding: Decoding) -> None:
        """Take objects whose known fields have their types."""
        if isinstance(node, Object):
            folded = {fold(name): name for name in self.fields}
            for key, value in node.pairs:
                name = key if key in self.fields else folded.get(fold(key))
                if name is not None:
                    with decoding.at(self.short, name):
                        self.fields[name].take(value, decoding)
        elif node is not None:
            decoding.note(TypeFault(word(node), self.name))


@dataclass(frozen=True, slots=True)
class Unmarshaler:
    """A type with an `UnmarshalJSON` of its own, which decodes by another shape."""

    name: str
    inner: Shape

    def take(self, node: Node, decoding: Decoding) -> None:
        """Decode by itself; any fault ends the outer decoding too."""
        fault = decode(node, self.inner)
        if fault is not None:
            raise DecodingEndedError(decoding.placed(fault))


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a function of its own decodes, after the value was read as `first`."""

    name: str
    parse: Callable[[Node], object]
    first: Shape

    def take(self, node: Node, decoding: Decoding) -> None:
        """Note what `first`, or else the function, says against the value."""
        self.first.take(node, decoding)
        if decoding.noted is None and node is not None:
            try:
                self.parse(node)
            except ValueError as exc:
                decoding.note(str(exc))


@dataclass(frozen=True, slots=True)
class OrderedMap:
    """An object that keeps its order; Ollama reads it with a parser that has texts of its own."""

    name: str
    element: Shape

    def take(self, node: Node, decoding: Decoding) -> None:
        """Take objects; the first value of a wrong type is the error."""
        if isinstance(node, Object):
            for _, value in node.pairs:
                Unmarshaler(self.element.name, self.element).take(value, decoding)
        elif node is not None:
            raise DecodingEndedError("Value looks like object, but can't find closing '}' symbol")


@dataclass(frozen=True, slots=True)
class StringOrStrings:
    """A string, or else a `[]string`, whose name its errors bear."""

    name: str = "[]string"

    def take(self, node: Node, decoding: Decoding) -> None:
        """Take a string, or an array of strings."""
        if not isinstance(node, str):
            Slice(self.name, Plain("string")).take(node, decoding)
