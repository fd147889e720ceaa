"""An inference replica's word to the shards: which models its engine lists, again and again.

There may be more shards than the replica knew when it started: a recreated actor listens elsewhere,
and during a rollout two versions of the ingress have shards of their own. So the addresses are asked
for again at intervals, and at once while one of them is not connected.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
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
    """Owns a client for each shard that there is."""

    def __init__(self, resolvers: Sequence[ResolveAll], *, clock: Clock, lease_s: float) -> None:
        self._resolvers = resolvers
        self._clock = clock
        self._lease_s = lease_s
        self._clients: dict[Address, AsyncExitStack] = {}
        self._links: dict[Address, ShardClient] = {}
        self._looked_at = float("-inf")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._keep_only(set())

    async def report(self, report: Report) -> int:
        """Tell every shard. Returns how many were told; the others hear the next report."""
        if self._is_time_to_look():
            await self._look()
        return sum(client.report(report) for client in self._links.values())

    def _is_time_to_look(self) -> bool:
        return (
            self._clock() - self._looked_at >= LOOK_AGAIN_S
            or not self._links
            or not all(client.is_connected for client in self._links.values())
        )

    async def _look(self) -> None:
        self._looked_at = self._clock()
        found = await asyncio.gather(
            *(resolve() for resolve in self._resolvers), return_exceptions=True
        )
XXX
