import pytest

from serve.fleet.placement import Policy
from serve.fleet.replica import Standing
from serve.fleet.schedule import Figures, Granted, Queued, Refused, Schedule
from tests.fleet.pools import CTX, Desk, standing, wanted

POLICY = Policy(max_queue=4, keep_s=10.0, patience_s=2.0)


def desk(*standings: Standing, policy: Policy = POLICY) -> Desk:
    made = Desk(Schedule(policy))
    made.report(*standings)
    return made


def loaded(name: str, *models: str, slots: int = 2, room: int = 1) -> Standing:
    return standing(name, slots=slots, room=room, loaded=tuple((model, CTX) for model in models))


def test_never_more_than_its_slots() -> None:
    pool = desk(standing())
    assert [pool.grant(), pool.grant()] == ["r1", "r1"]
    assert pool.ask() == Queued(1, "loading")
    pool.done(1)
    assert pool.where == {2: "r1", 3: "r1"}
    assert pool.schedule.figures == Figures(1, 2, 2, 0)


def test_loaded_before_loading_before_present_before_absent() -> None:
    pool = desk(loaded("r1", "m1", slots=1), standing("r2"), standing("r3", present=()))
    assert pool.ask() == Granted("r1", "loaded")
    assert pool.ask() == Granted("r2", "cold")
    assert pool.ask() == Granted("r2", "loading")
    assert pool.ask() == Queued(1, "loaded")  # not r3: others have the model
    assert pool.ask(wanted("nobody's")) == Granted("r3", "cold")


def test_room_before_displacing_and_the_copy_before_the_last() -> None:
    pool = desk(loaded("r1", "m1"), loaded("r2", "m2"), loaded("r3", "m2"), standing("r4"))
    assert pool.grant(wanted("m3")) == "r4"
    pool = desk(loaded("r1", "m1"), loaded("r2", "m2"), loaded("r3", "m2"))
    assert pool.grant(wanted("m3")) in {"r2", "r3"}


def test_free_slots_then_affinity() -> None:
    pool = desk(*(loaded(name, "m1", slots=4) for name in ("r1", "r2")))
    first = pool.grant(wanted(affinity="talk"))
    assert pool.grant(wanted(affinity="talk")) == first
    assert pool.grant() != first
    for _ in range(4):
        pool.grant(wanted(affinity="talk"))
    assert sorted(pool.where.values()).count(first) <= 4  # only a preference


def test_a_request_that_fits_nowhere_holds_up_nobody() -> None:
    pool = desk(loaded("r1", "m1"))
    pool.grant()
    stuck = pool.queue(wanted("m2"))
    assert pool.grant() == "r1"
    pool.done(1)
    pool.done(3)
    assert pool.where == {stuck: "r1"}


def test_another_can_serve_so_a_replica_keeps_its_runner() -> None:
    pool = desk(loaded("r1", "m1", slots=1), loaded("r2", "m2", slots=1))
    pool.grant(wanted("m2"))
    pool.done(1)  # r2 was in use just now
    assert pool.grant() == "r1"
    waiting = pool.queue()
    pool.wait(1.0)
    assert waiting not in pool.where
    pool.wait(POLICY.keep_s)
    assert pool.where[waiting] == "r2"


def test_two_contexts_do_not_reload_to_and_fro() -> None:
    pool = desk(standing(slots=1))
    pool.grant(wanted(num_ctx=2048))
    loads = 0
    for _ in range(40):  # always one of each waits
        for num_ctx in (2048, 4096):
            if pool.schedule.figures.waiting < 2:
                pool.ask(wanted(num_ctx=num_ctx))
        pool.wait(1.0)
        (number,) = pool.where
        state = pool.schedule.state(("m1", 2048))
        pool.done(number)
        loads += state != pool.schedule.state(("m1", 2048))
    assert 2 <= loads <= 8  # not 40: each has its turn of `keep_s`


def test_one_with_another_context_replaces_the_runner_even_with_room() -> None:
    pool = desk(loaded("r1", "m1", room=3))
    assert pool.grant(wanted(num_ctx=4096)) == "r1"
    assert pool.schedule.state(("m1", CTX)) == "cold"


def test_no_longer_context_than_the_model_has() -> None:
    told = Standing("r1", 2, 1, frozenset({("m1", 2048)}), {"m1": 2048})
    pool = desk(told)
    assert pool.ask(wanted(num_ctx=8192)) == Granted("r1", "loaded")
    pool = desk()
    waiting = pool.queue(wanted(num_ctx=8192))
    pool.report(told)
    assert pool.where == {waiting: "r1"}
    assert pool.schedule.state(("m1", 8192)) == "loaded"


def test_a_runner_in_constant_use_is_claimed() -> None:
    pool = desk(loaded("r1", "m1"))
    pool.grant()
    pool.grant()
    pool.wait(POLICY.keep_s)
    cold = pool.queue(wanted("m2"))
    pool.wait(POLICY.patience_s)
    hot = [pool.queue(), pool.queue()]
    pool.done(1)
    assert pool.where == {2: "r1"}  # it is being emptied
    pool.done(2)
    assert pool.where == {cold: "r1"}
    pool.done(cold)
    pool.wait(POLICY.keep_s)
    assert set(pool.where) == set(hot)  # and back, after its turn


def test_a_claim_ends_when_nobody_needs_it() -> None:
    pool = desk(loaded("r1", "m1"))
    pool.grant()
    pool.grant()
    pool.wait(POLICY.keep_s)
    cold = pool.queue(wanted("m2"))
    pool.wait(POLICY.patience_s)
    hot = pool.queue()
    pool.schedule.release((1, cold), pool.now, "left")
    pool.done(1)
    assert hot in pool.where


def test_the_pool_shifts_to_what_is_asked_for() -> None:
    """Copies of m1 are always in use, but one would do; m2 waits for more than it has."""
    pool = desk(loaded("r1", "m1", slots=4), loaded("r2", "m1", slots=4), loaded("r3", "m2"))
    assert {pool.grant(), pool.grant()} == {"r1", "r2"}
    for _ in range(2):
        pool.grant(wanted("m2"))
    pool.wait(POLICY.keep_s)
    more = pool.queue(wanted("m2"))
    pool.wait(POLICY.patience_s)
    claimed = "r1" if pool.grant() == "r2" else "r2"
    pool.done(next(number for number, name in pool.where.items() if name == claimed))
    assert pool.where[more] == claimed


def test_the_line_is_bounded_and_fair() -> None:
    pool = desk(standing(slots=1))
    pool.grant(wanted(tenant="greedy"))
    for _ in range(4):
        pool.queue(wanted(tenant="greedy"))
    assert isinstance(pool.ask(wanted(tenant="greedy")), Refused)
    assert pool.ask(wanted(tenant="modest")) == Queued(1, "loading")
    assert pool.refused[5] == Refused("full", 5)  # the last of the greedy one's
    pool.done(1)
    assert list(pool.where) == [7]


def test_the_last_places_are_kept_for_whoever_has_less() -> None:
    """So a crowd is refused at once, and nobody who waits already has to go for another's sake."""
    pool = desk(standing(slots=1), policy=Policy(max_queue=8))
    pool.grant(wanted(tenant="greedy"))
    pool.queue(wanted(tenant="modest"))
    for _ in range(6):
        pool.queue(wanted(tenant="greedy"))
    assert isinstance(pool.ask(wanted(tenant="greedy")), Refused)
    pool.queue(wanted(tenant="modest"))
    assert list(pool.refused) == [9]


def test_without_a_line_who_does_not_fit_is_refused() -> None:
    pool = desk(standing(slots=1), policy=Policy(max_queue=0))
    pool.grant()
    assert pool.ask() == Refused("full", 1)


def test_tenants_of_unequal_greed_get_the_same() -> None:
    pool = desk(loaded("r1", "m1", slots=4), policy=Policy(max_queue=64))
    greed = {"a": 1, "b": 5, "c": 20}
    served = dict.fromkeys(greed, 0)
    tenants: dict[int, str] = {}
    for _ in range(300):
        for tenant, times in greed.items():
            for _ in range(times):
                pool.ask(wanted(tenant=tenant))
                tenants[pool.last] = tenant
        pool.wait(1.0)
        for number in list(pool.where)[:3]:
            served[tenants[number]] += 1
            pool.done(number)
    jain = sum(served.values()) ** 2 / (3 * sum(each**2 for each in served.values()))
    assert jain > 0.98, served


def test_a_tenant_that_comes_late_has_saved_nothing_up() -> None:
    pool = desk(loaded("r1", "m1", slots=1), policy=Policy(max_queue=64))
    for _ in range(20):
        pool.ask(wanted(tenant="early"))
    for _ in range(10):
        pool.done(next(iter(pool.where)))
    late = [pool.queue(wanted(tenant="late")) for _ in range(4)]
    order = []
    for _ in range(8):
        pool.done(next(iter(pool.where)))
        order += [number in late for number in pool.where]
    assert order.count(True) == 4
    assert order[:4].count(True) in {1, 2}


def test_who_waits_too_long_is_refused() -> None:
    pool = desk()
    assert pool.ask(wanted(deadline=pool.now + 5)) == Queued(1, "cold")
    pool.wait(4.9)
    assert not pool.refused
    pool.wait(0.1)
    assert pool.refused[1].reason == "late"
    assert pool.ask(wanted(deadline=pool.now)) == Refused("late", 1)
    assert pool.schedule.figures.waiting == 0


def test_from_nought_the_first_waits_for_a_replica() -> None:
    pool = desk()
    first = pool.queue()
    pool.report(standing())
    assert pool.where == {first: "r1"}


def test_a_lost_connection_gives_back_what_it_had() -> None:
    pool = desk(standing(slots=1))
    pool.grant()
    pool.queue()
    pool.schedule.ask((2, 1), wanted(), pool.now)
    pool.schedule.lost(1, pool.now)
    assert pool.schedule.news() == [((2, 1), Granted("r1", "cold"))]
    assert pool.schedule.figures == Figures(1, 1, 1, 0)


def test_a_ticket_is_used_once() -> None:
    pool = desk(standing())
    pool.grant()
    with pytest.raises(ValueError, match="twice"):
        pool.schedule.ask((1, 1), wanted(), pool.now)
    with pytest.raises(ValueError, match="twice"):
        pool.schedule.hold((1, 1), "r1", ("m1", CTX), pool.now)


def test_a_replica_that_leaves_or_was_not_reached_is_asked_nothing() -> None:
    pool = desk(loaded("r1", "m1"))
    pool.report(standing(loaded=(("m1", CTX),), is_leaving=True))
    waiting = pool.queue()
    pool.report(loaded("r1", "m1"))
    assert pool.where == {waiting: "r1"}
    pool.schedule.release((1, waiting), pool.now, "unreached")
    pool.where.clear()
    again = pool.queue()
    pool.report(loaded("r1", "m1"))
    assert pool.where == {again: "r1"}
    pool.schedule.leave("r1", pool.now)
    pool.done(again)
    assert isinstance(pool.ask(), Queued)


def test_a_load_that_nobody_waits_for_any_more_is_over() -> None:
    pool = desk(standing())
    pool.grant()
    assert pool.schedule.state(("m1", CTX)) == "loading"
    pool.schedule.release((1, 1), pool.now, "left")
    assert pool.schedule.state(("m1", CTX)) == "cold"


@pytest.mark.parametrize("order", ["told", "held"])
def test_a_new_scheduler_learns_what_there_is(order: str) -> None:
    """Three calls run: two have leases, whose owners come back; one nobody knows."""
    pool = desk()
    told = standing(slots=4, busy=3, loaded=(("m1", CTX),))
    if order == "told":
        pool.report(told)
    for number in (101, 102):
        pool.schedule.hold((9, number), "r1", ("m1", CTX), pool.now)
    if order == "held":
        pool.report(told)
    assert pool.grant() == "r1"
    waiting = pool.queue()
    pool.report(standing(slots=4, busy=4, loaded=(("m1", CTX),)))
    assert waiting not in pool.where
    pool.report(standing(slots=4, busy=3, loaded=(("m1", CTX),)))
    assert pool.where[waiting] == "r1"
    pool.schedule.lost(9, pool.now)
    assert pool.schedule.figures.in_flight == 2


def test_a_report_is_believed_but_for_runners_with_leases() -> None:
    pool = desk(loaded("r1", "m1"))
    pool.grant(wanted("m2"))
    pool.report(loaded("r1", "m1"))  # from before the load
    assert pool.schedule.state(("m2", CTX)) == "loading"
    pool.report(loaded("r1", "m2"))
    assert pool.schedule.state(("m2", CTX)) == "loaded"
    assert pool.schedule.state(("m1", CTX)) == "cold"
