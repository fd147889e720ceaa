import asyncio
from collections.abc import Sequence
from time import monotonic

import pytest

from serve.cache.client import Address
from serve.cache.reporter import LOOK_AGAIN_S, Reporter
from serve.cache.shard import ShardServer
from serve.errors import CacheUnavailable
from serve.ports import Clock
from tests.cache.world import DIGEST, MODEL, HandClock, report, shard, until


class Everywhere:
    """A resolver of all the places where a shard is; changed by the tests."""

    def __init__(self, *addresses: Address) -> None:
        self.addresses = list(addresses)
        self.asked = 0

    async def __call__(self) -> Sequence[Address]:
        self.asked += 1
        if not self.addresses:
            raise CacheUnavailable("there is none")
        return list(self.addresses)


def reporter(*where: Everywhere, clock: Clock = monotonic) -> Reporter:
    return Reporter(where, clock=clock, lease_s=0.4)


def has_heard(server: ShardServer) -> bool:
    models = server.holdings.registry.view.models
    return MODEL in models and models[MODEL].digest == DIGEST


async def test_tells_every_shard_of_every_rollout() -> None:
    async with (
        shard() as (one, a),
        shard() as (two, b),
        shard() as (three, c),
        reporter(Everywhere(a, b), Everywhere(c)) as tested,
    ):
        await tested.report(report())
        await until(lambda: tested.connected == 3)
        await tested.report(report())
        await until(lambda: all(map(has_heard, (one, two, three))))


async def test_a_shard_that_is_not_there_yet_hears_later() -> None:
    where = Everywhere()
    async with reporter(where) as tested:
        await tested.report(report())
        assert (tested.connected, where.asked) == (0, 1)
        async with shard() as (server, address):
            where.addresses = [address]
            await tested.report(report())
            await until(lambda: tested.connected == 1)
            await tested.report(report())
            await until(lambda: has_heard(server))


async def test_follows_a_shard_that_moved() -> None:
    where = Everywhere()
    async with reporter(where) as tested:
        async with shard() as (_, address):
            where.addresses = [address]
            await tested.report(report())
            await until(lambda: tested.connected == 1)
        await until(lambda: tested.connected == 0)
        async with shard() as (server, address):
            where.addresses = [address]
            await tested.report(report())
            await until(lambda: tested.connected == 1)
            await tested.report(report())
            await until(lambda: has_heard(server))
        assert len(tested._clients) == 1


async def test_looks_again_now_and_then_while_all_is_well() -> None:
    clock = HandClock()
    async with shard() as (_, first), shard() as (second, address):
        where = Everywhere(first)
        async with reporter(where, clock=clock) as tested:
            await tested.report(report())
            await until(lambda: tested.connected == 1)
            where.addresses.append(address)  # a rollout begins
            await tested.report(report())
            assert where.asked == 1
            clock.advance(LOOK_AGAIN_S)
            await tested.report(report())
            await until(lambda: tested.connected == 2)
            await tested.report(report())
            await until(lambda: has_heard(second))
            where.addresses.pop(0)  # and ends
            clock.advance(LOOK_AGAIN_S)
            await tested.report(report())
            assert tested.connected == 1


async def test_a_shard_that_was_only_just_found_confirms_nothing_yet() -> None:
    async with shard() as (server, address), reporter(Everywhere(address)) as tested:
        with pytest.raises(CacheUnavailable):
            await tested.confirm(report())
        await until(lambda: tested.connected == 1)
        await tested.confirm(report())
        assert has_heard(server)


async def test_a_report_after_the_end_connects_to_nobody() -> None:
    async with shard() as (_, address):
        async with reporter(Everywhere(address)) as tested:
            await tested.report(report())
            await until(lambda: tested.connected == 1)
        before = asyncio.all_tasks()
        await tested.report(report())
        assert asyncio.all_tasks() == before
