"""When an engine is started anew after it failed, and when its replica is given up.

A pure count, with the time handed in. More than `max_restarts` failures within the window end it.
Starts that fail count too, and are not forgotten with time: each may take long. Nor does the time
count that a failure took to be noticed: an engine that hangs for two minutes has not lived them.
"""

from collections import Counter
from typing import Literal

Cause = Literal["died", "wedged", "fell_to_cpu"]
"""`fell_to_cpu`: it had a GPU, and computes on the CPU."""

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class Restarts:
    """The failures of one replica's engines."""

    def __init__(self, most: int, window_s: float) -> None:
        self.most = most
        self._window_s = window_s
        self._failed: list[float] = []
        self.causes: Counter[Cause] = Counter()
        """Of each restart that was granted."""

    def forget(self, now: float, unnoticed_s: float) -> None:
        """An engine that was ready has failed, `unnoticed_s` ago: old failures don't count."""
        since = now - self._window_s - unnoticed_s
        self._failed = [at + unnoticed_s for at in self._failed if at > since]

    def failed(self, cause: Cause, now: float) -> float | None:
        """Seconds to wait before the next start, none before the first; None: no more starts."""
        self._failed.append(now)
        count = len(self._failed)
        if count > self.most:
            return None
        self.causes[cause] += 1
        return 0.0 if count == 1 else min(_FIRST_PAUSE_S * 2 ** (count - 2), _LONGEST_PAUSE_S)

    @property
    def count(self) -> int:
        """How often an engine was started in place of another."""
        return self.causes.total()
