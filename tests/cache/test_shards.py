from collections import Counter
from contextlib import AsyncExitStack
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.cache.shards import Shards, shard_of
from serve.errors import CacheUnavailable
from serve.settings import CacheSettings
from tests.cache.world import MODEL, at, put, report, shard, until

KEYS = [number.to_bytes(16, "big") for number in range(3000)]


@given(st.binary(min_size=16, max_size=16), st.integers(1, 63))
def test_another_shard_takes_keys_and_moves_no_others(key: bytes, shards: int) -> None:
    assert shard_of(key, shards + 1) in (shard_of(key, shards), shards)


@pytest.mark.parametrize("shards", [1, 2, 3, 8])
def test_keys_spread_evenly(shards: int) -> None:
    counts = Counter(shard_of(key, shards) for key in KEYS)
    assert len(counts) == shards
    assert max(counts.values()) < 1.2 * len(KEYS) / shards


async def test_several_shards_are_one_cache() -> None:
    settings = CacheSettings(shards=3, max_bytes=9 << 20)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(shard(settings)) for _ in range(3)]
        resolvers = [at(address) for _, address in servers]
        tested = Shards(resolvers, clock=monotonic, lease_s=2)
        await stack.enter_async_context(tested)
        await until(lambda: tested.connected == 3)
        for server, _ in servers:
            server.holdings.report(report())
        for key in KEYS[:300]:
            assert tested.put(put(key, key))
        assert [await tested.get(key, 5) for key in KEYS[:300]] == KEYS[:300]
        stats = await tested.stats()
        assert [one.max_bytes for one in stats] == [3 << 20] * 3
        assert sum(one.entries for one in stats) == 300
        assert all(60 < one.entries < 140 for one in stats)
        purged = await tested.purge(model=MODEL)
        assert (purged.entries, purged.held_bytes) == (300, sum(one.held_bytes for one in stats))
        assert await tested.get(KEYS[0], 5) is None


async def test_losing_a_shard_loses_its_keys_only() -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(shard()) for _ in range(2)]
        tested = Shards([at(address) for _, address in servers], clock=monotonic, lease_s=2)
        await stack.enter_async_context(tested)
        await until(lambda: tested.connected == 2)
        await servers[1][0].stop()
        await until(lambda: tested.connected == 1)
        for key in KEYS[:20]:
            if shard_of(key, 2) == 0:
                assert await tested.get(key, 5) is None
            else:
                with pytest.raises(CacheUnavailable):
                    await tested.get(key, 5)
        with pytest.raises(CacheUnavailable):
            await tested.purge()
