"""Bodies in zstd, which Ollama takes on the routes of other dialects than its own.

Its limits: 8 MiB for a frame's window, so that a small body can't ask for much memory. What a body
unpacks to is bounded as any other body is.
"""

from collections.abc import Mapping

from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

from serve.errors import BadEncoding, BodyTooLarge

_WINDOW_LOG = 23
_MAX_FRAMES = 16
"""Each frame costs a copy of what follows it; clients send one."""

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPED = b"\x2a\x4d\x18"
"""The end of a skippable frame's magic number, which begins with 0x50 to 0x5f (RFC 8878 §3.1.2)."""


def is_packed(headers: Mapping[bytes, bytes]) -> bool:
    """Is the body in zstd? Other encodings are not heeded, as in Ollama."""
    return headers.get(b"content-encoding") == b"zstd"


def unpacked(body: bytes, limit: int) -> bytes:
    """The body, all frames of it.

    Raises `BadEncoding` for what is no zstd, ends too early or has too many frames, and
    `BodyTooLarge` as soon as there are more than `limit` bytes.
    """
    parts: list[bytes] = []
    size, rest = 0, body
    while rest:
        if len(parts) == _MAX_FRAMES:
            raise BadEncoding(f"more than {_MAX_FRAMES} zstd frames")
        if len(rest) < len(_MAGIC):
            raise BadEncoding("unexpected EOF")
        if not (rest.startswith(_MAGIC) or rest[1:4] == _SKIPPED):
            raise BadEncoding("invalid input: magic number mismatch")
        frame = ZstdDecompressor(options={DecompressionParameter.window_log_max: _WINDOW_LOG})
        try:
            part = frame.decompress(rest, max_length=limit + 1 - size)
            size += len(part)
            if size > limit:
                raise BodyTooLarge(f"request body too large: the limit is {limit} bytes")
            if not frame.eof:
                raise BadEncoding("unexpected EOF")
        except ZstdError:
            raise BadEncoding("failed to decompress zstd body") from None
        parts.append(part)
        rest = frame.unused_data
    return b"".join(parts)
