"""One shard of the answer cache.

Owns:         a byte-weighed store, the registry of what the engines list, a socket server, and
              the snapshots from which it comes back warm.
Does not own: what may be cached and under which key (`serve.cache`, in the ingress).
Lives:        as a deployment actor of the ingress: Serve starts, checks and recreates it.
Dies:         with the application, killed without a word beforehand (`serve.cache.warmth`); losing
              it loses only warmth, since callers treat it as a miss.
"""

import secrets
from collections.abc import Collection
from time import monotonic, time

from deployments.handles import listen_host
from deployments.shard_gauges import ShardGauges
from serve.cache.client import Address
from serve.cache.shard import ShardServer
from serve.cache.warmth import Warmth
from serve.settings import CacheSettings


class Cache:
    """The actor: a socket server on the event loop of Ray's own methods."""

    def __init__(
        self,
        settings: CacheSettings,
        index: int = 0,
        tenants: Collection[str] | None = None,
    ) -> None:
        self._secret = secrets.token_bytes(32)
        self._server = ShardServer(
            self._secret, settings, clock=monotonic, has_forerunner=True, tenants=tenants
        )
        self._gauges = ShardGauges(index, self._server.stats)
        self._warmth = Warmth(self._server.holdings, settings, index, clock=monotonic, wall=time)
        self._server.deserted, self._server.purged = self._warmth.hurry, self._warmth.purged
        self._address: tuple[str, int] | None = None

    async def address(self) -> Address:
        """Where the shard listens, and the secret that a client must say first."""
        if self._address is None:
            self._address = await self._server.start(listen_host())
            self._gauges.start()
            self._warmth.start()
        host, port = self._address
        return host, port, self._secret
