"""Which replica, if any, gets a request now. The rules are in `serve.fleet.schedule`."""

from collections import Counter, OrderedDict
from typing import Literal, NamedTuple

from msgspec import Struct

from serve.fleet.line import Key
from serve.fleet.replica import Claim, Replica, Runner

State = Literal["loaded", "loading", "cold"]

_MAX_CONVERSATIONS = 20_000


class Policy(Struct, frozen=True):
    """How much may wait, and how long what is loaded is kept.

    `max_queue`: requests that wait at most. `keep_s`: so long a runner counts as in use after its
    last call, and so long it has its turn after it was loaded. `patience_s`: how long a request
    waits before a runner that is in use is taken from another for it.
    """

    max_queue: int = 512
    keep_s: float = 15.0
    patience_s: float = 2.0


class Place(NamedTuple):
    """A replica for one call, how near the runner is there, and what has to go for it."""

    replica: Replica
    state: State
    victim: Runner | None = None


class Placement:
    """The replicas, who wants what, and the choice."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.replicas: dict[str, Replica] = {}
        self.wanted: Counter[Key] = Counter()
        """How many wait, by runner."""
        self._conversations: OrderedDict[str, str] = OrderedDict()

    @property
    def slots(self) -> int:
        """Of all replicas that may be given something."""
        return sum(each.standing.slots for each in self.replicas.values() if each.is_usable)

    def state(self, key: Key) -> State:
        """How near this runner is, anywhere."""
        there = [each.runners[key] for each in self.replicas.values() if key in each.runners]
        if any(runner.is_loaded for runner in there):
            return "loaded"
        return "loading" if there else "cold"

    def clamped(self, key: Key) -> Key:
        """The runner that serves this name with so much context.

        An Ollama loads no longer context than the model has, whatever is asked for; and if nothing
        is asked for (0), the model's own, or else its usual one.
        """
        name, num_ctx = key
        standings = [each.standing for each in self.replicas.values()]
        model = next((each.ids[name] for each in standings if name in each.ids), name)
        if not num_ctx:
            own = max((each.contexts.get(name, 0) for each in standings), default=0)
            num_ctx = own or max((each.context for each in standings), default=0)
        longest = max((each.present.get(model, 0) for each in standings), default=0)
        return model, min(num_ctx, longest or num_ctx)

    def place(self, key: Key, affinity: str, now: float, *, is_patient: bool) -> Place | None:
        """Where it should go now."""
        affine = self._conversations.get(affinity) if affinity else None
        serving = [each for each in self._serving(key) if each.free]
        if serving:
            best = max(serving, key=lambda each: _worth(each, key, affine))
            return Place(best, "loaded" if best.runners[key].is_loaded else "loading")
        options: list[tuple[tuple[float, ...], Place]] = []
        for each in self._loadable(key):
            if each.free and not each.is_loading:
                victim = self._victim(each, key, now, is_patient=is_patient)
                if victim is not False:
                    rank = self._cost(each, victim, is_affine=each.name == affine)
                    options.append((rank, Place(each, "cold", victim)))
        if not options:
            return None
        return min(options, key=lambda option: (option[0], option[1].replica.name))[1]

    def remember(self, affinity: str, replica: str) -> None:
        """Where a conversation was sent."""
        if affinity:
            self._conversations[affinity] = replica
            self._conversations.move_to_end(affinity)
            if len(self._conversations) > _MAX_CONVERSATIONS:
                self._conversations.popitem(last=False)

    def claim(self, key: Key, now: float) -> None:
        """For who has waited long enough and fits nowhere: keep a runner free of calls for it."""
        if any(each.claim is not None and each.claim.key == key for each in self.replicas.values()):
            return
        options = [
            (runner.leases, runner.used_at, each.name, runner)
            for each in self._loadable(key)
            if not each.is_loading
            for runner in each.in_the_way(key)
            if self._is_claimable(runner, each, key, now)
        ]
        if options:
            _, _, name, victim = min(options, key=lambda option: option[:3])
            self.replicas[name].claim = Claim(key, victim.key)

    def review_claims(self) -> None:
        """Let go of those that nobody needs any more."""
        for each in self.replicas.values():
            claim = each.claim
            if claim is None:
                continue
            is_served = self._is_running(claim.key) and self.wanted[claim.victim]
            if not self.wanted[claim.key] or claim.victim not in each.runners or is_served:
                each.claim = None

    def claimed(self) -> set[Key]:
        """The runners for which a place is ready: they go first."""
        return {
            each.claim.key
            for each in self.replicas.values()
            if each.claim is not None and each.free and not each.runners[each.claim.victim].leases
        }

    def _serving(self, key: Key) -> list[Replica]:
        return [
            each
            for each in self.replicas.values()
            if each.is_usable
            and key in each.runners
            and (each.claim is None or each.claim.victim != key)
        ]

    def _is_running(self, key: Key) -> bool:
        return bool(self._serving(key))

    def _loadable(self, key: Key) -> list[Replica]:
        """Where this runner isn't, and might be. A model that no replica has may go to any: it is
        fetched there, or the engine says that it doesn't exist."""
        has_any = any(key[0] in each.standing.present for each in self.replicas.values())
        return [
            each
            for each in self.replicas.values()
            if each.is_usable
            and key not in each.runners
            and (key[0] in each.standing.present or not has_any)
            and (each.claim is None or each.claim.key == key)
        ]

    def _victim(
        self, replica: Replica, key: Key, now: float, *, is_patient: bool
    ) -> Runner | Literal[False] | None:
        """What has to go: nothing (None), a runner, or False where it can't be loaded now."""
        runners = replica.in_the_way(key)
        if not runners:
            return None
        able = [
            runner
            for runner in runners
            if self._may_go(runner, replica, key, now, is_patient=is_patient)
        ]
        if not able:
            return False
        return min(able, key=lambda runner: (not self._copies(runner, replica), runner.used_at))

    def _may_go(
        self, runner: Runner, replica: Replica, key: Key, now: float, *, is_patient: bool
    ) -> bool:
        if runner.leases:
            return False
        if replica.claim is not None:
            return True  # it was decided when the claim was made
        is_wanted = self.wanted[runner.key] > 0
        if not is_wanted and now - runner.used_at >= self._policy.keep_s:
            return True
        had_its_turn = is_patient and self._had_its_turn(runner, now)
        if self._is_running(key):
            return had_its_turn and not is_wanted
        return had_its_turn or not is_wanted

    def _is_claimable(self, runner: Runner, replica: Replica, key: Key, now: float) -> bool:
        if not runner.is_loaded or not self._had_its_turn(runner, now):
            return False
        if not self._is_running(key):
            return True
        others = self._copies(runner, replica)
        return not self.wanted[runner.key] and any(each.free for each in others)

    def _had_its_turn(self, runner: Runner, now: float) -> bool:
        return now - runner.since >= self._policy.keep_s

    def _copies(self, runner: Runner, replica: Replica) -> list[Replica]:
        return [each for each in self._serving(runner.key) if each is not replica]

    def _cost(
        self, replica: Replica, victim: Runner | None, *, is_affine: bool
    ) -> tuple[float, ...]:
        """What loading here takes from others; the least is best."""
        if victim is None:
            return (0, len(replica.runners), 0, -replica.free, not is_affine)
        is_last = not self._copies(victim, replica)
        return (1, is_last, victim.used_at, -replica.free, not is_affine)


def _worth(replica: Replica, key: Key, affine: str | None) -> tuple[bool, float, bool, str]:
    """A conversation's own replica counts as if half its slots more were free: the beginning of the
    prompt is in that engine's memory, which saves time to the first token and nothing else."""
    is_affine = replica.name == affine
    bonus = max(1, replica.standing.slots // 2) if is_affine else 0
    return replica.runners[key].is_loaded, replica.free + bonus, is_affine, replica.name
