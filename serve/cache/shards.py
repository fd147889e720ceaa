"""All shards as one cache: each key has its shard, and the first one is the catalogue's authority.

Rendezvous hashing: a key lives where its hash with the shard's number is largest, so another shard
takes over 1/N of the keys and moves no others.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from hashlib import blake2b
from types import TracebackType
from typing import Self

from serve.cache.client import Resolve, ShardClient, Ticket, Watcher
from serve.cache.link import Passenger
from serve.cache.moved import Moved
from serve.cache.protocol import Purge, Purged, Put, Row, Stats
from serve.errors import CacheUnavailable
from serve.ports import Clock


class Shards:
    """Owns a client for each shard. `serves`: are they an ingress's? Then every shard knows it as
    one, so that each can tell when the last has left (`serve.cache.warmth`). `lingers`: as in
    `protocol.Subscribe`."""

    def __init__(
        self,
        resolvers: Sequence[Resolve],
        *,
        clock: Clock,
        lease_s: float,
        watcher: Watcher | None = None,
        serves: bool = True,
        lingers: bool = False,
    ) -> None:
        self._clients = [
            ShardClient(
                resolve,
                clock=clock,
                lease_s=lease_s,
                watcher=None if index else watcher,
                serves=serves,
                lingers=lingers,
            )
            for index, resolve in enumerate(resolvers)
        ]
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for client in self._clients:
            await self._running.enter_async_context(client)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._running.aclose()

    @property
    def connected(self) -> int:
        """How many shards are connected."""
        return sum(client.is_connected for client in self._clients)

    async def get(self, key: bytes, timeout_s: float) -> bytes | None:
        """The packed entry, or None for a miss. Raises `CacheUnavailable`."""
        return await self._of(key).get(key, timeout_s)

    async def peek(self, key: bytes, timeout_s: float) -> bytes | None:
        """The same, counted neither as a hit nor as a miss."""
        return await self._of(key).get(key, timeout_s, is_quiet=True)

    def number(self, key: bytes) -> int:
        """The number of the shard that has this key."""
        return shard_of(key, len(self._clients))

    def join(self, key: bytes, passenger: Passenger, *, may_read: bool) -> Ticket:
        """Ask the key's shard for an answer or a seat in its flight. Raises `CacheUnavailable`."""
        return self._of(key).join(key, passenger, may_read=may_read)

    def put(self, put: Put) -> bool:
        """Send an entry to its shard. False if it was dropped."""
        return self._of(put.key).put(put)

    def count(self, rows: list[Row]) -> bool:
        """Tell the authority what requests came to. False if it was dropped."""
        return self._clients[0].count(rows)

    async def stats(self) -> list[Stats]:
        """Every shard's counts. Raises `CacheUnavailable` if one doesn't answer."""
        return [await client.stats() for client in self._clients]

    async def purge(
        self,
        *,
        model: str = "",
        tenant: str = "",
        key: bytes = b"",
        older_than_s: float = 0.0,
        dry_run: bool = False,
    ) -> Purged:
        """Drop the entries that fit all that is said (all, if nothing is), everywhere, or count.

        `model`: a canonical name. When this returns, no ingress serves such an answer any more
        (`serve.cache.taken`). The authority comes last: it tells the ingresses to forget their near
        answers, and what they then ask again must be gone from the other shards.
        Raises `CacheUnavailable` if a shard can't be reached; others may have dropped theirs then.
        """
        if self.connected < len(self._clients):
            raise CacheUnavailable("not every cache shard is connected")
        told = Purge(1, model, tenant, key, older_than_s, dry_run)
        purged = [await client.purge(told) for client in reversed(self._clients)]
        entries, held_bytes = (one.entries for one in purged), (one.held_bytes for one in purged)
        return Purged(0, sum(entries), sum(held_bytes))

    def generations(self) -> tuple[int, ...]:
        """Each shard's, as last told: an answer asked for now is stored only if it is the same."""
        return tuple(client.generation for client in self._clients)

    async def pause(self, *, is_paused: bool) -> None:
        """Have every ingress pass by the cache, or use it again; returns when all do.

        The authority alone is told: what the ingresses do is what it says. So a pause ends with its
        process; for longer there is `cache.policy`. Raises `CacheUnavailable`.
        """
        await self._clients[0].pause(is_paused=is_paused)

    async def exported(self, *, model: str, tenant: str) -> AsyncGenerator[list[Moved]]:
        """All shards' entries, one shard after the other. Raises `CacheUnavailable`."""
        self._need_all()
        for client in self._clients:
            async with aclosing(client.exported(model, tenant)) as found:
                async for entries in found:
                    yield entries

    async def restored(self, entries: Iterable[Moved], generations: Sequence[int]) -> Counter[str]:
        """Give entries to their shards. Raises `CacheUnavailable`.

        Refused where there was a purge since the generations given (`generations_now`).
        """
        shared: dict[int, list[Moved]] = {}
        for moved in entries:
            shared.setdefault(self.number(moved.key), []).append(moved)
        counts: Counter[str] = Counter()
        for index, some in shared.items():
            counts.update(await self._clients[index].restored(some, generations[index]))
        return counts

    async def generations_now(self) -> list[int]:
        """Each shard's, asked for now. Raises `CacheUnavailable`."""
        self._need_all()
        return list(await asyncio.gather(*(one.generation_now() for one in self._clients)))

    def _need_all(self) -> None:
        if self.connected < len(self._clients):
            raise CacheUnavailable("not every cache shard is connected")

    def _of(self, key: bytes) -> ShardClient:
        return self._clients[shard_of(key, len(self._clients))]


def shard_of(key: bytes, shards: int) -> int:
    """The number of the shard that a key lives in."""
    if shards == 1:
        return 0
    return max(range(shards), key=lambda index: _score(key, index))


def _score(key: bytes, index: int) -> bytes:
    return blake2b(key, digest_size=8, salt=index.to_bytes(2, "big")).digest()
