"""A paused cache: nothing is read or kept by any ingress from the acknowledgement on."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any

from serve.cache.catalogue import Registry
from serve.cache.service import AnswerCache, Hit, Miss
from serve.cache.shard import ShardServer
from serve.settings import CacheSettings
from tests.cache.world import CHATTED, MODEL, HandClock, at, put, report, shard, until
from tests.web.cached import TAIL

SETTINGS = CacheSettings(lease_s=60, lookup_timeout_s=5, catalogue_poll_s=3600)
CHAT: dict[str, Any] = {
    "model": "smollm2:135m",
    "messages": [{"role": "user", "content": "Hello"}],
    "options": {"temperature": 0},
}
RAW = b"raw"


class Ingress:
    """What an ingress does with the cache."""

    def __init__(self, answers: AnswerCache) -> None:
        self.answers = answers

    async def ask(self, **more: Any) -> Hit | Miss:
        return await self.answers.lookup("/api/chat", CHAT, model=MODEL, tenant="t", **more)

    def remember(self, hit: Hit) -> None:
        self.answers.remember(RAW, hit, status=200, headers=[], body=b"reply")

    def fill(self, miss: Miss) -> Hit | None:
        return self.answers.fill(
            miss, lines=CHATTED, content_type="application/x-ndjson", tail=TAIL
        )

    @property
    def is_near(self) -> bool:
        return self.answers.lookup_near(RAW) is not None


def said(found: Hit | Miss) -> str:
    if isinstance(found, Hit):
        return "hit"
    if found.seat is not None:
        found.seat.leave()
    return f"{found.kind}:{found.reason}"


@asynccontextmanager
async def another(address: Any) -> AsyncGenerator[Ingress]:
    now = HandClock(1_800_000_000.0)
    answers = AnswerCache(SETTINGS, [at(address)], clock=monotonic, now=now)
    async with answers:
        await until(lambda: answers.has_catalogue and answers.shards.connected == 1)
        yield Ingress(answers)


@asynccontextmanager
async def ingresses(count: int) -> AsyncGenerator[tuple[ShardServer, Any, Sequence[Ingress]]]:
    async with AsyncExitStack() as stack:
        server, address = await stack.enter_async_context(shard(SETTINGS))
        server.holdings.report(report())
        found = [await stack.enter_async_context(another(address)) for _ in range(count)]
        yield server, address, found


async def test_every_ingress_passes_it_by_and_uses_it_again() -> None:
    async with ingresses(3) as (server, address, found):
        first = found[0]
        miss = await first.ask()
        assert isinstance(miss, Miss)
        hit = first.fill(miss)
        said(miss)
        assert hit is not None
        await first.answers.shards.stats()
        for each in found:
            each.remember(hit)
            assert each.is_near
            assert said(await each.ask()) == "hit"

        await found[1].answers.shards.pause(is_paused=True)
        for each in found:
            assert not each.is_near
            assert said(await each.ask()) == "bypass:paused"
            assert said(await each.ask(cache_control=b"no-cache")) == "bypass:paused"
        last = await first.ask(cache_control=b"only-if-cached")
        assert isinstance(last, Miss)
        assert last.is_final
        async with another(address) as newcomer:
            assert said(await newcomer.ask()) == "bypass:paused"
            assert server.stats().is_paused

        await found[2].answers.shards.pause(is_paused=False)
        for each in found:
            assert each.is_near
            assert said(await each.ask()) == "hit"
        assert not server.stats().is_paused


async def test_what_was_asked_before_is_not_kept() -> None:
    async with ingresses(1) as (server, _, (one,)):
        miss = await one.ask(cache_control=b"no-cache")
        assert isinstance(miss, Miss)
        kept = one.fill(miss)
        assert kept is not None
        await one.answers.shards.pause(is_paused=True)
        assert one.fill(miss) is None
        assert one.answers.dropped["paused"] == 1
        one.remember(kept)
        assert one.answers.near.entries == 0
        assert server.holdings.put(put()) == "paused"


async def test_a_change_of_the_models_ends_no_pause() -> None:
    registry = Registry(60)
    registry.report(report(), 0)
    epoch = registry.view.epoch
    registry.pause(is_paused=True)
    registry.pause(is_paused=True)
    assert (registry.view.is_paused, registry.view.epoch) == (True, epoch + 1)
    registry.report(report(m="another"), 0)
    assert registry.view.is_paused
    assert registry.expire(61) is not None
    assert registry.view.is_paused
