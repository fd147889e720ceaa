"""Admission to a pool and the choice of its replica: state and decisions, no sockets, no clock.

An Ollama queues without bound for a model that is loaded, can't be asked how much waits in it, and
unloads one model to load another whenever it is told to. So nothing is sent to a replica that it
can't begin at once, and what it is sent is chosen for what it has loaded. The rules:

1. Slots. A replica is never given more calls than it has slots. Who gets one has a lease, until it
   is released, or its owner is lost. Calls from before this scheduler began (`Replica.strangers`)
   take up slots too, until the replica says that they are gone.
2. The line. Who fits nowhere waits, at most `max_queue` of them, each until its deadline. The order
   is fair between tenants (`serve.fleet.line`), and who is first but fits nowhere holds up nobody
   else. If there is no room for all, the last of the tenant with most in the line is refused. The
   last places are kept for tenants below their share, so that others are refused at once.
3. Runners. What is loaded is a (model, num_ctx): the same model with another context is another
   runner, and replaces the first in its replica. A request goes where its runner is loaded; else
   where it is being loaded; else to a replica that has the model and room for one runner more; else
   to one where a runner is displaced (rule 4); one that lacks the model only if all do. Among
   equals it goes to the one with most free slots, where a conversation's own replica counts for
   more (`placement._worth`). A replica loads one model at a time.
4. Displacing. A runner with calls is never displaced; it could only be done by waiting inside the
   Ollama. An idle one, that nobody waits for, is
     - at once, if it has not been used for `keep_s`, or if the wanted runner is nowhere;
     - after `patience_s` of waiting, and when it has had `keep_s` since it was loaded, if the
       wanted runner is loaded elsewhere, and only short of slots: another can serve, so a replica
       keeps what it has. This is what ends the reloading to and fro.
   A runner that is waited for as well gives way only to one that is nowhere, after `patience_s`,
   and after its turn of `keep_s`.
5. Claims. What is in use all the time is never idle, and who needs its place would wait for ever
   (as in an Ollama itself). So, under the same conditions, a runner is claimed: it gets no more
   calls, ends those it has, and goes. One that has copies with free slots is also claimed for a
   runner that is elsewhere, but too few: so the pool shifts to what is asked for.
6. Leaving. A replica is given nothing that the ingresses don't see (`running`): it is only
   starting, or is being drained. A lease or a place in the line ends with its owner's connection; a
   replica's place ends with its own, but leases on it last until their owners say so, and count
   again when it is back.

Work is conserved but for rule 4: nobody waits while there is a free slot that rules 1 to 3 would
give it. Nobody waits for ever: for runners that are loaded by the order of the line, for others by
rules 4 and 5, and for all by the deadline.

Each call may decide about others than the caller; `news` says what. The time is handed in, in
monotonic seconds; `expire` should be called every so often, since waiting alone decides too.
"""

from collections.abc import Iterable
from itertools import count
from math import ceil
from typing import Literal

from msgspec import Struct

from serve.fleet.line import Key, Line, Ticket, Waiting, Wanted
from serve.fleet.placement import Place, Placement, Policy, State
from serve.fleet.replica import Replica, Standing

Outcome = Literal["done", "left", "unreached"]
"""How a lease ended: it was served; its client left; the replica could not be reached."""

_MAX_RETRY_AFTER_S = 60


class Granted(Struct, frozen=True):
    """Go to this replica. `state`: how near the runner was there."""

    replica: str
    state: State


class Queued(Struct, frozen=True):
    """Wait. `position`: 1 is next. `state`: how near the runner is, anywhere."""

    position: int
    state: State


class Refused(Struct, frozen=True):
    """`full`: too many wait. `late`: its deadline has passed."""

    reason: Literal["full", "late"]
    retry_after_s: int


Decision = Granted | Queued | Refused


class Lease(Struct, frozen=True):
    """A call that a replica was given."""

    replica: str
    key: Key
    since: float


class Figures(Struct, frozen=True):
    """How it stands. `slots` are those of the replicas that may be given something."""

    replicas: int
    slots: int
    in_flight: int
    waiting: int


class Schedule:
    """All that is known of one pool. Not safe for more than one thread."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._placement = Placement(policy)
        self._line = Line()
        self._leases: dict[Ticket, Lease] = {}
        self._news: list[tuple[Ticket, Granted | Refused]] = []
        self._numbers = count()
        self._running: frozenset[str] | None = None
        """What an ingress said last; None if none has."""
        self._service_s = 1.0
        """How long a lease lasts, on average: for `retry_after_s`."""

    @property
    def figures(self) -> Figures:
        """Now."""
        replicas = self._placement.replicas
        return Figures(len(replicas), self._placement.slots, len(self._leases), len(self._line))

    @property
    def replicas(self) -> list[Replica]:
        """All that have reported, in the order of their names."""
        return [replica for _, replica in sorted(self._placement.replicas.items())]

    def state(self, key: Key) -> State:
        """How near a runner is, anywhere in the pool."""
        return self._placement.state(self._placement.clamped(key))

    def news(self) -> list[tuple[Ticket, Granted | Refused]]:
        """What has been decided about those who wait, since the last call."""
        news, self._news = self._news, []
        return news

    def ask(self, ticket: Ticket, wanted: Wanted, now: float) -> Decision:
        """Want a slot. Raises `ValueError` if the ticket is in use."""
        if ticket in self._leases or ticket in self._line:
            raise ValueError("a question's number was used twice")
        if wanted.deadline <= now:
            return Refused("late", self._retry_after_s())
        key = self._placement.clamped(wanted.key)
        self._line.add(Waiting(ticket, wanted, key, now, next(self._numbers)))
        self._placement.wanted[key] += 1
        self._dispatch(now)
        if len(self._line) > self._policy.max_queue:
            self._refuse(self._line.surplus(wanted.tenant).ticket)
        elif ticket in self._line and self._line.crowds(wanted.tenant, self._policy.max_queue):
            self._refuse(ticket)
        for at, (told, decision) in enumerate(self._news):
            if told == ticket:
                del self._news[at]
                return decision
        position = self._line.position_of_last(wanted.tenant)
        return Queued(position, self._placement.state(key))

    def release(self, ticket: Ticket, now: float, outcome: Outcome = "done") -> None:
        """A lease is over, or whoever waited has left. What isn't known is over already."""
        self._end(ticket, now, outcome)
        self._dispatch(now)

    def hold(self, ticket: Ticket, replica: str, key: Key, now: float) -> None:
        """A lease from before this scheduler knew of it. Raises `ValueError` if it is in use."""
        if ticket in self._leases or ticket in self._line:
            raise ValueError("a question's number was used twice")
        self._leases[ticket] = Lease(replica, self._placement.clamped(key), now)
        if replica in self._placement.replicas:
            self._placement.replicas[replica].hold(self._leases[ticket].key, now)

    def lost(self, connection: int, now: float) -> None:
        """This connection is gone, and its leases and places in the line with it."""
        tickets = [ticket for ticket in self._leases if ticket[0] == connection]
        tickets += [each.ticket for each in self._line if each.ticket[0] == connection]
        for ticket in tickets:
            self._end(ticket, now, "left")
        self._dispatch(now)

    def report(self, standing: Standing, now: float) -> None:
        """What a replica says of itself, for the first time or again."""
        known = self._placement.replicas.get(standing.replica)
        before = None if known is None else _facts(known.standing)
        if known is None:
            known = self._placement.replicas[standing.replica] = Replica(standing)
            for lease in self._leases.values():
                if lease.replica == standing.replica:
                    known.hold(lease.key, now)
        known.take_in(standing, now)
        known.is_running = self._running is None or standing.replica in self._running
        if _facts(standing) != before:
            self._clamp()
        self._dispatch(now)

    def running(self, replicas: frozenset[str], now: float) -> None:
        """These can be called; not those that are only starting, or leaving."""
        self._running = replicas
        for name, replica in self._placement.replicas.items():
            replica.is_running = name in replicas
        self._dispatch(now)

    def leave(self, replica: str, now: float) -> None:
        """A replica is gone."""
        self._placement.replicas.pop(replica, None)
        self._clamp()
        self._dispatch(now)

    def expire(self, now: float) -> None:
        """Refuse who has waited until its deadline; see who has waited long enough for rule 4."""
        for each in [each for each in self._line if each.wanted.deadline <= now]:
            self._leave_line(each.ticket)
            self._news.append((each.ticket, Refused("late", self._retry_after_s())))
        self._dispatch(now)

    def _end(self, ticket: Ticket, now: float, outcome: Outcome) -> None:
        lease = self._leases.pop(ticket, None)
        if lease is None:
            if ticket in self._line:
                self._leave_line(ticket)
            return
        if outcome == "done":
            self._service_s += 0.05 * (now - lease.since - self._service_s)
        replica = self._placement.replicas.get(lease.replica)
        if replica is not None:
            replica.take_back(lease.key, now, is_done=outcome == "done")
            replica.is_suspect = replica.is_suspect or outcome == "unreached"

    def _dispatch(self, now: float) -> None:
        """Give what can be given, in order; claim for who has waited long enough."""
        if not self._line:
            return
        self._placement.review_claims()
        while self._give_one(now):
            self._placement.review_claims()
        patient = (each for each in self._line if self._is_patient(each, now))
        for key in dict.fromkeys(each.key for each in patient):
            self._placement.claim(key, now)

    def _give_one(self, now: float) -> bool:
        if not any(each.free for each in self._placement.replicas.values()):
            return False
        claimed = self._placement.claimed()
        first = (each for each in self._line.order() if each.key in claimed) if claimed else ()
        return self._give_first(first, now) or self._give_first(self._line.order(), now)

    def _give_first(self, order: Iterable[Waiting], now: float) -> bool:
        """Give the first that fits something. What fits is the same for all of a kind."""
        unfit: set[tuple[Key, bool]] = set()
        for each in order:
            kind = each.key, self._is_patient(each, now)
            if kind in unfit:
                continue
            place = self._placement.place(each.key, each.wanted.affinity, now, is_patient=kind[1])
            if place is not None:
                self._give(each, place, now)
                return True
            unfit.add(kind)
        return False

    def _give(self, waiting: Waiting, place: Place, now: float) -> None:
        self._line.serve(waiting.ticket)
        self._want_less(waiting.key)
        replica = place.replica
        if place.victim is not None:
            replica.drop(place.victim)
        replica.give(waiting.key, now)
        self._leases[waiting.ticket] = Lease(replica.name, waiting.key, now)
        self._placement.remember(waiting.wanted.affinity, replica.name)
        self._news.append((waiting.ticket, Granted(replica.name, place.state)))

    def _is_patient(self, waiting: Waiting, now: float) -> bool:
        return now - waiting.since >= self._policy.patience_s

    def _refuse(self, ticket: Ticket) -> None:
        self._leave_line(ticket)
        self._news.append((ticket, Refused("full", self._retry_after_s())))

    def _leave_line(self, ticket: Ticket) -> None:
        self._want_less(self._line.leave(ticket).key)

    def _want_less(self, key: Key) -> None:
        self._placement.wanted[key] -= 1
        if not self._placement.wanted[key]:
            del self._placement.wanted[key]

    def _clamp(self) -> None:
        """The longest contexts may have changed: see again which runner each one waits for."""
        self._placement.wanted.clear()
        for each in self._line:
            each.key = self._placement.clamped(each.wanted.key)
            self._placement.wanted[each.key] += 1

    def _retry_after_s(self) -> int:
        rounds = (len(self._line) + 1) / max(1, self._placement.slots)
        return max(1, min(_MAX_RETRY_AFTER_S, ceil(rounds * self._service_s)))


def _facts(standing: Standing) -> tuple[object, ...]:
    """What the runners that requests wait for depend on."""
    return standing.present, standing.context, standing.contexts, standing.ids
