"""The feeder: one a node, beside its proxy. What is hot goes to the edge, and leaves before it is
stale.

How "nothing stale" holds:

1. The feeder subscribes to the cache's authority as an ingress does (`serve.cache.catalogue`), and
   an entry is at the edge only if the catalogue vouches for what it was made from, and it comes
   from the near caches' present generation.
2. When a change is told, the edge is silenced first: one command, whatever it holds. Only then the
   change counts as taken in (`serve.cache.taken`), and who made it hears that it is done. Then what
   the change has made invalid is removed, and after that the lease is given again.
3. A lease at the edge never outlasts the catalogue's own, which the authority waits out for a
   subscriber that says nothing. So where the proxy can't be told, since it is gone, stuck, or has
   been replaced and finishes what it had begun, its lease ends in time.
4. What the feeder has set up serves on when it dies. So it `lingers`: the authority doesn't take
   the end of its connection for the end of its lease.

The proxy's counts are read every `COUNT_EVERY_S`: they decide which entries stay, are told to the
authority as hits of the tier `edge`, and are why the shared store is asked for an entry now and
then, so that it isn't evicted as idle. What was counted between the last reading and a reload is
lost.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from serve.cache.catalogue import Catalogue
from serve.cache.client import Resolve
from serve.cache.ledger import Ledger
from serve.cache.protocol import Row
from serve.cache.shards import Shards
from serve.edge.admin_socket import ProxyAway
from serve.edge.launcher import State
from serve.edge.protocol import Hot
from serve.edge.proxy import Proxy
from serve.edge.rules import body_limit
from serve.edge.shelf import Entry, Shelf, entry_of
from serve.errors import CacheUnavailable
from serve.ports import CatalogueView, Clock
from serve.settings import CacheSettings, EdgeSettings

log = logging.getLogger("rayllama.edge")

COUNT_EVERY_S = 5.0
TOUCH_EVERY_S = 30.0
_AGAIN_S = 1.0
_ADDS_A_TURN = 1000
_COMMAND_BYTES = 256
"""What a command takes of the proxy's buffer beside its value."""
_REFUSALS = 1000


class Feeder:
    """Owns the connections to the shards, and the tasks that feed.

    `look`: what the proxy of this node is now, or None. `clock`: seconds, monotonic; `now`: since
    the epoch.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        cache: CacheSettings,
        resolvers: Sequence[Resolve],
        look: Callable[[], State | None],
        *,
        clock: Clock,
        now: Clock,
    ) -> None:
        self._clock = clock
        self._now = now
        self.lease_s = cache.lease_s
        self._lookup_s = cache.lookup_timeout_s
        self._catalogue = Catalogue(cache.lease_s)
        self._generation = 0
        self._changes = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._told = asyncio.Event()
        self._work = asyncio.Event()
        self._counted: dict[str, int] = {}
        self._counted_pid = 0
        self._ledger = Ledger()
        self._running = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self.shelf = Shelf(settings.max_bytes, settings.max_entries)
        self.proxy = Proxy(look, clock, now)
        self.shards = Shards(
            resolvers, clock=clock, lease_s=cache.lease_s, watcher=self, serves=False, lingers=True
        )
        self.promoted = self.refused = self.hits = 0
        self.refusals: dict[bytes, str] = {}
        """The latest: why, by the key in the shared store."""
        self.is_whole = False
        """Does the proxy hold all that is on the shelf?"""

    async def __aenter__(self) -> Self:
        await self._running.enter_async_context(self.shards)
        loop = asyncio.get_running_loop()
        turns = (self._settle, self._feed, self._count)
        self._tasks = [loop.create_task(again(turn)) for turn in turns]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.proxy.silence()
        finally:
            for waiting in self._waiting:
                waiting.cancel()
            await self._running.aclose()

    def viewed(self, view: CatalogueView, generation: int) -> "asyncio.Future[None]":
        """From the authority: the view, and whether near answers must be forgotten."""
        has_moved = view.utc_offset_s != self._catalogue.view.utc_offset_s
        if generation != self._generation or has_moved:
            self._generation = generation
            self.shelf.keep(lambda _: False)
        self._catalogue.adopt(view)
        self._changes += 1
        in_force: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(in_force)
        self._told.set()
        return in_force

    def renewed(self, epoch: int, asked_at: float) -> None:
        """From the authority: the view is still its own."""
        self._catalogue.renew(epoch, asked_at)

    def forfeited(self) -> None:
        """The connection to the authority is being closed from here."""
        self._catalogue.forfeit()

    @property
    def wanted_bytes(self) -> int:
        """How long an answer may be that is told here; 0: there is no edge."""
        state = self.proxy.state()
        return body_limit(state.bufsize) if state else 0

    @property
    def lease_left_s(self) -> float:
        """For how long the proxy may answer if nothing more is heard."""
        return max(0.0, self.proxy.leased_until - self._clock())

    def tell(self, hot: Hot) -> bool:
        """An ingress finds this hot. Returns if it goes to the edge."""
        state = self.proxy.state()
        known = self.shelf.entries.get(hot.key)
        if known is not None and known.stored_at == hot.stored_at and self._is_good(known):
            known.heat += hot.hits  # told again, by another ingress
            return True
        why = self._put(hot, state)
        if why:
            self.refused += 1
            self.refusals[hot.shared_key] = why
            if len(self.refusals) > _REFUSALS:
                del self.refusals[next(iter(self.refusals))]
            return False
        self.refusals.pop(hot.shared_key, None)
        self.promoted += 1
        self._work.set()
        return True

    def _put(self, hot: Hot, state: State | None) -> str:
        """Put it on the shelf. Why it can't be there, or nothing."""
        if state is None:
            return "no edge"
        entry = entry_of(hot, self._clock(), self._now())
        if hot.generation != self._generation or not self._is_good(entry):
            return "what it was made from is not vouched for now, or its time is over"
        is_short = len(hot.body) <= body_limit(state.bufsize)
        if not is_short or len(entry.value) + _COMMAND_BYTES >= state.bufsize:
            return "longer than HAProxy's buffer allows"
        return "" if self.shelf.put(entry) else "others are hotter, and there is no room for more"

    def _is_good(self, entry: Entry) -> bool:
        now = self._clock()
        made_from = (entry.model, entry.digest, entry.fingerprint)
        return entry.expires_at > now and self._catalogue.vouches(*made_from, now)

    async def _settle(self) -> None:
        """Each change that is told: silence, and only then is it taken in."""
        if self._waiting:
            self._told.set()
        while True:
            await self._told.wait()
            self._told.clear()
            waiting, count = self._waiting, len(self._waiting)
            await self.proxy.silence()
            self._waiting = waiting[count:]
            for in_force in waiting[:count]:
                if not in_force.done():
                    in_force.set_result(None)
            self._work.set()

    async def _feed(self) -> None:
        while True:
            self._work.clear()
            is_more = False
            try:
                self.is_whole = await self._turn()
                is_more = not self.is_whole
            except ProxyAway as away:
                self.is_whole = False
                log.info("%s", away)
            if not is_more:
                await self._rest()

    async def _rest(self) -> None:
        """Until there is work, or the lease is to be renewed."""
        try:
            async with asyncio.timeout(self.lease_s / 4):
                await self._work.wait()
        except TimeoutError:
            return

    async def _turn(self) -> bool:
        """What belongs at the edge, there; what doesn't, gone; then the lease. Is that all?"""
        state, changes = self.proxy.state(), self._changes
        if state is None:
            return True

        def may() -> bool:
            return changes == self._changes and not self._waiting

        if not self._catalogue.is_live(self._clock()):  # nothing is vouched for: nothing is given
            return True
        self.shelf.keep(self._is_good)
        is_whole = await self.proxy.bring(state, self.shelf.entries, _ADDS_A_TURN)
        left_s = self._catalogue.left_s(self._clock())
        await self.proxy.lease(state, left_s, may)
        return is_whole

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(COUNT_EVERY_S)
            state = self.proxy.state()
            if state is None:
                continue
            try:
                pid, counts = await self.proxy.counts(state)
            except ProxyAway as away:
                log.info("%s", away)
                continue
            self.take_counts(pid, counts)
            await self._touch()

    def take_counts(self, pid: int, counts: dict[str, int]) -> None:
        """What the proxy's process of this number has counted since it began."""
        before = self._counted if pid == self._counted_pid else {}
        self._counted, self._counted_pid = counts, pid
        since = {
            key: count - before.get(key, 0) if count >= before.get(key, 0) else count
            for key, count in counts.items()
        }
        hits = {key: count for key, count in since.items() if count}
        for key, count in hits.items():
            self.hits += count
            entry = self.shelf.known(key)
            if entry is not None:
                self._ledger.add_rows([_row(entry, count)])
        self.shelf.counted(hits)
        rows = self._ledger.drain()
        if rows and not self.shards.count(rows):
            self._ledger.add_rows(rows)

    async def _touch(self) -> None:
        """Ask the shared store for what was hit, so that it isn't idle there."""
        due = self._clock() - TOUCH_EVERY_S
        for entry in list(self.shelf.entries.values()):
            if entry.heat >= 1 and entry.touched_at <= due:
                entry.touched_at = self._clock()
                try:
                    await self.shards.peek(entry.shared_key, self._lookup_s)
                except CacheUnavailable:
                    return


async def again(turn: Callable[[], Awaitable[None]]) -> None:
    """What goes on for ever, whatever happens to it."""
    while True:
        try:
            await turn()
        except Exception:
            log.exception("the edge's feeder begins anew")  # the last resort
            await asyncio.sleep(_AGAIN_S)


def _row(entry: Entry, hits: int) -> Row:
    answers = {"hit": {"edge": hits}}
    return Row(entry.model, entry.tenant, answers, entry.tokens * hits, entry.gpu_ns * hits)
