"""A cache shard's counts as Ray metrics, handed over once a second."""

import asyncio
from collections.abc import Callable, Mapping

from ray.util import metrics

from serve.cache.ledger import by, shown
from serve.cache.protocol import Stats

_SHARD = ("shard",)
_MODEL = ("model",)


class ShardGauges:
    """Owns the task that hands over; it runs as long as the shard's process."""

    def __init__(self, shard: int, stats: Callable[[], Stats], period_s: float = 1.0) -> None:
        self._stats = stats
        self._period_s = period_s
        self._tags = {"shard": str(shard)}
        self._told: dict[tuple[str, str], float] = {}
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
                ("rayllama_requests_joined", "Requests that heard another's answer.", _MODEL),
                ("rayllama_tokens_saved", "Tokens of answers that were not made anew.", _MODEL),
                ("rayllama_gpu_seconds_saved", "The engines' time that these took.", _MODEL),
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
        models = by(lambda row: shown(row.model), stats.counted)
        joined = {
            name: row.answers.get("miss", {}).get("joined", 0) for name, row in models.items()
        }
        self._count("rayllama_requests_joined", "model", joined)
        tokens = {name: row.tokens for name, row in models.items()}
        self._count("rayllama_tokens_saved", "model", tokens)
        seconds = {name: row.gpu_ns / 1e9 for name, row in models.items()}
        self._count("rayllama_gpu_seconds_saved", "model", seconds)

    def _count(self, name: str, tag: str, counts: Mapping[str, float]) -> None:
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
