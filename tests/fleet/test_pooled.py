"""All pools as one: where calls go, what waits for a lease, and what is tried again."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial

import pytest

from serve.errors import DeadlineExceeded, EngineDied, EngineNotReady
from serve.fleet.asking import Asking
from serve.fleet.desk import Desk
from serve.fleet.placement import Policy
from serve.fleet.pooled import Pool, PooledFleet
from serve.fleet.pools import Pools
from serve.fleet.telling import Telling
from serve.ports import Call, Failed, Frame, Head, Member
from serve.settings import Settings
from tests.cache.world import until
from tests.fleet.pools import standing

M = "registry.ollama.ai/library/m:latest"
SETTINGS = Settings.model_validate(
    {"pools": {"a": {"models": ["m"], "slots": 1}, "b": {"models": ["n"]}}}
)
OK = Head(200, "application/json")
SECRET = b"s"


class FaultyDelivery:
    """Replicas that answer at once, or fail as told. A fake: it injects faults."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.asked: list[Call] = []
        self.faults: dict[str, list[Exception | Head]] = {}
        self.held = asyncio.Event()
        self.held.set()

    def members(self) -> Sequence[Member]:
        return [Member(name, "a", name) for name in self.names]

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        self.asked.append(call)
        faults = self.faults.get(call.replica, [])
        fault = faults.pop(0) if faults else None
        if isinstance(fault, Exception):
            raise fault
        yield fault or OK
        await self.held.wait()
        yield b"{}"


class World:
    """A scheduler, two replicas that it knows, and one ingress."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.desk = Desk(
            SECRET, Policy(patience_s=0.05), asyncio.get_running_loop().time, silence_s=5
        )
        self.a, self.b = FaultyDelivery("r1", "r2"), FaultyDelivery("r9")

    async def start(self) -> PooledFleet:
        host, port = await self.desk.start()
        self._stack.push_async_callback(self.desk.stop)

        async def resolve() -> tuple[str, int, bytes]:
            return host, port, SECRET

        async def nowhere() -> tuple[str, int, bytes]:
            raise OSError

        for name in ("r1", "r2"):
            telling = await self._stack.enter_async_context(Telling(resolve, silence_s=5))
            telling.tell(standing(name, slots=1, present=(M,), loaded=((M, 0),)))
        await until(lambda: self.desk.schedule.figures.slots == 2)
        asking = partial(Asking, silence_s=5, slots_alone=1)
        each = {"a": Pool(self.a, asking(resolve), 5), "b": Pool(self.b, asking(nowhere), 0.05)}
        fleet = await self._stack.enter_async_context(PooledFleet(Pools(SETTINGS), each))
        await until(lambda: not fleet.asking("a").is_alone)
        return fleet


def call(path: str = "/api/chat", model: str = M, *, replica: str = "") -> Call:
    return Call("POST", path, b"{}", "id", model, replica=replica)


async def heard(fleet: PooledFleet, asked: Call) -> list[Frame]:
    async with aclosing(fleet.stream(asked)) as frames:
        return [frame async for frame in frames]


async def test_a_call_goes_where_its_lease_says_and_the_head_tells() -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        fleet = await world.start()
        head, body = await heard(fleet, call())
        assert isinstance(head, Head)
        assert (head.state, head.position, body) == ("loaded", 0, b"{}")
        assert head.replica == world.a.asked[0].replica
        assert head.replica in ("r1", "r2")
        await until(lambda: world.desk.schedule.figures.in_flight == 0)


async def test_a_model_of_no_pool_is_not_found() -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        fleet = await world.start()
        other = "registry.ollama.ai/library/other:latest"
        asked = Call("POST", "/api/chat", b'{"model":"Other","stream":false}', "id", other)
        head, body = await heard(fleet, asked)
        assert (head, body) == (
            Head(404, "application/json; charset=utf-8"),
            b"""{"error":"model 'Other' not found"}""",
        )
        assert not world.a.asked + world.b.asked


async def test_what_computes_nothing_needs_no_lease_and_a_named_replica_gets_its_call() -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        fleet = await world.start()
        await heard(fleet, call("/api/tags", ""))
        await heard(fleet, call("/api/ps", "", replica="r9"))
        assert [each.replica for each in world.a.asked] == [""]
        assert [each.replica for each in world.b.asked] == ["r9"]
        assert [member.name for member in fleet.members()] == ["r1", "r2", "r9"]
        with pytest.raises(EngineNotReady):
            await heard(fleet, call(replica="r7"))


@pytest.mark.parametrize(
    "fault", [EngineDied(), EngineNotReady("gone"), Head(500, "", is_unreached=True)]
)
async def test_before_the_first_byte_another_replica_is_asked(fault: Exception | Head) -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        fleet = await world.start()
        world.a.faults = {"r1": [fault] * 9}
        for _ in range(4):
            head = (await heard(fleet, call()))[0]
            assert isinstance(head, Head)
            assert (head.status, head.replica) == (200, "r2")


async def test_if_none_is_reached_the_client_hears_so() -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        fleet = await world.start()
        refusal = Head(500, "", is_unreached=True)
        world.a.names = ["r1"]
        world.a.faults = {name: [refusal] * 9 for name in ("r1", "r2")}
        asked = asyncio.create_task(heard(fleet, call()))
        await until(lambda: len(world.a.asked) == 2)  # both are suspect until they report again
        asked.cancel()
        await asyncio.wait([asked])
        await until(lambda: world.desk.schedule.figures.waiting == 0)


async def test_after_the_first_byte_nothing_is_asked_again() -> None:
    class Broken(FaultyDelivery):
        async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
            self.asked.append(call)
            yield OK
            yield Failed("unexpected EOF")

    async with AsyncExitStack() as stack:
        world = World(stack)
        world.a = Broken("r1", "r2")
        fleet = await world.start()
        assert (await heard(fleet, call()))[1] == Failed("unexpected EOF")
        assert len(world.a.asked) == 1


async def test_who_leaves_in_the_middle_gives_the_slot_back() -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        fleet = await world.start()
        world.a.held.clear()
        async with aclosing(fleet.stream(call())) as frames:
            await anext(frames)
            assert world.desk.schedule.figures.in_flight == 1
        await until(lambda: world.desk.schedule.figures.in_flight == 0)


async def test_without_a_scheduler_an_ingress_lets_its_share_through() -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        fleet = await world.start()
        other = "registry.ollama.ai/library/n:latest"
        world.b.held.clear()
        async with aclosing(fleet.stream(call(model=other))) as frames:
            head = await anext(frames)
            assert head == OK  # nobody knows how near its model was
            assert world.b.asked[0].replica == ""
            with pytest.raises(DeadlineExceeded):
                await heard(fleet, call(model=other))
