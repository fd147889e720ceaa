"""The edge with all its real parts but Ray: `tests.stack` with a scout in its ingress, the feeder
beside it, and Serve's HAProxy in front."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from time import monotonic, time
from urllib.parse import urlsplit

from serve.cache.client import Address
from serve.cache.service import AnswerCache
from serve.edge.feeder import Feeder
from serve.edge.listener import Listener
from serve.edge.scout import Scout
from serve.errors import CacheUnavailable
from serve.settings import Settings
from tests.edge.proxy import Answer, Proxy
from tests.stack import Stack


class Edge:
    """`proxy` is what clients ask; `listener`, if there is one, what the ingress tells."""

    proxy: Proxy
    feeder: Feeder

    def __init__(self, settings: Settings) -> None:
        self.stack = Stack(settings)
        self.stack.scout = self._scouting
        self.listener: Listener | None = None
        self.scout: Scout | None = None
        self.exits = AsyncExitStack()

    def _scouting(self, answers: AnswerCache) -> Scout:
        self.scout = Scout(
            self,
            min_hits=self.stack.settings.edge.min_hits,
            lifetime_s=answers.lifetime_s,
            generation=lambda: answers.generation,
            clock=monotonic,
        )
        return self.scout

    async def nodes(self) -> list[str]:
        return ["here"]

    async def address(self, node: str) -> Address:
        if self.listener is None:
            raise CacheUnavailable("no feeder yet")
        return self.listener.address

    async def _shard(self) -> Address:
        return self.stack.shard_address

    async def feed(self) -> None:
        """Start the feeder, and return when it feeds."""
        settings = self.stack.settings
        shards = [partial(self._shard)]
        self.feeder = Feeder(
            settings.edge,
            settings.cache,
            shards,
            lambda: self.proxy.state,
            clock=monotonic,
            now=time,
        )
        await self.exits.enter_async_context(self.feeder)
        listener = Listener(self.feeder, b"s" * 32)
        self.listener = await self.exits.enter_async_context(listener)
        assert self.scout is not None
        await self.exits.enter_async_context(self.scout)
        async with asyncio.timeout(20):
            while not (self.scout.wanted_bytes and self.feeder.lease_left_s):
                await asyncio.sleep(0.01)

    def until_edge(self, path: str, body: bytes, headers: dict[str, str]) -> Answer | None:
        """The answer of the edge, or None if the answer is none that can be there."""
        deadline = monotonic() + 2
        while True:
            answer = self.proxy.ask(path, body, headers)
            if answer.is_edge:
                return answer
            if "near" not in answer.headers.get("x-rayllama-cache", ""):
                answer = self.proxy.ask(path, body, headers)
                if not answer.headers.get("x-rayllama-cache", "").startswith("hit"):
                    return None
            assert self.scout is not None
            if monotonic() > deadline:
                return None


@contextmanager
def edge_stack(settings: Settings) -> Iterator[Edge]:
    edge = Edge(settings)
    with edge.stack as stack, Proxy(ingress_port=urlsplit(stack.url).port or 0) as edge.proxy:
        edge.proxy.start()
        stack.run(edge.feed())
        try:
            yield edge
        finally:
            stack.run(edge.exits.aclose())
