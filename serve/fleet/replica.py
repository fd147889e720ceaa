"""One replica as the scheduler knows it: what it said of itself, and what has been given to it.

A report is late by as much as it travels, and the scheduler knows first what it has just decided.
So of runners that have leases the scheduler is right, of all others the report (`take_in`).
"""

from collections.abc import Mapping

from msgspec import Struct

from serve.fleet.line import Key


class Standing(Struct, frozen=True):
    """What a replica says of itself.

    `slots`: calls that it computes at once. `room`: runners that it holds at once.
    `loaded`: its runners. `present`: the models on its disk, with the longest context of each, 0
    where that is not known. `busy`: calls at work or waiting in it, whoever sent them.
    `is_leaving`: it ends what it has and wants no more. `context`: tokens of context that it loads
    a model with where nothing else is said. `contexts`: those of models that say so themselves.
    `ids`: what the runners of a name are known by in `loaded` and `present`, if not by the name
    (several may have the same). The rest is for who looks at the fleet: the `digests` of its models
    by name, its engine's version, and what went wrong last, "" if nothing did.
    """

    replica: str
    slots: int
    room: int
    loaded: frozenset[Key]
    present: Mapping[str, int]
    busy: int = 0
    is_leaving: bool = False
    context: int = 0
    contexts: Mapping[str, int] = {}
    ids: Mapping[str, str] = {}
    digests: Mapping[str, str] = {}
    engine_version: str = ""
    last_error: str = ""


class Runner:
    """One model in a replica's memory, or on the way there."""

    __slots__ = ("is_loaded", "key", "leases", "since", "used_at")

    def __init__(self, key: Key, now: float, *, is_loaded: bool) -> None:
        self.key = key
        self.is_loaded = is_loaded
        self.leases = 0
        self.since = now
        """When it was loaded, as far as is known."""
        self.used_at = now

    def loaded(self, now: float) -> None:
        """It is there."""
        if not self.is_loaded:
            self.is_loaded = True
            self.since = now


class Claim(Struct, frozen=True):
    """This replica's runner `victim` gets no more calls, so that `key` can take its place."""

    key: Key
    victim: Key


class Replica:
    """Its runners and its slots."""

    def __init__(self, standing: Standing) -> None:
        self.name = standing.replica
        self.standing = standing
        self.runners: dict[Key, Runner] = {}
        self.claim: Claim | None = None
        self.strangers: int | None = None
        """Calls that are no lease of ours: from before this scheduler began. Nothing adds to them
        later, so that a late report can't count a call that has ended."""
        self.is_suspect = False
        """A call didn't reach it. It is asked nothing until it reports again."""
        self.is_running = True
        """Do the ingresses see it? They don't yet when it is new, nor any more when it leaves."""

    @property
    def is_usable(self) -> bool:
        """May it be given anything?"""
        return self.is_running and not (self.is_suspect or self.standing.is_leaving)

    @property
    def leases(self) -> int:
        """What was given to it and has not come back."""
        return sum(runner.leases for runner in self.runners.values())

    @property
    def in_flight(self) -> int:
        """Calls that it has, ours and others."""
        return self.leases + (self.strangers or 0)

    @property
    def free(self) -> int:
        """Slots that may be given."""
        return max(0, self.standing.slots - self.in_flight) if self.is_usable else 0

    @property
    def is_loading(self) -> bool:
        """Is a model on the way? An Ollama loads one at a time, and the next would wait in it."""
        return any(not runner.is_loaded for runner in self.runners.values())

    def take_in(self, standing: Standing, now: float) -> None:
        """Believe a report, but where we know better."""
        self.standing = standing
        self.is_suspect = False
        strangers = max(0, standing.busy - self.leases)
        self.strangers = strangers if self.strangers is None else min(self.strangers, strangers)
        for key in [key for key, runner in self.runners.items() if not runner.leases]:
            if key not in standing.loaded:
                del self.runners[key]
        for key in standing.loaded:
            if key not in self.runners:
                self.runners[key] = Runner(key, now, is_loaded=True)
            self.runners[key].loaded(now)

    def give(self, key: Key, now: float) -> None:
        """One more call for this runner, which is made room for and loaded if it isn't there."""
        if key not in self.runners:
            self._make_room(key)
            self.runners[key] = Runner(key, now, is_loaded=False)
        runner = self.runners[key]
        runner.leases += 1
        runner.used_at = now
        if self.claim is not None and self.claim.key == key:
            self.claim = None

    def hold(self, key: Key, now: float) -> None:
        """A call that it has had for some time, as its owner tells us."""
        if key not in self.runners:
            self.runners[key] = Runner(key, now, is_loaded=True)
        self.runners[key].leases += 1
        if self.strangers:
            self.strangers -= 1

    def take_back(self, key: Key, now: float, *, is_done: bool) -> None:
        """A call is over. A load that nobody waits for any more is given up by Ollama."""
        runner = self.runners[key]
        runner.leases -= 1
        runner.used_at = now
        if is_done:
            runner.loaded(now)
        elif not runner.leases and not runner.is_loaded:
            del self.runners[key]

    def in_the_way(self, key: Key) -> list[Runner]:
        """Any one of these has to go if `key` is loaded here; none, if there is room.

        A model has one runner in an Ollama: another context of it is always in the way.
        """
        if self.claim is not None and self.claim.key == key:
            return [self.runners[self.claim.victim]]
        same = [runner for runner in self.runners.values() if runner.key[0] == key[0]]
        if same:
            return [max(same, key=lambda runner: runner.leases)]
        return list(self.runners.values()) if len(self.runners) >= self.standing.room else []

    def drop(self, victim: Runner) -> None:
        """It goes, for what is given next."""
        del self.runners[victim.key]
        if self.claim is not None and self.claim.victim == victim.key:
            self.claim = None

    def _make_room(self, key: Key) -> None:
        """Whatever idle else has to go: the report may have told of more than there is room for."""
        for runner in [runner for runner in self.runners.values() if not runner.leases]:
            if runner.key[0] == key[0]:
                self.drop(runner)
        idle = sorted(
            (runner for runner in self.runners.values() if not runner.leases),
            key=lambda runner: runner.used_at,
        )
        for runner in idle[: max(0, len(self.runners) - self.standing.room + 1)]:
            self.drop(runner)
