"""How Go's JSON decoder notes a value of a wrong type, and where it says that it was.

Rules of Go's decoder that the shapes (`gotypes`) follow:
- a value of a wrong type is noted and decoding goes on; the first such note is the error;
- a type with an `UnmarshalJSON` of its own that fails ends the decoding, and its error wins over
  what was noted before;
- null fits everywhere; unknown keys are skipped; keys match exactly, else without regard to case;
- the error names the innermost struct that was entered, and the path of fields from the outermost.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from serve.wire.goscan import Node, Number, Object

_FOLDED = str.maketrans({"\u017f": "s", "\u212a": "k"})


@dataclass(frozen=True, slots=True)
class TypeFault:
    """`json: cannot unmarshal <value> into Go struct field <struct>.<path> of type <type>`."""

    value: str
    type: str
    struct: str = ""
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.struct and not self.path:
            return f"json: cannot unmarshal {self.value} into Go value of type {self.type}"
        place = f"{self.struct}.{'.'.join(self.path)}"
        return (
            f"json: cannot unmarshal {self.value} into Go struct field {place} of type {self.type}"
        )


Fault = TypeFault | str


class DecodingEndedError(Exception):
    """An `UnmarshalJSON` failed: nothing after it is decoded."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass(slots=True)
class Decoding:
    """One call of Go's `Unmarshal`: where it is, and the first fault that it noted."""

    struct: str = ""
    path: tuple[str, ...] = ()
    noted: Fault | None = None

    def note(self, fault: Fault) -> None:
        """Keep the first fault."""
        if self.noted is None:
            self.noted = self.placed(fault)

    def placed(self, fault: Fault) -> Fault:
        """The fault, with the place where this call is now before its own path."""
        if isinstance(fault, str) or not self.path:
            return fault
        return TypeFault(fault.value, fault.type, self.struct, self.path + fault.path)

    @contextmanager
    def at(self, struct: str, name: str) -> Iterator[None]:
        """Within a field of a struct."""
        before = self.struct, self.path
        self.struct, self.path = struct, (*self.path, name)
        yield
        self.struct, self.path = before


class Shape(Protocol):
    """A Go type."""

    @property
    def name(self) -> str:
        """As Go's errors print it."""
        ...

    def take(self, node: Node, decoding: Decoding) -> None:
        """Decode `node` into this type; faults are noted, or raised as `DecodingEndedError`."""
        ...


def explain(node: Node, shape: Shape) -> str | None:
    """What Go says when it decodes `node` into `shape`; None where it has nothing to say."""
    fault = decode(node, shape)
    return None if fault is None else str(fault)


def fold(key: str) -> str:
    """A key as Go compares it without regard to case."""
    return key.translate(_FOLDED).lower()


def word(node: Node) -> str:
    """The kind of a value, as Go's errors name it."""
    if isinstance(node, bool):
        return "bool"
    if isinstance(node, str):
        return "string"
    if isinstance(node, Number):
        return "number"
    return "object" if isinstance(node, Object) else "array"


def decode(node: Node, shape: Shape) -> Fault | None:
    """One call of Go's `Unmarshal`: the fault that ended it, else the first one it noted."""
    decoding = Decoding()
    try:
        shape.take(node, decoding)
    except DecodingEndedError as ended:
        return ended.fault
    return decoding.noted
