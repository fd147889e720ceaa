"""What the fleet's tests stand on: replicas' reports, and requests."""

from serve.fleet.line import Wanted
from serve.fleet.replica import Standing
from serve.fleet.schedule import Decision, Granted, Queued, Refused, Schedule

MODELS = ("m1", "m2", "m3")
CTX = 2048
FAR = 1e9


def standing(
    name: str = "r1",
    *,
    slots: int = 2,
    room: int = 1,
    loaded: tuple[tuple[str, int], ...] = (),
    present: tuple[str, ...] = MODELS,
    busy: int = 0,
    is_leaving: bool = False,
) -> Standing:
    on_disk = dict.fromkeys(present, 0)
    return Standing(name, slots, room, frozenset(loaded), on_disk, busy, is_leaving)


def wanted(
    model: str = "m1",
    num_ctx: int = CTX,
    *,
    tenant: str = "",
    affinity: str = "",
    deadline: float = FAR,
) -> Wanted:
    return Wanted(model, num_ctx, deadline, tenant, affinity)


class Desk:
    """A schedule, asked with ever new tickets by one connection."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.now = 1000.0
        self.last = 0
        self.where: dict[int, str] = {}
        self.refused: dict[int, Refused] = {}

    def ask(self, want: Wanted | None = None) -> Decision:
        self.last += 1
        decision = self.schedule.ask((1, self.last), want or wanted(), self.now)
        if isinstance(decision, Granted):
            self.where[self.last] = decision.replica
        elif isinstance(decision, Refused):
            self.refused[self.last] = decision
        self.hear()
        return decision

    def grant(self, want: Wanted | None = None) -> str:
        """Ask for what is given at once: where."""
        decision = self.ask(want)
        assert isinstance(decision, Granted), decision
        return decision.replica

    def queue(self, want: Wanted | None = None) -> int:
        """Ask for what must wait: its number."""
        decision = self.ask(want)
        assert isinstance(decision, Queued), decision
        return self.last

    def done(self, number: int) -> None:
        self.where.pop(number)
        self.schedule.release((1, number), self.now)
        self.hear()

    def report(self, *standings: Standing) -> None:
        for each in standings:
            self.schedule.report(each, self.now)
        self.hear()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.schedule.expire(self.now)
        self.hear()

    def hear(self) -> None:
        for (_, number), decision in self.schedule.news():
            if isinstance(decision, Granted):
                self.where[number] = decision.replica
            else:
                self.refused[number] = decision
