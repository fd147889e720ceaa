"""The scheduler, ingresses and replicas over real sockets."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from time import monotonic

import pytest

from serve.errors import DeadlineExceeded, Overloaded
from serve.fleet.asking import Asking, Lease, Need
from serve.fleet.desk import Desk
from serve.fleet.link import Address
from serve.fleet.placement import Policy
from serve.fleet.protocol import VERSION, Ask, Beat, Hello
from serve.fleet.telling import Telling
from serve.wire.framing import frame
from tests.cache.world import until
from tests.fleet.pools import standing

SECRET = b"s" * 32
SILENCE_S = 2.0


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Pool:
    """A scheduler that may be stopped and started, and who talks to it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._address: Address | None = None
        self.desk: Desk | None = None

    async def resolve(self) -> Address:
        if self._address is None:
            raise ConnectionError("nobody is there")
        return self._address

    async def start(self, policy: Policy | None = None, silence_s: float = SILENCE_S) -> Desk:
        self.desk = Desk(SECRET, policy or Policy(), monotonic, silence_s=silence_s)
        self._address = (*await self.desk.start(), SECRET)
        return self.desk

    async def stop(self) -> None:
        self._address = None
        if self.desk is not None:
            await self.desk.stop()

    async def ingress(self, slots_alone: int = 1, max_queue_alone: int = 512) -> Asking:
        return await self._stack.enter_async_context(
            Asking(
                self.resolve,
                silence_s=SILENCE_S,
                slots_alone=slots_alone,
                max_queue_alone=max_queue_alone,
            )
        )

    async def replica(self) -> Telling:
        return await self._stack.enter_async_context(Telling(self.resolve, silence_s=SILENCE_S))


@asynccontextmanager
async def pool() -> AsyncGenerator[Pool]:
    async with AsyncExitStack() as stack:
        made = Pool(stack)
        stack.push_async_callback(made.stop)
        yield made


class Call:
    """One call under a lease, that lasts until it is told to end."""

    def __init__(self, ingress: Asking, wait_s: float = 30.0) -> None:
        self._need = Need("m1", 2048, wait_s)
        self._end = asyncio.Event()
        self.lease: Lease | None = None
        self.task = asyncio.get_running_loop().create_task(self._run(ingress))

    async def _run(self, ingress: Asking) -> None:
        async with ingress.lease(self._need) as self.lease:
            await self._end.wait()

    async def granted(self) -> Lease:
        await until(lambda: self.lease is not None)
        assert self.lease is not None
        return self.lease

    async def end(self) -> None:
        self._end.set()
        await self.task

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def test_leases_are_granted_queued_and_released() -> None:
    async with pool() as world:
        desk = await world.start()
        (await world.replica()).tell(standing(slots=1))
        ingress = await world.ingress()
        await until(lambda: not ingress.is_alone and desk.schedule.figures.slots == 1)
        first = Call(ingress)
        assert await first.granted() == Lease("r1", "cold", 0)
        leaving, second = Call(ingress), Call(ingress)
        await until(lambda: desk.schedule.figures.waiting == 2)
        await leaving.leave()
        await until(lambda: desk.schedule.figures.waiting == 1)
        await first.end()
        assert await second.granted() == Lease("r1", "loaded", 2)
        await second.leave()
        await until(lambda: desk.schedule.figures.in_flight == 0)


async def test_refusals() -> None:
    async with pool() as world:
        desk = await world.start(Policy(max_queue=1))
        ingress = await world.ingress()
        await until(lambda: not ingress.is_alone)
        waiting = Call(ingress, wait_s=0.3)
        await until(lambda: desk.schedule.figures.waiting == 1)
        with pytest.raises(Overloaded) as refused:
            await Call(ingress).task
        assert refused.value.retry_after_s >= 1
        with pytest.raises(DeadlineExceeded, match=r"within 0\.3 seconds"):
            await waiting.task
        await until(lambda: desk.schedule.figures.waiting == 0)


async def test_what_a_lost_ingress_and_a_lost_replica_had_is_free() -> None:
    async with pool() as world, AsyncExitStack() as leaving:
        desk = await world.start()
        gone = Asking(world.resolve, silence_s=SILENCE_S, slots_alone=1)
        await leaving.enter_async_context(gone)
        telling = Telling(world.resolve, silence_s=SILENCE_S)
        await leaving.enter_async_context(telling)
        telling.tell(standing(slots=1))
        await until(lambda: not gone.is_alone and desk.schedule.figures.slots == 1)
        call = Call(gone)
        await call.granted()
        await leaving.aclose()
        await until(lambda: desk.schedule.figures.in_flight == 0)
        await until(lambda: desk.schedule.figures.replicas == 0)
        await call.end()


async def test_alone_an_ingress_admits_its_share_and_a_new_scheduler_learns_of_it() -> None:
    async with pool() as world:
        desk = await world.start()
        replica = await world.replica()
        replica.tell(standing(slots=4))
        ingress, other = await world.ingress(), await world.ingress()
        await until(lambda: ingress.slots_alone == other.slots_alone == 2)
        leased = Call(ingress)
        await leased.granted()
        await desk.stop()
        await until(lambda: ingress.is_alone)
        alone, waiting = Call(ingress), Call(ingress)
        assert await alone.granted() == Lease()
        assert waiting.lease is None
        replica.tell(standing(slots=4, busy=2, loaded=(("m1", 2048),)))
        desk = await world.start()
        assert (await waiting.granted()).replica == "r1"
        await until(lambda: desk.schedule.figures.in_flight == 2)  # and one that nobody leased
        for call in (leased, alone, waiting):
            await call.end()
        await until(lambda: desk.schedule.figures.in_flight == 0)


async def test_alone_its_line_is_bounded_and_has_deadlines() -> None:
    async with pool() as world:
        ingress = await world.ingress(max_queue_alone=1)
        first = Call(ingress)
        await first.granted()
        late = Call(ingress, wait_s=0.2)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await Call(ingress).task
        with pytest.raises(DeadlineExceeded):
            await late.task
        second = Call(ingress)
        await first.end()
        await second.granted()
        await second.end()


async def test_who_waited_in_a_lost_scheduler_asks_again() -> None:
    async with pool() as world:
        desk = await world.start()
        ingress = await world.ingress()
        await until(lambda: not ingress.is_alone)
        calls = [Call(ingress), Call(ingress)]
        await until(lambda: desk.schedule.figures.waiting == 2)
        await desk.stop()
        await until(lambda: sum(call.lease is not None for call in calls) == 1)
        for call in calls:
            await call.granted()
            await call.end()


@pytest.mark.parametrize(
    "said",
    [
        frame(Hello(VERSION, b"wrong", serves=True)),
        frame(Beat()),
        frame(Hello(VERSION, SECRET, serves=True)) * 2,
        frame(Hello(VERSION, SECRET, serves=True)) + frame(Ask(1, "m", 1, 9.0)) * 2,
        b"\xff\xff\xff\xff",
        b"",
    ],
    ids=["secret", "hello", "two", "twice", "long", "silent"],
)
async def test_who_makes_no_sense_or_says_nothing_is_cut_off(said: bytes) -> None:
    async with pool() as world:
        desk = await world.start(silence_s=0.2)
        host, port, _ = await world.resolve()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(said)
        with suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(-1), 10)
        writer.close()
        await until(lambda: not desk._peers)
        assert desk.schedule.figures.waiting == 0
