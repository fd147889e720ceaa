"""A cache shard's counts as Ray metrics, handed over once a second."""

import asyncio
from collections.abc import Callable, Mapping

from ray.util import metrics

from serve.cache.protocol import Stats

_SHARD = ("shard",)


class ShardGauges:
    """Owns the task that hands over; it runs as long as the shard's process."""

    def __init__(self, shard: int, stats: Callable[[], Stats], period_s: float = 1.0) -> None:
        self._stats = stats
        self._period_s = period_s
        self._tags = {"shard": str(shard)}
        self._told: dict[tuple[str, str], int] = {}
        self._task: asyncio.Task[None] | None = None
        self._entries = metrics.Gauge(
            "rayllama_cache_entries", description="Entries in a shard.", tag_keys=_SHARD
        )
        self._bytes = metrics.Gauge(
            "rayllama_cache_bytes", description="Bytes that they take.", tag_keys=_SHARD
        )
        self._counters = {
            name: metrics.Counter(name, description=description, tag_keys=(*_SHARD, *by))
            for name, description, by in (
                ("rayllama_cache_stored", "Entries stored in a shard.", ()),
                ("rayllama_cache_evictions", "Entries that left a shard, by cause.", ("cause",)),
                ("rayllama_cache_refused", "Entries that a shard refused, by reason.", ("reason",)),
                ("rayllama_flights_led", "Generations that a shard gave the lead of.", ()),
                ("rayllama_flights_joined", "Requests that joined one that ran.", ()),
            )
        }

    def start(self) -> None:
        """Hand over from now on. Needs a running event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Hand over once more, and no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self.hand_over()

    def hand_over(self) -> None:
        """Give Ray what was counted since the last time."""
        stats = self._stats()
        self._entries.set(stats.entries, tags=self._tags)
        self._bytes.set(stats.held_bytes, tags=self._tags)
        self._count("rayllama_cache_stored", "", {"": stats.stored})
        self._count("rayllama_cache_evictions", "cause", stats.evicted)
        self._count("rayllama_cache_refused", "reason", stats.refused)
        self._count("rayllama_flights_led", "", {"": stats.led})
        self._count("rayllama_flights_joined", "", {"": stats.joined})

    def _count(self, name: str, tag: str, counts: Mapping[str, int]) -> None:
        """The shard counts from its start; a counter wants what came since the last time."""
        for value, count in counts.items():
            more = count - self._told.get((name, value), 0)
            self._told[name, value] = count
            if more > 0:
                tags = self._tags | ({tag: value} if tag else {})
                self._counters[name].inc(more, tags=tags)

    async def _run(self) -> None:
        while True:
            self.hand_over()
            await asyncio.sleep(self._period_s)
