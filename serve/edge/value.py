"""The value of an answer at the edge: one line of text, whatever the answer holds.

`STORED|EXPIRES|LIFETIME|KEY|KIND|BODY`: when it was stored and when it ends (milliseconds since the
epoch), how old it may grow (seconds), its key in the shared store (hex), its kind
(`serve.edge.rules`), and its body, in which everything that the proxy's own reading or writing
might change is percent-encoded: `%`, `+` and `?` (its decoder makes a space of a plus that comes
after a question mark), control characters, and spaces where they could be taken for the edge of a
word.
"""

import re
from collections.abc import Sequence

from msgspec import Struct

from serve.edge.rules import LINES, PLAIN

Header = tuple[bytes, bytes]

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
    if line and _CONTROL.search(line) is None:
        plain = _PLAIN_OF.get((content_type, end))
        if plain is not None:
            return plain
    return _LINES_OF.get(content_type) if body else None


def value_of(facts: Facts, kind: str, body: bytes) -> bytes:
    """The value."""
    said = body[:-1] if kind in PLAIN and PLAIN[kind][1] else body
    head = (
        f"{facts.stored_at * 1000:.0f}|{facts.expires_at * 1000:.0f}|{facts.lifetime_s}"
        f"|{facts.key.hex()}|{kind}|"
    )
    return head.encode() + _ENCODED.sub(_percent, said)


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]
