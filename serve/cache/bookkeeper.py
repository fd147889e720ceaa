"""Tells the authority, about once a second, what this ingress's requests came to."""

import asyncio
from collections.abc import Callable

from serve.cache.ledger import Ledger
from serve.cache.protocol import Row

PERIOD_S = 1.0


class Bookkeeper:
    """Owns the task that tells. `tell`: returns whether it could be sent; if not, it is kept."""

    def __init__(
        self, ledger: Ledger, tell: Callable[[list[Row]], bool], period_s: float = PERIOD_S
    ) -> None:
        self._ledger = ledger
        self._tell = tell
        self._period_s = period_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Tell from now on. Needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Tell once more, and no longer."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        self.report()
        await asyncio.sleep(0)  # messages leave in the loop's next turn, and then we hang up

    def report(self) -> None:
        """Tell what has come since the last time."""
        rows = self._ledger.drain()
        if rows and not self._tell(rows):
            self._ledger.add_rows(rows)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            self.report()
