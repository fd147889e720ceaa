"""The scheduler's socket: `Schedule` behind the messages of `serve.fleet.protocol`.

All happens on one event loop. What was decided while a peer's bytes were read is told to everybody
it concerns before the next peer's are. Messages are small, so a peer that lets many of them lie is
not waiting for anything: it is cut off, and comes back.
"""

import asyncio
import logging
from hmac import compare_digest
from itertools import count
from typing import cast

from msgspec import structs

from serve.fleet.line import Wanted
from serve.fleet.placement import Policy
from serve.fleet.protocol import (
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    VERSION,
    Ask,
    Beat,
    Granted,
    Hello,
    Hold,
    Question,
    Queued,
    Refused,
    Release,
    Running,
    Share,
    Stands,
    Welcome,
    decode_question,
)
from serve.fleet.schedule import Decision, Schedule
from serve.fleet.schedule import Granted as Grant
from serve.fleet.schedule import Queued as Wait
from serve.ports import Clock
from serve.wire.framing import MALFORMED, Frames, frame, write

log = logging.getLogger("rayllama.fleet")

_UNREAD_BYTES = 1 << 20
_TICK_S = 0.1


class Peer(asyncio.Protocol):
    """One connection: an ingress or a replica."""

    def __init__(self, desk: "Desk", number: int) -> None:
        self._desk = desk
        self.number = number
        self.is_ingress = self._is_greeted = False
        self.replica = ""
        self.heard_at = desk.clock()
        self._frames = Frames(MAX_HELLO_BYTES)
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound what may wait."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_UNREAD_BYTES)
        self._desk.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's)
        """Its leases and its places in the line are over."""
        self._desk.left(self)
        self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take in some bytes; tell all whom they concern."""
        self.heard_at = self._desk.clock()
        try:
            for each in self._frames.feed(data):
                self._take(decode_question(each))
        except MALFORMED as fault:
            log.warning("closed a connection that made no sense: %s", type(fault).__name__)
            self.drop()
        self._desk.tell()

    def pause_writing(self) -> None:
        """It does not read."""
        self.drop()

    def say(self, data: bytes | bytearray) -> None:
        """Send frames."""
        if not self._transport.is_closing():  # uvloop raises where asyncio shrugs
            self._transport.write(data)

    def drop(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _take(self, question: Question) -> None:
        if isinstance(question, Hello):
            self._greet(question)
        elif not self._is_greeted:
            raise ValueError("no hello of ours")
        elif isinstance(question, Beat):
            self.say(frame(question))
        elif isinstance(question, Stands):
            self.replica = question.standing.replica
            self._desk.stands(self, question)
        elif isinstance(question, Running):
            self._desk.schedule.running(question.replicas, self.heard_at)
        else:
            self._desk.take(self, question)

    def _greet(self, hello: Hello) -> None:
        if self._is_greeted or not self._desk.admits(hello):
            raise ValueError("no hello of ours")
        self._is_greeted, self.is_ingress = True, hello.serves
        self._frames.max_bytes = MAX_FRAME_BYTES
        self.say(frame(Welcome(VERSION)))
        self._desk.share(self)


class Desk:
    """Owns the listening socket, the connections, the schedule, and the task that lets time pass.

    `silence_s`: after so long without a word a peer counts as gone.
    """

    def __init__(self, secret: bytes, policy: Policy, clock: Clock, *, silence_s: float) -> None:
        self.clock = clock
        self.schedule = Schedule(policy)
        self._secret = secret
        self._silence_s = silence_s
        self._numbers = count(1)
        self._peers: dict[int, Peer] = {}
        self._replicas: dict[str, Peer] = {}
        self._share = Share(0, 0)
        self._starting = asyncio.Lock()
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.Task[None] | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen, once. Returns where: the host as given, and the port."""
        async with self._starting:  # several may ask an actor for its address at once
            if self._server is None:
                loop = asyncio.get_running_loop()
                self._server = await loop.create_server(
                    lambda: Peer(self, next(self._numbers)), host, port
                )
                self._ticking = loop.create_task(self._tick())
        bound: int = self._server.sockets[0].getsockname()[1]
        return host, bound

    async def stop(self) -> None:
        """Close everything at once: peers see a scheduler that died."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
        if self._server is not None:
            self._server.close()
            peers = list(self._peers.values())
            for peer in peers:
                peer.drop()
            await asyncio.gather(*(peer.gone for peer in peers))
            await self._server.wait_closed()

    def admits(self, hello: Hello) -> bool:
        """Is this a peer of ours?"""
        return hello.version == VERSION and compare_digest(hello.secret, self._secret)

    def joined(self, peer: Peer) -> None:
        """A connection was made, perhaps when it was too late."""
        self._peers[peer.number] = peer
        if self._server is not None and not self._server.is_serving():
            peer.drop()

    def left(self, peer: Peer) -> None:
        """A connection is gone."""
        del self._peers[peer.number]
        self.schedule.lost(peer.number, self.clock())
        if self._replicas.get(peer.replica) is peer:  # else it has come back on another one
            del self._replicas[peer.replica]
            self.schedule.leave(peer.replica, self.clock())
        self.tell()

    def stands(self, peer: Peer, stands: Stands) -> None:
        """A replica's word of itself."""
        self._replicas[peer.replica] = peer
        self.schedule.report(stands.standing, self.clock())

    def take(self, peer: Peer, question: Ask | Release | Hold) -> None:
        """An ingress's. Raises `ValueError` if it uses an id twice."""
        ticket, now = (peer.number, question.id), self.clock()
        if isinstance(question, Ask):
            wanted = Wanted(
                question.model,
                question.num_ctx,
                now + question.wait_s,
                question.tenant,
                question.affinity,
            )
            peer.say(_said(question.id, self.schedule.ask(ticket, wanted, now)))
        elif isinstance(question, Hold):
            key = (question.model, question.num_ctx)
            self.schedule.hold(ticket, question.replica, key, now)
        else:
            self.schedule.release(ticket, now, question.outcome)

    def tell(self) -> None:
        """Everybody whom it concerns what has been decided."""
        out: dict[int, bytearray] = {}
        for (number, ask_id), decision in self.schedule.news():
            out.setdefault(number, bytearray()).extend(_said(ask_id, decision))
        for number, said in out.items():
            if number in self._peers:
                self._peers[number].say(said)
        ingresses = [peer for peer in self._peers.values() if peer.is_ingress]
        share = Share(self.schedule.figures.slots, len(ingresses))
        if share != self._share:
            self._share = share
            for peer in ingresses:
                self.share(peer)

    def share(self, peer: Peer) -> None:
        """Tell an ingress what it may do alone."""
        if peer.is_ingress:
            peer.say(frame(self._share))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self.schedule.expire(self.clock())
            self.tell()
            for peer in list(self._peers.values()):
                if self.clock() - peer.heard_at > self._silence_s:
                    peer.drop()


def _said(ask_id: int, decision: Decision) -> bytes:
    out = bytearray()
    if isinstance(decision, Grant):
        write(Granted(ask_id, *structs.astuple(decision)), out)
    elif isinstance(decision, Wait):
        write(Queued(ask_id, *structs.astuple(decision)), out)
    else:
        write(Refused(ask_id, decision.reason == "late", decision.retry_after_s), out)
    return bytes(out)
