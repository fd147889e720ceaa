"""The ingress's counts as Ray metrics, handed over once a second rather than once a request."""

import asyncio
from collections import Counter
from types import TracebackType
from typing import Self

from ray.serve import metrics

from serve.cache.service import AnswerCache
from serve.web.meter import Meter

_BOUNDARIES_MS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000]


class Gauges:
    """Owns the task that hands over; it runs while the application serves."""

    def __init__(self, meter: Meter, answers: AnswerCache, period_s: float = 1.0) -> None:
        self._meter = meter
        self._answers = answers
        self._period_s = period_s
        self._task: asyncio.Task[None] | None = None
        self._cache = metrics.Counter(
            "rayllama_cache_requests",
            description="Inference requests by what the cache said of them.",
            tag_keys=("verdict", "detail"),
        )
        self._status = metrics.Counter(
            "rayllama_responses",
            description="Inference responses by route and status (499: the client left).",
            tag_keys=("route", "status"),
        )
        self._not_kept = metrics.Counter(
            "rayllama_answers_not_kept",
            description="Answers that might have been kept and were not, by reason.",
            tag_keys=("reason",),
        )
        self._open = metrics.Gauge(
            "rayllama_requests_in_flight", description="Inference requests open in this replica."
        )
        self._near = metrics.Gauge(
            "rayllama_near_cache_bytes", description="Bytes in this replica's near cache."
        )
        self._ttft = metrics.Histogram(
            "rayllama_time_to_first_byte_ms",
            description="Milliseconds to the first byte of an answer that was not a hit.",
            boundaries=_BOUNDARIES_MS,
        )

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self.hand_over()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            self.hand_over()

    def hand_over(self) -> None:
        """Give Ray what was counted since the last time."""
        verdicts, statuses, times = self._meter.drain()
        for verdict, count in verdicts.items():
            self._cache.inc(count, tags={"verdict": verdict.kind, "detail": verdict.detail})
        for (route, status), count in statuses.items():
            self._status.inc(count, tags={"route": route, "status": str(status)})
        dropped, self._answers.dropped = self._answers.dropped, Counter()
        for reason, count in dropped.items():
            self._not_kept.inc(count, tags={"reason": reason})
        for milliseconds in times:
            self._ttft.observe(milliseconds)
        self._open.set(self._meter.in_flight)
        self._near.set(self._answers.near_bytes)
