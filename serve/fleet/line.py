"""Who waits, and in which order: start-time fair queueing between tenants.

Each tenant has a line of its own, first come, first served. `served` counts what a tenant has been
given; the next request in order is of the tenant that has been given least. A tenant that comes, or
comes back, begins where service is now (`_service`), not at nought: being idle saves nothing up.
(Goyal, Vin and Cheng, "Start-time fair queueing", 1996, with a cost of one for each request: how
long an answer will be is not known when it is asked for.)

Whoever is served out of turn, since what is first in order fits nowhere now, is charged the same.
Leaving costs nothing, since only what is served is charged. Without keys all are one tenant, and
this is one line.
"""

import heapq
from collections.abc import Iterator
from math import ceil

from msgspec import Struct

Ticket = tuple[int, int]
"""Who asked: the number of a connection, and the question's own number on it."""

Key = tuple[str, int]
"""What a runner is of: a model's canonical name, and its tokens of context."""

_MAX_REMEMBERED = 1000
"""Tenants that don't wait now, and whose charges are remembered."""


class Wanted(Struct, frozen=True):
    """What a request needs of a replica.

    `num_ctx` is what the engine will load, its default where the request names none.
    `affinity` names the conversation, or is "". `deadline` is in the scheduler's seconds.
    """

    model: str
    num_ctx: int
    deadline: float
    tenant: str = ""
    affinity: str = ""

    @property
    def key(self) -> Key:
        """The runner that serves it."""
        return self.model, self.num_ctx


class Waiting(Struct):
    """One request in the line. `key` may be shorter in context than asked: the model's longest."""

    ticket: Ticket
    wanted: Wanted
    key: Key
    since: float
    number: int


class Line:
    """All who wait, by tenant."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[Ticket, Waiting]] = {}
        self._served: dict[str, float] = {}
        self._tenants: dict[Ticket, str] = {}
        self._service = 0.0

    def __len__(self) -> int:
        return len(self._tenants)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._tenants

    def __iter__(self) -> Iterator[Waiting]:
        for line in self._lines.values():
            yield from line.values()

    def add(self, waiting: Waiting) -> None:
        """At the end of its tenant's line."""
        tenant = waiting.wanted.tenant
        if tenant not in self._lines:
            self._lines[tenant] = {}
            self._served[tenant] = max(self._served.get(tenant, 0.0), self._service)
        self._lines[tenant][waiting.ticket] = waiting
        self._tenants[waiting.ticket] = tenant

    def leave(self, ticket: Ticket) -> Waiting:
        """Out of the line, unserved."""
        tenant = self._tenants.pop(ticket)
        line = self._lines[tenant]
        waiting = line.pop(ticket)
        if not line:
            del self._lines[tenant]
            if self._served[tenant] <= self._service:
                del self._served[tenant]  # it would begin anew at the same place
        if not self._lines and len(self._served) > _MAX_REMEMBERED:
            self._served.clear()  # nobody waits, so nobody is owed anything
        return waiting

    def serve(self, ticket: Ticket) -> Waiting:
        """Out of the line, served: its tenant is charged."""
        tenant = self._tenants[ticket]
        self._service = max(self._service, self._served[tenant])
        self._served[tenant] += 1.0
        if len(self._served) > 2 * len(self._lines) + _MAX_REMEMBERED:
            self._forget()
        return self.leave(ticket)

    def order(self) -> Iterator[Waiting]:
        """All, in the order in which they should be served. Not to be changed meanwhile."""
        heads: list[tuple[float, int, Waiting, Iterator[Waiting]]] = []
        for tenant, line in self._lines.items():
            rest = iter(line.values())
            first = next(rest)
            heads.append((self._served[tenant], first.number, first, rest))
        heapq.heapify(heads)
        while heads:
            tag, _, waiting, rest = heads[0]
            yield waiting
            following = next(rest, None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (tag + 1.0, following.number, following, rest))

    def position_of_last(self, tenant: str) -> int:
        """How many are served up to and with this tenant's last; of equals, it is the first."""
        tag = self._served[tenant] + len(self._lines[tenant]) - 1
        return 1 + sum(
            min(len(line), max(0, ceil(tag - self._served[other])))
            for other, line in self._lines.items()
        )

    def crowds(self, tenant: str, room: int) -> bool:
        """Whether a tenant has more than its share, and each of those who wait could come again."""
        tenants = len(self._lines)
        return len(self) + tenants > room + 1 and len(self._lines[tenant]) > ceil(room / tenants)

    def surplus(self, tenant: str) -> Waiting:
        """Who must go if this tenant's last is one too many: the last of whoever has most."""
        longest = max(self._lines.values(), key=len)
        own = self._lines[tenant]
        return next(reversed((longest if len(longest) > len(own) else own).values()))

    def _forget(self) -> None:
        """Tenants that would begin anew at the same place."""
        self._served = {
            tenant: served
            for tenant, served in self._served.items()
            if tenant in self._lines or served > self._service
        }
