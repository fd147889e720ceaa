"""Frames between our own processes: four bytes of length, big-endian, and one message in msgpack.

Who listens on a socket of ours speaks in these: the cache's shards and the fleet's scheduler. What
the messages are is theirs to say.
"""

import struct

import msgspec
from msgspec import Struct

MALFORMED = (ValueError, RecursionError)  # msgspec's own errors are ValueErrors
"""What reading a peer's bytes may raise; there is no other kind of fault in them."""

_encoder = msgspec.msgpack.Encoder()
_length = struct.Struct(">I")


def write(message: Struct, out: bytearray) -> None:
    """Append a message to `out` as a frame."""
    start = len(out)
    out += b"\0\0\0\0"
    _encoder.encode_into(message, out, -1)
    _length.pack_into(out, start, len(out) - start - 4)


def frame(message: Struct) -> bytes:
    """A message as a frame."""
    out = bytearray()
    write(message, out)
    return bytes(out)


class Frames:
    """Bytes as they come in, frames as they come out. Raises `ValueError` for one too long."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes | bytearray]:
        """The frames that these bytes complete, without their lengths."""
        whole: bytes | bytearray = data
        if self._rest:
            self._rest += data
            whole = self._rest
        frames: list[bytes | bytearray] = []
        at, end = 0, len(whole)
        while end - at >= 4:
            (size,) = _length.unpack_from(whole, at)
            if size > self.max_bytes:
                raise ValueError("a frame that is longer than any may be")
            if end - at - 4 < size:
                break
            frames.append(whole[at + 4 : at + 4 + size])
            at += 4 + size
        if whole is data:
            self._rest = bytearray(data[at:])
        else:
            del self._rest[:at]
        return frames
