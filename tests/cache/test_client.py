import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import cast

import pytest

from serve.cache import link as link_module
from serve.cache.client import Address, ShardClient
from serve.cache.protocol import VERSION, Miss, Purge, Purged, Renewed, Viewed, Welcome, frame
from serve.errors import CacheUnavailable
from serve.ports import CatalogueView
from tests.cache.world import KEY, MODEL, SECRET, HandClock, at, put, report, shard, until

LEASE_S = 0.4


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops: they differ in what they forgive, and Ray's processes use uvloop."""
    return "asyncio", {"use_uvloop": request.param}


class Watching:
    """What a subscriber is told."""

    def __init__(self) -> None:
        self.views: list[CatalogueView] = []
        self.generations: list[int] = []
        self.renewals: list[tuple[int, float]] = []
        self.forfeits = 0

    def viewed(self, view: CatalogueView, generation: int) -> None:
        self.views.append(view)
        self.generations.append(generation)

    def renewed(self, epoch: int, asked_at: float) -> None:
        self.renewals.append((epoch, asked_at))

    def forfeited(self) -> None:
        self.forfeits += 1


class Whereabouts:
    """A resolver whose answer changes, as when an actor is recreated."""

    def __init__(self) -> None:
        self.address: Address | Exception = CacheUnavailable("nobody knows")
        self.asked = 0

    async def __call__(self) -> Address:
        self.asked += 1
        if isinstance(self.address, Exception):
            raise self.address
        return self.address


def client(where: Whereabouts, watcher: Watching | None = None) -> ShardClient:
    return ShardClient(where, clock=monotonic, lease_s=LEASE_S, watcher=watcher)


SHARD = """
import asyncio, sys, time
from serve.cache.shard import ShardServer
from serve.settings import CacheSettings

async def main():
    server = ShardServer(b"s" * 32, CacheSettings(), time.monotonic)
    print((await server.start())[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class ShardProcess:
    """A shard in a process of its own, as an actor is."""

    def __init__(self) -> None:
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-c", SHARD], stdout=subprocess.PIPE, cwd=root, env=dict(os.environ)
        )
        assert self._process.stdout is not None
        self.address: Address = ("127.0.0.1", int(self._process.stdout.readline()), SECRET)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


class Faulty(asyncio.Protocol):
    """A shard with a fault: it says `first` to the hello and `then` to whatever follows."""

    def __init__(self, first: bytes, then: bytes) -> None:
        self._say = first
        self._then = then
        self.heard = 0
        self.is_gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_gone = True

    def is_over(self) -> bool:
        """Closed, which it is being from now on. (Accepted may not yet mean connected.)"""
        if hasattr(self, "transport"):
            self.transport.abort()
        return self.is_gone

    def data_received(self, data: bytes) -> None:
        self.heard += 1
        if not self.transport.is_closing():
            self.transport.write(self._say)
        self._say = self._then


@asynccontextmanager
async def faulty(first: bytes, *, then: bytes = b"") -> AsyncGenerator[Address]:
    connections: list[Faulty] = []

    def connecting() -> Faulty:
        connections.append(Faulty(first, then))
        return connections[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(connecting, "127.0.0.1", 0)
    try:
        yield "127.0.0.1", server.sockets[0].getsockname()[1], SECRET
    finally:
        server.close()
        await until(lambda: all(connection.is_over() for connection in connections))


async def test_asks_and_is_answered() -> None:
    async with (
        shard() as (_, address),
        ShardClient(at(address), clock=monotonic, lease_s=2) as asking,
    ):
        await until(lambda: asking.is_connected)
        assert asking.report(report())
        assert asking.put(put())
        assert await asking.get(KEY, 5) == b"packed"
        assert await asyncio.gather(*(asking.get(KEY, 5) for _ in range(500))) == [b"packed"] * 500
        assert (await asking.stats()).hits == 501
        assert (await asking.purge(Purge(1, MODEL))).entries == 1
        assert await asking.get(KEY, 5) is None


async def test_is_unavailable_until_it_is_connected() -> None:
    where = Whereabouts()
    async with client(where) as asking:
        with pytest.raises(CacheUnavailable):
            await asking.get(KEY, 5)
        with pytest.raises(CacheUnavailable):
            await asking.stats()
        assert not asking.put(put())
        assert not asking.report(report())
        await until(lambda: where.asked >= 2)


@pytest.mark.parametrize("fault", [OSError("x"), RuntimeError("x"), TimeoutError()])
async def test_whatever_the_resolver_raises_it_is_asked_again(fault: Exception) -> None:
    where = Whereabouts()
    where.address = fault
    async with client(where) as asking, shard() as (_, address):
        await until(lambda: where.asked >= 2)
        where.address = address
        await until(lambda: asking.is_connected)


async def test_finds_a_shard_that_moved() -> None:
    where, watching = Whereabouts(), Watching()
    async with client(where, watching) as asking:
        async with shard() as (first, where.address):
            await until(lambda: asking.is_connected)
            first.holdings.report(report())
            waiting = [asyncio.ensure_future(asking.get(KEY, 30)) for _ in range(3)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(was is None or isinstance(was, CacheUnavailable) for was in outcomes)
        await until(lambda: not asking.is_connected)
        async with shard() as (second, where.address):
            await until(lambda: asking.is_connected)
            second.holdings.report(report())
            assert asking.put(put())
            assert await asking.get(KEY, 5) == b"packed"
    assert len(set(watching.generations)) == 2


async def test_a_wrong_secret_is_no_connection() -> None:
    where = Whereabouts()
    async with client(where) as asking, shard() as (server, (host, port, _)):
        where.address = (host, port, b"wrong")
        await until(lambda: where.asked >= 3)
        assert not asking.is_connected
        where.address = (host, port, SECRET)
        await until(lambda: asking.is_connected)
    assert not server._connections


async def test_a_watcher_is_told_and_its_lease_renewed() -> None:
    where, watching = Whereabouts(), Watching()
    before = monotonic()
    async with client(where, watching) as asking, shard() as (server, where.address):
        await until(lambda: asking.is_connected)
        assert watching.views[0].epoch == 0
        server.holdings.report(report())
        server.publish()
        await until(lambda: len(watching.views) == 2)
        assert watching.views[1].models[MODEL].digest
        await until(lambda: watching.renewals[-1] > (1, 0.0))
        assert all(before <= asked_at <= monotonic() for _, asked_at in watching.renewals)


async def test_a_lease_runs_from_the_question_however_late_the_answer() -> None:
    clock, watching, view = HandClock(1000), Watching(), CatalogueView(1, "f", "v", {})
    held: list[Faulty] = []

    def holding() -> Faulty:
        held.append(Faulty(frame(Welcome(VERSION)), b""))
        return held[-1]

    server = await asyncio.get_running_loop().create_server(holding, "127.0.0.1", 0)
    where = at(("127.0.0.1", server.sockets[0].getsockname()[1], SECRET))
    async with ShardClient(where, clock=clock, lease_s=30, watcher=watching):
        await until(lambda: bool(held) and held[0].heard == 2)  # hello, subscribe
        clock.advance(5)
        held[0].transport.write(frame(Viewed(1, view, 7)))
        await until(lambda: held[0].heard == 3)  # renew
        clock.advance(5)
        held[0].transport.write(frame(Renewed(2, 1)))
        await until(lambda: len(watching.renewals) == 2)
    assert watching.renewals == [(1, 1000), (1, 1005)]
    server.close()
    await until(held[0].is_over)


async def test_an_older_view_never_takes_the_place_of_a_newer_one() -> None:
    """The answer to `Subscribe` and the next news may come in one piece."""
    views = [CatalogueView(epoch, "f", "v", {}) for epoch in (1, 2)]
    told = frame(Viewed(1, views[0], 7)) + frame(Viewed(0, views[1], 8))
    where, watching = Whereabouts(), Watching()
    async with (
        client(where, watching) as asking,
        faulty(frame(Welcome(VERSION)), then=told) as where.address,
    ):
        await until(lambda: asking.is_connected)
        assert watching.views[:2] == views
        assert watching.generations[:2] == [7, 8]
        assert asking.generation == 8


async def test_who_closes_the_connection_gives_up_its_lease_first() -> None:
    where, watching = Whereabouts(), Watching()
    async with shard() as (server, where.address), client(where, watching) as asking:
        await until(lambda: asking.is_connected)
        await server.stop()
        await until(lambda: not asking.is_connected)
        assert watching.forfeits == 0  # whoever cuts a connection waits for its lease
    async with shard() as (_, where.address):
        async with client(where, watching) as asking:
            await until(lambda: asking.is_connected)
        assert watching.forfeits == 1


async def test_who_does_not_watch_is_told_nothing_and_stays_connected() -> None:
    where = Whereabouts()
    async with client(where) as asking, shard() as (server, where.address):
        await until(lambda: asking.is_connected)
        server.publish()
        assert await asking.get(KEY, 5) is None
        assert server.subscribers == 0


async def test_news_that_nobody_asked_for_is_no_fault() -> None:
    news = frame(Viewed(0, CatalogueView(1, "f", "v", {}), 7))
    where = Whereabouts()
    async with client(where) as asking, faulty(frame(Welcome(VERSION)), then=news) as where.address:
        await until(lambda: asking.is_connected)
        with pytest.raises(CacheUnavailable, match="in time"):
            await asking.get(KEY, 0.01)
        assert asking.is_connected


async def test_a_client_that_was_never_started_ends() -> None:
    await client(Whereabouts()).__aexit__(None, None, None)


async def test_a_shard_that_says_nothing_is_given_up() -> None:
    where = Whereabouts()
    async with client(where) as asking, faulty(frame(Welcome(VERSION))) as where.address:
        await until(lambda: asking.is_connected)
        with pytest.raises(CacheUnavailable, match="in time"):
            await asking.get(KEY, 0.01)
        await until(lambda: not asking.is_connected)


async def test_a_shard_that_never_greets_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "CONNECT_WITHIN_S", 0.05)
    where = Whereabouts()
    async with client(where) as asking, faulty(b"") as where.address:
        await until(lambda: where.asked >= 3)
        assert not asking.is_connected


@pytest.mark.parametrize(
    "then",
    [
        b"\0\0\0\x01\xc1",
        b"\xff\xff\xff\xff",
        frame(Renewed(0, 1)),
        frame(Miss(1)),
        frame(Purged(99, 1)),
    ],
)
async def test_a_shard_that_makes_no_sense_is_given_up(then: bytes) -> None:
    where, watching = Whereabouts(), Watching()
    async with client(where, watching), faulty(frame(Welcome(VERSION)), then=then) as where.address:
        await until(lambda: where.asked >= 3)
        assert watching.renewals == []


async def test_an_answer_of_another_kind_is_no_answer() -> None:
    where = Whereabouts()
    answers = b"".join(frame(Renewed(number, 1)) for number in range(1, 50))
    async with (
        client(where) as asking,
        faulty(frame(Welcome(VERSION)), then=answers) as where.address,
    ):
        await until(lambda: asking.is_connected)
        with pytest.raises(CacheUnavailable, match="something else"):
            await asking.get(KEY, 5)


async def test_who_leaves_does_not_disturb_the_others() -> None:
    where = Whereabouts()
    async with client(where) as asking, shard() as (server, where.address):
        await until(lambda: asking.is_connected)
        leaving = asyncio.ensure_future(asking.get(KEY, 5))
        staying = asyncio.ensure_future(asking.get(KEY, 5))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying is None
        gone = asyncio.ensure_future(asking.get(KEY, 0.001))
        await asyncio.sleep(0)
        gone.cancel()
        await until(lambda: server.holdings.stats(1, 0).misses == 3)


async def test_what_a_shard_does_not_read_is_bounded() -> None:
    """Stores are dropped and look-ups fail, rather than that memory fills."""
    where = Whereabouts()
    stuck = ShardProcess()
    where.address = stuck.address
    async with ShardClient(where, clock=monotonic, lease_s=30) as asking:
        await until(lambda: asking.is_connected)
        stuck.signal(signal.SIGSTOP)
        sent = 0
        while asking.put(put(packed=bytes(1 << 20))):
            sent += 1
            assert sent < 100
            await asyncio.sleep(0)
        with pytest.raises(CacheUnavailable, match="keep up"):
            await asking.get(KEY, 5)
        stuck.signal(signal.SIGCONT)
        await until(lambda: asking.put(put()))
        assert await asking.get(KEY, 5) is None
    stuck.kill()


async def test_outlives_a_shard_that_is_killed_and_one_that_hangs() -> None:
    where = Whereabouts()
    first = ShardProcess()
    where.address = first.address
    async with client(where) as asking:
        await until(lambda: asking.is_connected)
        asking.report(report())
        asking.put(put())
        assert await asking.get(KEY, 5) == b"packed"
        first.kill()
        await until(lambda: not asking.is_connected)
        with pytest.raises(CacheUnavailable):
            await asking.get(KEY, 5)

        second = ShardProcess()
        where.address = second.address
        await until(lambda: asking.is_connected)
        assert await asking.get(KEY, 5) is None
        second.signal(signal.SIGSTOP)
        with pytest.raises(CacheUnavailable):
            await asking.get(KEY, 0.01)
        await until(lambda: not asking.is_connected)
        second.signal(signal.SIGCONT)
        await until(lambda: asking.is_connected)
        assert await asking.get(KEY, 5) is None
        second.kill()
