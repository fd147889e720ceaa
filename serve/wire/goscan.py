"""A JSON scanner that fails where and how Go's decoder fails.

Clients see the texts of Go's `encoding/json` in Ollama's answers to a bad body, so they are part of
the API. This scanner is only for bodies that the fast parser refuses or doubts: it keeps what the
fast parser loses (every pair of an object in order, repeated keys included, and each number as it
was written), and it names the first bad byte in Go's words.

Like Go's decoder it reads one value and ignores what follows, and puts U+FFFD in the place of bytes
that are not UTF-8 and of lone surrogates. It does not recurse, and it stops after `MAX_TOKENS`: a
bad body must not keep the event loop busy for long.
"""

import json
import re
from dataclasses import dataclass, field

from serve.errors import BadRequest

MAX_DEPTH = 256
"""Arrays and objects within each other; Go allows 10,000, which no consumer of ours could walk."""

MAX_TOKENS = 200_000
"""Values and keys that are looked at, about half a second's work."""

_SPACE = re.compile(rb"[ \t\r\n]*")
# Not `(…)*+`: before 3.11.4 a possessive group that fails in the middle keeps what it has read.
_STRING_START = re.compile(
    rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})[^"\\\x00-\x1f]*+)*'
)
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_HEX = re.compile(rb"[0-9A-Fa-f]*")
_WORDS: dict[int, tuple[bytes, bool | None]] = {
    ord("t"): (b"true", True),
    ord("f"): (b"false", False),
    ord("n"): (b"null", None),
}
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|(u[dD][89a-fA-F][0-9A-Fa-f]{2})|.)"
)
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_VALUE, _KEY = "looking for beginning of value", "looking for beginning of object key string"


class EmptyBodyError(ValueError):
    """There is no value at all, only white space."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written."""

    text: str


@dataclass(frozen=True, slots=True)
class Object:
    """An object's pairs in order, repeated keys included."""

    pairs: list[tuple[str, "Node"]] = field(default_factory=list)


Node = bool | str | Number | Object | list["Node"] | None


def scan(body: bytes) -> Node:
    """The first value of `body`.

    Raises `BadRequest` with the text that Go's decoder has for the first fault, `EmptyBodyError`
    where there is nothing but white space.
    """
    return _Scanner(body).document()


def scan_with_rest(body: bytes) -> tuple[Node, bytes]:
    """As `scan`, with what follows the value after white space."""
    scanner = _Scanner(body)
    return scanner.document(), scanner.rest()


def well_formed(body: bytes) -> str:
    """The text of `body` as Go reads it: each byte that is not UTF-8 becomes U+FFFD."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return _ESCAPED_BYTE.sub("\ufffd", body.decode(errors="surrogateescape"))


def unquote(literal: bytes) -> str:
    """The text of a JSON string literal, lone surrogates replaced."""
    text = well_formed(literal)
    if "\\" not in text:
        return text[1:-1]
    value: str = json.loads(_ESCAPE.sub(lambda m: r"\ufffd" if m[1] else m[0], text))
    return value


def quoted(byte: int) -> str:
    """A byte as Go prints it in an error: `'x'`, `'\\''`, `'\\x00'`, `'\\u0080'`."""
    named = {7: r"\a", 8: r"\b", 9: r"\t", 10: r"\n", 11: r"\v", 12: r"\f", 13: r"\r", 39: r"\'"}
    if byte in named:
        shown = named[byte]
    elif byte == ord("\\"):
        shown = r"\\"
    elif byte < 0x20 or byte == 0x7F:
        shown = f"\\x{byte:02x}"
    elif 0x80 <= byte <= 0xA0 or byte == 0xAD:
        shown = f"\\u{byte:04x}"
    else:
        shown = chr(byte)
    return f"'{shown}'"


class _Scanner:
    """One pass over one body."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0
        self._tokens = 0
        self._open: list[Object | list[Node]] = []
        self._keys: list[str] = []

    def document(self) -> Node:
        """The first value."""
        self._skip_space()
        if self._at == len(self._body):
            raise EmptyBodyError
        while True:
            value, complete = self._value()
            while complete:
                if not self._open:
                    return value
                self._add(value)
                if self._another():
                    break
                value = self._open.pop()

    def rest(self) -> bytes:
        """What follows the first value after white space."""
        self._skip_space()
        return self._body[self._at :]

    def _value(self) -> tuple[Node, bool]:
        """The value that begins here, and whether it is complete (not a container's beginning)."""
        byte = self._next(_VALUE)
        if byte in b"{[":
            return self._container(byte)
        if byte == ord('"'):
            return self._string(), True
        if byte in b"-0123456789":
            return self._number(), True
        if byte in _WORDS:
            return self._word(*_WORDS[byte]), True
        raise self._fault(self._at, _VALUE)

    def _container(self, byte: int) -> tuple[Node, bool]:
        container: Object | list[Node] = Object() if byte == ord("{") else []
        self._open.append(container)
        if len(self._open) > MAX_DEPTH:
            raise self._fault(self._at, "exceeded max depth")
        self._at += 1
        closer = b"}" if byte == ord("{") else b"]"
        if self._next(_KEY if closer == b"}" else _VALUE) == closer[0]:
            self._at += 1
            return self._open.pop(), True
        if closer == b"}":
            self._key()
        return None, False

    def _add(self, value: Node) -> None:
        container = self._open[-1]
        if isinstance(container, Object):
            container.pairs.append((self._keys.pop(), value))
        else:
            container.append(value)

    def _another(self) -> bool:
        """After an element: is another one announced? Otherwise the container's end is next."""
        is_object = isinstance(self._open[-1], Object)
        context = "after object key:value pair" if is_object else "after array element"
        byte = self._next(context)
        if byte not in (b",}" if is_object else b",]"):
            raise self._fault(self._at, context)
        self._at += 1
        if byte != ord(","):
            return False
        if is_object:
            self._key()
        return True

    def _key(self) -> None:
        if self._next(_KEY) != ord('"'):
            raise self._fault(self._at, _KEY)
        self._keys.append(self._string())
        if self._next("after object key") != ord(":"):
            raise self._fault(self._at, "after object key")
        self._at += 1

    def _string(self) -> str:
        start = self._at
        match = _STRING_START.match(self._body, start)
        end = match.end() if match else start
        if self._body[end : end + 1] != b'"':
            raise self._string_fault(end)
        self._at = end + 1
        return unquote(self._body[start : self._at])

    def _number(self) -> Number:
        match = _NUMBER.match(self._body, self._at)
        if match is None:
            raise self._fault(self._at + 1, "in numeric literal")
        end = match.end()
        after = self._body[end : end + 1]
        if after == b"." and not match[1] and not match[2]:
            raise self._fault(end + 1, "after decimal point in numeric literal")
        if after in (b"e", b"E") and not match[2]:
            signed = self._body[end + 1 : end + 2] in (b"+", b"-")
            raise self._fault(end + 1 + signed, "in exponent of numeric literal")
        self._at = end
        return Number(match[0].decode())

    def _word(self, word: bytes, value: bool | None) -> bool | None:  # noqa: FBT001 - the value itself
        for offset, letter in enumerate(word):
            found = self._body[self._at + offset : self._at + offset + 1]
            if found != word[offset : offset + 1]:
                context = f"in literal {word.decode()} (expecting {quoted(letter)})"
                raise self._fault(self._at + offset, context)
        self._at += len(word)
        return value

    def _string_fault(self, at: int) -> BadRequest:
        """What is wrong at the first byte that can't be part of a string."""
        if self._body[at : at + 1] != b"\\":
            return self._fault(at, "in string literal")
        if self._body[at + 1 : at + 2] != b"u":
            return self._fault(at + 1, "in string escape code")
        digits = _HEX.match(self._body, at + 2, at + 6)
        end = digits.end() if digits else at
        return self._fault(end, r"in \u hexadecimal character escape")

    def _skip_space(self) -> None:
        match = _SPACE.match(self._body, self._at)
        self._at = match.end() if match else self._at

    def _next(self, context: str) -> int:
        """The next byte that is not white space."""
        self._tokens += 1
        if self._tokens > MAX_TOKENS:
            raise BadRequest(f"more than {MAX_TOKENS} values")
        self._skip_space()
        if self._at == len(self._body):
            raise self._fault(self._at, context)
        return self._body[self._at]

    def _fault(self, at: int, context: str) -> BadRequest:
        if at >= len(self._body):
            return BadRequest("unexpected EOF")
        return BadRequest(f"invalid character {quoted(self._body[at])} {context}")
