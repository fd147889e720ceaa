"""One loaded model: its process, its slots, who uses it, and until when it stays."""

import asyncio
import math
import time
from collections.abc import Callable

from serve.embedded.models import LocalModel
from serve.embedded.process import Launch, RunnerProcess

_LONGEST_NS = (1 << 63) - 1
_NS = 10**9


class Loaded:
    """A model in memory. `slots` are its places to compute; `gone` is set when it has left."""

    def __init__(
        self, model: LocalModel, launch: Launch, process: RunnerProcess, keep_alive_s: float
    ) -> None:
        self.model = model
        self.launch = launch
        self.process = process
        self.keep_alive_s = keep_alive_s
        self.slots = asyncio.Semaphore(launch.slots)
        self.uses = 0
        self.retiring = False
        self.gone = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._expires_ns: int | None = None

    def suits(self, launch: Launch) -> bool:
        """May a request that wants `launch` use it?"""
        return self.launch == launch and not self.retiring and not self.process.is_dead

    def begin(self, keep_alive_s: float | None) -> None:
        """One more use; the last `keep_alive_s` that a request brought is the one that counts."""
        self.uses += 1
        self.disarm()
        if keep_alive_s is not None:
            self.keep_alive_s = math.inf if keep_alive_s < 0 else keep_alive_s

    def end(self) -> bool:
        """One use less; was it the last?"""
        self.uses -= 1
        return self.uses == 0

    def arm(self, expired: Callable[[], None]) -> None:
        """Calls `expired` when the model has been idle for its `keep_alive_s`."""
        self.disarm()
        self._expires_ns = time.time_ns() + self._stay_ns()
        if self.keep_alive_s < math.inf:
            self._timer = asyncio.get_running_loop().call_later(self.keep_alive_s, expired)

    def disarm(self) -> None:
        """It is in use, or gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._expires_ns = None

    def expires_ns(self) -> int:
        """When it leaves if nobody asks for it, in nanoseconds since the epoch."""
        return self._expires_ns or time.time_ns() + self._stay_ns()

    def stay(self) -> tuple[bool, bool, float, str]:
        """Orders models by who should leave first: idle ones, those that leave anyway, then by how
        long they'd stay."""
        return self.uses > 0, not self.retiring, self.keep_alive_s, self.model.key

    def size(self) -> int:
        """Bytes in memory, about: the weights and the key-value cache of all slots (16 bits)."""
        return (
            self.model.size + 2 * self.model.cache_width * self.launch.context * self.launch.slots
        )

    def _stay_ns(self) -> int:
        """At most the longest duration that Ollama can state, 292 years."""
        return _LONGEST_NS if self.keep_alive_s == math.inf else round(self.keep_alive_s * _NS)
