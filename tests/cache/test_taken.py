import pytest

from serve.cache.taken import Taken
from tests.cache.world import HandClock

LEASE_S = 2.0


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def taken(clock: HandClock) -> Taken[str]:
    return Taken(LEASE_S, clock)


def test_with_nobody_there_a_change_is_true_everywhere(taken: Taken[str]) -> None:
    taken.changed()
    taken.wait("admin")
    assert taken.next_s == 0
    assert taken.due() == ["admin"]
    assert taken.due() == []
    assert taken.next_s is None


def test_waits_for_every_subscriber(taken: Taken[str]) -> None:
    taken.subscribed(1)
    taken.subscribed(2)
    change = taken.changed()
    taken.wait("admin")
    taken.taken(1, change)
    assert taken.due() == []
    assert taken.next_s == LEASE_S
    taken.taken(2, change - 1)  # that was another one
    assert taken.due() == []
    taken.taken(2, change)
    assert taken.due() == ["admin"]


def test_a_later_change_stands_for_all_before_it(taken: Taken[str]) -> None:
    taken.subscribed(1)
    taken.changed()
    taken.wait("first")
    taken.changed()
    taken.wait("second")
    taken.taken(1, 1)
    assert taken.due() == ["first"]
    taken.taken(1, 2)
    assert taken.due() == ["second"]
    taken.wait("third")
    assert taken.due() == ["third"]


def test_who_subscribes_later_knows_already(taken: Taken[str]) -> None:
    taken.changed()
    taken.subscribed(1)
    taken.wait("admin")
    assert taken.due() == ["admin"]


def test_who_says_nothing_delays_no_longer_than_its_lease(
    taken: Taken[str], clock: HandClock
) -> None:
    taken.subscribed(1)
    clock.advance(0.5)
    taken.renewed(1)
    clock.advance(0.5)
    taken.changed()
    taken.wait("admin")
    assert taken.next_s == 1.5
    clock.advance(1.4)
    assert taken.due() == []
    clock.advance(0.1)
    assert taken.due() == ["admin"]


def test_a_renewal_after_the_change_delays_nothing(taken: Taken[str], clock: HandClock) -> None:
    """Who hears its answer has heard of the change first."""
    taken.subscribed(1)
    taken.changed()
    taken.wait("admin")
    clock.advance(1.9)
    taken.renewed(1)
    clock.advance(0.1)
    assert taken.due() == ["admin"]
    taken.changed()  # but of this one it has not
    taken.wait("admin")
    assert taken.due() == []
    assert taken.next_s == pytest.approx(1.9)


def test_who_left_delays_nothing(taken: Taken[str]) -> None:
    taken.subscribed(1)
    taken.changed()
    taken.wait("admin")
    taken.left(1, is_cut=False)
    assert taken.due() == ["admin"]
    taken.changed()
    taken.wait("admin")
    assert taken.due() == ["admin"]


def test_who_was_cut_off_may_not_know_it(taken: Taken[str], clock: HandClock) -> None:
    taken.subscribed(1)
    taken.left(1, is_cut=True)
    taken.changed()
    taken.wait("admin")
    assert taken.due() == []
    clock.advance(LEASE_S)
    assert taken.due() == ["admin"]
    taken.subscribed(2)
    assert list(taken._subscribers) == [2]


def test_those_who_never_subscribed_count_for_nothing(taken: Taken[str]) -> None:
    taken.changed()
    taken.renewed(1)
    taken.taken(1, 1)
    taken.left(1, is_cut=True)
    taken.wait("admin")
    assert taken.due() == ["admin"]


def test_a_forerunners_leases_end_first(clock: HandClock) -> None:
    taken: Taken[str] = Taken(LEASE_S, clock, has_forerunner=True)
    clock.advance(0.5)
    taken.changed()
    taken.wait("admin")
    assert taken.due() == []
    assert taken.next_s == 1.5
    clock.advance(1.5)
    assert taken.due() == ["admin"]
