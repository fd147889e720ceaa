"""Marks of purges beside the snapshots: what lies there from before one is not to be believed.

A mark is a small file whose name says it all: which shard's, of how many, of which run, and when.
It is there before the purge is acknowledged, so that a shard that is killed right after it brings
nothing back, though the snapshots from before the purge may lie there still. It covers the files
that were begun before it: those of its shard's number, and, since each shard of its number has a
mark of its own, all that were written by another number of shards.

A mark is removed by its run when the files that it covers are gone. Those of other runs are left
for `_KEPT_MS`, since that run may be about to finish a file from before its purge.
"""

import asyncio
import re

from msgspec import Struct

from serve.cache.places import Place
from serve.cache.snapshot import MAGIC
from serve.cache.snapshot_name import SnapshotName
from serve.cache.snapshot_name import parse as parse_snapshot

_NAME = re.compile(r"rayllama-(\d{1,3})-of-(\d{1,3})-([0-9a-f]{8})-(\d{13})\.purged")
_KEPT_MS = 3_600_000


class Mark(Struct, frozen=True, gc=False):
    """One purge, at `at_ms` (milliseconds since the epoch)."""

    index: int
    count: int
    run: str
    at_ms: int

    def __str__(self) -> str:
        return f"rayllama-{self.index}-of-{self.count}-{self.run}-{self.at_ms:013}.purged"

    def covers(self, name: SnapshotName) -> bool:
        """Was this file begun before the purge, and may it hold what was purged?"""
        is_of_others = name.count == self.count and name.index != self.index
        return name.written_ms <= self.at_ms and not is_of_others


def parse(name: str) -> Mark | None:
    """The name taken apart, or None for a file that is no mark."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    index, count, run, at_ms = found.groups()
    return Mark(int(index), int(count), run, int(at_ms))


class PurgeMarks:
    """The marks in a folder, as last seen, and those of one run."""

    def __init__(self, index: int, count: int, run: str) -> None:
        self._index = index
        self._count = count
        self._run = run
        self._seen: set[Mark] = set()
        self.at_ms = 0
        """When this run's last purge was: what was begun until then is not to be believed."""

    def see(self, files: list[str]) -> None:
        """These are the files in the folder now."""
        self._seen.update(mark for mark in map(parse, files) if mark is not None)

    def covers(self, name: SnapshotName) -> bool:
        """May this file hold what was purged?"""
        return name.written_ms <= self.at_ms or any(mark.covers(name) for mark in self._seen)

    async def leave(self, folder: Place, at_ms: int) -> None:
        """There was a purge: returns when its mark is on the disk. Raises `OSError`."""
        self.at_ms = max(self.at_ms, at_ms)
        mark = Mark(self._index, self._count, self._run, self.at_ms)
        await asyncio.to_thread(_write, folder, str(mark))
        self._seen.add(mark)

    async def clear(self, folder: Place, now_ms: int) -> None:
        """Remove the marks that cover nothing any more. Raises `OSError`."""
        files = await asyncio.to_thread(folder.names)
        names = [name for name in map(parse_snapshot, files) if name is not None]
        marks = {mark for mark in map(parse, files) if mark is not None}
        for mark in marks:
            is_over = mark.run == self._run or now_ms - mark.at_ms > _KEPT_MS
            if is_over and not any(map(mark.covers, names)):
                await asyncio.to_thread(folder.remove, str(mark))
                self._seen.discard(mark)


def _write(folder: Place, name: str) -> None:
    opened = folder.write(name)
    try:
        opened.open().write(MAGIC)
        opened.commit()
    finally:
        opened.close()
