"""A shard as its callers see it: ask, and take no answer for a miss.

`ShardClient` keeps one connection and makes it again when it is lost, asking anew where the shard
is, since a recreated actor listens elsewhere and has another secret. While there is no connection
every look-up fails at once and every store is dropped: losing a shard costs warmth, never time.

A heartbeat (`Renew`, four a lease) finds a shard that is reachable but says nothing; for a
subscriber it renews the lease on the catalogue as well (`serve.cache.catalogue`, rule 3).
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self, TypeVar

from msgspec import structs

from serve.cache.flights import Ending
from serve.cache.link import CONNECT_WITHIN_S, InForce, Link, Passenger
from serve.cache.moved import LOST, Export, Exported, Moved, Restore, Restored
from serve.cache.protocol import (
    Answer,
    Ask,
    Attend,
    Confirm,
    Confirmed,
    Counted,
    Fill,
    Finish,
    Get,
    Hit,
    Join,
    Leave,
    Miss,
    Pause,
    Purge,
    Purged,
    Put,
    Question,
    Renew,
    Renewed,
    Reported,
    Row,
    Stats,
    Subscribe,
    Viewed,
)
from serve.errors import CacheUnavailable
from serve.ports import CatalogueView, Clock, Report

log = logging.getLogger("rayllama.cache")

Address = tuple[str, int, bytes]
"""Host, port, and the secret that the shard wants to hear."""

Resolve = Callable[[], Awaitable[Address]]
"""Where the shard is now. Raises `CacheUnavailable` while nobody knows."""

ASK_WITHIN_S = 30.0
_BACKOFF_S = (0.05, 1.0)


class Watcher(Protocol):
    """Who is told of the catalogue by the shard that is its authority."""

    def viewed(self, view: CatalogueView, generation: int) -> InForce:
        """The view, and the generation of near answers (`protocol.Viewed`).

        Where it can't be put into force at once, returns when it is.
        """
        ...

    def renewed(self, epoch: int, asked_at: float) -> None:
        """The shard said, some time after `asked_at`, that this is still its epoch."""
        ...

    def forfeited(self) -> None:
        """This end closes the connection: the lease ends now."""
        ...


class Ticket:
    """A seat in a flight, on the connection that it was taken on."""

    def __init__(self, link: Link, ask_id: int) -> None:
        self._link = link
        self._id = ask_id

    def fill(self, piece: bytes) -> bool:
        """As a leader, send a piece; an empty one shows that we live. False if it must wait."""
        return self._link.send(Fill(self._id, piece))

    async def writable(self) -> None:
        """Returns when `fill` is worth another try, or the connection is gone."""
        await self._link.writable()

    def leave(self) -> None:
        """As a leader, say that nobody listens here any more."""
        self._link.tell(Leave(self._id))

    def finish(self, ending: Ending) -> None:
        """Give up the seat: nothing more is heard of it."""
        self._link.alight(self._id)
        self._link.tell(Finish(self._id, ending))


class ShardClient:
    """Owns the connection to one shard, and the task that keeps it.

    `serves`: is it an ingress's? By default, if there is a `watcher`. `lingers`: as in `Subscribe`.
    """

    def __init__(
        self,
        resolve: Resolve,
        *,
        clock: Clock,
        lease_s: float,
        watcher: Watcher | None = None,
        serves: bool | None = None,
        lingers: bool = False,
    ) -> None:
        self._lingers = lingers
        self._resolve = resolve
        self._clock = clock
        self._lease_s = lease_s
        self._watcher = watcher
        self._serves = watcher is not None if serves is None else serves
        self._link: Link | None = None
        self._keeping: asyncio.Task[None] | None = None
        self.generation = -1
        """The shard's, as last told; -1 is no shard's."""

    async def __aenter__(self) -> Self:
        self._keeping = asyncio.get_running_loop().create_task(self._keep())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])

    @property
    def is_connected(self) -> bool:
        """Is there a connection that has been greeted?"""
        return self._link is not None

    async def get(self, key: bytes, timeout_s: float, *, is_quiet: bool = False) -> bytes | None:
        """The packed entry, or None for a miss. Raises `CacheUnavailable`.

        If `is_quiet`, the shard counts it as neither.
        """
        link = self._connected()
        answer = await link.ask(Get(link.next_id(), key, is_quiet), timeout_s)
        if isinstance(answer, Hit):
            return answer.packed
        _expect(answer, Miss)
        return None

    def join(self, key: bytes, passenger: Passenger, *, may_read: bool) -> Ticket:
        """Ask for an answer or a seat in its flight; the passenger is called with what comes.

        Raises `CacheUnavailable`.
        """
        link = self._connected()
        join = Join(link.next_id(), key, may_read)
        if not link.join(join, passenger):
            raise CacheUnavailable("the cache shard does not keep up")
        return Ticket(link, join.id)

    def put(self, put: Put) -> bool:
        """Send an entry to be stored. False if it was dropped."""
        return self._tell(put)

    def report(self, report: Report) -> bool:
        """Send what an inference replica sees. False if it was dropped."""
        return self._tell(Reported(report))

    def count(self, rows: list[Row]) -> bool:
        """Send what requests came to. False if it was dropped."""
        return self._tell(Counted(rows))

    async def stats(self) -> Stats:
        """The shard's counts. Raises `CacheUnavailable`."""
        link = self._connected()
        return _expect(await link.ask(Ask(link.next_id()), ASK_WITHIN_S), Stats)

    async def purge(self, purge: Purge) -> Purged:
        """Drop or count entries, whatever the `id` given. Raises `CacheUnavailable`."""
        link = self._connected()
        asked = structs.replace(purge, id=link.next_id())
        return _expect(await link.ask(asked, ASK_WITHIN_S + self._lease_s), Purged)

    async def confirm(self) -> None:
        """Returns when every ingress has taken in what the shard was told here before.

        Raises `CacheUnavailable`.
        """
        link = self._connected()
        asked = Confirm(link.next_id())
        _expect(await link.ask(asked, ASK_WITHIN_S + self._lease_s), Confirmed)

    async def pause(self, *, is_paused: bool) -> None:
        """Have every ingress pass by the cache, or use it again; returns when all do.

        Raises `CacheUnavailable`.
        """
        link = self._connected()
        asked = Pause(link.next_id(), is_paused)
        _expect(await link.ask(asked, ASK_WITHIN_S + self._lease_s), Confirmed)

    async def exported(self, model: str, tenant: str) -> AsyncGenerator[list[Moved]]:
        """The entries of a canonical name and a tenant, where these are given, some at a time.

        Raises `CacheUnavailable`.
        """
        link, cursor = self._connected(), 0
        while True:
            asked = Export(link.next_id(), cursor, model, tenant)
            answer = _expect(await link.ask(asked, ASK_WITHIN_S), Exported)
            if answer.cursor == LOST:
                raise CacheUnavailable("the cache shard exports for too many at once")
            yield answer.entries
            cursor = answer.cursor
            if not cursor:
                return

    async def restored(self, entries: list[Moved], generation: int) -> dict[str, int]:
        """Have entries taken in; how many met which fate. Raises `CacheUnavailable`."""
        link = self._connected()
        asked = Restore(link.next_id(), entries, generation)
        return _expect(await link.ask(asked, ASK_WITHIN_S), Restored).counts

    async def generation_now(self) -> int:
        """The shard's own. Raises `CacheUnavailable`."""
        link = self._connected()
        return _expect(await link.ask(Renew(link.next_id()), ASK_WITHIN_S), Renewed).generation

    def _connected(self) -> Link:
        if self._link is None:
            raise CacheUnavailable("the cache shard is not connected")
        return self._link

    def _tell(self, message: Question) -> bool:
        return self._link is not None and self._link.send(message)

    async def _keep(self) -> None:
        """Connect, stay, and do it again."""
        shortest, longest = _BACKOFF_S
        wait_s = shortest
        while True:
            link: Link | None = None
            try:
                async with asyncio.timeout(CONNECT_WITHIN_S):
                    link = await self._connect()
                wait_s = shortest
                await self._stay(link)
            except Exception as fault:  # noqa: BLE001  (last resort: the resolver may be Ray's)
                log.info("a cache shard is away: %s: %s", type(fault).__name__, fault)
            finally:
                self._link = None
                if link is not None:
                    await link.drop()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, longest)

    async def _connect(self) -> Link:
        host, port, secret = await self._resolve()
        _, link = await asyncio.get_running_loop().create_connection(
            lambda: Link(self._pushed, self._leaving), host, port
        )
        try:
            await link.greet(secret)
        except BaseException:
            await link.drop()
            raise
        return link

    async def _stay(self, link: Link) -> None:
        """Returns or raises `CacheUnavailable` when the connection is of no more use."""
        if self._watcher is not None:
            asked_at = self._clock()
            answer = await link.ask(
                Subscribe(link.next_id(), self._serves, self._lingers), self._lease_s
            )
            viewed = _expect(answer, Viewed)
            self._renewed(link, viewed.view.epoch, asked_at)
        elif self._serves:
            link.tell(Attend())
        self._link = link
        while not link.lost.done():
            asked_at = self._clock()
            answer = await link.ask(Renew(link.next_id()), self._lease_s)
            renewed = _expect(answer, Renewed)
            self.generation = renewed.generation
            self._renewed(link, renewed.epoch, asked_at)
            await asyncio.wait([link.lost], timeout=self._lease_s / 4)

    def _renewed(self, link: Link, epoch: int, asked_at: float) -> None:
        if self._watcher is not None and not link.is_left:
            self._watcher.renewed(epoch, asked_at)

    def _pushed(self, viewed: Viewed) -> InForce:
        self.generation = viewed.generation
        if self._watcher is None:
            return None
        return self._watcher.viewed(viewed.view, viewed.generation)

    def _leaving(self) -> None:
        if self._watcher is not None:
            self._watcher.forfeited()


_Kind = TypeVar("_Kind", bound=Answer)


def _expect(answer: Answer, kind: type[_Kind]) -> _Kind:
    if not isinstance(answer, kind):
        raise CacheUnavailable("the cache shard answered something else")
    return answer
