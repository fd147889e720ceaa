"""The gate before one engine: so many calls at work, so many waiting, the rest refused.

Ollama's own queue for a loaded model is unbounded and can't be seen from outside; so never more
calls are sent to an engine than it has slots, and who waits, waits here.
"""

import asyncio
from types import TracebackType

from serve.errors import Overloaded


class Gate:
    """`async with gate:` holds one slot; first come, first served.

    Raises `Overloaded` on entry when `max_queue` calls wait already.
    """

    def __init__(self, slots: int, max_queue: int) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._max_queue = max_queue
        self.waiting = 0
        self.at_work = 0

    @property
    def is_open(self) -> bool:
        """Whether a call would pass at once."""
        return not self._slots.locked()

    async def __aenter__(self) -> None:
        if self._slots.locked() and self.waiting >= self._max_queue:
            raise Overloaded
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.at_work += 1

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.at_work -= 1
        self._slots.release()
