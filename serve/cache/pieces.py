"""An answer on its way to several listeners: frames cut into pieces, and pieces said to each.

A flight brings pieces. The first has the head and what came with it, so that whoever has heard
anything knows status and bytes; the last has the tail, or what failed. Pieces that waited are
merged into one. Listeners get native frames and render them for themselves, each in its own
spelling of the model.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence

import msgspec
from msgspec import Struct

from serve.ports import Failed, Frame, Head, Tail
from serve.wire.gojson import dumps

_NDJSON = "application/x-ndjson"


class Piece(Struct, frozen=True, array_like=True, gc=False):
    """Some of an answer. `spelled`, beside the head: how the leader's caller spelled the model."""

    data: bytes = b""
    head: Head | None = None
    tail: Tail | None = None
    spelled: str = ""
    failed: Failed | None = None

    def pack(self) -> bytes:
        """The piece as bytes."""
        return _encode(self)


_encode = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(Piece).decode
"""The piece that `pack` made these bytes of. Raises `ValueError` if it didn't."""


def is_lines(head: Head) -> bool:
    """Is this an answer that comes line by line?"""
    return head.content_type.startswith(_NDJSON)


def merged(pieces: Sequence[Piece]) -> Piece:
    """One piece that says the same as several in a row."""
    if len(pieces) == 1:
        return pieces[0]
    first, last = pieces[0], pieces[-1]
    data = b"".join(piece.data for piece in pieces)
    return Piece(data, first.head, last.tail, first.spelled, last.failed)


async def cut(frames: AsyncGenerator[Frame, None], spelled: str) -> AsyncGenerator[Piece, None]:
    """The frames of one answer as pieces. What doesn't come line by line comes whole."""
    head: Head | None = None
    whole: list[bytes] | None = None
    async for frame in frames:
        if isinstance(frame, Head):
            head = frame
            whole = None if is_lines(head) else []
        elif isinstance(frame, Tail | Failed):
            tail, failed = (frame, None) if isinstance(frame, Tail) else (None, frame)
            yield Piece(b"".join(whole or ()), head, tail, spelled if head else "", failed)
            return
        elif whole is not None:
            whole.append(frame)
        else:
            yield Piece(frame, head, None, spelled if head else "")
            head = None
    if head is not None:
        yield Piece(b"".join(whole or ()), head, None, spelled)


class Spelling:
    """Says pieces as frames to a caller who spells the model in his own way.

    Ollama repeats the caller's spelling in `model`, always the first field where it stands.
    """

    def __init__(self, spelled: str) -> None:
        self._spelled = spelled
        self._theirs = spelled
        self._is_lines = True

    def frames(self, piece: Piece) -> Iterator[Frame]:
        """The frames of the next piece."""
        if piece.head is not None:
            self._theirs = piece.spelled
            self._is_lines = is_lines(piece.head)
            yield piece.head
        if piece.data:
            yield self._data(piece.data)
        if piece.tail is not None:
            yield piece.tail
        if piece.failed is not None:
            yield piece.failed

    def _data(self, data: bytes) -> bytes:
        if self._theirs == self._spelled:
            return data
        theirs, ours = (b'{"model":' + dumps(name) for name in (self._theirs, self._spelled))
        lines = data.splitlines(keepends=True) if self._is_lines else [data]
        return b"".join(
            ours + line[len(theirs) :] if line.startswith(theirs) else line for line in lines
        )
