"""How often models are loaded: ours, and power of two choices, on the same simulated traffic."""

import heapq
import random
from collections.abc import Iterator

import pytest

from serve.fleet.line import Key
from serve.fleet.placement import Policy
from serve.fleet.schedule import Schedule
from tests.fleet.pools import MODELS, Desk, standing, wanted

NAMES = ("r1", "r2", "r3", "r4")
SLOTS = 4
SERVICE_S, LOAD_S = 1.0, 5.0
SHARES = (0.7, 0.2, 0.1)
Arrival = tuple[float, Key]


def traffic(seed: int, *, contexts: tuple[int, ...] = (2048,), count: int = 2000) -> list[Arrival]:
    """At half of what the pool can do, and the favourite model changes in the middle."""
    chance, now, arrivals = random.Random(seed), 0.0, list[Arrival]()
    for number in range(count):
        now += chance.expovariate(0.5 * len(NAMES) * SLOTS / SERVICE_S)
        models = MODELS if number < count / 2 else MODELS[::-1]
        model = chance.choices(models, SHARES)[0]
        arrivals.append((now, (model, chance.choice(contexts))))
    return arrivals


class Ollama:
    """An engine as far as reloads go, simulated: one runner, loaded when another is asked for."""

    def __init__(self) -> None:
        self.runner: Key | None = None
        self.loads = 0
        self.ready_at = 0.0
        self.ends: list[float] = []

    def serve(self, key: Key, now: float) -> float:
        """When this call will be over: it waits for the load, and a load for what runs."""
        if key != self.runner:
            self.loads += 1
            self.runner = key
            self.ready_at = max([now, self.ready_at, *self.ends]) + LOAD_S
        self.ends = [end for end in self.ends if end > now]
        self.ends.append(max(now, self.ready_at) + SERVICE_S)
        return self.ends[-1]


def two_choices(arrivals: list[Arrival], seed: int) -> int:
    """Ray's default: of two replicas at random the one with fewer calls."""
    chance, engines = random.Random(seed), [Ollama() for _ in NAMES]
    for now, key in arrivals:
        two = chance.sample(engines, 2)
        min(two, key=lambda each: sum(end > now for end in each.ends)).serve(key, now)
    return sum(each.loads for each in engines)


def ours(arrivals: list[Arrival]) -> tuple[int, float]:
    """Loads, and the longest wait for a grant."""
    pool = Desk(Schedule(Policy(max_queue=10_000)))
    pool.now = 0.0
    pool.report(*(standing(name, slots=SLOTS) for name in NAMES))
    engines = {name: Ollama() for name in NAMES}
    asked: dict[int, Arrival] = {}
    running: list[tuple[float, int]] = []
    seen: set[int] = set()
    longest = 0.0
    for now, key in ticks(arrivals, running):
        while running and running[0][0] <= now:
            pool.now, number = heapq.heappop(running)
            pool.done(number)
        pool.wait(max(0.0, now - pool.now))
        if key is not None:
            pool.ask(wanted(*key))
            asked[pool.last] = (now, key)
        for number in pool.where.keys() - seen:
            seen.add(number)
            since, of = asked[number]
            longest = max(longest, pool.now - since)
            end = engines[pool.where[number]].serve(of, pool.now)
            heapq.heappush(running, (end, number))
    assert len(seen) == len(arrivals)
    return sum(each.loads for each in engines.values()), longest


def ticks(
    arrivals: list[Arrival], running: list[tuple[float, int]]
) -> Iterator[tuple[float, Key | None]]:
    """Each arrival, and time passing in small steps, until all is done."""
    at, now = 0, 0.0
    while at < len(arrivals) or running:
        now += 0.1
        while at < len(arrivals) and arrivals[at][0] <= now:
            yield arrivals[at]
            at += 1
        yield now, None


@pytest.mark.parametrize("seed", range(3))
def test_reloads_are_near_their_minimum(seed: int) -> None:
    arrivals = traffic(seed)
    loads, longest = ours(arrivals)
    least = len(NAMES)  # all replicas are needed
    assert least <= loads <= 5 * least
    assert two_choices(arrivals, seed) >= 20 * loads
    assert longest < 60


@pytest.mark.parametrize("seed", range(3))
def test_and_with_two_contexts_of_each_model(seed: int) -> None:
    """Six runners for four places: someone always has to give way, but not at each request."""
    arrivals = traffic(seed, contexts=(2048, 4096))
    loads, longest = ours(arrivals)
    assert two_choices(arrivals, seed) >= 5 * loads
    assert longest < 300
