"""The key of a request at the edge, as the proxy makes it of the same bytes (`serve.edge.rules`).

Here it is made for requests that the ingress has answered, so that the proxy knows them again.
Some have none: a header that came twice, or one with `%` or anything but visible ASCII and spaces,
which HAProxy writes differently from how it came; a body with a NUL, of which it sees no more.
Their answers stay with the ingress.
"""

import re
from collections.abc import Iterable
from hashlib import sha256

from serve.edge.rules import KEYED, ODD, ROUTES

_PLAIN = re.compile(rb"[\x20-\x24\x26-\x7e]*")

Header = tuple[bytes, bytes]


def edge_key(path: str, query: bytes, headers: Iterable[Header], body: bytes) -> str | None:
    """The key of a POST, or None where the proxy can't know it again.

    `headers`: all, as they came, by their names in lower case.
    """
    if path not in ROUTES or _PLAIN.fullmatch(query) is None or b"\0" in body:
        return None
    said: dict[str, bytes] = {}
    for name, value in headers:
        known = name.decode("latin-1")
        if any(odd in known for odd in ODD):
            return None
        if known in KEYED:
            if known in said or _PLAIN.fullmatch(value) is None:
                return None
            said[known] = value.strip(b" ")
    lines = [body, b"POST", path.encode() + (b"?" + query if query else b"")]
    lines += [said.get(name, b"") for name in KEYED]
    lines.append(b"%d" % len(body))
    return sha256(b"\n".join(lines)).hexdigest().upper()
