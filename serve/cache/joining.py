"""Identical requests in one ingress: one asker at the shard, one generation, many listeners.

The shard's rules are in `serve.cache.flights`. Here, for each key that is being asked for:

1. The first request of a key asks the shard; those that come meanwhile wait for the same answer.
   The shard says hit, lead, follow, or "alone". Without a connection, or when it is lost, the
   answer is "alone" at once; while it lives, the shard has `cache.lookup_timeout_s`.
2. Who leads or is alone generates in a task that belongs to the flight, not to a request: its
   client may leave. Followers hear the leader's pieces through the shard. Either way the pieces
   gather here, and every request of this key, however late, hears all of them in order.
3. A leader's pieces go to the shard as fast as it takes them; nobody here waits for that.
4. When the last listener here has left, a follower gives up its seat. A leader tells the shard, and
   its generation is cancelled when the shard answers that nobody follows, or is gone. Who asks for
   that key here meanwhile asks the shard, on the same connection and so after that news: it follows
   the old generation, if that goes on, or leads a new one.
5. A flight that lost its generation ends with `EngineDied`, for all its listeners alike. Those that
   have sent nothing to their clients ask once more (`serve.web.infer`).
6. The whole answer is given to `keep` before its end is told to anybody.
7. After a purge nobody joins a flight from before it here either (`outdate`).

A listener is ended with the same error if it is more than a whole backlog behind.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextvars import Context
from typing import Any

from serve.cache.entry import Entry
from serve.cache.flights import DONE
from serve.cache.generation import Flight, Keep, Start, error_of
from serve.cache.outcome import Hit, Missed, Question
from serve.cache.pieces import Spelling, merged
from serve.cache.shards import Shards
from serve.errors import EngineDied
from serve.ports import Frame

log = logging.getLogger("rayllama.cache")


class Seat:
    """One request's place in a flight. Whoever gets one must `leave` it."""

    def __init__(self, flight: Flight, question: Question, *, is_first: bool) -> None:
        self._flight = flight
        self._question = question
        self._is_first = is_first
        self._has_left = False
        flight.sit()

    async def found(self) -> bytes | None:
        """The packed entry, if there is one: then the seat is left."""
        try:
            packed = await asyncio.shield(self._flight.found)
        except BaseException:
            self.leave()
            raise
        if packed is not None:
            self.leave()
        return packed

    @property
    def reason(self) -> Missed:
        """Why there is no entry; `joined` for who generates nothing."""
        return self._flight.reason if self._is_first else "joined"

    @property
    def hit(self) -> Hit | None:
        """The whole answer as a hit, if it was generated and kept here."""
        hit = self._flight.hit
        if hit is None:
            return None
        return Hit(hit.entry.spelled_as(self._question.spelled), self._question)

    @property
    def old(self) -> Entry | None:
        """The answer past its time that this flight renews."""
        return self._flight.old

    async def frames(self, start: Start) -> AsyncGenerator[Frame, None]:
        """The answer from its beginning, as `ports.Inference.stream` would bring it.

        Raises what the generation raised, or `EngineDied` if it was lost.
        """
        flight, spelling, place = self._flight, Spelling(self._question.spelled), 0
        flight.start(start)
        while True:
            pieces = flight.backlog.since(place)
            if pieces is None:
                raise EngineDied
            if pieces:
                place += len(pieces)
                for frame in spelling.frames(merged(pieces)):
                    yield frame
            elif flight.ending is None:
                await flight.grown()
            elif flight.ending == DONE:
                return
            else:
                raise error_of(flight.ending)

    def hear_out(self, start: Start) -> None:
        """Have the answer generated to its end, heard by nobody here.

        A leader's seat is not left: the flight ends by itself, and no other's leaving ends it.
        """
        if self._flight.reason == "joined":
            self.leave()
        else:
            self._flight.start(start)

    def leave(self) -> None:
        """Listen no more."""
        if not self._has_left:
            self._has_left = True
            self._flight.leave()


class Joining:
    """The flights of one ingress. Owns the tasks that generate."""

    def __init__(self, shards: Shards, *, ask_within_s: float, max_bytes: int) -> None:
        self.shards = shards
        self.ask_within_s = ask_within_s
        self.max_bytes = max_bytes
        self._flights: dict[bytes, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the flights live on."""
        return asyncio.get_running_loop()

    @property
    def count(self) -> int:
        """How many keys are being asked for, generated or followed now."""
        return len(self._flights)

    def sit(self, question: Question, keep: Keep | None, *, old: Entry | None = None) -> Seat:
        """A seat in the key's flight. With an `old` answer, which the flight is to renew, no stored
        one will do; nor without `keep`, of what nobody keeps."""
        flight = self._flights.get(question.key)
        is_first = flight is None or flight.backlog.is_cut
        if flight is None or is_first:
            flight = self._flights[question.key] = Flight(self, question, keep, old=old)
        return Seat(flight, question, is_first=is_first)

    def forget(self, key: bytes, flight: Flight) -> None:
        """Nobody can join this flight any more."""
        if self._flights.get(key) is flight:
            del self._flights[key]

    def outdate(self) -> None:
        """There was a purge: nobody joins the flights that there are."""
        self._flights.clear()

    def own(self, generation: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a flight's generation."""
        # In a context of its own: by the request's, Ray Serve would know the generation as that
        # request's child, and cancel it when the first client leaves.
        task = self.loop.create_task(generation, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def stop(self) -> None:
        """Cancel all generations, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("a generation failed", exc_info=fault)
