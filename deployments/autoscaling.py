"""How many replicas a pool needs: calls at work and waiting, for each slot.

Serve counts what its handles have been given. What waits for a lease is not among that, so this
policy asks the pool's scheduler, from a thread of its own: the policy is called in the controller,
ten times a second, and must never wait. Without a scheduler it goes by what Serve counts, which is
then everything that an ingress lets through.
"""

import logging
import threading
import time
from math import ceil
from typing import Any

import ray
from ray.serve.config import AutoscalingContext

from deployments.handles import schedulers

log = logging.getLogger("ray.serve")

_PERIOD_S = 0.5
_STALE_S = 5.0
_CALL_S = 2.0
_SINCE = "rayllama_more_since"


def wanted(waiting: float, at_work: float, slots: int, target_load: float) -> int:
    """Replicas for so many calls: as many as bring the load of each slot down to the target."""
    return ceil((waiting + at_work) / (slots * target_load))


class SlotPolicy:
    """An autoscaling policy of Serve's (`AutoscalingPolicy.policy_function`).

    Owns a daemon thread that ends when the policy is dropped. Delays before there are more are
    counted here, since from none to one there is to be none; those before there are fewer, and the
    bounds, are Serve's.
    """

    def __init__(self, pool: str, slots: int, target_load: float, upscale_delay_s: float) -> None:
        self._slots = slots
        self._target_load = target_load
        self._upscale_delay_s = upscale_delay_s
        self._pool = pool
        self._figures: Figures | None = None

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas that would be right now, and what to remember."""
        if self._figures is None:
            self._figures = Figures(ctx.app_name or "", self._pool)
        waiting, at_work = self._figures.last()
        # What Serve counts includes calls of ingresses that have no scheduler.
        busy = max(waiting + at_work, float(ctx.total_num_requests))
        number = wanted(busy, 0, self._slots, self._target_load)
        state = {key: value for key, value in ctx.policy_state.items() if key != _SINCE}
        target = ctx.target_num_replicas
        if number <= target:
            return number, state
        since = ctx.policy_state.get(_SINCE) or time.time()
        if target and time.time() - since < self._upscale_delay_s:
            return target, state | {_SINCE: since}
        return number, state


class Figures:
    """The scheduler's figures, as they were half a second ago; none once they are older."""

    def __init__(self, app: str, pool: str) -> None:
        self._app, self._pool = app, pool
        self._said: tuple[tuple[int, int], float] = ((0, 0), float("-inf"))
        self._asked_at = time.monotonic()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def last(self) -> tuple[int, int]:
        """Waiting, at work."""
        self._asked_at = time.monotonic()
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._keep, daemon=True)
                self._thread.start()
        said, at = self._said
        return said if time.monotonic() - at < _STALE_S else (0, 0)

    def _keep(self) -> None:
        """Ask for as long as somebody wants to know."""
        actors: list[Any] = []
        while time.monotonic() - self._asked_at < _STALE_S:
            try:
                actors = actors or schedulers(self._app, self._pool)
                told = ray.get([each.figures.remote() for each in actors], timeout=_CALL_S)
                if told:
                    total = sum(each[0] for each in told), sum(each[1] for each in told)
                    self._said = (total, time.monotonic())
            except Exception as error:  # noqa: BLE001  (last resort: Ray's, of many kinds)
                log.info("the scheduler did not say its figures: %s", type(error).__name__)
                actors = []
            time.sleep(_PERIOD_S)
