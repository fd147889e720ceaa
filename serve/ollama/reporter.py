"""The replica's word to the cache shards: which models its engine has, now and every so often.

A shard serves and stores only while reports agree, so one that is late costs hits, never
correctness: every failure here is survived, and the next report starts over.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from serve.ports import Report

Send = Callable[[Report], Awaitable[None]]
Connect = Callable[[], Awaitable[Send]]

_REPORT_S = 10.0  # what takes longer is as good as gone
_log = logging.getLogger(__name__)


class CatalogueReporter:
    """Owns the task that reports: at once, then every `period_s`, and at once after `poke`.

    `connect` is asked until it succeeds once; what it returns finds shards that move by itself.
    """

    def __init__(
        self, report: Callable[[], Awaitable[Report]], connect: Connect, period_s: float
    ) -> None:
        self._report = report
        self._connect = connect
        self._period_s = period_s
        self._send: Send | None = None
        self._poked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_failing = False

    def start(self) -> None:
        """Begin to report."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def poke(self) -> None:
        """Report at once: the engine was restarted, or a model changed."""
        self._poked.set()

    async def stop(self) -> None:
        """End the reports."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            self._poked.clear()
            await self._report_once()
            try:
                async with asyncio.timeout(self._period_s):
                    await self._poked.wait()
            except TimeoutError:
                continue

    async def _report_once(self) -> None:
        """One report. Of a row of failures the first gets a line in the log."""
        try:
            async with asyncio.timeout(_REPORT_S):
                report = await self._report()
                if self._send is None:
                    self._send = await self._connect()
                await self._send(report)
        except Exception as exc:  # noqa: BLE001 - last resort: `connect` and `send` may be Ray's
            if not self._is_failing:
                _log.warning("no catalogue report: %s: %s", type(exc).__name__, exc)
            self._is_failing = True
        else:
            self._is_failing = False
