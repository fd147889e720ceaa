"""The value of an answer at the edge: one line of text, whatever the answer holds.

`EXPIRES|STORED|AGED|KIND|KEY|BODY`: when it ends, when it was stored, and when its `ttl` falls
below 0 (milliseconds since the epoch, 13 digits), its kind (`serve.edge.rules`, 2), its key in the
shared store (32 hex digits), and its body. So each begins at the same place in all.

The body of a plain kind is there as it is: a line that nothing in the proxy changes. In any other
everything that the proxy's own reading or writing might change is percent-encoded: `%`, `+` and `?`
(its decoder makes a space of a plus that comes after a question mark), control characters, and
spaces where they could be taken for the edge of a word.
"""

import re
from collections.abc import Sequence

from msgspec import Struct

from serve.edge.rules import LINES, PLAIN

Header = tuple[bytes, bytes]

_LAST_MS = 10**13 - 1
"""A time of 13 digits: later ones, in the year 2286, are told as this one."""
_ENCODED = re.compile(rb"[\x00-\x20%+?\x7f]")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_LINES_OF = {content_type: kind for kind, content_type in LINES.items()}
_PLAIN_OF = {(content_type, end): kind for kind, (content_type, end) in PLAIN.items()}


class Facts(Struct, frozen=True):
    """What an answer's headers tell. Times in seconds since the epoch; `lifetime_s`: `ttl_s`."""

    stored_at: float
    expires_at: float
    lifetime_s: int
    key: bytes


def kind_of(status: int, headers: Sequence[Header], body: bytes) -> str | None:
    """How the proxy may say this reply, or None: it can't.

    It says a content type and a length, and no other header of the reply's own.
    """
    names = {name for name, _ in headers}
    if status != 200 or b"\0" in body or not names <= {b"content-type", b"content-length"}:
        return None
    content_type = b"".join(value for name, value in headers if name == b"content-type").decode()
    line, end = (body[:-1], "\\n") if body.endswith(b"\n") else (body, "")
    if line and line == line.strip(b" ") and _CONTROL.search(line) is None:
        plain = _PLAIN_OF.get((content_type, end))
        if plain is not None:
            return plain
    return _LINES_OF.get(content_type) if body else None


def value_of(facts: Facts, kind: str, body: bytes) -> bytes:
    """The value."""
    is_plain = kind in PLAIN
    said = body.removesuffix(b"\n") if is_plain else _ENCODED.sub(_percent, body)
    aged_at = facts.stored_at + facts.lifetime_s + 0.999  # the proxy rounds down, `Age` too
    times = (facts.expires_at, facts.stored_at, aged_at)
    told = [f"{min(round(time * 1000), _LAST_MS):013}" for time in times]
    return "|".join([*told, kind, facts.key.hex(), ""]).encode() + said


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]
