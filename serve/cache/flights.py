"""Single flight in a shard: who generates an answer, and who listens to it. State without sockets.

A flight is one generation of one key. Whoever asks for a key takes a seat. The rules:

1. Lead or follow. The first seat of a key leads: it generates, and sends what comes in pieces. All
   later seats follow: each gets every piece from the first one on, in order, and then the ending.
   So at any moment everybody in a flight has the same beginning of the same answer.
2. One flight a key. Until it ends, a key has one leader. A flight whose backlog no longer goes back
   to its beginning takes no more followers (`Alone`: generate it yourself, tell nobody).
3. The end. The leader says how the flight ended, after its last piece, and after it has stored the
   answer; the key is free in the same moment, so whoever asks next finds the answer in the store,
   or leads anew. The followers read on until they have the ending too.
4. Leaving. A follower leaves by saying so, or by losing its connection. A leader whose own
   listeners have left says so (`leave`) and goes on; it is told to stop (`DESERTED`) when nobody
   follows either. The shard alone decides that, and frees the key in the same moment: nobody can
   join a flight that is about to be cancelled. There is no coming back: who asks for the key where
   it is led, after that, asks the shard, and follows like everybody else.
5. Losing the leader. Its connection is lost, or it says that its generation was: every follower is
   told `LOST`, and the key is free. Followers whose clients have seen nothing ask once more, for
   themselves: one of them leads, the others follow it. The others show an error: what they have is
   the beginning of an answer that nobody will end, and is never mixed with another one.
   So a death costs one more generation for all, not one for each.
6. The lease. A leader sends a piece, or an empty one, at least every third of `lease_s`. Silence
   for all of it is a death that nobody reported: rule 5; the leader, if it lives, is told
   `DESERTED`, and goes on for its own listeners only.
7. Slow followers cost nothing but their place in the backlog. Who falls out of it is told `LOST`.
   The backlog of an ended flight is let go after one more lease, for the same price.
8. Losing the shard loses no answer: each leader goes on for its own listeners, and the followers
   do what rule 5 says, find no shard, and lead themselves (`serve.cache.joining`).
9. A purge. Who asked before it hears the old flights to their end; who asks after it does not join
   them, whatever their keys: it leads a new one. So no answer that was begun before a purge is
   given to anybody who asked after it, and rule 2 holds for what is asked between two purges. A
   changed digest needs no such rule, since it changes the keys.

Nobody waits for ever: a seat ends with its flight; a flight ends by its leader's word, by the loss
of its connection, or by the lease; and a connection ends with its process.

`news` names the seats that have something to hear; `pull` says what. Who owns the sockets calls
them when a seat's connection can take more. The time is handed in, in monotonic seconds.
"""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from serve.cache.backlog import Backlog
from serve.ports import Clock

Kind = Literal["done", "lost", "overloaded", "not-ready", "fault", "deserted"]


class Ending(Struct, frozen=True, array_like=True, gc=False):
    """How a flight ended: well, with an error that all listeners get, or not at all (`lost`)."""

    kind: Kind
    text: str = ""


DONE, LOST, DESERTED = Ending("done"), Ending("lost"), Ending("deserted")

Seat = tuple[int, int]
"""Who asked: the number of a connection, and the question's own number on it."""

Role = Literal["lead", "follow", "alone"]

MAX_FLIGHT_BYTES = 8 << 20
"""The backlog of one flight: far above any answer that is stored."""
MAX_HELD_BYTES = 64 << 20
"""All backlogs together. Beyond it, the flight that grows takes no more followers."""
TIGHT_BYTES = 64 << 10
"""What such a flight keeps for followers that are a little behind."""


class Flight:
    """One generation of one key."""

    __slots__ = ("backlog", "ending", "followers", "key", "leader", "leader_listens", "until")

    def __init__(self, key: bytes, leader: Seat, until: float, max_bytes: int) -> None:
        self.key = key
        self.leader = leader
        self.leader_listens = True
        self.until = until
        self.followers: dict[Seat, int] = {}
        self.backlog: Backlog[bytes] = Backlog(max_bytes)
        self.ending: Ending | None = None


class Flights:
    """All flights of a shard."""

    def __init__(self, clock: Clock, lease_s: float, max_bytes: int = MAX_FLIGHT_BYTES) -> None:
        self.lease_s = lease_s
        self._clock = clock
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._open: dict[bytes, Flight] = {}
        self._ended: set[Flight] = set()
        self._led: dict[Seat, Flight] = {}
        self._followed: dict[Seat, Flight] = {}
        self._dismissed: set[Seat] = set()
        self._news: set[Seat] = set()
        self.led = self.joined = 0

    @property
    def count(self) -> int:
        """How many there are now."""
        return len(self._led)

    @property
    def held_bytes(self) -> int:
        """What all backlogs hold."""
        return self._held_bytes

    def join(self, key: bytes, seat: Seat) -> Role:
        """Take a seat. Raises `ValueError` if it is taken."""
        if seat in self._led or seat in self._followed:
            raise ValueError("a question's number was used twice")
        flight = self._open.get(key)
        if flight is None:
            self.led += 1
            flight = Flight(key, seat, self._clock() + self.lease_s, self._max_bytes)
            self._open[key] = self._led[seat] = flight
            return "lead"
        if flight.backlog.is_cut:
            return "alone"
        self.joined += 1
        flight.followers[seat] = 0
        self._followed[seat] = flight
        if flight.backlog.end:
            self._news.add(seat)
        return "follow"

    def fill(self, seat: Seat, piece: bytes) -> None:
        """From a leader: it lives, and this came. From anybody else it comes too late."""
        flight = self._led.get(seat)
        if flight is None:
            return
        flight.until = self._clock() + self.lease_s
        if not piece:
            return
        before = flight.backlog.held_bytes
        if self._held_bytes > MAX_HELD_BYTES:
            flight.backlog.max_bytes = TIGHT_BYTES
        flight.backlog.add(piece, len(piece))
        self._held_bytes += flight.backlog.held_bytes - before
        self._news.update(flight.followers)

    def finish(self, seat: Seat, ending: Ending) -> None:
        """A leader's last word, or a follower's: it has left."""
        flight = self._led.get(seat)
        if flight is not None:
            self._end(flight, ending)
        elif seat in self._followed:
            self._unfollow(seat)

    def leave(self, seat: Seat) -> None:
        """A leader's own listeners have left."""
        flight = self._led.get(seat)
        if flight is not None:
            flight.leader_listens = False
            self._desert(flight)

    def outdate(self) -> None:
        """There was a purge: nobody joins the flights that there are."""
        self._open.clear()

    def lost(self, seats: Iterable[Seat]) -> None:
        """These seats' connection is gone."""
        for seat in seats:
            self.finish(seat, LOST)
            self._dismissed.discard(seat)
            self._news.discard(seat)

    def expire(self) -> None:
        """End the flights whose leaders have been silent for too long."""
        now = self._clock()
        for flight in [flight for flight in self._led.values() if flight.until <= now]:
            self._dismiss(flight, LOST)
        for flight in [flight for flight in self._ended if flight.until <= now]:
            self._ended.discard(flight)
            self._clear(flight)

    def news(self) -> set[Seat]:
        """Who has something to hear since the last call."""
        if not self._news:
            return set()
        told, self._news = self._news, set()
        return told

    def pull(self, seat: Seat) -> tuple[list[bytes], Ending | None]:
        """What a seat has not heard: pieces, and the ending if that is all there will be."""
        if seat in self._dismissed:
            self._dismissed.discard(seat)
            return [], DESERTED
        flight = self._followed.get(seat)
        if flight is None:
            return [], None
        pieces = flight.backlog.since(flight.followers[seat])
        if pieces is None:
            self._unfollow(seat)
            return [], LOST
        flight.followers[seat] = flight.backlog.end
        if flight.ending is not None:
            self._unfollow(seat)
        return pieces, flight.ending

    def _unfollow(self, seat: Seat) -> None:
        flight = self._followed.pop(seat)
        del flight.followers[seat]
        if flight.ending is None:
            self._desert(flight)
        elif not flight.followers:
            self._ended.discard(flight)
            self._clear(flight)

    def _desert(self, flight: Flight) -> None:
        if not flight.leader_listens and not flight.followers:
            self._dismiss(flight, LOST)

    def _dismiss(self, flight: Flight, ending: Ending) -> None:
        """End it over its leader's head, and tell the leader."""
        self._dismissed.add(flight.leader)
        self._news.add(flight.leader)
        self._end(flight, ending)

    def _end(self, flight: Flight, ending: Ending) -> None:
        del self._led[flight.leader]
        if self._open.get(flight.key) is flight:
            del self._open[flight.key]
        flight.ending = ending
        flight.until = self._clock() + self.lease_s
        self._news.update(flight.followers)
        if flight.followers:
            self._ended.add(flight)
        else:
            self._clear(flight)

    def _clear(self, flight: Flight) -> None:
        self._held_bytes -= flight.backlog.held_bytes
        flight.backlog.clear()
