"""A purge that was acknowledged outlives the shard: a real one, in a process that is killed."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic, time

import pytest

from serve.cache.client import ShardClient
from serve.cache.places import place
from serve.cache.protocol import Purge
from serve.cache.purge_marks import Mark, PurgeMarks, parse
from serve.cache.snapshot_name import SnapshotName
from serve.errors import CacheUnavailable
from serve.settings import CacheSettings
from tests.cache.test_warmth import Shard, files, running, wall
from tests.cache.world import HandClock, at, put, report, shard, until

__all__ = ["wall"]

KEYS = [number.to_bytes(16, "big") for number in range(300)]


@asynccontextmanager
async def lone(folder: Path) -> AsyncGenerator[tuple[subprocess.Popen[str], ShardClient]]:
    """A shard's process; killed at the end without a word."""
    settings = CacheSettings.model_validate({"snapshot": {"url": str(folder)}})
    command = [sys.executable, "-m", "serve.bench.lone_shard", settings.model_dump_json()]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port, secret = json.loads(await asyncio.to_thread(process.stdout.readline))
            where = at(("127.0.0.1", port, bytes.fromhex(secret)))
            async with ShardClient(where, clock=monotonic, lease_s=2) as client:
                await until(lambda: client.is_connected)
                client.report(report())
                yield process, client
        finally:
            process.kill()


async def test_what_was_purged_is_gone_though_the_shard_is_killed_at_once(tmp_path: Path) -> None:
    wall = HandClock(time() - 60)
    first = Shard(tmp_path, wall)
    async with running(first):
        first.put(*KEYS, ttl_s=3000)
    async with lone(tmp_path) as (process, client):
        await back(client)
        process.kill()
    async with lone(tmp_path) as (process, client):
        await back(client)
        assert (await client.purge(Purge(1))).entries == len(KEYS)
        process.kill()
    again = Shard(tmp_path, HandClock(time() + 60))
    async with running(again):
        await until(lambda: again.warmth.has_read)
        assert again.entries == 0


async def back(client: ShardClient) -> None:
    """All entries are."""
    async with asyncio.timeout(10):
        while (await client.stats()).entries < len(KEYS):
            await asyncio.sleep(0.01)


async def test_nothing_from_before_a_mark_is_read(tmp_path: Path, wall: HandClock) -> None:
    first = Shard(tmp_path, wall)
    async with running(first):
        first.put(*KEYS)
        await first.written()
        [old] = files(tmp_path)
        wall.advance(1)
        marks = PurgeMarks(0, 1, "00000000")
        await marks.leave(place(str(tmp_path)), int(wall() * 1000))
        again = Shard(tmp_path, wall)
        async with running(again):
            await until(lambda: again.warmth.has_read)
            assert again.entries == 0
            wall.advance(1)
            again.put(KEYS[0])
            await again.written()
            await until(lambda: old not in files(tmp_path))
            assert [mark for mark in map(parse, names(tmp_path)) if mark]  # another run's
            wall.advance(3601)
            again.put(KEYS[1])
            await again.written()
            await until(lambda: not [mark for mark in map(parse, names(tmp_path)) if mark])


async def test_its_own_mark_goes_with_the_files_that_it_covers(
    tmp_path: Path, wall: HandClock
) -> None:
    only = Shard(tmp_path, wall)
    async with running(only):
        only.put(*KEYS)
        await only.written()
        [before] = files(tmp_path)
        only.holdings.purge(Purge(1))
        await only.warmth.purged()
        await until(lambda: before not in files(tmp_path))
        await until(lambda: len(names(tmp_path)) == 1)
        only.put(KEYS[0])
    again = Shard(tmp_path, wall)
    async with running(again):
        await until(lambda: again.has(KEYS[0]))


async def test_a_purge_that_cannot_be_made_to_last_is_not_acknowledged(tmp_path: Path) -> None:
    async def full() -> None:
        raise OSError

    async with shard() as (server, address):
        server.purged = full
        server.holdings.report(report())
        server.holdings.put(put())
        async with ShardClient(at(address), clock=monotonic, lease_s=2) as client:
            await until(lambda: client.is_connected)
            with pytest.raises(CacheUnavailable):
                await client.purge(Purge(1))
        assert server.holdings.store.entries == 0


async def test_an_object_store_will_do() -> None:
    folder = place("memory://marks/folder")
    marks = PurgeMarks(1, 2, "0123abcd")
    await marks.leave(folder, 1_800_000_000_000)
    [name] = folder.names()
    assert str(parse(name)) == name
    await marks.clear(folder, 1_800_000_000_000)
    assert folder.names() == []


def test_a_mark_covers_what_may_hold_the_purged() -> None:
    mark = Mark(1, 2, "0123abcd", 1_800_000_000_000)

    def file(index: int, count: int, written_ms: int) -> SnapshotName:
        return SnapshotName(1_700_000_000_000, written_ms, "00000000", index, count)

    assert mark.covers(file(1, 2, mark.at_ms))
    assert not mark.covers(file(1, 2, mark.at_ms + 1))
    assert not mark.covers(file(0, 2, mark.at_ms))
    assert mark.covers(file(0, 3, mark.at_ms))
    assert parse("rayllama-1-of-2.purged") is None


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
