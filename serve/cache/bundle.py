"""A file of all shards' entries: made of what they tell, taken apart into what each is to have.

It is a snapshot (`serve.cache.snapshot`): what one cluster exports, another imports, whatever the
number of its shards. Either way a piece at a time is in memory, and each shard is asked for the
next one when the last has been dealt with.

1. Nothing of a file is used before all of it was found whole.
2. No entry lives longer than it would have: what was left of its time is counted from before it was
   asked for. Nor longer than this cluster lets one live.
3. What a shard has already stays: it was made here, or came from a file that was read before.
4. An entry that was taken in is given to nobody before an engine has vouched for its digest, as one
   that a shard came back with (`serve.cache.holdings`).
5. A purge in the middle ends the taking in, shard by shard, as it ends the reading of snapshots. A
   file that was exported before a purge holds what was purged, and an import brings it back:
   that is for whoever keeps such files to know.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from hashlib import blake2b
from io import BytesIO
from typing import BinaryIO

from serve.cache.moved import BYTES_AT_ONCE, Moved
from serve.cache.shards import Shards
from serve.cache.snapshot import MAGIC, Reader, Record, Scribe, header, moved_of
from serve.errors import SnapshotRefused
from serve.ports import Clock

_COUNT_BYTES, _DIGEST_BYTES = 8, 32


async def bundle(
    shards: Shards, now: Clock, *, model: str = "", tenant: str = ""
) -> AsyncGenerator[bytes]:
    """A file, in pieces, of the entries of a canonical name and a tenant, where these are given.

    `now`: seconds since the epoch. Raises `CacheUnavailable`.
    """
    file = BytesIO()
    scribe = Scribe(file, header(now(), model=model, tenant=tenant))
    asked_at = now()
    async with aclosing(shards.exported(model=model, tenant=tenant)) as found:
        async for entries in found:
            scribe.add([_recorded(moved, asked_at) for moved in entries])
            yield _emptied(file)
            asked_at = now()
    scribe.end()
    yield _emptied(file)


async def unbundle(
    shards: Shards, file: BinaryIO, now: Clock, *, max_entry_bytes: int
) -> Counter[str]:
    """Give each record to its shard. Returns how many were `taken`, and how many not, by reason.

    Raises `SnapshotRefused` before any is taken, and `CacheUnavailable`: then some may be.
    """
    thread = ThreadPoolExecutor(1, "import")
    do = asyncio.get_running_loop().run_in_executor
    counts: Counter[str] = Counter()
    try:
        reader = await do(thread, Reader, file, "the file")
        generations = await shards.generations_now()
        while records := await do(thread, reader.some):
            small = [record for record in records if len(record.packed) <= max_entry_bytes]
            counts["too-large"] += len(records) - len(small)
            moved = (moved_of(record, now()) for record in small)
            for entries in _bounded(moved):
                counts.update(await shards.restored(entries, generations))
    finally:
        thread.shutdown(wait=False)
    return +counts


class Whole:
    """Watches a file go by, and says at its end whether it is one, and whole."""

    def __init__(self) -> None:
        self._hashed = blake2b(digest_size=_DIGEST_BYTES)
        self._start = self._last = b""
        self.size = 0

    def see(self, data: bytes) -> None:
        """The next piece."""
        self.size += len(data)
        self._start += data[: len(MAGIC) - len(self._start)]
        end = self._last + data
        # The count and the digest are the last bytes, and which these are isn't known before.
        self._hashed.update(end[: -_COUNT_BYTES - _DIGEST_BYTES])
        self._last = end[-_COUNT_BYTES - _DIGEST_BYTES :]

    @property
    def entries(self) -> int:
        """How many the file's end says there are."""
        return int.from_bytes(self._last[:_COUNT_BYTES], "big")

    def end(self) -> None:
        """That was all. Raises `SnapshotRefused`."""
        self._hashed.update(self._last[:_COUNT_BYTES])
        if self._start != MAGIC or self._hashed.digest() != self._last[_COUNT_BYTES:]:
            raise SnapshotRefused("what came is damaged or cut off")


def _emptied(file: BytesIO) -> bytes:
    written = file.getvalue()
    file.seek(0)
    file.truncate()
    return written


def _recorded(moved: Moved, now: float) -> Record:
    made_from = (moved.model, moved.digest, moved.fingerprint)
    times = (now + moved.left_s, max(0.0, now - moved.age_s))
    return Record(moved.key, moved.packed, *made_from, *times, moved.tenant)


def _bounded(entries: Iterable[Moved]) -> Iterator[list[Moved]]:
    """In lists of about `BYTES_AT_ONCE`."""
    some: list[Moved] = []
    size = 0
    for moved in entries:
        some.append(moved)
        size += len(moved.packed)
        if size >= BYTES_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some
