"""A shard's socket server: `Holdings` behind the frames of `serve.cache.protocol`.

Everything happens on one event loop, a batch of frames at a time: what arrived together is answered
in one write. A peer that does not read its answers is not read from either, so nothing piles up
for it; a subscriber that is in that state when the view changes is cut off, and comes back. What a
flight brings waits in the flight's own backlog until the peer reads again.

Each change that subscribers are told has a number, and who asks is told when all have taken it in
(`serve.cache.taken`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from hmac import compare_digest
from itertools import count

from serve.cache.connection import Connection
from serve.cache.holdings import Holdings
from serve.cache.protocol import (
    VERSION,
    Confirmed,
    Hello,
    Purged,
    Question,
    Stats,
    Viewed,
    frame,
)
from serve.cache.taken import Taken
from serve.ports import Clock
from serve.settings import CacheSettings

log = logging.getLogger("rayllama.cache")

Told = Callable[[], None]


class ShardServer:
    """Owns the listening socket, the connections, and the task that lets things expire."""

    def __init__(
        self,
        secret: bytes,
        settings: CacheSettings,
        clock: Clock,
        *,
        has_forerunner: bool = False,
        tenants: Collection[str] | None = None,
    ) -> None:
        self.clock = clock
        self._secret = secret
        self._tick_s = settings.catalogue_poll_s / 2
        self._connections: set[Connection] = set()
        self._numbered: dict[int, Connection] = {}
        self._numbers = count(1)
        self._starting = asyncio.Lock()
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._settling: asyncio.TimerHandle | None = None
        self.holdings = Holdings(settings, clock, tenants)
        self.taken: Taken[tuple[int, Confirmed | Purged]] = Taken(
            settings.lease_s, clock, has_forerunner=has_forerunner
        )
        self._promising: set[asyncio.Task[None]] = set()
        self.purged: Callable[[], Awaitable[None]] | None = None
        """Returns when what was purged can't come back from a snapshot. Raises `OSError`."""
        self.deserted: Told = lambda: None
        """Called when the last ingress has left: all may be stopping."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen, once. Returns where: the host as given, and the port."""
        async with self._starting:  # several ingresses may ask an actor for its address at once
            if self._server is None:
                loop = asyncio.get_running_loop()
                self._server = await loop.create_server(lambda: Connection(self), host, port)
                self._ticking = loop.create_task(self._tick())
        bound: int = self._server.sockets[0].getsockname()[1]
        return host, bound

    async def stop(self) -> None:
        """Close everything at once: callers see a shard that died."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
        for task in self._promising:
            task.cancel()
        await asyncio.gather(*self._promising, return_exceptions=True)
        if self._settling is not None:
            self._settling.cancel()
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections):
                connection.drop()
            await asyncio.gather(*(connection.gone for connection in self._connections))
            await self._server.wait_closed()

    def admits(self, hello: Question) -> bool:
        """Is this a peer of ours?"""
        return (
            isinstance(hello, Hello)
            and hello.version == VERSION
            and compare_digest(hello.secret, self._secret)
        )

    def joined(self, connection: Connection) -> None:
        """A connection was made, perhaps when it was too late."""
        self._connections.add(connection)
        self._numbered[connection.number] = connection
        if self._server is not None and not self._server.is_serving():
            connection.drop()

    def left(self, connection: Connection) -> None:
        """A connection is gone, and with it its seats in flights."""
        self._connections.discard(connection)
        self._numbered.pop(connection.number, None)
        outlives = connection.is_cut or connection.lingers
        self.taken.left(connection.number, is_cut=outlives)
        self.deliver()
        self.settle()
        if connection.is_ingress and not self.subscribers:
            self.deserted()

    def number(self) -> int:
        """A number for a connection."""
        return next(self._numbers)

    def deliver(self) -> None:
        """Give those who have seats in flights what there is for them."""
        while told := self.holdings.flights.news():  # telling some may be news for others
            waiting: dict[int, list[int]] = {}
            for number, ask_id in told:
                waiting.setdefault(number, []).append(ask_id)
            for number, ask_ids in waiting.items():
                connection = self._numbered.get(number)
                if connection is not None:
                    connection.deliver(ask_ids)

    @property
    def subscribers(self) -> int:
        """How many ingresses are connected."""
        return sum(connection.is_ingress for connection in self._connections)

    def stats(self, ask_id: int = 0) -> Stats:
        """What this shard holds, and its counts since it started."""
        return self.holdings.stats(ask_id, self.subscribers)

    def view(self, ask_id: int = 0) -> Viewed:
        """What subscribers are told."""
        view, generation = self.holdings.registry.view, self.holdings.generation
        return Viewed(ask_id, view, generation, self.taken.change)

    def promise(self, connection: Connection, purged: Purged) -> None:
        """Answer a purge when it is true everywhere, and can't come back from a snapshot."""
        if self.purged is None:
            self._wait(connection, purged)
            return
        task = asyncio.get_running_loop().create_task(
            self._promise(self.purged(), connection, purged)
        )
        self._promising.add(task)
        task.add_done_callback(self._promising.discard)

    async def _promise(self, kept: Awaitable[None], connection: Connection, purged: Purged) -> None:
        try:
            await kept
        except OSError as fault:  # who asked must not believe that it is done
            log.warning("a purge can't be made to last: %s", type(fault).__name__)
            connection.drop()
        else:
            self._wait(connection, purged)

    def _wait(self, connection: Connection, purged: Purged) -> None:
        self.taken.wait((connection.number, purged))
        self.settle()

    def settle(self) -> None:
        """Answer those who waited for a change to be taken in, and look again when leases end."""
        for number, answer in self.taken.due():
            connection = self._numbered.get(number)
            if connection is not None:
                connection.say(answer)
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        next_s = self.taken.next_s
        if next_s is not None and self._server is not None and self._server.is_serving():
            self._settling = asyncio.get_running_loop().call_later(next_s + 0.001, self.settle)

    def publish(self) -> None:
        """Tell every subscriber the view, now."""
        self.taken.changed()
        news = frame(self.view())
        for connection in list(self._connections):
            if connection.is_subscriber:
                connection.push(news)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            if self.holdings.tick():
                self.publish()
            self.deliver()
