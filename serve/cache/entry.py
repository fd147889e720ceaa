"""One kept answer: the engine's own lines, from which every dialect and mode is rendered.

The lines of a stream repeat everything but a word, so packing squeezes them to about a tenth
(zlib's fastest level, some 0.1 ms, once a miss); a reader pays about a third of that.

Whatever is unpacked came over a socket: its form is checked, and no size in it is believed.
"""

import zlib
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from serve.wire.gojson import dumps

MAX_UNPACKED_BYTES = 64 << 20
"""No entry is larger than this unpacked, whatever its packed form promises."""

VECTOR_TYPE = "application/vnd.rayllama.vector"
"""The content type of an entry that holds one vector (`serve.cache.vectors`): squeezing makes it no
smaller."""

_SQUEEZE_FROM_BYTES = 512
_PLAIN, _SQUEEZED = b"\x01", b"\x02"  # the form's number; another form gets another number


class Worth(NamedTuple):
    """What a generation took, and an answer from memory saves: tokens read and written, and
    nanoseconds of the engine (`serve.cache.worth`)."""

    tokens: int
    gpu_ns: int


class Entry(Struct, frozen=True, array_like=True, gc=False):
    """An answer that ended well, and what it was made from.

    `lines`: the NDJSON lines as the engine sent them, without their newlines, or one JSON body.
    `model`: the canonical name; `spelled`: the caller's spelling, which the lines repeat.
    `digest`, `fingerprint`: as in the key. `stored_at`: seconds since the epoch.
    `worth`: what it saves, where that isn't what its lines say: an answer put together of vectors.
    """

    model: str
    spelled: str
    digest: str
    fingerprint: str
    status: Annotated[int, Meta(ge=200, le=299)]
    content_type: str
    stored_at: float
    lines: tuple[bytes, ...]
    worth: Worth | None = None

    def pack(self) -> bytes:
        """The entry as bytes: one that names the form, then msgpack, squeezed if that helps.

        Raises `ValueError` for an entry larger than any may be.
        """
        plain = _encode(self)
        if len(plain) > MAX_UNPACKED_BYTES:
            raise ValueError("an entry larger than any may be")
        if len(plain) >= _SQUEEZE_FROM_BYTES and self.content_type != VECTOR_TYPE:
            squeezed = zlib.compress(plain, 1)
            if len(squeezed) < 0.9 * len(plain):
                return _SQUEEZED + squeezed
        return _PLAIN + plain

    def spelled_as(self, spelled: str) -> "Entry":
        """The entry as it answers a caller who spells the model like this.

        Ollama repeats the caller's spelling in `model`, always the first field where it stands.
        """
        if spelled == self.spelled:
            return self
        ours, theirs = (b'{"model":' + dumps(name) for name in (self.spelled, spelled))
        lines = tuple(
            theirs + line[len(ours) :] if line.startswith(ours) else line for line in self.lines
        )
        return msgspec.structs.replace(self, spelled=spelled, lines=lines)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def unpack(packed: bytes) -> Entry:
    """The entry that `pack` made these bytes of. Raises `ValueError` if it didn't."""
    form, body = packed[:1], packed[1:]
    try:
        if form == _SQUEEZED:
            body = _inflate(body)
        elif form != _PLAIN:
            raise ValueError("not an entry of a form that is known here")
        return _decode(body)
    except (msgspec.MsgspecError, zlib.error) as exc:
        raise ValueError("not an entry") from exc


def _inflate(body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    plain = inflater.decompress(body, MAX_UNPACKED_BYTES)
    if not inflater.eof or inflater.unused_data:
        raise ValueError("an entry that is cut, followed by something, or larger than any may be")
    return plain
