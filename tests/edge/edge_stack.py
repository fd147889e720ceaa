"""The edge with all its real parts but Ray: `tests.stack` with a scout in its ingress, the feeder
beside it, and Serve's HAProxy in front."""

import asyncio
from contextlib import AsyncExitStack
from time import monotonic, time
from typing import Any

from msgspec import json

from serve.edge.feeder import Feeder
from serve.edge.launcher import FOLDER, STATE, State
from serve.edge.listener import Listener
from serve.edge.scout import Scout
from tests.edge.proxy import Answer, Proxy
from tests.stack import Stack


class Edge:
    """`proxy` is what clients ask."""

    def __init__(self, stack: Stack, proxy: Proxy) -> None:
        self.stack = stack
        self.proxy = proxy
        self.exits = AsyncExitStack()
        self.answers = stack.doors[0].answers

    async def open(self) -> None:
        settings = self.stack.settings
        self.feeder = Feeder(
            settings.edge,
            settings.cache,
            [self.stack._where],
            self._look,
            clock=monotonic,
            now=time,
        )
        await self.exits.enter_async_context(self.feeder)
        listener = await self.exits.enter_async_context(Listener(self.feeder, b"s" * 32))

        async def where() -> tuple[str, int, bytes]:
            return listener.address

        self.scout = Scout(
            where,
            min_hits=settings.edge.min_hits,
            lifetime_s=self.answers.lifetime_s,
            generation=lambda: self.answers.generation,
            clock=monotonic,
        )
        await self.exits.enter_async_context(self.scout)

    def _look(self) -> State | None:
        try:
            return json.decode((self.proxy.folder / FOLDER / STATE).read_bytes(), type=State)
        except OSError:
            return None

    def ask(self, path: str, body: Any, **headers: str) -> Answer:
        return self.proxy.ask(path, json.encode(body), headers)


async def until_connected(edge: Edge) -> None:
    async with asyncio.timeout(20):
        while not (edge.scout._wanted_bytes and edge.feeder.proxy.leased_until > monotonic()):
            await asyncio.sleep(0.01)
