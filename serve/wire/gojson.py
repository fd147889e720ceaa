"""JSON as Go reads and writes it, since Ollama's clients see both.

Reading: bodies are parsed by Python's C parser. Whatever it refuses, or might read differently from
Go (repeated keys, lone surrogates, numbers beyond a float, deep nesting), goes through `goscan`,
which knows Go's error texts.

Writing: compact; `<`, `>`, `&`, U+2028 and U+2029 escaped; floats in Go's format.
"""

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from serve.errors import BadRequest
from serve.wire.goscan import (
    MAX_DEPTH,
    EmptyBodyError,
    Node,
    Number,
    Object,
    quoted,
    scan,
    scan_with_rest,
)

MISSING_BODY = "missing request body"
_ENDED = "unexpected end of JSON input"

_START = re.compile(r"[ \t\r\n]*(?=[\[{])")
_EARLIER = re.compile(r"\0\d+$")
"""What `_merged` adds to a repeated key for its earlier values."""
_LONE_SURROGATE = re.compile(
    rb"\\\\u[dD][89a-fA-F]"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_TOO_LONG = b"0" * 309
_SURROGATE = re.compile("[\ud800-\udfff]")
_LARGEST = 1.7976931348623157e308
_HTML = (
    (b"<", rb"\u003c"),
    (b">", rb"\u003e"),
    (b"&", rb"\u0026"),
    (b"\xe2\x80\xa8", rb"\u2028"),
    (b"\xe2\x80\xa9", rb"\u2029"),
)


def loads(body: bytes, *, empty: str = MISSING_BODY) -> object:
    """The first JSON value of `body`; what follows it is ignored, as Go does.

    Raises `BadRequest` with the text of Go's decoder, or with `empty` where there is no value.
    An object that names a key twice keeps the last value, as in Go, and the earlier ones under the
    key with a NUL and a number: `names_twice` finds it.
    """
    value, _ = parse(body, empty=empty)
    return value


def loads_whole(body: bytes) -> object:
    """The one JSON value that `body` is, as Go's `Unmarshal` reads it: nothing may follow.

    Raises `BadRequest` with the text of Go's decoder.
    """
    try:
        node, rest = scan_with_rest(body)
    except EmptyBodyError:
        raise BadRequest(_ENDED) from None
    except BadRequest as fault:  # a stream's end is another's word than that of a whole text
        raise BadRequest(_ENDED if str(fault) == "unexpected EOF" else str(fault)) from None
    if rest:
        raise BadRequest(f"invalid character {quoted(rest[0])} after top-level value")
    return plain(node, lenient=False)


def parse(body: bytes, *, empty: str = MISSING_BODY) -> tuple[object, Node]:
    """As `loads`, with the scanned document where the fast parser did not do; else None."""
    try:
        return _fast(body), None
    except (ValueError, RecursionError):
        document = document_of(body, empty=empty)
        return plain(document), document


def document_of(body: bytes, *, empty: str = MISSING_BODY) -> Node:
    """The scanned document: pairs in order, numbers as written. Raises as `loads` does."""
    try:
        return scan(body)
    except EmptyBodyError:
        raise BadRequest(empty) from None


def plain(node: Node, *, lenient: bool = True) -> object:
    """A scanned document as dicts, lists, strings and numbers.

    Lenient, it keeps repeated keys as `loads` says and cuts numbers to the largest float; else
    the last of repeated keys stays, and such a number is a `BadRequest`.
    """
    if isinstance(node, Object):
        pairs = [(key, plain(value, lenient=lenient)) for key, value in node.pairs]
        return _merged(pairs) if lenient else dict(pairs)
    if isinstance(node, list):
        return [plain(value, lenient=lenient) for value in node]
    return _number(node.text, lenient=lenient) if isinstance(node, Number) else node


def names_twice(value: object) -> bool:
    """Did an object anywhere in this name a key twice? (`_merged` marks the earlier ones.)"""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if any("\0" in key for key in item):
                return True
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return False


def in_order(value: dict[str, Any]) -> list[tuple[str, Any]]:
    """The pairs of an object from `loads`, with the earlier values of a repeated key before its
    last one, under the key itself."""
    earlier = [(_EARLIER.sub("", k), v) for k, v in value.items() if _EARLIER.search(k)]
    return [*earlier, *((k, v) for k, v in value.items() if not _EARLIER.search(k))]


def dumps(value: object) -> bytes:
    """`value` as Go's `json.Marshal` prints it, dicts in their own order."""
    prepared = _prepared(value)
    try:
        encoded = msgspec.json.encode(prepared)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_without_surrogates(prepared))
    for character, escape in _HTML:
        encoded = encoded.replace(character, escape)
    return encoded


def timestamp(ns: int) -> str:
    """Nanoseconds since the epoch as RFC 3339 in UTC, trailing zeros dropped, as Go prints it."""
    seconds, rest = divmod(ns, 1_000_000_000)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{whole}{fraction}Z"


def unix_seconds(text: str) -> int:
    """The whole seconds of an RFC 3339 time since the epoch; 0 for what is none."""
    try:
        return math.floor(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return 0


def number(value: float) -> str:
    """A float as Go prints it: exponents only below 1e-6 and from 1e21 on."""
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    digits, _, exponent = f"{value!r}e0".partition("e")
    if "e" in exponent:
        exponent = exponent[: exponent.index("e")]
    sign = "-" if digits.startswith("-") else ""
    whole, _, fraction = digits.removeprefix("-").partition(".")
    return sign + _positional(whole, "" if fraction == "0" else fraction, int(exponent))


def _positional(whole: str, fraction: str, exponent: int) -> str:
    """The number `whole.fraction` times ten to the `exponent`."""
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + exponent - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if not -6 < point <= 21:
        tail = f".{digits[1:]}" if digits[1:] else ""
        power = point - 1
        return f"{digits[0]}{tail}e{'-' if power < 0 else '+'}{abs(power):02d}".replace("e-0", "e-")
    if point <= 0:
        return "0." + "0" * -point + digits
    if point >= len(digits):
        return digits + "0" * (point - len(digits))
    return f"{digits[:point]}.{digits[point:]}"


def _fast(body: bytes) -> object:
    """The first value, if it is an array or an object that both parsers read alike."""
    text = body.decode()
    start = _START.match(text)
    if start is None or _is_doubtful(body):
        raise ValueError
    value, _ = _DECODER.raw_decode(text, start.end())
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    return value


def _is_doubtful(body: bytes) -> bool:
    """May there be a lone surrogate, or an integer that no float can hold?"""
    if b"\\u" in body and _LONE_SURROGATE.search(body):
        return True
    return _TOO_LONG in body.translate(_DIGITS_AS_ZEROS)


def _check_depth(value: object) -> None:
    """Raises `ValueError` where containers are nested more than `MAX_DEPTH` deep."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for item in level for inner in _containers(item)]
        if not level:
            return
    raise ValueError


def _containers(value: Any) -> list[object]:
    """The objects and arrays in an object or array."""
    items = value.values() if isinstance(value, dict) else value
    return [item for item in items if isinstance(item, dict | list)]


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    merged = dict(pairs)
    if len(merged) != len(pairs):
        raise ValueError
    return merged


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError
    return value


def _refuse(text: str) -> object:
    raise ValueError(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_distinct, parse_float=_finite, parse_constant=_refuse
)


def _merged(pairs: list[tuple[str, object]]) -> dict[str, object]:
    merged: dict[str, object] = {}
    for count, (key, value) in enumerate(pairs):
        if key in merged:
            merged[f"{key}\0{count}"] = merged[key]
        merged[key] = value
    return merged


def _number(text: str, *, lenient: bool) -> int | float:
    """An integer where it fits 64 bits, else the nearest float."""
    if text.lstrip("-").isdigit() and len(text) <= 20 and _fits(int(text)):
        return int(text)
    value = float(text)
    if math.isinf(value) and not lenient:
        raise BadRequest(f"json: cannot unmarshal number {text} into Go value of type float64")
    return max(-_LARGEST, min(_LARGEST, value))


def _prepared(value: object) -> object:
    """`value` with its floats printed; the rest `msgspec` prints as Go does."""
    if isinstance(value, dict):
        return {key: _prepared(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_prepared(item) for item in value]
    if isinstance(value, float) or (isinstance(value, int) and not _fits(value)):
        return msgspec.Raw(number(float(value)).encode())
    return value


def _fits(value: int) -> bool:
    return -(1 << 63) <= value < (1 << 63)


def _without_surrogates(value: object) -> object:
    if isinstance(value, dict):
        return {_SURROGATE.sub("\ufffd", k): _without_surrogates(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    return _SURROGATE.sub("\ufffd", value) if isinstance(value, str) else value
