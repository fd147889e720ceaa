"""A connection to the scheduler that is made again when it is lost, asking anew where it is.

The cache's link (`serve.cache.link`) is not used for this: what makes it long are look-ups with
time limits and seats in flights, and a scheduler's client has neither. They have the frames in
common.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self, cast

from serve.fleet.protocol import (
    MAX_FRAME_BYTES,
    VERSION,
    Answer,
    Beat,
    Hello,
    Question,
    Welcome,
    decode_answer,
)
from serve.wire.framing import MALFORMED, Frames, frame

log = logging.getLogger("rayllama.fleet")

Address = tuple[str, int, bytes]
"""Host, port, and the secret that the scheduler wants to hear."""

Resolve = Callable[[], Awaitable[Address]]
"""Where the scheduler is now. May raise anything while nobody knows."""

CONNECT_WITHIN_S = 5.0
_BACKOFF_S = (0.05, 1.0)
_UNSENT_BYTES = 1 << 20


class Listener(Protocol):
    """Who is on this end."""

    def connected(self, link: "Link") -> None:
        """The scheduler has greeted."""
        ...

    def heard(self, answer: Answer) -> None:
        """It said something."""
        ...

    def lost(self) -> None:
        """The connection is gone, and all that it carried."""
        ...


class Link(asyncio.Protocol):
    """One connection."""

    def __init__(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        self._listener = listener
        self._frames = Frames(MAX_FRAME_BYTES)
        self._is_greeted = False
        self.greeted: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.words = 0
        """How often the other end has spoken."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound what may wait."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_UNSENT_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's)
        """Tell whoever listens, if it has been told that there was one."""
        self.lost.set_result(None)
        if self._is_greeted:
            self._listener.lost()

    def pause_writing(self) -> None:
        """A scheduler that doesn't read so little decides nothing."""
        self.drop()

    def data_received(self, data: bytes) -> None:
        """Hand on what was said."""
        self.words += 1
        try:
            for each in self._frames.feed(data):
                self._take(decode_answer(each))
        except MALFORMED as fault:
            log.warning("a scheduler made no sense: %s", type(fault).__name__)
            self.drop()

    def send(self, message: Question) -> None:
        """Say something; to nobody, if the connection is gone."""
        if not self._transport.is_closing():
            self._transport.write(frame(message))

    def drop(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _take(self, answer: Answer) -> None:
        if self._is_greeted:
            self._listener.heard(answer)
        elif isinstance(answer, Welcome):
            self._is_greeted = True
            if not self.greeted.done():
                self.greeted.set_result(None)
            self._listener.connected(self)
        else:
            raise ValueError("no welcome")


class Kept:
    """Owns a connection, and the task that keeps it.

    `silence_s`: how long the other end may be silent; it is asked for a word four times in that.
    """

    def __init__(
        self, resolve: Resolve, listener: Listener, *, serves: bool, silence_s: float
    ) -> None:
        self._resolve = resolve
        self._listener = listener
        self._serves = serves
        self._silence_s = silence_s
        self._keeping: asyncio.Task[None] | None = None

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

    async def _keep(self) -> None:
        shortest, longest = _BACKOFF_S
        wait_s = shortest
        while True:
            try:
                await self._connect_and_stay()
                wait_s = shortest
            except Exception as fault:  # noqa: BLE001  (last resort: the resolver may be Ray's)
                log.info("the scheduler is away: %s: %s", type(fault).__name__, fault)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, longest)

    async def _connect_and_stay(self) -> None:
        """Returns when a connection that was greeted is of no more use."""
        link: Link | None = None
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                host, port, secret = await self._resolve()
                _, link = await asyncio.get_running_loop().create_connection(
                    lambda: Link(self._listener), host, port
                )
                link.send(Hello(VERSION, secret, self._serves))
                await asyncio.wait([link.greeted, link.lost], return_when="FIRST_COMPLETED")
            if not link.greeted.done():
                raise ConnectionError("it does not want us")
            await self._stay(link)
        finally:
            if link is not None and not link.lost.done():
                link.drop()
                await asyncio.wait([link.lost])

    async def _stay(self, link: Link) -> None:
        beats_unheard, words = 0, link.words
        while not link.lost.done() and beats_unheard < 4:
            link.send(Beat())
            await asyncio.wait([link.lost], timeout=self._silence_s / 4)
            beats_unheard = 0 if link.words > words else beats_unheard + 1
            words = link.words
