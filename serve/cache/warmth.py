"""A shard that comes back warm: what it holds is written to a folder, and read by who comes next.

The rules, by what each prevents:

1. A shard reads in the background while it serves. What was stored meanwhile wins, and nothing that
   is there is pushed out by what is read. Reading goes to the store directly, before any replica
   has reported: the shard hands out only what its registry vouches for (`serve.cache.holdings`).
2. It takes the keys that rendezvous hashing gives it. From files of as many shards as there are now
   it reads its own number's alone; where the number was another, all.
3. Runs have an order, which their files' names tell (`serve.cache.snapshot_name`): a process that
   starts later than another's file comes after it, whatever the nodes' clocks say. A later run
   reads and removes what earlier ones wrote, never the other way round. So in a rollout, where both
   write, nothing is lost: the new shard reads what the old one wrote last, before its own next
   file.
4. A file is removed when it has been read and its entries are in a newer file: for its own number
   by the shard itself, for another number of shards when each shard of today's has written. Only
   files with our name and our first bytes are removed, and none that was refused.
5. What an operator purged must not come back. A purge is acknowledged when a mark of it is in the
   folder (`serve.cache.purge_marks`), upon which the shard writes at once; files from before the
   purge are not read any more, by nobody, and removed by that write. A shard that is killed before
   it has written costs warmth.
6. A folder that can't be reached, and a file that is refused, cost warmth and a line in the log.

7. A tenant whose last key was revoked is gone with all its answers. To revoke a key is to deploy a
   config without it: Serve then starts the shards anew, since their arguments have changed, and
   the ingresses, which refuse the key before they look anywhere. Nothing of that tenant is read
   back, nor imported; and since the file that held it is to be replaced, the shard writes soon
   even if nothing else is new. So no call to the admin API is needed.

When it writes: at the interval if anything was stored, after a purge, when it is stopped, and when
the last ingress has left it (each shard knows all of them). The last is for Serve, which kills
deployment actors (no signal comes before), but only when the last replica of their version is gone:
a small shard has written by then; a large one has lost one interval at most.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import aclosing, suppress

from serve.cache.holdings import Holdings
from serve.cache.places import Place, place
from serve.cache.purge_marks import PurgeMarks
from serve.cache.shards import shard_of
from serve.cache.snapshot import Record, header, is_ours, moved_of, slices, write
from serve.cache.snapshot_name import SnapshotName, new_run, parse, parse_part
from serve.errors import SnapshotRefused
from serve.ports import Clock
from serve.settings import CacheSettings

log = logging.getLogger("rayllama.cache")

_LOOK_S = 1.0
"""How soon a purge is noticed."""
_ABANDONED_MS = 3_600_000
"""An unfinished file that is older is nobody's any more."""


class Warmth:
    """Owns the task that reads and writes one shard's snapshots.

    `clock`: seconds, the one of the holdings; `wall`: seconds since the epoch.
    """

    def __init__(
        self,
        holdings: Holdings,
        settings: CacheSettings,
        index: int,
        *,
        clock: Clock,
        wall: Clock,
    ) -> None:
        self._holdings = holdings
        self._settings = settings
        self._index = index
        self._clock = clock
        self._wall = wall
        self._run = new_run()
        self._marks = PurgeMarks(index, settings.shards, self._run)
        self._began_ms = self._written_ms = 0
        self._done_with: set[SnapshotName] = set()
        self._refused: set[SnapshotName] = set()
        self._generation = holdings.generation
        self._written_puts = 0
        self._has_revoked = False
        self._due = 0.0
        self._woken = asyncio.Event()
        self.has_read = False
        """Has it been through what there was when it began?"""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, once. Raises `ConfigError` for a URL that nothing here can open."""
        if self._task is None and self._settings.snapshot.url:
            folder = place(self._settings.snapshot.url)
            self._due = self._clock() + self._settings.snapshot.interval_s
            self._task = asyncio.get_running_loop().create_task(self._keep(folder))

    def hurry(self) -> None:
        """Write soon: there may not be much time."""
        self._due = self._clock()
        self._woken.set()

    async def purged(self) -> None:
        """Returns when what was purged up to now can't come back. Raises `OSError`."""
        if self._task is not None:
            folder = place(self._settings.snapshot.url)
            await self._marks.leave(folder, max(self._now_ms(), self._written_ms))
            self.hurry()

    async def stop(self) -> None:
        """Write for the last time, if there is anything new."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
            await self._write(place(self._settings.snapshot.url))

    async def _keep(self, folder: Place) -> None:
        await self._take_in(folder)
        self.has_read = True
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_LOOK_S, self._settings.snapshot.interval_s)):
                    await self._woken.wait()
            self._woken.clear()
            if self._is_purged or self._clock() >= self._due:
                self._due = self._clock() + self._settings.snapshot.interval_s
                await self._take_in(folder)
                await self._write(folder)

    @property
    def _is_purged(self) -> bool:
        return self._holdings.generation != self._generation

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)

    # --- Reading

    async def _take_in(self, folder: Place) -> None:
        """Read what earlier runs have left and this one has not read."""
        try:
            names = await self._names(folder)
        except OSError as fault:
            log.warning("snapshots can't be listed: %s", type(fault).__name__)
            return
        if not self._began_ms:
            self._began_ms = max([self._now_ms(), *(name.began_ms + 1 for name in names)])
        for name in self._left_to_us(names):
            if self._is_purged:
                return
            await self._load(folder, name)

    async def _names(self, folder: Place) -> list[SnapshotName]:
        found = await asyncio.to_thread(folder.names)
        self._marks.see(found)
        return [name for name in map(parse, found) if name is not None]

    def _left_to_us(self, names: list[SnapshotName]) -> list[SnapshotName]:
        """The newest file of each earlier run that holds keys of ours, newest first."""
        seen: set[tuple[str, int, int]] = set()
        found = []
        for name in sorted(names, reverse=True):
            if not self._is_earlier(name) or self._marks.covers(name):
                continue
            is_newest = name.shard not in seen
            seen.add(name.shard)
            may_hold_ours = name.count != self._settings.shards or name.index == self._index
            if not (is_newest and may_hold_ours):
                self._done_with.add(name)
            elif name not in self._done_with | self._refused:
                found.append(name)
        return found

    def _is_earlier(self, name: SnapshotName) -> bool:
        return name.began_ms < self._began_ms

    async def _load(self, folder: Place, name: SnapshotName) -> None:
        kept = 0
        try:
            async with aclosing(slices(folder, str(name))) as found:
                async for records in found:
                    if self._is_purged:  # what was purged may be in here
                        return
                    kept += sum(map(self._restored, records))
        except SnapshotRefused as fault:
            self._refused.add(name)
            log.warning("a snapshot is refused: %s", fault)
        except OSError as fault:  # removed by another shard, or to be tried again
            log.warning("a snapshot can't be read: %s: %s", name, type(fault).__name__)
        else:
            self._done_with.add(name)
            log.info("%d entries are back from %s", kept, name)

    def _restored(self, record: Record) -> bool:
        if shard_of(record.key, self._settings.shards) != self._index:
            return False
        fate = self._holdings.restore(moved_of(record, self._wall()))
        self._has_revoked |= fate == "revoked"
        return fate == "taken"

    # --- Writing

    async def _write(self, folder: Place) -> None:
        """Write all that is held, if it is not what was written last; remove what that replaces."""
        if not self._began_ms or (self._is_written and not self._is_purged):
            return
        generation, puts = self._holdings.generation, self._holdings.store.puts
        if self._is_purged:
            self._marks.at_ms = max(self._marks.at_ms, self._now_ms())
        self._written_ms = max(self._written_ms + 1, self._marks.at_ms + 1, self._now_ms())
        name = self._name(self._written_ms)
        try:
            count = await write(
                folder,
                str(name),
                header(self._wall(), ttl_s=self._settings.ttl_s, shards=self._settings.shards),
                self._records(),
                is_wanted=lambda: self._holdings.generation == generation,
            )
            if count < 0:
                self.hurry()
                return
            self._generation, self._written_puts = generation, puts
            self._has_revoked = False
            await self._clear(folder, name)
            await self._marks.clear(folder, self._now_ms())
        except OSError as fault:
            log.warning("a snapshot can't be written: %s", type(fault).__name__)
        else:
            log.info("wrote %d entries to %s", count, name)

    @property
    def _is_written(self) -> bool:
        return self._holdings.store.puts == self._written_puts and not self._has_revoked

    def _name(self, written_ms: int) -> SnapshotName:
        return SnapshotName(
            self._began_ms, written_ms, self._run, self._index, self._settings.shards
        )

    def _records(self) -> Iterator[Record]:
        since_epoch = self._wall() - self._clock()
        now = self._clock()
        for key, stored in self._holdings.store.everything():
            if stored.expires_at > now:
                yield Record(
                    key,
                    stored.packed,
                    stored.model,
                    stored.digest,
                    stored.fingerprint,
                    stored.expires_at + since_epoch,
                    stored.stored_at + since_epoch,
                    stored.tenant,
                )

    # --- Clearing up

    async def _clear(self, folder: Place, written: SnapshotName) -> None:
        """Remove the files that the one just written replaces."""
        found = await asyncio.to_thread(folder.names)
        names = [name for name in map(parse, found) if name is not None]
        for name in names:
            if self._is_replaced(name, written, names) and await is_ours(folder, str(name)):
                await asyncio.to_thread(folder.remove, str(name))
        for name in filter(None, map(parse_part, found)):
            is_abandoned = self._now_ms() - name.written_ms > _ABANDONED_MS
            if is_abandoned and name.index == self._index:
                await asyncio.to_thread(folder.remove, f"{name}.part")
        self._done_with.intersection_update(names)
        self._refused.intersection_update(names)

    def _is_replaced(
        self, name: SnapshotName, written: SnapshotName, names: list[SnapshotName]
    ) -> bool:
        if name.shard == written.shard:
            return name.written_ms < written.written_ms
        is_read = name in self._done_with or self._marks.covers(name)
        if not self._is_earlier(name) or not is_read or name in self._refused:
            return False
        if name.count == written.count:
            return name.index == written.index
        today = {
            other.index
            for other in names
            if other.count == written.count and other > name and other.written_ms > name.written_ms
        }
        return len(today) == written.count
