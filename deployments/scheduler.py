"""The scheduler of one pool.

Owns:         the waiting line, the leases, what the replicas say of themselves; a socket server.
Does not own: the calls, which go from the ingress to the replica, nor how many replicas there are.
Lives:        as a deployment actor of the ingress, one for each pool: Serve starts, checks and
              recreates it.
Dies:         with the application; losing it loses places in the line, which are asked for anew,
              and no call: each ingress admits its share alone (`serve.fleet.asking`), and the next
              scheduler hears from replicas and ingresses what there is.
"""

import asyncio
import secrets
from time import monotonic
from typing import Any

from ray.util import metrics

from deployments.handles import listen_host
from deployments.standing import SILENCE_S
from serve.fleet.desk import Desk
from serve.fleet.link import Address
from serve.fleet.placement import Policy
from serve.fleet.view import view
from serve.settings import Settings


class Scheduler:
    """The actor: a socket server on the event loop of Ray's own methods."""

    def __init__(self, settings: Settings, pool: str) -> None:
        shape = settings.shapes[pool]
        policy = Policy(shape.max_queue, shape.runner_turn_s, shape.runner_patience_s)
        self._secret = secrets.token_bytes(32)
        self._desk = Desk(self._secret, policy, monotonic, silence_s=SILENCE_S)
        self._gauges = {
            name: metrics.Gauge(
                f"rayllama_pool_{name}", description=description, tag_keys=("pool",)
            )
            for name, description in (
                ("replicas", "Replicas that the scheduler knows of."),
                ("slots", "Calls that they can compute at once."),
                ("in_flight", "Leases: calls that they were given."),
                ("waiting", "Requests that wait for a lease."),
            )
        }
        self._tags = {"pool": pool or "default"}
        self._telling: asyncio.Task[None] | None = None

    async def address(self) -> Address:
        """Where the scheduler listens, and the secret that a client must say first."""
        host, port = await self._desk.start(listen_host())
        if self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell())
        return host, port, self._secret

    async def figures(self) -> tuple[int, int]:
        """Calls that wait, and calls at work: what autoscaling goes by."""
        figures = self._desk.schedule.figures
        return figures.waiting, figures.in_flight

    async def view(self) -> dict[str, Any]:
        """The pool as an operator sees it."""
        return {"pool": self._tags["pool"], **view(self._desk.schedule)}

    async def _tell(self) -> None:
        """The figures as metrics, once a second, as long as this process lives."""
        while True:
            figures = self._desk.schedule.figures
            for name, gauge in self._gauges.items():
                gauge.set(getattr(figures, name), tags=self._tags)
            await asyncio.sleep(1)
