"""What a cache does, whichever way it is asked: the store itself, a shard's state, and a shard
across a socket. The same tests run against all three."""

from collections.abc import AsyncGenerator
from time import monotonic
from typing import Protocol

import pytest

from serve.cache.client import ShardClient
from serve.cache.holdings import Holdings
from serve.cache.index import Selection
from serve.cache.protocol import Purge, Put
from serve.cache.store import OVERHEAD_BYTES, Store, Stored
from serve.settings import CacheSettings
from tests.cache.world import (
    KEY,
    MODEL,
    OTHER,
    OTHER_DIGEST,
    HandClock,
    at,
    put,
    report,
    shard,
    until,
)

SETTINGS = CacheSettings(max_bytes=64 << 10, max_entry_bytes=16 << 10, catalogue_poll_s=3600)


class Cache(Protocol):
    async def get(self, key: bytes) -> bytes | None: ...
    async def put(self, put: Put) -> None: ...
    async def purge(self, model: str = "") -> int: ...
    async def held(self) -> tuple[int, int]: ...


class OfStore:
    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self._store = Store(SETTINGS, SETTINGS.max_bytes, clock)

    async def get(self, key: bytes) -> bytes | None:
        stored = self._store.get(key)
        return None if stored is None else stored.packed

    async def put(self, put: Put) -> None:
        expires_at = self._clock() + put.ttl_s
        stored = Stored(put.packed, put.model, put.digest, put.fingerprint, expires_at)
        self._store.put(put.key, stored)

    async def purge(self, model: str = "") -> int:
        return self._store.purge(Selection(frozenset([model] if model else [])))[0]

    async def held(self) -> tuple[int, int]:
        return self._store.entries, self._store.held_bytes


class OfHoldings:
    def __init__(self, clock: HandClock) -> None:
        self._holdings = Holdings(SETTINGS, clock)
        self._holdings.report(report())
        self._holdings.report(report("r2", **{MODEL: put().digest, OTHER: OTHER_DIGEST}))

    async def get(self, key: bytes) -> bytes | None:
        return self._holdings.get(key)

    async def put(self, put: Put) -> None:
        self._holdings.put(put)

    async def purge(self, model: str = "") -> int:
        return self._holdings.purge(Purge(1, model))[0]

    async def held(self) -> tuple[int, int]:
        stats = self._holdings.stats(1, 0)
        return stats.entries, stats.held_bytes


class OfClient:
    def __init__(self, client: ShardClient) -> None:
        self._client = client

    async def get(self, key: bytes) -> bytes | None:
        return await self._client.get(key, timeout_s=10)

    async def put(self, put: Put) -> None:
        assert self._client.put(put)
        await self._client.stats()  # answered in order: the entry is there by now

    async def purge(self, model: str = "") -> int:
        return (await self._client.purge(Purge(1, model))).entries

    async def held(self) -> tuple[int, int]:
        stats = await self._client.stats()
        return stats.entries, stats.held_bytes


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["store", "holdings", "client"])
async def cache(request: pytest.FixtureRequest, clock: HandClock) -> AsyncGenerator[Cache]:
    if request.param == "store":
        yield OfStore(clock)
    elif request.param == "holdings":
        yield OfHoldings(clock)
    else:
        async with (
            shard(SETTINGS, clock) as (_, address),
            ShardClient(at(address), clock=monotonic, lease_s=2) as client,
        ):
            await until(lambda: client.is_connected)
            client.report(report(**{MODEL: put().digest, OTHER: OTHER_DIGEST}))
            yield OfClient(client)


async def test_has_nothing_at_first(cache: Cache) -> None:
    assert await cache.get(KEY) is None
    assert await cache.held() == (0, 0)


async def test_gives_back_what_was_put(cache: Cache) -> None:
    await cache.put(put(KEY, b"one"))
    await cache.put(put(b"x" * 16, b"two"))
    assert await cache.get(KEY) == b"one"
    assert await cache.get(b"x" * 16) == b"two"
    assert await cache.get(b"y" * 16) is None


async def test_the_last_one_wins(cache: Cache) -> None:
    await cache.put(put(KEY, b"one"))
    await cache.put(put(KEY, b"two", model=OTHER))
    assert await cache.get(KEY) == b"two"
    assert (await cache.held())[0] == 1
    assert await cache.purge(MODEL) == 0
    assert await cache.get(KEY) == b"two"


async def test_weighs_what_it_holds(cache: Cache) -> None:
    await cache.put(put(KEY, b"x" * 1000))
    assert await cache.held() == (1, 16 + 1000 + OVERHEAD_BYTES)


async def test_forgets_after_its_time(cache: Cache, clock: HandClock) -> None:
    await cache.put(put(KEY, ttl_s=60))
    clock.advance(59.9)
    assert await cache.get(KEY) == b"packed"
    clock.advance(0.1)
    assert await cache.get(KEY) is None


async def test_putting_again_starts_the_time_again(cache: Cache, clock: HandClock) -> None:
    await cache.put(put(KEY, ttl_s=60))
    clock.advance(59)
    await cache.put(put(KEY, ttl_s=60))
    clock.advance(59)
    assert await cache.get(KEY) == b"packed"


async def test_purges_everything(cache: Cache) -> None:
    await cache.put(put(KEY))
    await cache.put(put(b"x" * 16, model=OTHER))
    assert await cache.purge() == 2
    assert await cache.held() == (0, 0)
    assert await cache.get(KEY) is None
    await cache.put(put(KEY))
    assert await cache.get(KEY) == b"packed"


async def test_purges_one_model(cache: Cache) -> None:
    await cache.put(put(KEY))
    await cache.put(put(b"x" * 16, model=OTHER))
    assert await cache.purge(OTHER) == 1
    assert await cache.purge(OTHER) == 0
    assert await cache.get(KEY) == b"packed"
    assert await cache.get(b"x" * 16) is None


async def test_takes_nothing_larger_than_itself(cache: Cache) -> None:
    await cache.put(put(KEY, bytes(SETTINGS.max_bytes)))
    assert await cache.held() == (0, 0)
    assert await cache.get(KEY) is None


async def test_stays_within_its_bytes(cache: Cache) -> None:
    entries = held_bytes = 0
    for number in range(200):
        await cache.put(put(number.to_bytes(16, "big"), bytes(1000)))
        entries, held_bytes = await cache.held()
        assert held_bytes <= SETTINGS.max_bytes
    assert held_bytes == entries * (16 + 1000 + OVERHEAD_BYTES)
    assert await cache.get((199).to_bytes(16, "big")) == bytes(1000)
    assert await cache.get((0).to_bytes(16, "big")) is None
