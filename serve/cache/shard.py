"""A shard's socket server: `Holdings` behind the frames of `serve.cache.protocol`.

Everything happens on one event loop, a batch of frames at a time: what arrived together is answered
in one write. A peer that does not read its answers is not read from either, so nothing piles up
for it; a subscriber that is in that state when the view changes is cut off, and comes back. What a
flight brings waits in the flight's own backlog until the peer reads again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from hmac import compare_digest
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from serve.cache.holdings import Holdings
from serve.cache.protocol import (
    MALFORMED,
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    VERSION,
    Ask,
    Frames,
    Get,
    Hello,
    Hit,
    Miss,
    Purge,
    Purged,
    Put,
    Question,
    Renew,
    Renewed,
    Reported,
    Subscribe,
    Viewed,
    Welcome,
    decode_question,
    frame,
    write,
)
from serve.cache.seats import SEAT, SeatQuestion, Seats
from serve.ports import Clock
from serve.settings import CacheSettings

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("rayllama.cache")

HELLO_WITHIN_S = 5.0
_ANSWERS_AT_ONCE_BYTES = 256 << 10
_UNREAD_BYTES = 1 << 20
"""What may wait for a peer to read it, beside one more write, before we stop reading from it."""


class ShardServer:
    """Owns the listening socket, the connections, and the task that lets things expire."""

    def __init__(self, secret: bytes, settings: CacheSettings, clock: Clock) -> None:
        self._secret = secret
        self._tick_s = settings.catalogue_poll_s / 2
        self._connections: set[_Connection] = set()
        self._numbered: dict[int, _Connection] = {}
        self._numbers = count(1)
        self._starting = asyncio.Lock()
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.Task[None] | None = None
        self.holdings = Holdings(settings, clock)
        self.deserted: Callable[[], None] = lambda: None
        """Called when the last subscriber has left: the ingresses may be stopping."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen, once. Returns where: the host as given, and the port."""
        async with self._starting:  # several ingresses may ask an actor for its address at once
            if self._server is None:
                loop = asyncio.get_running_loop()
                self._server = await loop.create_server(lambda: _Connection(self), host, port)
                self._ticking = loop.create_task(self._tick())
        bound: int = self._server.sockets[0].getsockname()[1]
        return host, bound

    async def stop(self) -> None:
        """Close everything at once: callers see a shard that died."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
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

    def joined(self, connection: "_Connection") -> None:
        """A connection was made, perhaps when it was too late."""
        self._connections.add(connection)
        self._numbered[connection.number] = connection
        if self._server is not None and not self._server.is_serving():
            connection.drop()

    def left(self, connection: "_Connection") -> None:
        """A connection is gone, and with it its seats in flights."""
        self._connections.discard(connection)
        self._numbered.pop(connection.number, None)
        self.deliver()
        if connection.is_subscriber and not self.subscribers:
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
        """How many connections are told of changes."""
        return sum(connection.is_subscriber for connection in self._connections)

    def view(self, ask_id: int = 0) -> Viewed:
        """What subscribers are told."""
        return Viewed(ask_id, self.holdings.registry.view, self.holdings.generation)

    def publish(self) -> None:
        """Tell every subscriber the view, now."""
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


class _Connection(asyncio.Protocol):
    """One peer: an ingress, an inference replica, or an operator's command."""

    def __init__(self, server: ShardServer) -> None:
        self._server = server
        self._holdings = server.holdings
        self.number = server.number()
        self._seats = Seats(self.number, server.holdings)
        self._frames = Frames(MAX_HELLO_BYTES)
        self._waiting: deque[bytes | bytearray] = deque()
        self._out = bytearray()
        self._is_greeted = False
        self._is_paused = False
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_subscriber = False
        self._answers: dict[type, Callable[[Any], None]] = {
            Get: self._get,
            Put: self._put,
            Reported: self._reported,
            Subscribe: self._subscribe,
            Renew: self._renew,
            Ask: self._ask,
            Purge: self._purge,
            **dict.fromkeys(SEAT, self._seat),
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The peer has some seconds to say hello."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_UNREAD_BYTES)
        self._deadline = asyncio.get_running_loop().call_later(HELLO_WITHIN_S, self.drop)
        self._server.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's)
        """The peer is gone, or was cut off."""
        self._deadline.cancel()
        self._waiting.clear()
        self._seats.lost()
        self._server.left(self)
        self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take in some bytes; answer what they complete."""
        try:
            self._waiting.extend(self._frames.feed(data))
            self._work()
        except MALFORMED as fault:
            log.warning("closed a connection that made no sense: %s", type(fault).__name__)
            self.drop()

    def pause_writing(self) -> None:
        """The peer does not read: stop reading from it."""
        self._is_paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._is_paused = False
        self._transport.resume_reading()
        self.deliver(())
        self.data_received(b"")

    def push(self, news: bytes) -> None:
        """Tell the peer something that it didn't ask for, or cut it off if it isn't listening."""
        self._flush()  # news must not overtake what was said before it
        if self._is_paused:
            self.drop()
        else:
            self._send(news)

    def deliver(self, ask_ids: Iterable[int]) -> None:
        """Say what these seats have not heard; later, if the peer does not read now."""
        if self._seats.deliver(ask_ids, self._out, is_paused=self._is_paused):
            self._flush()

    def drop(self) -> None:
        """Close at once, without waiting for the peer to read."""
        self._waiting.clear()
        self._transport.abort()

    def _work(self) -> None:
        while self._waiting and not self._is_paused:
            self._answer(decode_question(self._waiting.popleft()))
            if len(self._out) >= _ANSWERS_AT_ONCE_BYTES:
                self._flush()
        self._flush()
        self._server.deliver()

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, bytearray()
            self._send(out)

    def _send(self, data: bytes | bytearray) -> None:
        if not self._transport.is_closing():  # uvloop raises where asyncio shrugs
            self._transport.write(data)

    def _answer(self, question: Question) -> None:
        if self._is_greeted:
            answer = self._answers.get(type(question))
            if answer is None:
                raise ValueError("a second hello")
            answer(question)
        elif self._server.admits(question):
            self._is_greeted = True
            self._deadline.cancel()
            self._frames.max_bytes = MAX_FRAME_BYTES
            write(Welcome(VERSION), self._out)
        else:
            raise ValueError("no hello of ours")

    def _get(self, get: Get) -> None:
        packed = self._holdings.get(get.key)
        write(Miss(get.id) if packed is None else Hit(get.id, packed), self._out)

    def _put(self, put: Put) -> None:
        self._holdings.put(put)

    def _seat(self, question: SeatQuestion) -> None:
        self._seats.answer(question, self._out)

    def _reported(self, reported: Reported) -> None:
        if self._holdings.report(reported.report):
            self._server.publish()

    def _subscribe(self, subscribe: Subscribe) -> None:
        self.is_subscriber = True
        write(self._server.view(subscribe.id), self._out)

    def _renew(self, renew: Renew) -> None:
        write(Renewed(renew.id, self._holdings.registry.view.epoch), self._out)

    def _ask(self, ask: Ask) -> None:
        write(self._holdings.stats(ask.id, self._server.subscribers), self._out)

    def _purge(self, purge: Purge) -> None:
        entries = self._holdings.purge(purge.model)
        write(Purged(purge.id, entries), self._out)
        self._server.publish()
