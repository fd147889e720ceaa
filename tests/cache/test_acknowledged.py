"""The stronger promise: once a change is acknowledged, nobody finds an answer from before it.

A tag changes a hundred times, told as a replica tells it, while clients of several ingresses read
near and shared answers, generate and store without a pause. `rayllama.staleness` (at INFO) says how
old the stalest answer was that was served before an acknowledgement: that isn't promised.
"""

import asyncio
import json
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic

import pytest

from serve.cache.client import Address
from serve.cache.reporter import Reporter
from serve.cache.service import AnswerCache, Hit, Miss
from serve.cache.shard import ShardServer
from serve.errors import CacheUnavailable
from serve.ports import Tail
from serve.settings import CacheSettings
from tests.cache.faults import StallingWire
from tests.cache.world import FINGERPRINT, MODEL, SECRET, at, report, shard, until

log = logging.getLogger("rayllama.staleness")

CHANGES = 100
CLIENTS = 2
LAG_S = 0.005
SHARDS = 2
SETTINGS = CacheSettings(shards=SHARDS, lookup_timeout_s=5, catalogue_poll_s=3600)
SHORT = SETTINGS.model_copy(update={"lease_s": 0.3})
NEVER = SETTINGS.model_copy(update={"lease_s": 3600})
"""With such a lease nothing is acknowledged because one ended."""


class Tag:
    """The engines' content of one tag. `history`: each digest, when it came, and when it was
    acknowledged that it had gone."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.history: list[tuple[str, float, float]] = []

    @property
    def digest(self) -> str:
        return self.history[-1][0]

    async def change(self, digest: str) -> None:
        self.history.append((digest, monotonic(), float("inf")))
        await self._reporter.confirm(report(**{MODEL: digest}))
        if len(self.history) > 1:
            was, began, _ = self.history[-2]
            self.history[-2] = (was, began, monotonic())

    def may_be_told(self, digest: str, asked_at: float) -> bool:
        return any(known == digest and gone >= asked_at for known, _, gone in self.history)

    def staleness_s(self, digest: str, asked_at: float) -> float:
        """How long ago, when it was asked for, this digest had ceased to be the engines'."""
        ends = [began for _, began, _ in self.history[1:]] + [float("inf")]
        known = zip(self.history, ends, strict=True)
        return asked_at - max((end for (was, _, _), end in known if was == digest), default=0.0)


class Client:
    """Asks one ingress the same things again and again, and checks every answer."""

    def __init__(self, answers: AnswerCache, tag: Tag, raw_key: bytes) -> None:
        self._answers = answers
        self._tag = tag
        self._raw_key = raw_key
        self._prompts = count()
        self.served = {"near": 0, "shared": 0, "made": 0}
        self.wrong: list[tuple[str, str]] = []
        self.worst_s = 0.0

    async def run(self) -> None:
        while True:
            await self.ask("always the same", self._raw_key)
            await self.ask(f"one of five: {next(self._prompts) % 5}")
            await asyncio.sleep(0)

    async def ask(self, prompt: str, raw_key: bytes | None = None) -> None:
        asked_at = monotonic()
        near = self._answers.lookup_near(raw_key) if raw_key else None
        if near is not None:
            self._check("near", near.body.decode(), asked_at)
            return
        found = await lookup(self._answers, prompt)
        if isinstance(found, Hit):
            self._check("shared", said(found), asked_at)
        hit = found if isinstance(found, Hit) else await self._make(found)
        if hit is not None and raw_key is not None:
            remember(self._answers, raw_key, hit)

    async def _make(self, miss: Miss) -> Hit | None:
        self.served["made"] += 1
        before = self._tag.digest
        await asyncio.sleep(0)
        return fill(self._answers, miss, before, self._tag.digest)

    def _check(self, tier: str, digest: str, asked_at: float) -> None:
        self.served[tier] += 1
        if not self._tag.may_be_told(digest, asked_at):
            self.wrong.append((tier, digest))
        self.worst_s = max(self.worst_s, self._tag.staleness_s(digest, asked_at))


async def lookup(answers: AnswerCache, prompt: str) -> Hit | Miss:
    native = {"model": "m", "prompt": prompt, "options": {"seed": 1}}
    found = await answers.lookup("/api/generate", native, model=MODEL, tenant="t")
    if isinstance(found, Miss) and found.seat is not None:
        found.seat.leave()  # each makes its own: more answers that may be stale
    return found


def fill(answers: AnswerCache, miss: Miss, before: str, after: str) -> Hit | None:
    line = {"model": "m", "response": before, "done": True, "done_reason": "stop"}
    lines = (json.dumps(line).encode(),)
    tail = Tail(before, after, FINGERPRINT)
    return answers.fill(miss, lines=lines, content_type="application/x-ndjson", tail=tail)


def said(hit: Hit) -> str:
    return str(json.loads(hit.entry.lines[0])["response"])


def remember(answers: AnswerCache, raw_key: bytes, hit: Hit) -> None:
    answers.remember(raw_key, hit, status=200, headers=[], body=said(hit).encode())


class World:
    """Shards, and a replica that tells them what the tag stands for."""

    def __init__(
        self, settings: CacheSettings, servers: Sequence[ShardServer], where: Sequence[Address]
    ) -> None:
        self.settings = settings
        self.servers = servers
        self.where = where

    async def tell(self, reporter: Reporter) -> Tag:
        tag = Tag(reporter)
        await reporter.report(report())
        await until(lambda: reporter.connected == SHARDS)
        await tag.change("d0")
        return tag

    @asynccontextmanager
    async def ingress(self, where: Sequence[Address] = ()) -> AsyncGenerator[AnswerCache]:
        resolvers = [at(address) for address in where or self.where]
        answers = AnswerCache(self.settings, resolvers, clock=monotonic, now=monotonic)
        async with answers:
            await until(lambda: answers.has_catalogue and is_ready(answers, len(resolvers)))
            yield answers


def is_ready(answers: AnswerCache, shards: int) -> bool:
    return answers.shards.connected == shards and min(answers.shards.generations()) > 0


@asynccontextmanager
async def world(settings: CacheSettings) -> AsyncGenerator[tuple[World, Tag]]:
    async with AsyncExitStack() as stack:
        shards = [await stack.enter_async_context(shard(settings)) for _ in range(SHARDS)]
        made = World(settings, [one for one, _ in shards], [address for _, address in shards])
        reporter = Reporter(
            [partial(places, address) for address in made.where], clock=monotonic, lease_s=2
        )
        await stack.enter_async_context(reporter)
        yield made, await made.tell(reporter)


async def places(address: Address) -> Sequence[Address]:
    return [address]


@asynccontextmanager
async def running(clients: Sequence[Client]) -> AsyncGenerator[None]:
    tasks = [asyncio.get_running_loop().create_task(client.run()) for client in clients]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


async def test_after_each_of_a_hundred_changes_nobody_finds_an_old_answer() -> None:
    async with world(NEVER) as (made, tag), AsyncExitStack() as stack:
        # News reaches one of them later than the others.
        lagging = await stack.enter_async_context(StallingWire(made.where[0], LAG_S).stretched())
        ways = [[lagging, *made.where[1:]], made.where, made.where]
        ingresses = [await stack.enter_async_context(made.ingress(where)) for where in ways]
        clients = [
            Client(answers, tag, bytes([number]) * 16)
            for answers in ingresses
            for number in range(CLIENTS)
        ]
        await stack.enter_async_context(running(clients))
        for number in range(1, CHANGES + 1):
            seen = [dict(client.served) for client in clients]
            # Back to an earlier digest now and then: its answers are right again.
            await tag.change(f"d{number if number % 4 else number - 2}")
            for answers in ingresses:
                for raw_key in (bytes([client]) * 16 for client in range(CLIENTS)):
                    near = answers.lookup_near(raw_key)
                    assert near is None or near.body.decode() == tag.digest
            for prompt in ("always the same", "one of five: 0"):
                for found in await asyncio.gather(*(lookup(one, prompt) for one in ingresses)):
                    assert isinstance(found, Miss) or said(found) == tag.digest
            await until(partial(have_read, clients, seen))
        assert [wrong for client in clients for wrong in client.wrong] == []
        worst_s = max(client.worst_s for client in clients)
        total = {tier: sum(one.served[tier] for one in clients) for tier in clients[0].served}
        log.info("worst staleness before an acknowledgement: %.2f ms; %s", worst_s * 1e3, total)


def have_read(clients: Sequence[Client], seen: Sequence[dict[str, int]]) -> bool:
    """Have all had answers from everywhere since then?"""
    return all(
        client.served[tier] > before[tier]
        for client, before in zip(clients, seen, strict=True)
        for tier in ("near", "shared")
    )


async def test_a_stalled_ingress_delays_until_it_may_serve_nothing() -> None:
    async with world(SHORT) as (made, tag):
        wire = StallingWire(made.where[0])
        async with (
            wire.stretched() as stretched,
            made.ingress([stretched, *made.where[1:]]) as stalled,
            made.ingress() as prompt,
        ):
            for answers in (stalled, prompt):
                miss = await lookup(answers, "hello")
                hit = miss if isinstance(miss, Hit) else fill(answers, miss, "d0", "d0")
                assert hit is not None
                remember(answers, b"r" * 16, hit)
                assert answers.lookup_near(b"r" * 16) is not None
            wire.stall()
            began = monotonic()
            await tag.change("d1")
            log.info("a stalled ingress, lease %.1f s: %.3f s", SHORT.lease_s, monotonic() - began)
            assert stalled.lookup_near(b"r" * 16) is None
            assert not stalled.catalogue.is_live(monotonic())
            assert prompt.lookup_near(b"r" * 16) is None
            wire.flow()
            await until(lambda: stalled.catalogue.digest(MODEL, monotonic()) == "d1")


SUBSCRIBER = """
import asyncio, sys
from time import monotonic
from serve.cache.service import AnswerCache
from serve.settings import CacheSettings

async def main():
    async def resolve():
        return "127.0.0.1", int(sys.argv[1]), b"s" * 32
    async with AnswerCache(CacheSettings(lease_s=3600), [resolve], clock=monotonic, now=monotonic):
        await asyncio.Event().wait()

asyncio.run(main())
"""


class IngressProcess:
    """An ingress in a process of its own, to be stopped and killed."""

    def __init__(self, address: Address) -> None:
        assert address[2] == SECRET
        self._process = subprocess.Popen(
            [sys.executable, "-c", SUBSCRIBER, str(address[1])], cwd=Path(__file__).parents[2]
        )

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


async def test_an_ingress_that_dies_delays_nothing() -> None:
    async with world(NEVER) as (made, tag):
        ingress = IngressProcess(made.where[0])
        try:
            await until(lambda: made.servers[0].subscribers == 1, within_s=30)
            ingress.signal(signal.SIGSTOP)  # it takes in nothing more, and so says nothing
            change = asyncio.get_running_loop().create_task(tag.change("d1"))
            await until(lambda: made.servers[0].taken.next_s is not None)
            assert not change.done()
        finally:
            ingress.kill()
        await asyncio.wait_for(change, 10)


async def test_an_ingress_that_leaves_delays_nothing() -> None:
    async with world(NEVER) as (made, tag):
        async with made.ingress():
            await tag.change("d1")
        await asyncio.wait_for(tag.change("d2"), 10)


async def test_a_purge_is_true_everywhere_when_it_returns() -> None:
    async with world(NEVER) as (made, _), made.ingress() as one, made.ingress() as two:
        prompts = [f"number {number}" for number in range(20)]
        for prompt in prompts:
            miss = await lookup(one, prompt)
            assert isinstance(miss, Miss)
            assert fill(one, miss, "d0", "d0") is not None
        asked_before = await lookup(two, "late")
        for answers in (one, two):
            await until_held(answers, len(prompts))
            hit = await lookup(answers, prompts[0])
            assert isinstance(hit, Hit)
            remember(answers, b"r" * 16, hit)
        assert (await two.shards.purge(tenant="another")).entries == 0
        hit = await lookup(one, prompts[0])
        assert isinstance(hit, Hit)
        remember(one, b"r" * 16, hit)
        dry = await two.shards.purge(tenant="t", dry_run=True)
        assert one.lookup_near(b"r" * 16) is not None
        purged = await two.shards.purge(tenant="t")
        assert (purged.entries, purged.held_bytes) == (dry.entries, dry.held_bytes)
        assert purged.entries == len(prompts)
        assert one.lookup_near(b"r" * 16) is None
        assert two.lookup_near(b"r" * 16) is None
        for answers in (one, two):
            found = await asyncio.gather(*(lookup(answers, prompt) for prompt in prompts))
            assert all(isinstance(one, Miss) for one in found)
        assert isinstance(asked_before, Miss)
        assert fill(two, asked_before, "d0", "d0") is None
        assert two.dropped == {"purged": 1}


async def until_held(answers: AnswerCache, entries: int) -> None:
    """Stores are told, not asked: wait until they have arrived."""
    deadline = monotonic() + 10
    while sum(stats.entries for stats in await answers.shards.stats()) != entries:
        assert monotonic() < deadline


async def test_without_all_shards_nothing_is_confirmed_or_purged() -> None:
    async with world(NEVER) as (made, tag), made.ingress() as answers:
        await made.servers[1].stop()
        await until(lambda: answers.shards.connected == 1)
        with pytest.raises(CacheUnavailable):
            await answers.shards.purge()
        with pytest.raises(CacheUnavailable):
            await tag.change("d1")
