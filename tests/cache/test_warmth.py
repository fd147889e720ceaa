"""Shards that come back: each is a real one but for its socket, in a folder of its own."""

import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest
from msgspec import structs

from serve.cache.client import ShardClient
from serve.cache.holdings import Holdings
from serve.cache.places import place
from serve.cache.protocol import Purge
from serve.cache.shards import Shards, shard_of
from serve.cache.snapshot import MAGIC, export, read
from serve.cache.snapshot_name import parse
from serve.cache.store import OVERHEAD_BYTES
from serve.cache.warmth import Warmth
from serve.errors import ConfigError
from serve.ports import CatalogueView
from serve.settings import CacheSettings
from tests.cache.test_snapshot import record
from tests.cache.world import HandClock, at, put, report, shard, until

KEYS = [number.to_bytes(16, "big") for number in range(600)]


class Watching:
    """An ingress that doesn't mind what it is told."""

    def viewed(self, view: CatalogueView, generation: int) -> None:
        pass

    def renewed(self, epoch: int, asked_at: float) -> None:
        pass

    def forfeited(self) -> None:
        pass


class Shard:
    """One run of a shard. Its clock begins anew, the wall's goes on."""

    def __init__(
        self,
        folder: Path | str,
        wall: HandClock,
        index: int = 0,
        tenants: Collection[str] | None = None,
        **settings: object,
    ) -> None:
        snapshot = {"url": str(folder), "interval_s": 60}
        self.settings = CacheSettings.model_validate({"snapshot": snapshot} | settings)
        self.clock = HandClock()
        self.holdings = Holdings(self.settings, self.clock, tenants)
        self.warmth = Warmth(self.holdings, self.settings, index, clock=self.clock, wall=wall)

    def has(self, key: bytes) -> bool:
        return self.holdings.store.get(key) is not None

    @property
    def entries(self) -> int:
        return self.holdings.store.entries

    def put(self, *keys: bytes, packed: bytes = b"packed", ttl_s: float = 60.0) -> None:
        self.holdings.report(report())
        for key in keys:
            assert self.holdings.put(put(key, packed, ttl_s=ttl_s)) is None

    async def written(self) -> None:
        """Once more."""
        before = files(Path(self.settings.snapshot.url))
        self.warmth.hurry()
        await until(lambda: files(Path(self.settings.snapshot.url)) != before)
        await until(lambda: self.warmth._is_written)

    async def ready(self) -> "Shard":
        """It has read what there was."""
        self.warmth.start()
        await until(lambda: self.warmth._began_ms > 0)
        return self


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if parse(path.name))


@asynccontextmanager
async def running(*shards: Shard) -> AsyncGenerator[None]:
    for each in shards:
        await each.ready()
    try:
        yield
    finally:
        for each in shards:
            await each.warmth.stop()


@pytest.fixture
def wall() -> HandClock:
    return HandClock(1_800_000_000.0)


async def test_a_restarted_shard_has_what_it_had(tmp_path: Path, wall: HandClock) -> None:
    first = Shard(tmp_path, wall)
    async with running(first):
        first.put(*KEYS)
    assert len(files(tmp_path)) == 1
    again = Shard(tmp_path, wall)
    async with running(again):
        await until(lambda: again.entries == len(KEYS) and again.warmth.has_read)
        assert again.holdings.get(KEYS[0]) is None  # nobody vouches for it yet
        again.holdings.report(report())
        assert again.holdings.get(KEYS[0]) == b"packed"
    assert len(files(tmp_path)) == 1
    other = Shard(tmp_path, wall)
    async with running(other):
        await until(lambda: other.entries == len(KEYS))
        other.holdings.report(report(m="another digest"))
        assert other.holdings.get(KEYS[0]) is None


async def test_an_entry_lives_as_long_as_it_would_have(tmp_path: Path, wall: HandClock) -> None:
    first = Shard(tmp_path, wall)
    async with running(first):
        first.put(KEYS[0], ttl_s=10)
        first.put(KEYS[1], ttl_s=100)
    wall.advance(50)
    again = Shard(tmp_path, wall)
    async with running(again):
        await until(lambda: again.entries == 1)
        again.clock.advance(49)
        assert again.has(KEYS[1])
        again.clock.advance(2)
        assert not again.has(KEYS[1])


async def test_a_tenant_without_a_key_has_no_answers_left(tmp_path: Path, wall: HandClock) -> None:
    first = Shard(tmp_path, wall, tenants=["gone", "here"])
    async with running(first):
        first.holdings.report(report())
        for number, tenant in enumerate(["gone", "here", "gone", ""]):
            assert first.holdings.put(structs.replace(put(KEYS[number]), tenant=tenant)) is None
    wall.advance(1)
    again = Shard(tmp_path, wall, tenants=["here"])
    async with running(again):
        await until(lambda: again.warmth.has_read)
        assert list(again.holdings.store.index.tenants()) == ["here"]
    (left,) = files(tmp_path)
    found = [record async for record in read(str(tmp_path / left))]
    assert [one.tenant for one in found] == ["here"]
    wall.advance(1)
    none = Shard(tmp_path, wall, tenants=["other"])
    async with running(none):
        await until(lambda: none.warmth.has_read)
        assert none.entries == 0
    (left,) = files(tmp_path)  # it is not there to be read when the tenant is back
    assert [record async for record in read(str(tmp_path / left))] == []


async def test_a_shorter_ttl_holds_for_old_entries_too(tmp_path: Path, wall: HandClock) -> None:
    first = Shard(tmp_path, wall)
    async with running(first):
        first.put(KEYS[0], ttl_s=1000)
    again = Shard(tmp_path, wall, ttl_s=20)
    async with running(again):
        await until(lambda: again.entries == 1)
        again.clock.advance(21)
        assert not again.has(KEYS[0])


async def test_what_was_put_meanwhile_wins(tmp_path: Path, wall: HandClock) -> None:
    first = Shard(tmp_path, wall)
    async with running(first):
        first.put(*KEYS[:300], packed=b"old")
    again = Shard(tmp_path, wall)
    again.put(KEYS[7], packed=b"new")
    async with running(again):
        await until(lambda: again.entries == 300)
        assert again.holdings.get(KEYS[7]) == b"new"
        assert again.holdings.get(KEYS[8]) == b"old"


async def test_what_is_read_pushes_nothing_out(tmp_path: Path, wall: HandClock) -> None:
    first = Shard(tmp_path, wall)
    async with running(first):
        first.put(*KEYS[:300], packed=bytes(100))
    room = 10 * (116 + OVERHEAD_BYTES)
    again = Shard(tmp_path, wall, max_bytes=room)
    again.put(*KEYS[300:305], packed=bytes(100))
    async with running(again):
        await until(lambda: again.entries == 10)
        assert all(map(again.has, KEYS[300:305]))


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (4, 1), (2, 2)])
async def test_another_number_of_shards(
    before: int, after: int, tmp_path: Path, wall: HandClock
) -> None:
    old = [Shard(tmp_path, wall, index, shards=before) for index in range(before)]
    async with running(*old):
        for key in KEYS:
            old[shard_of(key, before)].put(key)
    wall.advance(1)
    new = [Shard(tmp_path, wall, index, shards=after) for index in range(after)]
    async with running(*new):
        await until(lambda: sum(each.entries for each in new) == len(KEYS))
        await until(lambda: all(each.warmth.has_read for each in new))
        for key in KEYS:
            assert new[shard_of(key, after)].has(key)
        wall.advance(1)
    # The last of today's shards to write finds that the old files are of no more use.
    assert len(files(tmp_path)) == after
    assert {parse(name).count for name in files(tmp_path)} == {after}  # type: ignore[union-attr]


async def test_in_a_rollout_the_later_one_reads_what_the_earlier_one_leaves(
    tmp_path: Path, wall: HandClock
) -> None:
    old, new = Shard(tmp_path, wall), Shard(tmp_path, wall)
    async with running(new):
        async with running(old):  # whichever began first by the clock, this one did later
            pass
        assert files(tmp_path) == []
    old, new = Shard(tmp_path, wall), Shard(tmp_path, wall)
    async with running(old):
        old.put(KEYS[0])
        await old.written()
        async with running(new):
            await until(lambda: new.has(KEYS[0]))
            new.put(KEYS[1])
            await new.written()
            await until(lambda: len(files(tmp_path)) == 1)
            wall.advance(1)
            old.put(KEYS[2])
            await old.written()
            assert len(files(tmp_path)) == 2  # an earlier run removes nothing of a later one
            new.warmth.hurry()
            await until(lambda: new.has(KEYS[2]))
            new.put(KEYS[3])
    last = Shard(tmp_path, wall)
    async with running(last):
        await until(lambda: all(map(last.has, KEYS[:4])))
        last.put(KEYS[4])
    assert len(files(tmp_path)) == 1


async def test_a_clock_that_went_back_changes_nothing(tmp_path: Path, wall: HandClock) -> None:
    first = Shard(tmp_path, wall)
    async with running(first):
        first.put(KEYS[0])
    wall.advance(-5)
    again = Shard(tmp_path, wall)
    async with running(again):
        await until(lambda: again.has(KEYS[0]))


async def test_what_was_purged_does_not_come_back(tmp_path: Path, wall: HandClock) -> None:
    first = Shard(tmp_path, wall)
    async with running(first):
        first.put(*KEYS[:10])
        await first.written()
        wall.advance(1)
        [before] = files(tmp_path)
        first.holdings.purge(Purge(1))
        await until(lambda: before not in files(tmp_path))
        [left] = files(tmp_path)
        assert [one async for one in read(str(tmp_path / left))] == []
    again = Shard(tmp_path, wall)
    again.holdings.purge(Purge(1))  # while it reads, or before
    (tmp_path / left).unlink()
    async with running(again):
        await until(lambda: len(files(tmp_path)) == 1)
        assert again.entries == 0


async def test_a_purge_while_it_reads_ends_the_reading(tmp_path: Path, wall: HandClock) -> None:
    first = Shard(tmp_path, wall)
    async with running(first):
        first.put(*KEYS)
    [old] = files(tmp_path)
    wall.advance(1)
    again = Shard(tmp_path, wall)
    again.warmth.start()
    await until(lambda: again.entries > 0)
    again.holdings.purge(Purge(1))
    await until(lambda: old not in files(tmp_path) and len(files(tmp_path)) == 1)
    assert again.entries == 0
    await again.warmth.stop()


async def test_a_refused_file_costs_only_warmth(
    tmp_path: Path, wall: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    first = Shard(tmp_path, wall)
    async with running(first):
        first.put(*KEYS)
    [name] = files(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-200])
    again = Shard(tmp_path, wall)
    with caplog.at_level(logging.WARNING):
        async with running(again):
            again.put(KEYS[0])
            await until(lambda: "refused" in caplog.text)
            assert again.entries == 1
            await again.written()
    assert name in caplog.text
    assert "checksum" in caplog.text
    assert name in files(tmp_path)  # whoever wants to know what happened finds it


async def test_removes_nothing_that_is_not_ours(tmp_path: Path, wall: HandClock) -> None:
    first = Shard(tmp_path, wall)
    async with running(first):
        first.put(KEYS[0])
    [name] = files(tmp_path)
    older = name.replace(name.split("-")[-1], "1000000000000.cache")
    (tmp_path / older).write_text("a diary")
    (tmp_path / "notes.cache").write_text("more of it")
    await export([record(1)], str(tmp_path / "bundle"), wall=wall)
    again = Shard(tmp_path, wall)
    async with running(again):
        await until(lambda: again.has(KEYS[0]))
        again.put(KEYS[1])
        await again.written()
        await until(lambda: name not in files(tmp_path))
    there = {path.name for path in tmp_path.iterdir()}
    assert {older, "notes.cache", "bundle"} < there
    assert not (tmp_path / older).read_bytes().startswith(MAGIC)


async def test_nothing_new_is_not_written_again(tmp_path: Path, wall: HandClock) -> None:
    only = Shard(tmp_path, wall)
    async with running(only):
        only.put(KEYS[0])
        await only.written()
        before = files(tmp_path)
    assert files(tmp_path) == before


async def test_writes_at_the_interval(tmp_path: Path, wall: HandClock) -> None:
    only = Shard(tmp_path, wall, snapshot={"url": str(tmp_path), "interval_s": 0.01})
    async with running(only):
        only.put(KEYS[0])
        only.clock.advance(0.02)
        await until(lambda: len(files(tmp_path)) == 1)


async def test_a_folder_that_cannot_be_written_costs_only_warmth(
    tmp_path: Path, wall: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    only = Shard(tmp_path / "file" / "folder", wall)
    only.warmth.start()
    await until(lambda: "can't be listed" in caplog.text)
    only.put(KEYS[0])
    await only.warmth.stop()
    assert only.has(KEYS[0])


async def test_an_object_store_will_do(wall: HandClock) -> None:
    url = "memory://warmth/folder"
    first = Shard(url, wall)
    async with running(first):
        first.put(*KEYS)
    wall.advance(1)
    again = Shard(url, wall)
    async with running(again):
        await until(lambda: again.entries == len(KEYS) and again.warmth.has_read)
    assert len(place(url).names()) == 1


async def test_off_by_default_and_unknown_urls_are_refused(wall: HandClock) -> None:
    off = Shard("", wall, snapshot={})
    off.warmth.start()
    await off.warmth.stop()
    with pytest.raises(ConfigError):
        Shard("nosuch://x", wall).warmth.start()


async def test_a_shard_that_the_last_ingress_has_left_writes(
    tmp_path: Path, wall: HandClock
) -> None:
    settings = CacheSettings.model_validate({"snapshot": {"url": str(tmp_path)}})
    async with shard(settings) as (server, address):
        warmth = Warmth(server.holdings, settings, 0, clock=monotonic, wall=wall)
        server.deserted = warmth.hurry
        warmth.start()
        server.holdings.report(report())
        server.holdings.put(put())
        ingress = Watching()
        async with ShardClient(at(address), clock=monotonic, lease_s=2, watcher=ingress):
            await until(lambda: server.subscribers == 1)
            assert files(tmp_path) == []
        await until(lambda: len(files(tmp_path)) == 1)
        await warmth.stop()


async def test_every_shard_knows_when_the_last_ingress_has_left(
    tmp_path: Path, wall: HandClock
) -> None:
    settings = CacheSettings.model_validate({"shards": 3, "snapshot": {"url": str(tmp_path)}})
    async with AsyncExitStack() as shards:
        running = [await shards.enter_async_context(shard(settings)) for _ in range(3)]
        warmths = []
        for index, (server, _) in enumerate(running):
            warmth = Warmth(server.holdings, settings, index, clock=monotonic, wall=wall)
            server.deserted = warmth.hurry
            server.holdings.report(report())
            server.holdings.put(put(KEYS[index]))
            warmth.start()
            warmths.append(warmth)

        def ingress(*, serves: bool = True) -> Shards:
            where = [at(address) for _, address in running]
            watcher = Watching()
            return Shards(where, clock=monotonic, lease_s=2, watcher=watcher, serves=serves)

        async with ingress():
            async with ingress(), ingress(serves=False):
                await until(lambda: all(server.subscribers == 2 for server, _ in running))
            await until(lambda: all(server.subscribers == 1 for server, _ in running))
            assert files(tmp_path) == []
        await until(lambda: len(files(tmp_path)) == 3)
        for warmth in warmths:
            await warmth.stop()
