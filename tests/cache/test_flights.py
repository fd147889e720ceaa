"""Single flight: the rules one by one, then any interleaving of them."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from serve.cache import flights as module
from serve.cache.flights import DESERTED, DONE, LOST, Ending, Flights, Seat
from tests.cache.world import KEY, HandClock

LEASE_S = 10.0
ONE, TWO, THREE = (1, 1), (2, 1), (3, 1)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def flights(clock: HandClock) -> Flights:
    return Flights(clock, LEASE_S)


def test_the_first_leads_and_the_others_hear_everything(flights: Flights) -> None:
    assert flights.join(KEY, ONE) == "lead"
    assert flights.join(KEY, TWO) == "follow"
    flights.fill(ONE, b"a")
    assert flights.news() == {TWO}
    assert flights.pull(TWO) == ([b"a"], None)
    flights.fill(ONE, b"b")
    assert flights.join(KEY, THREE) == "follow"
    assert flights.news() == {TWO, THREE}
    assert flights.pull(THREE) == ([b"a", b"b"], None)
    flights.finish(ONE, DONE)
    assert flights.news() == {TWO, THREE}
    assert flights.pull(TWO) == ([b"b"], DONE)
    assert flights.pull(THREE) == ([], DONE)
    assert (flights.count, flights.held_bytes) == (0, 0)
    assert (flights.led, flights.joined) == (1, 2)


def test_who_comes_after_the_end_leads_anew(flights: Flights) -> None:
    flights.join(KEY, ONE)
    flights.join(KEY, TWO)
    flights.fill(ONE, b"a")
    flights.finish(ONE, DONE)
    assert flights.join(KEY, THREE) == "lead"
    flights.fill(THREE, b"x")
    assert flights.pull(TWO) == ([b"a"], DONE)


def test_keys_are_apart(flights: Flights) -> None:
    assert flights.join(KEY, ONE) == "lead"
    assert flights.join(b"x" * 16, TWO) == "lead"
    flights.fill(ONE, b"a")
    assert not flights.news()
    assert flights.pull(TWO) == ([], None)


def test_a_refusal_reaches_everybody(flights: Flights) -> None:
    flights.join(KEY, ONE)
    flights.join(KEY, TWO)
    flights.finish(ONE, Ending("overloaded", "busy"))
    assert flights.pull(TWO) == ([], Ending("overloaded", "busy"))


@pytest.mark.parametrize("pieces", [[], [b"a"]])
def test_a_lost_leader_ends_the_flight(flights: Flights, pieces: list[bytes]) -> None:
    flights.join(KEY, ONE)
    flights.join(KEY, TWO)
    for piece in pieces:
        flights.fill(ONE, piece)
    flights.lost([ONE])
    assert flights.pull(TWO) == (pieces, LOST)
    assert flights.join(KEY, (2, 2)) == "lead"
    assert flights.join(KEY, THREE) == "follow"


def test_a_flight_ends_when_nobody_listens(flights: Flights) -> None:
    flights.join(KEY, ONE)
    flights.join(KEY, TWO)
    flights.leave(ONE)
    assert not flights.news()
    flights.finish(TWO, LOST)
    assert flights.news() == {ONE}
    assert flights.pull(ONE) == ([], DESERTED)
    assert flights.pull(ONE) == ([], None)
    assert flights.join(KEY, THREE) == "lead"
    flights.fill(ONE, b"late")
    flights.finish(ONE, DONE)
    flights.leave(ONE)
    assert flights.join(KEY, TWO) == "follow"
    assert flights.pull(TWO) == ([], None)


def test_a_leader_without_followers_is_told_at_once(flights: Flights) -> None:
    flights.join(KEY, ONE)
    flights.leave(ONE)
    assert flights.pull(ONE) == ([], DESERTED)


def test_who_comes_back_to_where_it_is_led_follows(flights: Flights) -> None:
    flights.join(KEY, ONE)
    flights.join(KEY, TWO)
    flights.leave(ONE)
    assert flights.join(KEY, (1, 2)) == "follow"
    flights.finish(TWO, LOST)
    assert not flights.news()
    flights.fill(ONE, b"a")
    assert flights.pull((1, 2)) == ([b"a"], None)


def test_the_lease_ends_what_nobody_reports(flights: Flights, clock: HandClock) -> None:
    flights.join(KEY, ONE)
    flights.join(KEY, TWO)
    clock.advance(LEASE_S - 1)
    flights.fill(ONE, b"")
    clock.advance(LEASE_S - 1)
    flights.expire()
    assert not flights.news()
    clock.advance(1)
    flights.expire()
    assert flights.news() == {ONE, TWO}
    assert flights.pull(ONE) == ([], DESERTED)
    assert flights.pull(TWO) == ([], LOST)
    assert flights.join(KEY, TWO) == "lead"


def test_a_late_beginning_is_nobodys(clock: HandClock) -> None:
    flights = Flights(clock, LEASE_S, max_bytes=3)
    flights.join(KEY, ONE)
    flights.join(KEY, TWO)
    flights.join(KEY, THREE)
    flights.fill(ONE, b"aa")
    assert flights.pull(TWO) == ([b"aa"], None)
    flights.fill(ONE, b"bb")
    assert flights.held_bytes == 2
    assert flights.join(KEY, (4, 1)) == "alone"
    assert flights.pull(TWO) == ([b"bb"], None)
    assert flights.pull(THREE) == ([], LOST)
    assert flights.pull(THREE) == ([], None)
    flights.fill(ONE, b"a single piece that is too large")
    assert flights.pull(TWO) == ([b"a single piece that is too large"], None)


def test_many_backlogs_are_bounded_together(
    flights: Flights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 10)
    monkeypatch.setattr(module, "TIGHT_BYTES", 4)
    flights.join(KEY, ONE)
    flights.join(b"x" * 16, TWO)
    flights.fill(ONE, bytes(11))
    flights.fill(TWO, bytes(3))
    assert flights.join(b"x" * 16, THREE) == "follow"
    flights.fill(TWO, bytes(3))
    assert flights.held_bytes == 14
    assert flights.join(b"x" * 16, (4, 1)) == "alone"
    assert flights.join(KEY, (4, 1)) == "follow"


def test_an_ended_flight_waits_one_lease_for_the_slow(flights: Flights, clock: HandClock) -> None:
    for seat in (ONE, TWO, THREE):
        flights.join(KEY, seat)
    flights.fill(ONE, b"a")
    flights.pull(TWO)
    flights.finish(ONE, DONE)
    flights.expire()
    assert flights.held_bytes == 1
    clock.advance(LEASE_S)
    flights.expire()
    assert flights.held_bytes == 0
    assert flights.pull(TWO) == ([], DONE)
    assert flights.pull(THREE) == ([], LOST)


def test_a_number_is_used_once(flights: Flights) -> None:
    flights.join(KEY, ONE)
    with pytest.raises(ValueError, match="twice"):
        flights.join(KEY, ONE)
    flights.join(KEY, TWO)
    with pytest.raises(ValueError, match="twice"):
        flights.join(b"x" * 16, TWO)


def test_who_asks_after_a_purge_joins_nothing_from_before_it(
    flights: Flights, clock: HandClock
) -> None:
    flights.join(KEY, ONE)
    flights.join(KEY, TWO)
    flights.fill(ONE, b"old")
    flights.outdate()
    assert flights.join(KEY, THREE) == "lead"
    assert flights.join(KEY, (4, 1)) == "follow"
    flights.fill(ONE, b"er")
    flights.fill(THREE, b"new")
    assert flights.pull(TWO) == ([b"old", b"er"], None)
    assert flights.pull((4, 1)) == ([b"new"], None)
    assert flights.count == 2
    flights.finish(ONE, DONE)
    assert flights.pull(TWO) == ([], DONE)
    assert flights.join(KEY, (5, 1)) == "follow"  # the end of the old one ends no other
    flights.outdate()
    clock.advance(LEASE_S)
    flights.expire()
    assert flights.pull(THREE) == ([], DESERTED)
    assert flights.pull((4, 1)) == ([], LOST)
    assert flights.pull((5, 1)) == ([b"new"], LOST)
    assert flights.count == 0


KEYS = [bytes([number]) * 16 for number in range(3)]


class Interleavings(RuleBasedStateMachine):
    """Ingresses that join, lead, follow, leave, die and fall silent, and purges, in any order.

    Each leader generates an answer of its own, so that any two that were mixed would show.
    """

    seats = Bundle("seats")

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.flights = Flights(self.clock, LEASE_S, max_bytes=40)
        self.key: dict[Seat, bytes] = {}
        self.leading: set[Seat] = set()
        self.outdated: set[Seat] = set()
        self.purges: Counter[bytes] = Counter()
        self.following: set[Seat] = set()
        self.sent: dict[Seat, list[bytes]] = {}
        self.ended: dict[Seat, Ending] = {}
        self.got: dict[Seat, list[bytes]] = {}
        self.generations: Counter[bytes] = Counter()
        self.over: Counter[bytes] = Counter()
        self.numbers = 0

    @rule(target=seats, key=st.sampled_from(KEYS), connection=st.integers(1, 4))
    def join(self, key: bytes, connection: int) -> Seat:
        self.numbers += 1
        seat = (connection, self.numbers)
        running = [leader for leader in self.running() if self.key[leader] == key]
        role = self.flights.join(key, seat)
        self.key[seat] = key
        if role == "lead":
            assert not running, "two generations of one key"
            self.generations[key] += 1
            self.leading.add(seat)
            self.sent[seat] = []
        elif role == "follow":
            assert running
            self.following.add(seat)
            self.got[seat] = []
            assert self.flights._followed[seat].leader in running, "an answer from before a purge"
        return seat

    @rule()
    def purge(self) -> None:
        for leader in self.running():
            self.purges[self.key[leader]] += 1
        self.outdated |= self.leading
        self.flights.outdate()

    def running(self) -> list[Seat]:
        """Leaders that go on and may be joined: not those that are just being told to stop."""
        return [
            leader
            for leader in self.leading - self.outdated
            if leader not in self.flights._dismissed
        ]

    @rule(seat=seats, size=st.integers(0, 12))
    def fill(self, seat: Seat, size: int) -> None:
        if seat in self.leading:
            number = len(self.sent[seat])
            piece = f"{seat}:{number}".encode().ljust(size) if size else b""
            self.flights.fill(seat, piece)
            if piece:
                self.sent[seat].append(piece)

    @rule(seat=consumes(seats), ending=st.sampled_from([DONE, LOST, Ending("overloaded", "x")]))
    def finish(self, seat: Seat, ending: Ending) -> None:
        self.flights.finish(seat, ending)
        if seat in self.leading:
            self.end(seat, ending)
        self.following.discard(seat)

    @rule(seat=seats)
    def leave(self, seat: Seat) -> None:
        if seat in self.leading:
            self.flights.leave(seat)

    @rule(target=seats, connection=st.integers(1, 4))
    def die(self, connection: int) -> object:
        seats = [seat for seat in self.key if seat[0] == connection]
        self.flights.lost(seats)
        for seat in seats:
            if seat in self.leading:
                self.end(seat, LOST)
            self.following.discard(seat)
        return multiple()

    @rule(seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.flights.expire()
        self.hear()

    @rule(seat=seats)
    def hear_alone(self, seat: Seat) -> None:
        self.flights._news.discard(seat)
        self.read(seat)

    @rule()
    def hear(self) -> None:
        """Everybody who reads is told; a leader that is dismissed stops."""
        while told := self.flights.news():
            for seat in told:
                self.read(seat)

    def read(self, seat: Seat) -> None:
        pieces, ending = self.flights.pull(seat)
        if seat in self.leading:
            assert not pieces
            if ending is not None:
                assert ending == DESERTED
                self.end(seat, LOST)
        elif seat in self.following:
            self.got[seat].extend(pieces)
            self.check(seat, ending)
            if ending is not None:
                self.following.discard(seat)

    def check(self, seat: Seat, ending: Ending | None) -> None:
        """What a follower has is the beginning of one leader's answer; the whole, if it is done."""
        got = self.got[seat]
        answers = [
            (sent, self.ended.get(leader))
            for leader, sent in self.sent.items()
            if self.key[leader] == self.key[seat] and sent[: len(got)] == got
        ]
        assert answers, "an answer was mixed"
        if ending == DONE and got:
            assert (got, DONE) in answers

    def end(self, seat: Seat, ending: Ending) -> None:
        self.leading.discard(seat)
        self.ended[seat] = ending
        self.over[self.key[seat]] += 1

    @invariant()
    def one_generation_a_key(self) -> None:
        """Never a second one while the first goes on, unless it is from before a purge: those that
        were dismissed have been told."""
        running = Counter(self.key[seat] for seat in self.running())
        assert all(count == 1 for count in running.values())
        told = Counter(self.key[seat] for seat in self.flights._dismissed)
        for key in KEYS:
            assert self.generations[key] <= 1 + self.over[key] + told[key] + self.purges[key]

    @invariant()
    def nobody_is_parked(self) -> None:
        """Whoever waits has a leader that lives, or something to be told, or a lease that ends."""
        for seat in self.following:
            flight = self.flights._followed.get(seat)
            assert flight is not None
            if flight.ending is not None:
                assert seat in self.flights._news or flight in self.flights._ended
            else:
                assert flight.leader in self.leading
                assert flight.leader_listens or flight.followers

    @invariant()
    def bytes_are_counted(self) -> None:
        known = {*self.flights._led.values(), *self.flights._ended}
        assert self.flights.held_bytes == sum(flight.backlog.held_bytes for flight in known)

    def teardown(self) -> None:
        """Left alone, everybody comes to an end within a lease, and nothing is held."""
        self.clock.advance(LEASE_S)
        self.flights.expire()
        self.hear()
        assert not self.following
        assert not self.leading
        assert self.flights.held_bytes == 0
        assert not self.flights._followed
        assert not self.flights._led
        assert not self.flights._dismissed
        assert self.flights.count == 0


Interleavings.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestInterleavings = Interleavings.TestCase
