"""An ingress's leases: from the scheduler while it is there, from its own share while it isn't.

Alone, an ingress lets so many calls through at once as are its share of the pool's slots
(`protocol.Share`), of which the calls that still hold leases are a part; who asks waits for one of
them, or for the scheduler. It names no replica then: Serve's own routing chooses.

What a lost connection carried is over for the scheduler, but not for the calls: they go on, and
their leases are declared to whoever is the scheduler next. Whoever was in the line asks again.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from types import TracebackType
from typing import Self

from msgspec import Struct

from serve.errors import DeadlineExceeded, Overloaded
from serve.fleet.link import Kept, Link, Resolve
from serve.fleet.placement import State
from serve.fleet.protocol import (
    Answer,
    Ask,
    Granted,
    Hold,
    Queued,
    Refused,
    Release,
    Running,
    Share,
)
from serve.fleet.schedule import Outcome

log = logging.getLogger("rayllama.fleet")


class Need(Struct, frozen=True):
    """What a request needs (`line.Wanted`), and how long it may wait for it."""

    model: str
    num_ctx: int
    wait_s: float
    tenant: str = ""
    affinity: str = ""


class Lease(Struct):
    """Leave to make one call. `replica` is "" where Serve's own routing is to choose.

    `position`: where it was in the line when it asked, 0 if it didn't wait. `state`: how near the
    runner was, or "" if nobody knows. `outcome` may be set to what else became of it than `done`.
    """

    replica: str = ""
    state: State | str = ""
    position: int = 0
    outcome: Outcome = "done"


class _Lost(Exception):  # noqa: N818  (it never leaves this module)
    """The scheduler went before it decided."""


class _Seat:
    """One question, until it is decided."""

    def __init__(self) -> None:
        self.decided: asyncio.Future[Granted] = asyncio.get_running_loop().create_future()
        self.position = 0

    def fail(self, error: Exception) -> None:
        if not self.decided.done():
            self.decided.set_exception(error)


class Asking:
    """Owns the connection to the scheduler, the leases of one ingress, and who waits for them.

    `slots_alone`: its share until a scheduler has told it; `max_queue_alone`: who may wait for it.
    """

    def __init__(
        self, resolve: Resolve, *, silence_s: float, slots_alone: int, max_queue_alone: int = 512
    ) -> None:
        self._kept = Kept(resolve, self, serves=True, silence_s=silence_s)
        self._link: Link | None = None
        self._ids = count(1)
        self._seats: dict[int, _Seat] = {}
        self._held: dict[int, tuple[Lease, Need]] = {}
        self._changed: list[asyncio.Future[None]] = []
        self._running: frozenset[str] | None = None
        self._slots_alone = slots_alone
        self._max_queue_alone = max_queue_alone

    async def __aenter__(self) -> Self:
        await self._kept.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._kept.__aexit__(kind, error, trace)

    def running(self, replicas: frozenset[str]) -> None:
        """These replicas can be called now; the scheduler is to give no others."""
        self._running = replicas
        if self._link is not None:
            self._link.send(Running(replicas))

    @property
    def is_alone(self) -> bool:
        """Is there no scheduler now?"""
        return self._link is None

    @property
    def slots_alone(self) -> int:
        """How many calls it lets through at once while it is alone."""
        return self._slots_alone

    @asynccontextmanager
    async def lease(self, need: Need) -> AsyncGenerator[Lease]:
        """For one call. Raises `Overloaded` (with `retry_after_s`) or `DeadlineExceeded`."""
        number = next(self._ids)
        try:
            async with asyncio.timeout(need.wait_s):
                lease = await self._admitted(number, need)
        except TimeoutError:
            raise _late(need) from None
        try:
            yield lease
        except asyncio.CancelledError:
            lease.outcome = "left"
            raise
        finally:
            del self._held[number]
            self._end(number, lease.outcome)
            self._wake()

    async def _admitted(self, number: int, need: Need) -> Lease:
        while True:
            if self._link is not None:
                try:
                    return await self._asked(self._link, number, need)
                except _Lost:
                    continue
            if len(self._held) < self._slots_alone:
                return self._hold(number, need, Lease())
            if len(self._changed) >= self._max_queue_alone:
                raise Overloaded
            change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._changed.append(change)
            try:
                await change
            finally:
                if change in self._changed:
                    self._changed.remove(change)

    async def _asked(self, link: Link, number: int, need: Need) -> Lease:
        seat = self._seats[number] = _Seat()
        link.send(Ask(number, need.model, need.num_ctx, need.wait_s, need.tenant, need.affinity))
        try:
            granted = await seat.decided
        except asyncio.CancelledError:
            self._end(number, "left")
            raise
        except DeadlineExceeded:
            raise _late(need) from None
        finally:
            self._seats.pop(number, None)
        return self._hold(number, need, Lease(granted.replica, granted.state, seat.position))

    def _hold(self, number: int, need: Need, lease: Lease) -> Lease:
        self._held[number] = (lease, need)
        return lease

    def _end(self, number: int, outcome: Outcome) -> None:
        if self._link is not None:
            self._link.send(Release(number, outcome))

    def _wake(self) -> None:
        """Those who wait for a share see whether there is one."""
        changed, self._changed = self._changed, []
        for each in changed:
            if not each.done():
                each.set_result(None)

    def connected(self, link: Link) -> None:
        """The link's: there is a scheduler. It is told what runs."""
        log.info("a scheduler grants the leases")
        self._link = link
        if self._running is not None:
            link.send(Running(self._running))
        for number, (lease, need) in self._held.items():
            if lease.replica:
                link.send(Hold(number, lease.replica, need.model, need.num_ctx))
        self._wake()

    def heard(self, answer: Answer) -> None:
        """The link's: what the scheduler says."""
        if isinstance(answer, Share):
            if answer.slots == 0:
                return  # a new scheduler that knows no replica yet: the last share told holds
            self._slots_alone = max(1, answer.slots // max(1, answer.ingresses))
        elif isinstance(answer, Granted | Queued | Refused):
            seat = self._seats.get(answer.id)
            if seat is not None:
                _hear(seat, answer)

    def lost(self) -> None:
        """The link's: the scheduler is gone, and who was in its line asks elsewhere."""
        log.warning("no scheduler: this ingress lets through %d calls at once", self._slots_alone)
        self._link = None
        for seat in self._seats.values():
            seat.fail(_Lost())


def _hear(seat: _Seat, answer: Granted | Queued | Refused) -> None:
    if isinstance(answer, Queued):
        seat.position = answer.position
    elif isinstance(answer, Granted):
        if not seat.decided.done():
            seat.decided.set_result(answer)
    else:
        refusal = DeadlineExceeded() if answer.is_late else Overloaded()
        refusal.retry_after_s = answer.retry_after_s
        seat.fail(refusal)


def _late(need: Need) -> DeadlineExceeded:
    return DeadlineExceeded(f"no slot was free within {need.wait_s:g} seconds")
