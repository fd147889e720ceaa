"""Export and import through the admin API, over real shards: what one cluster tells another."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import pytest

from serve.cache import moved
from serve.cache.bundle import Whole, bundle
from serve.cache.moved import LOST, Export, Exported, Restore
from serve.cache.outgoing import Outgoing
from serve.cache.service import Hit
from serve.cache.snapshot import SLICE, Reader, Record
from serve.errors import SnapshotRefused
from serve.settings import CacheSettings
from tests.asgi import Caller, ended
from tests.cache.world import (
    DIGEST,
    FINGERPRINT,
    MODEL,
    OTHER,
    OTHER_DIGEST,
    put,
    report,
    shard,
    until,
)
from tests.web.test_admin import CHAT, Back, back, keys

EXPORT, IMPORT = "/admin/cache/export", "/admin/cache/import"
ONE_SHARD = CacheSettings(lease_s=60, lookup_timeout_s=5, catalogue_poll_s=3600)


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def fill(behind: Back, count: int, packed: bytes = b"packed", **facts: Any) -> None:
    """Entries in their shards."""
    for number in range(count):
        server = behind.servers[behind.answers.shards.number(key(number))]
        assert server.holdings.put(put(key(number), packed, **facts)) is None


def held(behind: Back) -> int:
    return sum(server.holdings.store.entries for server in behind.servers)


async def exported(behind: Back, body: bytes = b"") -> bytes:
    caller = await behind.ask("POST", EXPORT, body)
    assert caller.status == 200, caller.body
    return caller.body


async def imported(behind: Back, file: bytes) -> Any:
    caller = await behind.ask("POST", IMPORT, file)
    assert caller.status == 200, caller.body
    return json.loads(caller.body)


def records(file: bytes) -> list[Record]:
    reader = Reader(BytesIO(file), "file")
    found = []
    while some := reader.some():
        found += some
    return found


async def test_another_cluster_starts_warm() -> None:
    """Into another number of shards, and served as what it was."""
    async with back() as first:
        await first.known(CHAT)
        fill(first, 3 * SLICE)
        file = await exported(first)
    async with back(settings=ONE_SHARD) as second:
        told = await imported(second, file)
        assert told == {"taken": 3 * SLICE + 1, "expired": 0, "skipped": {}}
        found = await second.answers.lookup("/api/chat", CHAT, model=MODEL, tenant="default")
        assert isinstance(found, Hit)
        again = await imported(second, file)
        assert again == {"taken": 0, "expired": 0, "skipped": {"present": 3 * SLICE + 1}}


async def test_nothing_is_served_before_an_engine_has_vouched_for_it() -> None:
    async with back() as first:
        fill(first, 1)
        file = await exported(first)
    async with back() as second:
        for server in second.servers:
            server.holdings.report(report(**{OTHER: OTHER_DIGEST}))
        assert (await imported(second, file))["taken"] == 1
        index = second.answers.shards.number(key(0))
        holdings = second.servers[index].holdings
        assert holdings.get(key(0)) is None
        holdings.report(report())
        assert holdings.get(key(0)) == b"packed"


async def test_an_entry_lives_no_longer_than_it_would_have() -> None:
    async with back() as first:
        fill(first, 1, ttl_s=100)
        file = await exported(first)
        (record,) = records(file)
        assert first.now() + 99 < record.expires_at <= first.now() + 100
    async with back() as second:
        second.now.advance(60)
        assert (await imported(second, file))["taken"] == 1
        told = (await exported(second), second.now())
        (record,) = records(told[0])
        assert record.expires_at <= told[1] + 40
        await behind_purged(second)
        second.now.advance(41)
        assert await imported(second, file) == {"taken": 0, "expired": 1, "skipped": {}}


async def behind_purged(behind: Back) -> None:
    await behind.told("POST", "/admin/cache/purge", {"dry_run": False})
    assert held(behind) == 0


async def test_what_is_there_stays() -> None:
    async with back() as first:
        fill(first, 2, b"old")
        file = await exported(first)
    async with back() as second:
        fill(second, 1, b"new")
        told = await imported(second, file)
        assert (told["taken"], told["skipped"]) == (1, {"present": 1})
        index = second.answers.shards.number(key(0))
        assert second.servers[index].holdings.get(key(0)) == b"new"


async def test_a_purge_just_before_is_no_purge_in_the_middle() -> None:
    async with back() as behind:
        fill(behind, 5)
        file = await exported(behind)
        await behind_purged(behind)
        assert (await imported(behind, file))["taken"] == 5


async def test_a_purge_in_the_middle_ends_it() -> None:
    async with shard() as (server, _):
        entry = moved.Moved(key(1), b"packed", MODEL, DIGEST, FINGERPRINT, "", 60, 0)
        before = server.holdings.generation
        server.holdings.generation += 1
        assert server.holdings.restore_all(Restore(1, [entry], before)) == {"purged": 1}
        assert server.holdings.store.entries == 0


async def test_what_does_not_fit_is_counted() -> None:
    async with back() as first:
        fill(first, 20, bytes(1000))
        file = await exported(first)
    small = ONE_SHARD.model_copy(update={"max_bytes": 10_000})
    async with back(settings=small) as second:
        told = await imported(second, file)
        assert told["taken"] == held(second) > 0
        assert told["skipped"] == {"full": 20 - told["taken"]}
    tiny = ONE_SHARD.model_copy(update={"max_entry_bytes": 999})
    async with back(settings=tiny) as second:
        assert (await imported(second, file))["skipped"] == {"too-large": 20}


async def test_one_model_or_one_tenant() -> None:
    async with back() as behind:
        await behind.known(CHAT)
        fill(behind, 3, model=OTHER)
        assert len(records(await exported(behind))) == 4
        one = await exported(behind, b'{"model":"smollm2:135m"}')
        assert {record.tenant for record in records(one)} == {"default"}
        theirs = records(await exported(behind, b'{"tenant":"default"}'))
        assert [record.model for record in theirs] == [MODEL]
        assert records(await exported(behind, b'{"tenant":"nobody"}')) == []


async def test_a_file_that_is_none_is_refused() -> None:
    async with back() as first:
        fill(first, 5)
        file = await exported(first)
    damaged = file[:100] + bytes([file[100] ^ 1]) + file[101:]
    async with back() as second:
        for given, why in (
            (b"", "no snapshot of Rayllama's"),
            (b'{"model":"x"}', "no snapshot of Rayllama's"),
            (file[:-1], "its checksum is wrong"),
            (damaged, "its checksum is wrong"),
        ):
            caller = await second.ask("POST", IMPORT, given)
            assert (caller.status, why in caller.body.decode()) == (422, True), caller.body
        assert held(second) == 0


async def test_it_takes_an_admin() -> None:
    async with back(keys(("user", False), ("boss", True))) as behind:
        for path in (EXPORT, IMPORT):
            assert (await behind.ask("POST", path)).status == 401
            assert (await behind.ask("POST", path, x_api_key="user")).status == 403
        assert (await behind.ask("POST", EXPORT, x_api_key="boss")).status == 200


async def test_a_shard_that_is_away() -> None:
    async with back() as behind:
        file = await exported(behind)
        await behind.servers[1].stop()
        await until(lambda: behind.answers.shards.connected == 1)
        for path, body in ((EXPORT, b""), (IMPORT, file)):
            assert (await behind.ask("POST", path, body)).status == 503


async def test_a_shard_that_dies_in_the_middle_cuts_the_connection() -> None:
    async with back() as behind:
        fill(behind, 6 * SLICE)
        caller = Caller("POST", EXPORT)
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slowly(message: Any) -> None:
            caller.sent.append(message)
            begun.set()
            await go_on.wait()

        caller._send = slowly  # type: ignore[method-assign]
        running = asyncio.get_running_loop().create_task(caller.run(behind.app))
        await begun.wait()
        await behind.servers[1].stop()
        await until(lambda: behind.answers.shards.connected == 1)
        go_on.set()
        with pytest.raises(ConnectionAbortedError):
            await running
        assert not caller.is_whole


async def test_nothing_is_read_for_a_client_that_left() -> None:
    async with back() as behind:
        fill(behind, 6 * SLICE)
        caller = Caller("POST", EXPORT)
        caller.on_send = lambda _: caller.leave()
        running = asyncio.get_running_loop().create_task(caller.run(behind.app))
        await until(running.done)
        assert not caller.is_whole
        assert len(caller.sent) < 6
        await ended(running)


async def test_pieces_are_bounded() -> None:
    async with shard() as (server, _):
        server.holdings.report(report())
        for number in range(10):
            assert server.holdings.put(put(key(number), bytes(400_000))) is None
        going = Outgoing(server.holdings.store, server.holdings.registry.names_of, server.clock)
        first = going.answer(Export(1))
        assert (len(first.entries), first.cursor > 0) == (3, True)
        server.holdings.store.remove(next(k for k in map(key, range(10)) if k not in told(first)))
        rest, cursor = 0, first.cursor
        while cursor:
            answer = going.answer(Export(2, cursor))
            rest, cursor = rest + len(answer.entries), answer.cursor
        assert rest == 6  # what left meanwhile is not told
        begun = [going.answer(Export(3)).cursor for _ in range(3)]
        assert going.answer(Export(4, begun[0])).cursor == LOST
        assert going.answer(Export(5, begun[1])).cursor == begun[1]


def told(answer: Exported) -> set[bytes]:
    return {entry.key for entry in answer.entries}


@asynccontextmanager
async def a_file() -> AsyncGenerator[bytes]:
    async with back() as behind:
        fill(behind, 200)
        pieces = [piece async for piece in bundle(behind.answers.shards, behind.now)]
        yield b"".join(pieces)


@pytest.mark.parametrize("size", [1, 7, 39, 40, 41, 100_000])
async def test_a_file_is_watched_as_it_goes_by(size: int) -> None:
    async with a_file() as file:
        whole = Whole()
        for at in range(0, len(file), size):
            whole.see(file[at : at + size])
        whole.end()
        assert (whole.entries, whole.size) == (200, len(file))
        for bad in (b"", file[:-1], b"x" + file[1:], file + b"x", file[:99] + file[100:]):
            whole = Whole()
            whole.see(bad)
            with pytest.raises(SnapshotRefused):
                whole.end()
