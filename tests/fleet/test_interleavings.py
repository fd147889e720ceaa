"""The schedule under any interleaving of asks, ends, deaths, reports and time."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serve.fleet.line import Key, Ticket
from serve.fleet.placement import Policy
from serve.fleet.replica import Standing
from serve.fleet.schedule import Granted, Queued, Refused, Schedule
from tests.fleet.pools import FAR, MODELS, wanted

POLICY = Policy(max_queue=6, keep_s=10.0, patience_s=2.0)
SLOTS, ROOM = 2, 2
NAMES = st.sampled_from(["r1", "r2", "r3"])
CONTEXTS = st.sampled_from([2048, 4096])
RUNNERS = st.frozensets(st.tuples(st.sampled_from(MODELS), CONTEXTS), max_size=ROOM)
DISKS = st.sampled_from([MODELS, MODELS[:2], MODELS[2:]])


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule(POLICY)
        self.now = 0.0
        self.number = 0
        self.waiting: dict[Ticket, float] = {}
        self.leases: dict[Ticket, str] = {}
        self.up: set[str] = set()

    @rule(
        connection=st.integers(1, 2),
        model=st.sampled_from([*MODELS, "unknown"]),
        num_ctx=CONTEXTS,
        tenant=st.sampled_from("ab"),
        affinity=st.sampled_from(["", "x", "y"]),
        within=st.sampled_from([3.0, FAR]),
    )
    def ask(
        self, connection: int, model: str, num_ctx: int, tenant: str, affinity: str, within: float
    ) -> None:
        self.number += 1
        ticket, until = (connection, self.number), self.now + within
        want = wanted(model, num_ctx, tenant=tenant, affinity=affinity, deadline=until)
        self.waiting[ticket] = until
        decision = self.schedule.ask(ticket, want, self.now)
        if isinstance(decision, Queued):
            assert 1 <= decision.position <= len(self.waiting)
        else:
            self._decided(ticket, decision)
        self._hear()

    @precondition(lambda self: self.leases or self.waiting)
    @rule(data=st.data(), outcome=st.sampled_from(["done", "done", "left", "unreached"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        ticket = data.draw(st.sampled_from([*self.leases, *self.waiting]))
        self.leases.pop(ticket, None)
        self.waiting.pop(ticket, None)
        self.schedule.release(ticket, self.now, outcome)  # type: ignore[arg-type]
        self._hear()

    @rule(name=NAMES, loaded=RUNNERS, disk=DISKS, is_leaving=st.sampled_from([False, False, True]))
    def report(
        self, name: str, loaded: frozenset[Key], disk: tuple[str, ...], *, is_leaving: bool
    ) -> None:
        self.up.add(name)
        told = Standing(name, SLOTS, ROOM, loaded, dict.fromkeys(disk, 0), 0, is_leaving)
        self.schedule.report(told, self.now)
        self._hear()

    @rule(name=NAMES)
    def leave(self, name: str) -> None:
        self.up.discard(name)
        self.schedule.leave(name, self.now)
        self._hear()

    @rule(connection=st.integers(1, 2))
    def lose(self, connection: int) -> None:
        self.leases = {at: name for at, name in self.leases.items() if at[0] != connection}
        self.waiting = {at: until for at, until in self.waiting.items() if at[0] != connection}
        self.schedule.lost(connection, self.now)
        self._hear()

    @rule(seconds=st.sampled_from([0.1, 2.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.schedule.expire(self.now)
        self._hear()
        assert all(until > self.now for until in self.waiting.values())

    @invariant()
    def never_over_slots(self) -> None:
        given = list(self.leases.values())
        assert all(given.count(name) <= SLOTS for name in given)

    @invariant()
    def nobody_parked(self) -> None:
        figures = self.schedule.figures
        assert figures.waiting == len(self.waiting) <= POLICY.max_queue
        assert figures.in_flight == len(self.leases)
        assert sum(self.schedule._placement.wanted.values()) == figures.waiting

    @invariant()
    def work_is_conserved(self) -> None:
        """Nobody waits for what is loaded, or for what has room, while there is a free slot."""
        usable = [each for each in self.schedule._placement.replicas.values() if each.free]
        for waiting in self.schedule._line:
            for each in usable:
                if each.claim is not None:
                    continue
                assert waiting.key not in each.runners
                if waiting.key[0] in each.standing.present and not each.is_loading:
                    is_same = any(key[0] == waiting.key[0] for key in each.runners)
                    assert is_same or len(each.runners) >= ROOM

    def teardown(self) -> None:
        """Let all that runs end, and time pass: nobody waits for ever."""
        for name in ("r1", "r2", "r3"):
            self.report(name, frozenset(), MODELS, is_leaving=False)
        for _ in range(20 * POLICY.max_queue):
            if not self.leases and not self.waiting:
                break
            for ticket in list(self.leases):
                del self.leases[ticket]
                self.schedule.release(ticket, self.now)
            self.wait(POLICY.keep_s / 4)
        assert not self.waiting
        assert self.schedule.figures.in_flight == 0
        assert not self.schedule._placement.wanted
        assert all(not each.leases for each in self.schedule._placement.replicas.values())

    def _hear(self) -> None:
        for ticket, decision in self.schedule.news():
            self._decided(ticket, decision)

    def _decided(self, ticket: Ticket, decision: Granted | Refused) -> None:
        del self.waiting[ticket]
        if isinstance(decision, Granted):
            assert decision.replica in self.up
            self.leases[ticket] = decision.replica


Interleavings.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestInterleavings = Interleavings.TestCase
