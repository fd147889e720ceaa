"""The feeder between a real shard and a real HAProxy: what is told gets to the edge, and no change
is acknowledged while an answer from before it can come from there."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import monotonic, time

import pytest

from serve.cache.protocol import Purge
from serve.cache.reporter import Reporter
from serve.cache.shard import ShardServer
from serve.edge import feeder
from serve.edge.feeder import Feeder
from serve.edge.key import edge_key
from serve.edge.protocol import Hot
from serve.edge.shelf import entry_of
from serve.edge.value import kind_of
from serve.errors import CacheUnavailable
from serve.settings import CacheSettings, EdgeSettings
from tests.cache.world import DIGEST, FINGERPRINT, KEY, MODEL, SECRET, put, report, until
from tests.edge.entries import JSON
from tests.edge.proxy import Answer, Proxy, headers_of

LEASE_S = 0.8
CACHE = CacheSettings(lease_s=LEASE_S, catalogue_poll_s=3600, lookup_timeout_s=5)
BODY = b'{"model":"smollm2:135m"}'


class World:
    """A shard, a replica that reports to it, and a feeder of the proxy."""

    def __init__(self, proxy: Proxy, edge: EdgeSettings) -> None:
        self.proxy = proxy
        self.edge = edge
        self.stored_at = time()
        self.exits = AsyncExitStack()
        self.feeding = AsyncExitStack()

    async def start_shard(self) -> None:
        self.shard = ShardServer(SECRET, CACHE, monotonic, has_forerunner=hasattr(self, "shard"))
        host, port = await self.shard.start()
        self.address = host, port, SECRET

    async def start_feeder(self) -> None:
        async def where() -> tuple[str, int, bytes]:
            return self.address

        self.feeder = Feeder(
            self.edge, CACHE, [where], lambda: self.proxy.state, clock=monotonic, now=time
        )
        await self.feeding.enter_async_context(self.feeder)
        await until(lambda: self.feeder.lease_left_s > 0)

    async def confirm(self, digest: str) -> None:
        """The tag has changed; returns when that is acknowledged."""
        deadline = monotonic() + 10
        while True:
            try:
                return await self.reporter.confirm(report(**{MODEL: digest}))
            except CacheUnavailable:  # it has not found the shard yet
                assert monotonic() < deadline
                await asyncio.sleep(0.02)

    async def everywhere(self) -> list[tuple[str, int, bytes]]:
        return [self.address]

    async def open(self) -> None:
        await self.start_shard()
        self.exits.push_async_callback(lambda: self.shard.stop())
        self.reporter = Reporter([self.everywhere], clock=monotonic, lease_s=LEASE_S)
        await self.exits.enter_async_context(self.reporter)
        await self.confirm(DIGEST)
        await self.exits.enter_async_context(self.feeding)
        await self.start_feeder()

    def hot(self, body: bytes = BODY, digest: str = DIGEST, **changes: float) -> Hot:
        answer = b'{"digest":"%b"}' % digest.encode()
        key = edge_key("/api/chat", b"", headers_of(self.proxy), body)
        kind = kind_of(200, [(b"content-type", JSON)], answer)
        assert key is not None
        assert kind is not None
        return Hot(
            key=key,
            kind=kind,
            body=answer,
            shared_key=KEY,
            stored_at=self.stored_at,
            left_s=changes.get("left_s", 60),
            lifetime_s=60,
            model=MODEL,
            digest=digest,
            fingerprint=FINGERPRINT,
            generation=self.feeder._generation,
            tenant="default",
            tokens=2,
            gpu_ns=3,
            hits=int(changes.get("hits", 4)),
        )

    async def ask(self, body: bytes = BODY) -> Answer:
        return await asyncio.to_thread(self.proxy.ask, "/api/chat", body)

    async def until_edge(self, body: bytes = BODY) -> Answer:
        deadline = monotonic() + 10
        while not (answer := await self.ask(body)).is_edge:
            assert monotonic() < deadline
            await asyncio.sleep(0.01)
        return answer

    async def promote(self, body: bytes = BODY, digest: str = DIGEST) -> Answer:
        await until(lambda: self.feeder.tell(self.hot(body, digest)))
        return await self.until_edge(body)

    async def kill_feeder(self) -> None:
        """As a kill would: its tasks end, and its connections, and nobody says anything."""
        for task in self.feeder._tasks:
            task.cancel()
        await asyncio.gather(*self.feeder._tasks, return_exceptions=True)
        await self.feeder._running.aclose()
        self.feeding.pop_all()


@asynccontextmanager
async def world(proxy: Proxy, **edge: int) -> AsyncGenerator[World, None]:
    made = World(proxy, EdgeSettings(**edge))
    async with made.exits:
        await made.open()
        yield made


def test_the_clock_of_the_node_that_stored_an_answer_may_be_behind_or_ahead() -> None:
    hot = Hot("k", "11", b"{}", KEY, 1000.0, 60.0, 60, MODEL, DIGEST, "", 1, "default", 2, 3, 4)
    assert entry_of(hot, 5.0, 1000.0).expires_at == 65.0
    entry = entry_of(hot, 5.0, 1010.0)  # stored just now, by its own clock ten seconds ago
    assert entry.expires_at == 55.0
    assert entry.value.startswith(b"0000001060000|0000001000000|0000001060999|")
    entry = entry_of(hot, 5.0, 990.0)
    assert entry.expires_at == 65.0
    assert entry.value.startswith(b"0000001050000|0000000990000|0000001050999|")


async def test_what_is_told_is_answered_at_the_edge(proxy: Proxy) -> None:
    async with world(proxy) as made:
        answer = await made.promote()
        assert answer.body == b'{"digest":"%b"}' % DIGEST.encode()
        assert answer.headers["age"] == "0"
        await until(lambda: made.feeder.is_whole)
        for _ in range(3):  # the lease is renewed
            await asyncio.sleep(LEASE_S / 2)
            assert (await made.ask()).is_edge
    assert not proxy.ask("/api/chat", BODY).is_edge  # a feeder that leaves leaves silence


async def test_an_answer_that_is_not_vouched_for_is_refused(proxy: Proxy) -> None:
    async with world(proxy) as made:
        feeder = made.feeder
        await made.promote()
        assert not feeder.tell(made.hot(b"other", digest="0" * 64))
        assert not feeder.tell(made.hot(b"other", left_s=-1))
        feeder._generation += 1
        old = made.hot(b"other")
        feeder._generation -= 1
        assert not feeder.tell(old)
        assert feeder.refused >= 3
        assert feeder.tell(made.hot())  # known already
        assert feeder.promoted == 1


async def test_a_change_is_acknowledged_when_the_edge_is_silent(proxy: Proxy) -> None:
    async with world(proxy) as made:
        for number in range(30):
            digest = f"{number:064x}"
            await made.confirm(digest)
            assert not (await made.ask()).is_edge
            assert digest.encode() in (await made.promote(digest=digest)).body


async def test_no_answer_of_the_old_digest_after_an_acknowledgement(proxy: Proxy) -> None:
    async with world(proxy) as made:
        gone: set[bytes] = set()
        wrong: list[bytes] = []
        found = 0

        async def client() -> None:
            nonlocal found
            while True:
                known = set(gone)
                answer = await made.ask()
                if answer.is_edge:
                    found += 1
                    wrong.extend(digest for digest in known if digest in answer.body)

        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(client()) for _ in range(3)]
            for number in range(20):
                digest = f"{number:064x}"
                await made.confirm(digest)
                before = f"{number - 1:064x}".encode()
                gone.add(before)
                await made.promote(digest=digest)
            for one in clients:
                one.cancel()
        assert wrong == []
        assert found >= 20


async def test_a_purge_reaches_the_edge(proxy: Proxy) -> None:
    async with world(proxy) as made:
        await made.promote()
        shards = made.feeder.shards
        await shards.purge()
        assert not (await made.ask()).is_edge
        assert made.shard.holdings.purge(Purge(1, dry_run=True))[0] == 0
        assert await made.promote()


async def test_a_pause_reaches_the_edge(proxy: Proxy) -> None:
    async with world(proxy) as made:
        await made.promote()
        await made.feeder.shards.pause(is_paused=True)
        assert not (await made.ask()).is_edge
        assert not made.feeder.tell(made.hot())
        await made.feeder.shards.pause(is_paused=False)
        assert await made.promote()


async def test_the_death_of_the_feeder_is_waited_out(proxy: Proxy) -> None:
    async with world(proxy) as made:
        await made.promote()
        await made.kill_feeder()
        assert (await made.ask()).is_edge  # the proxy lives on, under its lease
        began = monotonic()
        await made.confirm("0" * 64)
        assert monotonic() - began < 2 * LEASE_S
        assert not (await made.ask()).is_edge


async def test_a_proxy_that_is_stuck_is_waited_out(proxy: Proxy) -> None:
    async with world(proxy) as made:
        await made.promote()
        pid = proxy.processes[-1].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            await made.confirm("0" * 64)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert not (await made.ask()).is_edge
        assert await made.promote(digest="0" * 64)


async def test_the_death_of_the_shard_silences_the_edge(proxy: Proxy) -> None:
    async with world(proxy) as made:
        await made.promote()
        await made.shard.stop()
        deadline = monotonic() + 5
        while (await made.ask()).is_edge:
            assert monotonic() < deadline
        await until(lambda: made.feeder.lease_left_s == 0)
        await made.start_shard()
        await made.confirm(DIGEST)
        assert await made.promote()


async def test_a_reload_begins_anew_and_its_forerunner_is_waited_out(proxy: Proxy) -> None:
    async with world(proxy) as made:
        await made.promote()
        await asyncio.to_thread(proxy.reload)
        assert await made.until_edge()  # nobody told it again
        assert made.feeder.proxy.restarts == 2
        await made.confirm("0" * 64)
        assert not (await made.ask()).is_edge
        assert await made.promote(digest="0" * 64)


async def test_an_entry_ends(proxy: Proxy) -> None:
    async with world(proxy) as made:
        await until(lambda: made.feeder.tell(made.hot(left_s=1.0)))
        await made.until_edge()
        ended = monotonic() + 1.5
        while (await made.ask()).is_edge:
            assert monotonic() < ended
        await until(lambda: not made.feeder.shelf.entries)


async def test_hits_are_told_to_the_authority_and_the_store(proxy: Proxy) -> None:
    async with world(proxy) as made:
        made.shard.holdings.put(put())
        hits = made.shard.stats().hits
        await made.promote()
        feeder, state = made.feeder, proxy.state
        for _ in range(5):
            assert (await made.ask()).is_edge
        feeder.take_counts(*await feeder.proxy.counts(state))
        assert feeder.hits >= 5
        rows = partial(lambda: made.shard.stats().counted)
        await until(lambda: bool(rows()))
        (row,) = rows()
        assert (row.model, row.tenant) == (MODEL, "default")
        assert row.answers == {"hit": {"edge": feeder.hits}}
        assert (row.tokens, row.gpu_ns) == (2 * feeder.hits, 3 * feeder.hits)
        (entry,) = feeder.shelf.entries.values()
        entry.touched_at -= 60
        await feeder._touch()
        assert entry.touched_at > monotonic() - 30
        assert made.shard.stats().hits == hits  # asked for, but not counted


async def test_hits_on_what_has_left_are_told_too(proxy: Proxy) -> None:
    async with world(proxy) as made:
        await made.promote()
        counted = await made.feeder.proxy.counts(proxy.state)
        made.feeder.shelf.keep(lambda _: False)
        made.feeder.take_counts(*counted)
        await until(lambda: bool(made.shard.stats().counted))
        (row,) = made.shard.stats().counted
        assert row.answers == {"hit": {"edge": made.feeder.hits}}
        assert made.feeder.hits > 0


@pytest.mark.parametrize("loop", ["_turn", "_touch"])
async def test_what_nobody_foresaw_ends_no_loop(
    proxy: Proxy, loop: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(feeder, "_AGAIN_S", 0.01)
    monkeypatch.setattr(feeder, "COUNT_EVERY_S", 0.01)
    async with world(proxy) as made:
        with monkeypatch.context() as faulty:
            faulty.setattr(made.feeder, loop, fail)
            await until(lambda: "the edge's feeder begins anew" in caplog.text)
        assert await made.promote()
        seen = made.feeder.hits
        assert (await made.ask()).is_edge
        await until(lambda: made.feeder.hits > seen)


async def test_what_goes_cold_leaves_and_the_budget_holds(proxy: Proxy) -> None:
    async with world(proxy, max_entries=20) as made:
        bodies = [b"%d" % number for number in range(30)]
        for body in bodies:
            await until(partial(lambda body: made.feeder.tell(made.hot(body)), body))
        assert len(made.feeder.shelf.entries) <= 20
        await until(lambda: made.feeder.is_whole and len(made.feeder.proxy.placed) <= 20)
        await made.until_edge(bodies[-1])
        for _ in range(10):
            made.feeder.take_counts(1, {})
        assert not made.feeder.shelf.entries
        made.feeder._work.set()
        await until(lambda: not made.feeder.proxy.placed)
        assert not (await made.ask(bodies[-1])).is_edge


@pytest.mark.slow
async def test_ten_thousand_entries(proxy: Proxy) -> None:
    async with world(proxy) as made:
        for number in range(10_000):
            assert made.feeder.tell(made.hot(b"%d" % number))
        await until(lambda: made.feeder.is_whole and len(made.feeder.proxy.placed) == 10_000, 60)
        assert (await made.ask(b"77")).is_edge
