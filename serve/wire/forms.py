"""Looking into a multipart form (RFC 7578) for one of its fields, without taking it apart."""

import re

_BOUNDARY = re.compile(rb';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'^content-disposition:[^\r\n]*;\s*name="([^"\r\n]*)"', re.I | re.M)
_MAX_HEAD = 4096
_MAX_PARTS = 100
"""A form of Ollama's has five; one with more is looked into no further."""


def form_field(body: bytes, content_type: bytes, name: bytes, *, max_bytes: int) -> str:
    """The value of the first field of that name, no longer than `max_bytes`; "" if there is none.

    The form is the client's: whatever it is, this only looks, and whoever takes it judges it.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        return ""
    delimiter = b"--" + (found[1] or found[2])
    at = body.find(delimiter)
    for _ in range(_MAX_PARTS):
        if at < 0:
            break
        start = at + len(delimiter)
        end = body.find(delimiter, start)
        head_end = body.find(b"\r\n\r\n", start, start + _MAX_HEAD)
        if end < 0 or head_end < 0:
            return ""
        named = _NAME.search(body, start, head_end)
        if named is not None and named[1] == name and end - head_end <= max_bytes + 6:
            return body[head_end + 4 : end].removesuffix(b"\r\n").decode(errors="replace")
        at = end
    return ""
