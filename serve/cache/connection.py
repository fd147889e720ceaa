"""One peer of a shard, and what the shard answers it."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from serve.cache.moved import Export, Restore, Restored
from serve.cache.outgoing import Outgoing
from serve.cache.protocol import (
    MALFORMED,
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    VERSION,
    Ask,
    Attend,
    Confirm,
    Confirmed,
    Counted,
    Frames,
    Get,
    Hit,
    Miss,
    Pause,
    Purge,
    Purged,
    Put,
    Question,
    Renew,
    Renewed,
    Reported,
    Subscribe,
    Taken,
    Welcome,
    decode_question,
    write,
)
from serve.cache.seats import SEAT, SeatQuestion, Seats

if TYPE_CHECKING:
    from collections.abc import Callable

    from serve.cache.shard import ShardServer

log = logging.getLogger("rayllama.cache")

HELLO_WITHIN_S = 5.0
_ANSWERS_AT_ONCE_BYTES = 256 << 10
_UNREAD_BYTES = 1 << 20
"""What may wait for a peer to read it, beside one more write, before we stop reading from it."""


class Connection(asyncio.Protocol):
    """One peer: an ingress, an inference replica, or an operator's command."""

    def __init__(self, server: "ShardServer") -> None:
        self._server = server
        self._holdings = server.holdings
        self.number = server.number()
        self._seats = Seats(self.number, server.holdings)
        self._outgoing = Outgoing(
            server.holdings.store, server.holdings.registry.names_of, server.clock
        )
        self._frames = Frames(MAX_HELLO_BYTES)
        self._waiting: deque[bytes | bytearray] = deque()
        self._out = bytearray()
        self._is_greeted = False
        self._is_paused = False
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_subscriber = self.is_ingress = self.lingers = False
        self.is_cut = False
        self._answers: dict[type, Callable[[Any], None]] = {
            Get: self._get,
            Put: self._put,
            Reported: self._reported,
            Subscribe: self._subscribe,
            Renew: self._renew,
            Ask: self._ask,
            Purge: self._purge,
            Taken: self._taken,
            Confirm: self._confirm,
            Attend: self._attend,
            Pause: self._pause,
            Export: self._export,
            Restore: self._restore,
            Counted: self._counted,
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

    def say(self, answer: Confirmed | Purged) -> None:
        """Answer what was asked some time ago."""
        write(answer, self._out)
        self._flush()

    def drop(self) -> None:
        """Close at once, without waiting for the peer to read."""
        self.is_cut = True
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
        packed = self._holdings.get(get.key, is_quiet=get.is_quiet)
        write(Miss(get.id) if packed is None else Hit(get.id, packed), self._out)

    def _put(self, put: Put) -> None:
        self._holdings.put(put)

    def _seat(self, question: SeatQuestion) -> None:
        self._seats.answer(question, self._out)

    def _counted(self, counted: Counted) -> None:
        self._holdings.ledger.add_rows(counted.rows)

    def _reported(self, reported: Reported) -> None:
        if self._holdings.report(reported.report):
            self._server.publish()

    def _subscribe(self, subscribe: Subscribe) -> None:
        self.is_subscriber = True
        self.is_ingress = subscribe.serves
        self.lingers = subscribe.lingers
        self._server.taken.subscribed(self.number)
        write(self._server.view(subscribe.id), self._out)

    def _attend(self, _: Attend) -> None:
        self.is_ingress = True

    def _renew(self, renew: Renew) -> None:
        self._server.taken.renewed(self.number)
        epoch, generation = self._holdings.registry.view.epoch, self._holdings.generation
        write(Renewed(renew.id, epoch, generation), self._out)

    def _ask(self, ask: Ask) -> None:
        write(self._server.stats(ask.id), self._out)

    def _purge(self, purge: Purge) -> None:
        answer = Purged(purge.id, *self._holdings.purge(purge))
        if purge.dry_run:
            write(answer, self._out)
            return
        self._server.publish()
        self._server.promise(self, answer)

    def _pause(self, pause: Pause) -> None:
        self._holdings.registry.pause(is_paused=pause.is_paused)
        self._server.publish()
        self._await(Confirmed(pause.id))

    def _export(self, export: Export) -> None:
        write(self._outgoing.answer(export), self._out)

    def _restore(self, restore: Restore) -> None:
        write(Restored(restore.id, self._holdings.restore_all(restore)), self._out)

    def _confirm(self, confirm: Confirm) -> None:
        self._await(Confirmed(confirm.id))

    def _await(self, answer: Confirmed | Purged) -> None:
        self._server.taken.wait((self.number, answer))
        self._server.settle()

    def _taken(self, taken: Taken) -> None:
        self._server.taken.taken(self.number, taken.change)
        self._server.settle()
