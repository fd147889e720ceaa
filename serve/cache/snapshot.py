"""Entries of the cache in a file: what a shard comes back from, and what export and import move.

One file:

    magic       `rayllama-cache\\n`, then the format's version as two bytes, big-endian
    header      a frame: `Header`
    records     frames: `Record`
    trailer     an empty frame, the number of records (8 bytes), and a BLAKE2b digest of 32 bytes
                over all that stands before it

A frame is four bytes of length, big-endian, and msgpack, as on the shards' sockets. The number of
records comes last because an export doesn't know it before.

A file is read twice: first the digest over all of it, then its records, one frame at a time. So
nothing of a damaged or cut file is ever used, and no file has to fit in memory. The digest finds
damage, not forgery: whoever may write where snapshots are may put answers into the cache.

Times are seconds since the epoch, since a shard's own clock begins anew with it. What has expired
is neither written nor read.

Encoding, hashing and files are blocking, so `write` and `read` do them in a thread of their own;
in between, the event loop gives and takes `SLICE` records at a time.
"""

import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from hashlib import blake2b
from importlib.metadata import version
from itertools import islice
from typing import Annotated, BinaryIO, TypeVar

import msgspec
from msgspec import Meta, Struct

from serve.cache.moved import Moved
from serve.cache.places import Place, split
from serve.cache.protocol import MAX_FRAME_BYTES, Key
from serve.errors import SnapshotRefused
from serve.ports import Clock

MAGIC = b"rayllama-cache\n"
VERSION = 1
SLICE = 128
"""Records between two turns of the event loop: under a millisecond of its time."""

_CHUNK_BYTES = 1 << 20
_version = struct.Struct(">H")
_length = struct.Struct(">I")
_trailer = struct.Struct(">IQ")
_DIGEST_BYTES = 32
_SMALLEST = len(MAGIC) + _version.size + _length.size + _trailer.size + _DIGEST_BYTES

Time = Annotated[float, Meta(ge=0, le=1e12)]
_T = TypeVar("_T")


class Header(Struct, frozen=True):
    """What wrote a file, and when (seconds since the epoch). `settings`: those that shaped it."""

    writer: str
    written_at: float
    settings: dict[str, str | float] = {}


class Record(Struct, frozen=True, array_like=True, gc=False):
    """One entry. `expires_at`, `stored_at`: seconds since the epoch.

    Fields that a later version adds at the end are passed over by this one.
    """

    key: Key
    packed: bytes
    model: str
    digest: str
    fingerprint: str
    expires_at: Time
    stored_at: Time | None = None
    tenant: str | None = None


_encode = msgspec.msgpack.Encoder()
_decode_header = msgspec.msgpack.Decoder(Header).decode
_decode_record = msgspec.msgpack.Decoder(Record).decode


def header(now: float, **settings: str | float) -> Header:
    """A header of this version of Rayllama."""
    return Header(f"rayllama {version('rayllama')}", now, settings)


async def export(
    records: Iterable[Record] | AsyncIterable[Record], destination: str, *, wall: Clock
) -> int:
    """Write a file at a path or fsspec URL, there only when it is whole. Returns how many records.

    Raises `ConfigError` for a URL that nothing here can open, `OSError` if writing fails.
    """
    place, name = split(destination)
    return await write(place, name, header(wall()), records)


async def read(source: str) -> AsyncGenerator[Record]:
    """The records of a file at a path or fsspec URL, expired ones too.

    Raises `SnapshotRefused` before the first one, `ConfigError` and `OSError` as `export`.
    """
    place, name = split(source)
    async with aclosing(slices(place, name)) as found:
        async for records in found:
            for record in records:
                yield record


async def write(
    place: Place,
    name: str,
    head: Header,
    records: Iterable[Record] | AsyncIterable[Record],
    *,
    is_wanted: Callable[[], bool] = lambda: True,
) -> int:
    """Write a file that is there only when it is whole and still wanted then.

    Returns how many records; -1 if it was not wanted any more. Raises `OSError`.
    """
    thread = ThreadPoolExecutor(1, "snapshot")
    do = asyncio.get_running_loop().run_in_executor
    opened = place.write(name)
    is_whole = False
    try:
        scribe = Scribe(await do(thread, opened.open), head)
        async for some in _sliced(records):
            await do(thread, scribe.add, some)
        await do(thread, scribe.end)
        is_whole = is_wanted()
        if is_whole:
            await do(thread, opened.commit)
        return scribe.count if is_whole else -1
    finally:
        # After what the thread may still be at, if we were cancelled; and before anybody else may
        # write the same name, since this deletes what that one has begun.
        closed = asyncio.wrap_future(thread.submit(opened.close))
        thread.shutdown(wait=False)
        await asyncio.wait([closed])


async def slices(place: Place, name: str) -> AsyncGenerator[list[Record]]:
    """A file's records, some at a time, once all of it has been found whole.

    Raises `SnapshotRefused` before the first, `OSError` if reading fails.
    """
    thread = ThreadPoolExecutor(1, "snapshot")
    do = asyncio.get_running_loop().run_in_executor
    file: BinaryIO | None = None
    try:
        file = await do(thread, place.read, name)
        reader = await do(thread, Reader, file, name)
        while some := await do(thread, reader.some):
            yield some
    finally:
        if file is not None:
            thread.submit(file.close)
        thread.shutdown(wait=False)


async def is_ours(place: Place, name: str) -> bool:
    """Does the file begin as ours do? Others that happen to be named like one are left alone."""

    def starts_right() -> bool:
        try:
            with place.read(name) as file:
                return file.read(len(MAGIC)) == MAGIC
        except FileNotFoundError:
            return False

    return await asyncio.to_thread(starts_right)


class Reader:
    """A file that has been found whole. Blocking. Raises `SnapshotRefused`, `OSError`."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._count = 0
        self._check()
        self.header: Header = self._parsed(_decode_header, self._frame())

    def some(self) -> list[Record]:
        """The next records, at most `SLICE` and about `_CHUNK_BYTES` of them; none at the end."""
        found: list[Record] = []
        size = 0
        for record in self._records():
            found.append(record)
            size += len(record.packed)
            if len(found) == SLICE or size >= _CHUNK_BYTES:
                break
        return found

    def _records(self) -> Iterator[Record]:
        while frame := self._frame():
            self._count += 1
            yield self._parsed(_decode_record, frame)
        self._file.seek(-_length.size, 1)  # so that the end is found again when asked again
        if self._file.tell() != self._ends_at or self._count != self._promised:
            raise self._refused("its records are not those that its end counts")

    def _check(self) -> None:
        """Of ours, of a version known here, and whole?"""
        start = self._file.read(len(MAGIC) + _version.size)
        if not start.startswith(MAGIC):
            raise self._refused("it is no snapshot of Rayllama's")
        size = self._file.seek(0, 2)
        if size < _SMALLEST:
            raise self._refused("it is cut off")
        (number,) = _version.unpack(start[len(MAGIC) :])
        if number != VERSION:
            raise self._refused(f"its format is version {number}, and this reads {VERSION}")
        self._ends_at = size - _trailer.size - _DIGEST_BYTES
        if self._digest(size - _DIGEST_BYTES) != self._file.read(_DIGEST_BYTES):
            raise self._refused("it is damaged or cut off: its checksum is wrong")
        self._file.seek(self._ends_at)
        _, self._promised = _trailer.unpack(self._file.read(_trailer.size))
        self._file.seek(len(start))

    def _digest(self, size: int) -> bytes:
        self._file.seek(0)
        hashed = blake2b(digest_size=_DIGEST_BYTES)
        while size:
            chunk = self._file.read(min(size, _CHUNK_BYTES))
            if not chunk:
                raise self._refused("it became shorter while it was read")
            hashed.update(chunk)
            size -= len(chunk)
        return hashed.digest()

    def _frame(self) -> bytes:
        (size,) = _length.unpack(self._file.read(_length.size))
        if size > max(0, min(MAX_FRAME_BYTES, self._ends_at - self._file.tell())):
            raise self._refused("a record is longer than any may be")
        return self._file.read(size)

    def _parsed(self, decode: Callable[[bytes], _T], frame: bytes) -> _T:
        try:
            return decode(frame)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._refused("it holds what no version writes") from error

    def _refused(self, reason: str) -> SnapshotRefused:
        return SnapshotRefused(f"{self._name}: {reason}")


class Scribe:
    """A file in the making. Blocking."""

    def __init__(self, file: BinaryIO, head: Header) -> None:
        self._file = file
        self._hashed = blake2b(digest_size=_DIGEST_BYTES)
        self.count = 0
        self._write(MAGIC + _version.pack(VERSION) + _framed(head))

    def add(self, records: list[Record]) -> None:
        """Write some records."""
        self._write(b"".join(map(_framed, records)))
        self.count += len(records)

    def end(self) -> None:
        """Write the trailer."""
        self._write(_trailer.pack(0, self.count))
        self._file.write(self._hashed.digest())

    def _write(self, data: bytes) -> None:
        self._hashed.update(data)
        self._file.write(data)


def moved_of(record: Record, now: float) -> Moved:
    """A record as its shard takes it, at a time in seconds since the epoch."""
    stored_at = now if record.stored_at is None else record.stored_at
    made_from = (record.model, record.digest, record.fingerprint, record.tenant or "")
    times = (record.expires_at - now, max(0.0, now - stored_at))
    return Moved(record.key, record.packed, *made_from, *times)


def _framed(message: Header | Record) -> bytes:
    data = _encode.encode(message)
    return _length.pack(len(data)) + data


async def _sliced(
    records: Iterable[Record] | AsyncIterable[Record],
) -> AsyncGenerator[list[Record]]:
    some: list[Record] = []
    if isinstance(records, AsyncIterable):
        async for record in records:
            some.append(record)
            if len(some) == SLICE:
                yield some
                some = []
    else:
        rest = iter(records)
        while full := list(islice(rest, SLICE)):
            yield full
    if some:
        yield some
