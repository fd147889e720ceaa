from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import msgspec
import pytest

from serve.cache.client import Address
from serve.cache.outcome import Question
from serve.cache.protocol import Put
from serve.cache.service import AnswerCache, Hit, Miss
from serve.cache.shard import ShardServer
from serve.ports import Tail
from serve.settings import CacheSettings
from tests.cache.world import (
    DIGEST,
    FINGERPRINT,
    GENERATED,
    MODEL,
    HandClock,
    at,
    entry,
    put,
    report,
    shard,
    until,
)

GENERATE = "/api/generate"
NATIVE: dict[str, Any] = {
    "model": "smollm2:135m",
    "prompt": "The sky is",
    "options": {"temperature": 0},
}
NDJSON = "application/x-ndjson"
TAIL = Tail(DIGEST, DIGEST, FINGERPRINT)
SETTINGS = CacheSettings(lease_s=60, lookup_timeout_s=5, catalogue_poll_s=3600)
RAW = b"r" * 16


def left(found: Hit | Miss) -> Hit | Miss:
    """What was found, without its seat: these tests ask nobody to generate."""
    if isinstance(found, Miss) and found.seat is not None:
        found.seat.leave()
    return found


class Cached:
    """An answer cache over a real shard, with what the tests move."""

    def __init__(self, settings: CacheSettings, address: Address) -> None:
        self.address = address
        self.now = HandClock(1_800_000_000.0)
        self.answers = AnswerCache(settings, [at(address)], clock=monotonic, now=self.now)

    async def lookup(self, native: dict[str, Any] | None = None, **asked: Any) -> Hit | Miss:
        known = {"model": MODEL, "tenant": "default"} | asked
        return left(await self.answers.lookup(GENERATE, native or NATIVE, **known))

    def fill(
        self, miss: Hit | Miss, lines: tuple[bytes, ...] = GENERATED, tail: Tail = TAIL
    ) -> Hit | None:
        assert isinstance(miss, Miss)
        return self.answers.fill(miss, lines=lines, content_type=NDJSON, tail=tail)

    def remember(self, hit: Hit | Miss | None, raw_key: bytes = RAW) -> None:
        assert isinstance(hit, Hit)
        headers = [(b"content-type", b"application/x-ndjson")]
        self.answers.remember(raw_key, hit, status=200, headers=headers, body=b"body")

    async def becomes_live(self) -> None:
        await until(lambda: self.answers.catalogue.digest(MODEL, monotonic()) == DIGEST)


@asynccontextmanager
async def caching(
    settings: CacheSettings = SETTINGS,
) -> AsyncGenerator[tuple[Cached, ShardServer]]:
    async with shard(settings) as (server, address):
        server.holdings.report(report())
        cached = Cached(settings, address)
        async with cached.answers:
            await cached.becomes_live()
            yield cached, server


@pytest.fixture
async def pair() -> AsyncGenerator[tuple[Cached, ShardServer]]:
    async with caching() as both:
        yield both


@pytest.fixture
def cached(pair: tuple[Cached, ShardServer]) -> Cached:
    return pair[0]


@pytest.fixture
def server(pair: tuple[Cached, ShardServer]) -> ShardServer:
    return pair[1]


def told(found: Hit | Miss) -> tuple[str, str]:
    return ("hit", "") if isinstance(found, Hit) else (found.kind, found.reason)


async def test_a_miss_then_a_hit_then_a_near_hit(cached: Cached) -> None:
    miss = await cached.lookup()
    assert told(miss) == ("miss", "cold")
    assert isinstance(miss, Miss)
    assert cached.answers.keep_bytes(miss) == 8 * SETTINGS.max_entry_bytes
    filled = cached.fill(miss)
    assert isinstance(filled, Hit)
    hit = await cached.lookup()
    assert isinstance(hit, Hit)
    assert hit.entry == filled.entry
    assert hit.entry.lines == GENERATED
    assert (hit.entry.content_type, hit.entry.stored_at) == (NDJSON, 1_800_000_000.0)
    assert cached.answers.lookup_near(RAW) is None
    cached.remember(hit)
    near = cached.answers.lookup_near(RAW)
    assert near is not None
    assert (near.status, near.body, near.model) == (200, b"body", MODEL)
    assert near.stored_at == 1_800_000_000.0
    assert cached.answers.near_bytes > 0
    assert not cached.answers.dropped


async def test_a_fill_may_be_remembered_at_once(cached: Cached) -> None:
    cached.remember(cached.fill(await cached.lookup()))
    assert cached.answers.lookup_near(RAW) is not None


async def test_another_ingress_shares_the_answer() -> None:
    async with caching() as (one, _):
        other = Cached(SETTINGS, one.address)
        one.fill(await one.lookup())
        async with other.answers:
            await other.becomes_live()
            assert isinstance(await other.lookup(), Hit)


async def test_a_hit_repeats_the_spelling_that_was_asked_with(cached: Cached) -> None:
    cached.fill(await cached.lookup())
    hit = await cached.lookup(NATIVE | {"model": "SmolLM2:135M"})
    assert isinstance(hit, Hit)
    assert msgspec.json.decode(hit.entry.lines[0])["model"] == "SmolLM2:135M"


@pytest.mark.parametrize("change", [{"tenant": "other"}, {"native": NATIVE | {"system": "x"}}])
async def test_another_request_is_a_miss(cached: Cached, change: dict[str, Any]) -> None:
    cached.fill(await cached.lookup())
    assert told(await cached.lookup(**change)) == ("miss", "cold")


async def test_streamed_and_whole_are_one_entry(cached: Cached) -> None:
    cached.fill(await cached.lookup(NATIVE | {"stream": False, "keep_alive": 0}))
    assert isinstance(await cached.lookup(), Hit)


async def test_a_bypass_keeps_nothing(cached: Cached) -> None:
    found = await cached.lookup({"model": "smollm2:135m", "prompt": "x"})
    assert told(found) == ("bypass", "sampled")
    assert isinstance(found, Miss)
    assert cached.answers.keep_bytes(found) == 0
    assert cached.fill(found) is None
    assert not cached.answers.dropped


@pytest.mark.parametrize("spelling", ["smollm2:135m", "SmolLM2:135M"])
async def test_a_model_may_have_a_policy_of_its_own(spelling: str) -> None:
    settings = SETTINGS.model_copy(update={"models": {spelling: "always"}})
    async with caching(settings) as (cached, _):
        assert told(await cached.lookup({"model": "smollm2:135m", "prompt": "x"})) == (
            "miss",
            "cold",
        )


async def test_no_store(cached: Cached) -> None:
    cached.fill(await cached.lookup())
    found = await cached.lookup(cache_control=b"no-store")
    assert told(found) == ("bypass", "no-store")
    assert cached.fill(found) is None


@pytest.mark.parametrize("name", ["cache_control", "pragma"])
async def test_no_cache_puts_a_fresh_answer_in_the_old_ones_place(
    cached: Cached, name: str
) -> None:
    cached.fill(await cached.lookup())
    found = await cached.lookup(None, **{name: b"no-cache"})
    assert told(found) == ("bypass", "no-cache")
    cached.now.advance(5)
    fresh = cached.fill(found)
    hit = await cached.lookup()
    assert isinstance(hit, Hit)
    assert hit.entry.stored_at == cached.now()
    cached.remember(fresh)
    assert cached.answers.lookup_near(RAW) is None  # those bytes ask for a fresh answer each time


@pytest.mark.parametrize(
    "tail",
    [
        Tail("other", DIGEST, FINGERPRINT),
        Tail(DIGEST, "other", FINGERPRINT),
        Tail("other", "other", FINGERPRINT),
        Tail("", "", FINGERPRINT),
        Tail(DIGEST, DIGEST, "other"),
    ],
)
async def test_an_answer_made_from_something_else_is_dropped(cached: Cached, tail: Tail) -> None:
    assert cached.fill(await cached.lookup(), tail=tail) is None
    assert cached.answers.dropped == {"digest": 1}
    assert told(await cached.lookup()) == ("miss", "cold")


async def test_an_answer_that_came_too_late_is_dropped(cached: Cached, server: ShardServer) -> None:
    miss = await cached.lookup()
    server.holdings.report(report(**{MODEL: "new"}))
    server.publish()
    await until(lambda: cached.answers.catalogue.digest(MODEL, monotonic()) == "new")
    assert cached.fill(miss) is None
    assert cached.answers.dropped == {"digest": 1}


async def test_an_answer_that_did_not_end_well_is_dropped(cached: Cached) -> None:
    assert cached.fill(await cached.lookup(), lines=GENERATED[:-1]) is None
    assert cached.answers.dropped == {"incomplete": 1}


async def test_an_answer_that_is_too_large_is_dropped() -> None:
    settings = SETTINGS.model_copy(update={"max_entry_bytes": 300})
    async with caching(settings) as (cached, _):
        assert cached.fill(await cached.lookup()) is None
        assert cached.answers.dropped == {"too-large": 1}


async def test_an_answer_that_is_quickly_made_again_leaves_the_shard_earlier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By what the shard is told; it keeps to that (`test_store`)."""
    told: list[float] = []
    for full in (0.0, 100.0, 100_000.0):
        settings = SETTINGS.model_copy(update={"ttl_s": 3600, "full_ttl_gpu_ms_per_kib": full})
        async with caching(settings) as (cached, _):
            put = cached.answers.shards.put

            def listening(one: Put, put: Callable[[Put], bool] = put) -> bool:
                told.append(one.ttl_s)
                return put(one)

            monkeypatch.setattr(cached.answers.shards, "put", listening)
            assert cached.fill(await cached.lookup()) is not None
    assert told[:2] == [3600, 3600]
    assert 60 <= told[2] < 3600


async def test_an_answer_that_is_quickly_made_again_is_kept_nowhere() -> None:
    """The engine took 120 ms for these lines, and they weigh less than a KiB."""
    for least, is_kept in ((100.0, True), (100_000.0, False)):
        settings = SETTINGS.model_copy(update={"min_gpu_ms_per_kib": least})
        async with caching(settings) as (cached, _):
            filled = cached.fill(await cached.lookup())
            assert (filled is not None) == is_kept
            assert isinstance(await cached.lookup(), Hit) == is_kept
            assert cached.answers.dropped == ({} if is_kept else {"not-worth-it": 1})


async def test_an_answer_beyond_all_bounds_is_dropped(
    cached: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.cache.entry.MAX_UNPACKED_BYTES", 100)
    assert cached.fill(await cached.lookup()) is None
    assert cached.answers.dropped == {"too-large": 1}


async def test_a_model_that_nobody_lists_is_a_miss(cached: Cached) -> None:
    assert told(await cached.lookup(model="other")) == ("miss", "unlisted")


async def test_engines_that_differ_keep_nothing(cached: Cached, server: ShardServer) -> None:
    miss = await cached.lookup()
    cached.remember(cached.fill(miss))
    server.holdings.report(report("r2", fingerprint="other"))
    server.publish()
    await until(lambda: cached.answers.catalogue.view.fingerprint == "")
    assert told(await cached.lookup()) == ("miss", "mixed-engines")
    assert cached.answers.lookup_near(RAW) is None
    assert cached.fill(miss) is None


async def test_a_request_too_deep_to_name_is_passed_on(cached: Cached) -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    assert told(await cached.lookup(NATIVE | {"format": deep})) == ("bypass", "unkeyable")


@pytest.mark.parametrize(
    "packed", [b"nonsense", entry(digest="other").pack(), entry(fingerprint="other").pack()]
)
async def test_what_a_shard_says_is_checked(
    cached: Cached, server: ShardServer, packed: bytes
) -> None:
    miss = await cached.lookup()
    assert isinstance(miss, Miss)
    assert isinstance(miss.question, Question)
    assert server.holdings.put(put(miss.question.key, packed)) is None
    assert told(await cached.lookup()) == ("miss", "cold")


async def test_a_near_answer_ages_with_its_entry(cached: Cached) -> None:
    cached.fill(await cached.lookup())
    cached.now.advance(SETTINGS.ttl_s - 0.05)
    cached.remember(await cached.lookup())
    await until(lambda: cached.answers.lookup_near(RAW) is None)


async def test_a_clock_that_was_set_back_makes_no_answer_younger(cached: Cached) -> None:
    cached.fill(await cached.lookup())
    cached.now.advance(-1000)
    hit = await cached.lookup()
    cached.remember(hit)
    near = cached.answers.lookup_near(RAW)
    assert near is not None
    assert near.expires_at <= monotonic() + SETTINGS.ttl_s


async def test_a_purge_reaches_the_near_cache(cached: Cached, server: ShardServer) -> None:
    hit = cached.fill(await cached.lookup())
    cached.remember(hit)
    miss = await cached.lookup(NATIVE | {"system": "x"})
    assert (await cached.answers.shards.purge()).entries == 1
    assert cached.answers.lookup_near(RAW) is None
    assert told(await cached.lookup()) == ("miss", "cold")
    cached.remember(hit)  # a reply that was under way
    assert cached.answers.lookup_near(RAW) is None
    assert cached.fill(miss) is None  # an answer that was under way
    assert cached.answers.dropped == {"purged": 1}


async def test_a_changed_view_alone_clears_nothing(cached: Cached, server: ShardServer) -> None:
    cached.remember(cached.fill(await cached.lookup()))
    server.holdings.report(report("r2", **{MODEL: DIGEST, "other": "d"}))
    server.publish()
    await until(lambda: "other" in cached.answers.catalogue.view.models)
    assert cached.answers.lookup_near(RAW) is not None


async def test_knows_whether_it_has_a_catalogue(cached: Cached, server: ShardServer) -> None:
    assert cached.answers.has_catalogue
    server.holdings.registry.expire(float("inf"))
    server.publish()
    await until(lambda: not cached.answers.has_catalogue)
    assert cached.answers.catalogue.is_live(monotonic())


async def test_losing_the_shard_costs_only_warmth_and_comes_back() -> None:
    settings = SETTINGS.model_copy(update={"lookup_timeout_s": 0.05, "lease_s": 0.4})
    where: list[Address] = []

    async def resolve() -> Address:
        return where[-1]

    async def serve_from(server: ShardServer, answers: AnswerCache) -> Hit | Miss:
        server.holdings.report(report())
        server.publish()
        await until(lambda: answers.catalogue.digest(MODEL, monotonic()) == DIGEST)
        return left(await answers.lookup(GENERATE, NATIVE, model=MODEL, tenant="t"))

    answers = AnswerCache(settings, [resolve], clock=monotonic, now=HandClock())
    async with answers:
        assert told(await answers.lookup(GENERATE, NATIVE, model=MODEL, tenant="t")) == (
            "miss",
            "no-catalogue",
        )
        async with shard(settings) as (server, address):
            where.append(address)
            miss = await serve_from(server, answers)
            assert isinstance(miss, Miss)
            filled = answers.fill(miss, lines=GENERATED, content_type=NDJSON, tail=TAIL)
            assert isinstance(filled, Hit)
            answers.remember(RAW, filled, status=200, headers=[], body=b"body")

        await until(lambda: answers.shards.connected == 0)
        lost = left(await answers.lookup(GENERATE, NATIVE, model=MODEL, tenant="t"))
        assert told(lost)[0] == "miss"
        await until(lambda: answers.lookup_near(RAW) is None)  # the lease ran out
        assert not answers.catalogue.is_live(monotonic())
        found = await answers.lookup(GENERATE, NATIVE, model=MODEL, tenant="t")
        assert told(found) == ("miss", "no-catalogue")

        async with shard(settings) as (server, address):
            where.append(address)
            assert told(await serve_from(server, answers)) == ("miss", "cold")


async def test_the_near_cache_is_filled_while_a_shard_is_away() -> None:
    async with caching() as (cached, server):
        miss = await cached.lookup()
        await server.stop()
        await until(lambda: cached.answers.shards.connected == 0)
        filled = cached.fill(miss)
        assert cached.answers.dropped == {"unsent": 1}
        cached.remember(filled)
        assert cached.answers.lookup_near(RAW) is not None
        assert told(await cached.lookup()) == ("miss", "unavailable")
