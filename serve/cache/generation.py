"""One flight as an ingress has it: led, followed, or alone. Its rules: `serve.cache.joining`."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from serve.cache.backlog import Backlog
from serve.cache.client import Ticket
from serve.cache.entry import Entry
from serve.cache.flights import DONE, LOST, Ending, Kind
from serve.cache.outcome import Hit, Missed, Question
from serve.cache.pieces import Piece, cut, is_lines, merged, unpack
from serve.cache.protocol import Closed, Follow, Lead, News, Pieces
from serve.cache.protocol import Hit as HitAnswer
from serve.cache.shards import Shards
from serve.errors import (
    CacheUnavailable,
    EngineDied,
    EngineNotReady,
    Overloaded,
    RayllamaError,
    Unforeseen,
)
from serve.ports import Frame, Head, Tail

_ERRORS: dict[Kind, type[RayllamaError]] = {
    "overloaded": Overloaded,
    "not-ready": EngineNotReady,
    "fault": Unforeseen,
}
_FAULT = Ending("fault", "internal error; the log has more")
_BEATS_A_LEASE = 3

Start = Callable[[], AsyncGenerator[Frame, None]]
"""Begins the generation."""


class Keep(Protocol):
    """Stores a whole answer of status 200; returns it as a hit if it was kept."""

    def __call__(self, *, lines: Sequence[bytes], content_type: str, tail: Tail) -> Hit | None:
        """`lines` are without newlines."""
        ...


class Owner(Protocol):
    """What a flight needs of the ingress's other ones."""

    shards: Shards
    ask_within_s: float
    max_bytes: int

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that flights live on."""
        ...

    def forget(self, key: bytes, flight: "Flight") -> None:
        """Nobody can join this flight any more."""
        ...

    def own(self, generation: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a flight's generation."""
        ...


class Flight:
    """One key that is being asked for, generated or followed here."""

    def __init__(
        self, owner: Owner, question: Question, keep: Keep | None, *, old: Entry | None = None
    ) -> None:
        self._owner = owner
        self._question = question
        self._keep = keep
        self._head: Head | None = None
        self._listeners = 0
        self._ticket: Ticket | None = None
        self._task: asyncio.Task[None] | None = None
        self._grown = asyncio.Event()
        self._beat_s = 1.0
        self.found: asyncio.Future[bytes | None] = owner.loop.create_future()
        self.old = old
        self.reason: Missed = "cold"
        self.backlog: Backlog[Piece] = Backlog(owner.max_bytes)
        self.ending: Ending | None = None
        self.hit: Hit | None = None
        self._timer = owner.loop.call_later(owner.ask_within_s, self._late)
        try:
            may_read = keep is not None and old is None
            self._ticket = owner.shards.join(question.key, self, may_read=may_read)
        except CacheUnavailable:
            self._go_alone("unavailable")

    def sit(self) -> None:
        """One more listener."""
        self._listeners += 1

    def leave(self) -> None:
        """One listener less."""
        self._listeners -= 1
        if self._listeners or self.ending is not None:
            return
        if self._task is None:  # asking, following, or about to lead
            self._give_up_seat()
            self._close(LOST)
        else:
            self._owner.forget(self._question.key, self)
            if self._ticket is not None:
                self._ticket.leave()
            else:
                self._task.cancel()

    def start(self, start: Start) -> None:
        """Generate, if that is to be done here and nobody has begun."""
        if self._task is None and self.ending is None and self.reason != "joined":
            self._task = self._owner.own(self._run(start()))

    async def grown(self) -> None:
        """Returns when there is more to hear, or an ending."""
        await self._grown.wait()

    def heard(self, news: News) -> None:
        """From the shard."""
        if isinstance(news, Pieces):
            for packed in news.pieces:
                self._add(unpack(packed))
        elif isinstance(news, Closed):
            self._closed(news.ending)
        elif isinstance(news, HitAnswer):
            self._settle(news.packed)
            self._close(DONE)
        elif isinstance(news, Lead):
            self._beat_s = news.lease_s / _BEATS_A_LEASE
            self._settle()
        elif isinstance(news, Follow):
            self.reason = "joined"
            self._settle()
        else:
            self._go_alone("cold")

    def lost(self) -> None:
        """The shard's connection is gone."""
        if not self.found.done():
            self._go_alone("unavailable")
        else:
            self._closed(LOST)

    def _late(self) -> None:
        self._give_up_seat()
        self._go_alone("unavailable")

    def _go_alone(self, reason: Missed) -> None:
        self._ticket = None
        self.reason = reason
        self._settle()

    def _settle(self, packed: bytes | None = None) -> None:
        self._timer.cancel()
        if not self.found.done():
            self.found.set_result(packed)

    def _closed(self, ending: Ending) -> None:
        """The shard's last word: for a follower the end, for a leader that nobody else listens."""
        self._ticket = None
        if self.reason == "joined":
            self._close(ending)
            return
        self._wake()
        if not self._listeners and self._task is not None and self.ending is None:
            self._owner.forget(self._question.key, self)
            self._task.cancel()

    def _give_up_seat(self) -> None:
        if self._ticket is not None:
            self._ticket.finish(LOST)
            self._ticket = None

    def _close(self, ending: Ending) -> None:
        self.ending = ending
        self._timer.cancel()
        self._owner.forget(self._question.key, self)
        self._wake()

    def _add(self, piece: Piece) -> None:
        self.backlog.add(piece, len(piece.data))
        self._wake()

    def _wake(self) -> None:
        self._grown.set()
        self._grown.clear()

    async def _run(self, frames: AsyncGenerator[Frame, None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                if self._ticket is not None:
                    group.create_task(self._tell_shard(self._ticket))
                await self._generate(frames)
        finally:  # cut short: followers must not wait for the lease, nor take it for the end
            if self._ticket is not None:
                self._ticket.finish(_FAULT if self.ending == _FAULT else LOST)
                self._ticket = None

    async def _generate(self, frames: AsyncGenerator[Frame, None]) -> None:
        ending = LOST
        try:
            async with aclosing(frames), aclosing(cut(frames, self._question.spelled)) as pieces:
                async for piece in pieces:
                    self._head = piece.head or self._head
                    self._add(piece)
                    if piece.tail is not None:
                        self._keep_whole(piece.tail)
            ending = DONE
        except RayllamaError as error:
            ending = _ending_of(error)
        except Exception:  # told to the listeners; the owner of the task logs it
            ending = _FAULT
            raise
        finally:
            self._close(ending)

    def _keep_whole(self, tail: Tail) -> None:
        pieces, head = self.backlog.since(0), self._head
        if self._keep is None or not pieces or head is None or head.status != 200:
            return
        whole = b"".join(piece.data for piece in pieces)
        lines = whole.splitlines() if is_lines(head) else [whole]
        self.hit = self._keep(lines=lines, content_type=head.content_type, tail=tail)

    async def _tell_shard(self, ticket: Ticket) -> None:
        place = 0
        while self._ticket is ticket:
            pieces = self.backlog.since(place)
            if pieces is None:
                self._give_up_seat()
            elif pieces:
                if ticket.fill(merged(pieces).pack()):
                    place += len(pieces)
                else:
                    await ticket.writable()
            elif self.ending is not None:
                ticket.finish(self.ending)
                self._ticket = None
            else:
                await self._beat(ticket)

    async def _beat(self, ticket: Ticket) -> None:
        """Wait for more; show the shard that we live when that takes long."""
        try:
            async with asyncio.timeout(self._beat_s):
                await self.grown()
        except TimeoutError:
            ticket.fill(b"")


def _ending_of(error: RayllamaError) -> Ending:
    for kind, known in _ERRORS.items():
        if isinstance(error, known):
            return Ending(kind, str(error))
    return Ending("lost", str(error))


def error_of(ending: Ending) -> RayllamaError:
    """What a listener is told of an ending that wasn't good."""
    known = _ERRORS.get(ending.kind)
    if known is not None:
        return known(ending.text)
    return EngineDied(ending.text) if ending.text else EngineDied()
