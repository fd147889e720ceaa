"""Durations as Go's `time.ParseDuration` reads them, with its error texts."""

import re

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, the micro sign
    "μs": 1_000,  # U+03BC, the Greek letter
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LARGEST_NS = 1 << 63
_DIGITS = len(str(_LARGEST_NS))
_PART = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?([^0-9.]*)")


def parse_duration(text: str) -> int:
    """`1h30m`, `-1s`, `300ms` → nanoseconds. Raises `ValueError` with Go's text."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    if not rest:
        raise _invalid(text)
    total, at = 0, 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None or not (part[1] or part[3]):
            raise _invalid(text)
        total += _nanoseconds(part, text)
        if total > _LARGEST_NS:
            raise _invalid(text)
        at = part.end()
    if sign > 0 and total == _LARGEST_NS:
        raise _invalid(text)
    return sign * total


def _nanoseconds(part: re.Match[str], text: str) -> int:
    digits, fraction, unit = part[1].lstrip("0"), part[3] or "", part[4]
    if len(digits) > _DIGITS or int(digits or "0") > _LARGEST_NS:
        raise _invalid(text)
    if not unit:
        raise ValueError(f"time: missing unit in duration {_quoted(text)}")
    if unit not in _UNITS_NS:
        raise ValueError(f"time: unknown unit {_quoted(unit)} in duration {_quoted(text)}")
    value, scale = _fraction(fraction)
    return int(digits or "0") * _UNITS_NS[unit] + int(value * (_UNITS_NS[unit] / scale))


def _fraction(digits: str) -> tuple[float, float]:
    """The digits after the point as far as Go reads them, and the power of ten to divide by."""
    value, scale = 0, 1.0
    for digit in digits:
        grown = value * 10 + int(digit)
        if value > (_LARGEST_NS - 1) // 10 or grown > _LARGEST_NS:
            break
        value, scale = grown, scale * 10
    return float(value), scale


def _invalid(text: str) -> ValueError:
    return ValueError(f"time: invalid duration {_quoted(text)}")


def _quoted(text: str) -> str:
    """A string as package time quotes it: bytes beyond printable ASCII as `\\xNN`."""
    shown = []
    for character in text:
        if character in ('"', "\\"):
            shown.append("\\" + character)
        elif " " <= character <= "~" or character == "\x7f":
            shown.append(character)
        else:
            shown.extend(f"\\x{byte:02x}" for byte in character.encode())
    return '"' + "".join(shown) + '"'
