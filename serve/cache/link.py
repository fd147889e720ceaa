"""One connection to a shard: questions out, answers matched by their ids, news passed on.

Questions that have one answer are awaited (`ask`). A seat in a flight hears many: it is taken with
`join`, and its passenger is called with each, in order, and with the loss of the connection.

Questions asked in the same turn of the event loop leave in one write, and answers that came
together are handed out together; that, and no task per question, makes a look-up cheap.
"""

import asyncio
import logging
from collections.abc import Callable
from itertools import count
from typing import Protocol, cast

from serve.cache.moved import Export, Restore
from serve.cache.protocol import (
    MALFORMED,
    MAX_FRAME_BYTES,
    VERSION,
    Answer,
    Ask,
    Closed,
    Confirm,
    Follow,
    Frames,
    Get,
    Hello,
    Hit,
    Join,
    Lead,
    Miss,
    News,
    Pause,
    Pieces,
    Purge,
    Question,
    Renew,
    Subscribe,
    Taken,
    Viewed,
    Welcome,
    decode_answer,
    write,
)
from serve.errors import CacheUnavailable

log = logging.getLogger("rayllama.cache")

CONNECT_WITHIN_S = 5.0
_UNSENT_BYTES = 4 << 20
"""What may wait for the shard to read it, beside one more write; then asking and storing fail."""


_NEWS = (Hit, Miss, Lead, Follow, Pieces, Closed)
_LAST = (Hit, Miss, Closed)


InForce = asyncio.Future[None] | None
"""When something that was told is in force; None: it is."""


class Passenger(Protocol):
    """Who has a seat in a flight."""

    def heard(self, news: News) -> None:
        """Each thing that the shard says of the seat, in order."""
        ...

    def lost(self) -> None:
        """The connection is gone, and the seat with it."""
        ...


class Link(asyncio.Protocol):
    """One connection, as an asyncio protocol. `pushed` gets what the shard says unasked; `leaving`
    is called before this end closes the connection (`serve.cache.taken`, rule 4). Where `pushed`
    returns a future, the news is in force when that is done."""

    def __init__(
        self, pushed: Callable[[Viewed], InForce], leaving: Callable[[], None] = lambda: None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pushed = pushed
        self._leaving = leaving
        self.is_left = False
        self._frames = Frames(MAX_FRAME_BYTES)
        self._ids = count(1)
        self._asked: dict[int, tuple[asyncio.Future[Answer], asyncio.TimerHandle]] = {}
        self._aboard: dict[int, Passenger] = {}
        self._out = bytearray()
        self._is_paused = False
        self._resumed = asyncio.Event()
        self.lost: asyncio.Future[None] = self._loop.create_future()

    def next_id(self) -> int:
        """A number for a question."""
        return next(self._ids)

    async def greet(self, secret: bytes) -> None:
        """Say hello. Raises `CacheUnavailable` if the shard doesn't want us."""
        # 0 is no question's id: Welcome carries none, and is the first thing that a shard says.
        welcome = self._expect(0, CONNECT_WITHIN_S)
        self.send(Hello(VERSION, secret))
        await welcome

    async def ask(
        self,
        question: Get | Subscribe | Renew | Ask | Purge | Confirm | Pause | Export | Restore,
        timeout_s: float,
    ) -> Answer:
        """The answer. Raises `CacheUnavailable` if there is none in time."""
        answer = self._expect(question.id, timeout_s)
        if not self.send(question):
            self._give_up(question.id, "the cache shard does not keep up")
        return await answer

    def join(self, join: Join, passenger: Passenger) -> bool:
        """Ask for a seat in a flight. False if too much waits: then nobody calls."""
        if not self.send(join):
            return False
        self._aboard[join.id] = passenger
        return True

    def alight(self, ask_id: int) -> None:
        """Call this passenger no more."""
        self._aboard.pop(ask_id, None)

    def send(self, message: Question) -> bool:
        """Send with whatever else is said in this turn of the loop. False if too much waits."""
        return not self._is_paused and self.tell(message)

    async def writable(self) -> None:
        """Returns when it is worth while to send again, or the connection is gone."""
        if self._is_paused and not self.lost.done():
            await self._resumed.wait()

    def tell(self, message: Question) -> bool:
        """Send something short, however much waits. False if the connection is gone."""
        if self.lost.done():
            return False
        if not self._out:
            self._loop.call_soon(self._flush)
        write(message, self._out)
        return True

    async def drop(self) -> None:
        """Close at once. Returns when it is closed, which no peer can hold up."""
        if not self.lost.done():
            self._leave()
            await asyncio.wait([self.lost])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound what may wait."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_UNSENT_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's)
        """Fail whoever waits."""
        self.lost.set_result(None)
        for ask_id in list(self._asked):
            self._give_up(ask_id, "the cache shard is gone")
        aboard, self._aboard = self._aboard, {}
        for passenger in aboard.values():
            passenger.lost()
        self._resume()

    def pause_writing(self) -> None:
        """The shard does not read."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """The shard reads again."""
        self._is_paused = False
        self._resume()

    def data_received(self, data: bytes) -> None:
        """Hand each answer to who asked."""
        try:
            for frame in self._frames.feed(data):
                self._take(decode_answer(frame))
        except MALFORMED as fault:
            log.warning("a cache shard made no sense: %s", type(fault).__name__)
            self._leave()

    def _take(self, answer: Answer) -> None:
        ask_id = 0 if isinstance(answer, Welcome) else answer.id
        in_force: InForce = None
        if isinstance(answer, Viewed):
            # In force before the next message is read, be it asked for or not: whoever waits for it
            # wakes later, and must not put it in the place of a newer one.
            in_force = self._pushed(answer)
        waiting = self._asked.pop(ask_id, None)
        if waiting is not None:
            future, timer = waiting
            timer.cancel()
            if not future.done():
                future.set_result(answer)
        elif isinstance(answer, _NEWS) and ask_id in self._aboard:
            passenger = self._aboard[ask_id]
            if isinstance(answer, _LAST):
                del self._aboard[ask_id]
            passenger.heard(answer)
        elif isinstance(answer, Viewed) and ask_id == 0:
            self._take_in(answer.change, in_force)
        elif ask_id == 0:
            raise ValueError("news of no kind that there is")

    def _take_in(self, change: int, in_force: InForce) -> None:
        """Say that a change is taken in, as soon as it is."""
        if in_force is None:
            self.tell(Taken(change))
        else:
            in_force.add_done_callback(lambda done: done.cancelled() or self.tell(Taken(change)))

    def _expect(self, ask_id: int, timeout_s: float) -> "asyncio.Future[Answer]":
        future: asyncio.Future[Answer] = self._loop.create_future()
        timer = self._loop.call_later(
            timeout_s, self._give_up, ask_id, "the cache shard did not answer in time"
        )
        self._asked[ask_id] = (future, timer)
        return future

    def _give_up(self, ask_id: int, why: str) -> None:
        future, timer = self._asked.pop(ask_id)
        timer.cancel()
        if not future.done():
            future.set_exception(CacheUnavailable(why))

    def _leave(self) -> None:
        self.is_left = True
        self._leaving()
        self._transport.abort()

    def _resume(self) -> None:
        self._resumed.set()
        self._resumed.clear()

    def _flush(self) -> None:
        out, self._out = self._out, bytearray()
        if not self._transport.is_closing():  # uvloop raises where asyncio shrugs
            self._transport.write(out)
