"""An inference replica's word to the shards: which models its engine lists, again and again.

There may be other shards than the replica knew when it started: a recreated actor listens
elsewhere, and during a rollout two versions of the ingress have shards of their own. So where they
are is asked again at intervals, and sooner while one of them is not connected.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from serve.cache.client import Address, ShardClient
from serve.errors import CacheUnavailable
from serve.ports import Clock, Report

log = logging.getLogger("rayllama.cache")

ResolveAll = Callable[[], Awaitable[Sequence[Address]]]
"""Every place where a shard of one number is now. Raises `CacheUnavailable` if there is none."""

LOOK_AGAIN_S = 5.0


class Reporter:
    """Owns a client for every shard there is. Reports are sent one after the other."""

    def __init__(self, resolvers: Sequence[ResolveAll], *, clock: Clock, lease_s: float) -> None:
        self._resolvers = resolvers
        self._clock = clock
        self._lease_s = lease_s
        self._clients: dict[Address, ShardClient] = {}
        self._looked_at = float("-inf")
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_closed = True
        await self._talk_to(set())

    @property
    def connected(self) -> int:
        """How many shards hear the next report."""
        return sum(client.is_connected for client in self._clients.values())

    async def confirm(self, report: Report) -> None:
        """Tell every shard, and return when every ingress has taken in what that changed.

        For who changes a tag and may say that it is done only when nobody serves what it was
        before. Raises `CacheUnavailable` if a shard is away, or has only just been found: then
        nobody knows yet, and it may be tried again.
        """
        self._looked_at = float("-inf")
        await self.report(report)
        if self._is_lost():
            raise CacheUnavailable("not every cache shard is connected")
        await asyncio.gather(*(client.confirm() for client in self._clients.values()))

    async def report(self, report: Report) -> None:
        """Tell every shard that is connected; the others hear a later report."""
        now = self._clock()
        if self._is_lost() or now - self._looked_at >= LOOK_AGAIN_S:
            self._looked_at = now
            await self._look()
        for client in self._clients.values():
            client.report(report)

    def _is_lost(self) -> bool:
        return not self._clients or self.connected < len(self._clients)

    async def _look(self) -> None:
        found: set[Address] = set()
        for resolve in self._resolvers:
            try:
                found.update(await resolve())
            except CacheUnavailable as fault:
                log.info("a cache shard is away: %s", fault)
        if not self._is_closed:  # else nobody would end the connections
            await self._talk_to(found)

    async def _talk_to(self, addresses: set[Address]) -> None:
        for gone in self._clients.keys() - addresses:
            await self._clients.pop(gone).__aexit__(None, None, None)
        for address in addresses - self._clients.keys():
            client = ShardClient(_always(address), clock=self._clock, lease_s=self._lease_s)
            self._clients[address] = await client.__aenter__()


def _always(address: Address) -> Callable[[], Awaitable[Address]]:
    async def resolve() -> Address:
        return address

    return resolve
