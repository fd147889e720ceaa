"""The HTTP front, in each of its replicas.

Owns:         the ASGI application, its near cache, its connections to the cache shards and to the
              schedulers, its leases, its counts.
Does not own: the answers that all replicas share (`deployments.cache`) or any engine.
Lives:        a fixed number of replicas behind Serve's HAProxy.
Dies:         a lost replica fails only the requests open in it; its near cache starts empty again.
"""

import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic, time

from ray.serve.handle import DeploymentHandle

from deployments.gauges import Gauges
from deployments.handles import (
    LOOPBACK,
    PoolHandle,
    http_host,
    scheduler_address,
    shard_address,
)
from deployments.standing import SILENCE_S
from serve.cache.service import AnswerCache
from serve.edge import launcher
from serve.edge.scout import Edges, Scout
from serve.errors import ConfigError
from serve.fleet import roster
from serve.fleet.asking import Asking
from serve.fleet.pooled import Pool, PooledFleet
from serve.fleet.pools import Pools
from serve.settings import Settings, environment
from serve.web.app import create_app
from serve.web.gateway import Gateway
from serve.web.identity import Directory
from serve.web.journal import Journal
from serve.web.meter import Meter
from serve.web.origin import Hosts, Origins
from serve.web.services import Services

log = logging.getLogger("rayllama.ingress")

NOT_FAST = (
    "Ray Serve's high-throughput mode is off: requests go through its Python proxy, about 30 times "
    "slower. Put the `controller_options` block of configs/local.yaml into this config (it takes "
    "effect when Serve starts: `serve shutdown` first); on macOS there is no HAProxy to switch on"
)

_SETTLED_WITHIN_S = 20.0
_NOT_SETTLED = (
    "not every node's edge has been taken over yet: until then one may still give what an earlier "
    "version of this application put there"
)


class Ingress:
    """Late-bound: Serve asks for the ASGI application on the replica, after `__init__`."""

    def __init__(
        self,
        settings: Settings,
        inference: dict[str, DeploymentHandle],
        edges: Edges | None = None,
    ) -> None:
        self._settings = settings
        self._handles = {
            name: PoolHandle(handle, name, settings.shapes[name])
            for name, handle in inference.items()
        }
        pools = {name: self._pooled(name) for name in self._handles}
        self._fleet = PooledFleet(Pools(settings), pools)
        self._meter = Meter()
        self._answers = AnswerCache(
            settings.cache,
            [partial(shard_address, index) for index in range(settings.cache.shards)],
            clock=monotonic,
            now=time,
        )
        self._scout = self._scouting(edges) if edges and is_edge(settings) else None
        adopt_serve_log()
        refuse_public(settings, http_host())
        found = environment()
        if not (found.haproxy and found.throughput):
            log.warning(NOT_FAST)

    async def __serve_build_asgi_app__(self) -> Gateway:  # Serve's hook
        """The application, over this replica's services."""
        ingress = self._settings.ingress
        services = Services(
            inference=self._fleet,
            answers=self._answers,
            directory=Directory(self._settings.auth),
            origins=Origins(ingress.origins),
            hosts=Hosts(loopback=http_host() in LOOPBACK),
            meter=self._meter,
            journal=Journal(self._meter, ingress.log_sample, random.Random()),  # noqa: S311
            now=time,
            max_body_bytes=ingress.max_body_bytes,
            deadline_s=ingress.deadline_s,
            fleet=self._fleet,
            max_upload_backlog_bytes=ingress.max_upload_backlog_bytes,
            scout=self._scout,
        )
        return create_app(services, self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _app: object) -> AsyncIterator[None]:
        gauges = Gauges(self._meter, self._answers)
        async with self._answers, self._fleet, gauges, AsyncExitStack() as scouting:
            if self._scout:
                await scouting.enter_async_context(self._scout)
                if not await self._scout.settled(_SETTLED_WITHIN_S):
                    log.warning(_NOT_SETTLED)
            deaf = [self._follow(name) for name in self._handles]
            try:
                yield
            finally:
                for stop in deaf:
                    stop()

    def _scouting(self, edges: Edges) -> Scout:
        """What tells the nodes' feeders which answers are hot."""
        return Scout(
            edges,
            min_hits=self._settings.edge.min_hits,
            lifetime_s=self._answers.lifetime_s,
            generation=lambda: self._answers.generation,
            clock=monotonic,
        )

    def _pooled(self, name: str) -> Pool:
        """A pool as this ingress knows it before its scheduler has said anything."""
        shape, ingresses = self._settings.shapes[name], self._settings.ingress.replicas
        asking = Asking(
            partial(scheduler_address, name),
            silence_s=SILENCE_S,
            slots_alone=max(1, shape.slots * (shape.max_replicas or shape.replicas) // ingresses),
            max_queue_alone=max(1, shape.max_queue // ingresses),
        )
        return Pool(self._handles[name], asking, shape.queue_timeout_s)

    def _follow(self, name: str) -> Callable[[], None]:
        """Tell the scheduler which replicas of this pool can be called, now and from now on."""
        handle, asking = self._handles[name], self._fleet.asking(name)
        return roster.listen(handle.deployment, lambda now: asking.running(frozenset(now)))


def is_edge(settings: Settings) -> bool:
    """Is Serve's HAProxy one that can be fed, and is it to be?"""
    return settings.edge.enabled and Path(environment().haproxy_binary).name == launcher.BINARY


def adopt_serve_log() -> None:
    """Our loggers write where Serve's do: the replica's own log file."""
    ours, serves = logging.getLogger("rayllama"), logging.getLogger("ray.serve")
    ours.handlers = serves.handlers
    ours.setLevel(logging.INFO)
    ours.propagate = False


def refuse_public(settings: Settings, host: str) -> None:
    """Raise `ConfigError` if everybody on the network could call without a key, unmeant."""
    if host in LOOPBACK or settings.auth.keys or settings.ingress.allow_public:
        return
    raise ConfigError(
        f"http_options.host: {host} lets everybody who reaches this machine in; set `auth.keys`, "
        "or `ingress.allow_public: true` if that is meant"
    )
