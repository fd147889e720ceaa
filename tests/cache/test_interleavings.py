"""Single flight over real sockets under any interleaving of comings, goings, deaths and delays."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator

import pytest

from serve.cache.outcome import Miss
from serve.errors import EngineDied
from serve.ports import Frame, Head, Tail
from tests.cache.test_joining import HEAD, NATIVE, Cluster, cluster
from tests.cache.world import DIGEST, FINGERPRINT, MODEL, until

STEPS = 150
PROMPTS = 3
LINES = 6


class Engines:
    """Generates a different answer each time, so that any two that were mixed would show."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.answers: list[tuple[str, list[bytes]]] = []
        self.ended: Counter[str] = Counter()
        self.running = 0

    async def stream(self, prompt: str) -> AsyncGenerator[Frame, None]:
        number = len(self.answers)
        lines = [
            b'{"model":"m","response":"%d-%d","done":%s}\n'
            % (number, at, b'true,"done_reason":"stop"' if at == LINES - 1 else b"false")
            for at in range(LINES)
        ]
        self.answers.append((prompt, lines))
        self.running += 1
        try:
            yield HEAD
            for line in lines:
                await asyncio.sleep(self._chance.choice([0, 0, 0.001, 0.005]))
                if self._chance.random() < 0.02:
                    raise EngineDied
                yield line
            self.ended[prompt] += 1
            yield Tail(DIGEST, DIGEST, FINGERPRINT)
        finally:
            self.running -= 1


class Request:
    """One request, as `serve.web.infer` makes it: once more if it was lost before anything came."""

    def __init__(self, world: Cluster, engines: Engines, ingress: int, prompt: str) -> None:
        self._answers = world.ingresses[ingress]
        self._engines = engines
        self._prompt = prompt
        self.is_lost = False
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        for is_last in (False, True):
            heard: list[Frame] = []
            try:
                await self._ask(heard)
            except EngineDied:
                self._check(heard, is_whole=False)
                if heard or is_last:
                    self.is_lost = True
                    return
            else:
                self._check(heard, is_whole=True)
                return

    async def _ask(self, heard: list[Frame]) -> None:
        native = NATIVE | {"model": "m", "prompt": self._prompt}
        found = await self._answers.lookup("/api/generate", native, model=MODEL, tenant="t")
        if not isinstance(found, Miss):
            heard += [HEAD, b"".join(line + b"\n" for line in found.entry.lines)]
            return
        assert found.seat is not None
        try:
            async for frame in found.seat.frames(lambda: self._engines.stream(self._prompt)):
                heard.append(frame)
        finally:
            found.seat.leave()

    def _check(self, heard: list[Frame], *, is_whole: bool) -> None:
        if not heard:
            assert not is_whole
            return
        assert isinstance(heard[0], Head)
        said = b"".join(frame for frame in heard if isinstance(frame, bytes))
        answers = [
            b"".join(lines) for prompt, lines in self._engines.answers if prompt == self._prompt
        ]
        assert any(answer.startswith(said) for answer in answers), "an answer was mixed"
        if is_whole:
            assert said in answers


class Chaos:
    """What happens next."""

    def __init__(self, world: Cluster, seed: int) -> None:
        self.chance = random.Random(seed)
        self.engines = Engines(self.chance)
        self.requests: list[Request] = []
        self._world = world

    def ask(self) -> None:
        prompt = f"prompt {self.chance.randrange(PROMPTS)} {len(self.engines.answers) // 20}"
        ingress = self.chance.randrange(len(self._world.ingresses))
        self.requests.append(Request(self._world, self.engines, ingress, prompt))

    def leave(self) -> None:
        if self.requests:
            self.chance.choice(self.requests).task.cancel()

    def cut(self) -> None:
        """A connection between an ingress and the shard."""
        taken = [one for one in self._world.server._connections if one._seats._taken]
        if taken:
            self.chance.choice(taken).drop()

    def expire(self) -> None:
        for flight in self._world.server.holdings.flights._open.values():
            flight.until = 0

    async def run(self, *, is_faulty: bool) -> None:
        faults = [self.cut, self.expire] if is_faulty else []
        for _ in range(STEPS):
            what = [self.ask] * 12 + [self.leave] * 5 + faults
            self.chance.choice(what)()
            await asyncio.sleep(self.chance.choice([0, 0, 0.001, 0.004]))
        async with asyncio.timeout(20):
            await asyncio.wait([request.task for request in self.requests])


@pytest.mark.parametrize("is_faulty", [False, True])
@pytest.mark.parametrize("seed", range(6))
async def test_nobody_hangs_and_no_answer_is_mixed(seed: int, *, is_faulty: bool) -> None:
    async with cluster(3) as world:
        chaos = Chaos(world, seed)
        await chaos.run(is_faulty=is_faulty)
        for request in chaos.requests:
            if not request.task.cancelled():
                assert request.task.exception() is None, request.task.exception()
        engines = chaos.engines
        assert 1 < len(engines.answers) < len(chaos.requests)
        # What was generated to its end is in memory, or was being listened to: never again.
        assert is_faulty or max(engines.ended.values()) == 1
        await until(lambda: world.idle)
        await until(lambda: not engines.running)
