"""The admin API's process.

Owns:         the admin port, the application behind it, connections to the cache shards.
Does not own: anything cached, nor a way to it for clients: the ingress doesn't route here.
Lives:        on the head node, as a deployment actor of the ingress: Serve starts and recreates it.
Dies:         with the application; while it is away nothing but `rayllama cache` misses it.
"""

import asyncio
from functools import partial
from time import monotonic, time

from deployments.handles import sibling_edges, sibling_shard_address, sibling_view
from serve.cache.service import AnswerCache
from serve.settings import Settings
from serve.web.admin import AdminServices
from serve.web.app import create_admin
from serve.web.identity import Directory
from serve.web.listener import listen
from serve.web.origin import Hosts


class Admin:
    """The actor. Its port may be taken for a while: during a rollout the one before still has it.

    So it is never a reason to fail: Serve would not start the ingress without this actor.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._answers = AnswerCache(
            self._settings.cache.model_copy(update={"near_max_bytes": 0}),
            [partial(sibling_shard_address, index) for index in range(self._settings.cache.shards)],
            clock=monotonic,
            now=time,
            serves=False,
        )
        self._serving = asyncio.get_running_loop().create_task(self._serve())

    async def stop(self) -> None:
        """Close the port and the connections."""
        self._serving.cancel()
        await asyncio.wait([self._serving])

    async def _serve(self) -> None:
        settings = self._settings
        services = AdminServices(
            answers=self._answers,
            directory=Directory(settings.auth),
            hosts=Hosts(loopback=settings.admin.is_loopback),
            now=time,
            max_body_bytes=settings.ingress.max_body_bytes,
            edges=partial(sibling_edges, "stats"),
            edge_places=partial(sibling_edges, "place"),
            pools=[partial(sibling_view, pool) for pool in settings.shapes],
        )
        async with self._answers:
            await listen(create_admin(services), settings.admin.host, settings.admin.port)
