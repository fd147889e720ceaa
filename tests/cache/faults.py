"""Faults between an ingress and a shard."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from serve.cache.client import Address


class StallingWire:
    """A fault: a wire between an ingress and a shard that can stop carrying bytes, both ways.

    `lag_s`: how much later they arrive than they were sent, at least.
    """

    def __init__(self, address: Address, lag_s: float = 0.0) -> None:
        self._address = address
        self._lag_s = lag_s
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def stall(self) -> None:
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    @asynccontextmanager
    async def stretched(self) -> AsyncGenerator[Address]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            host, port = server.sockets[0].getsockname()
            yield host, port, self._address[2]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, on = await asyncio.open_connection(*self._address[:2])
        loop = asyncio.get_running_loop()
        for source, sink in ((near, on), (far, back)):
            self._tasks.add(loop.create_task(self._carry(source, sink)))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            try:
                while data := await source.read(1 << 16):
                    await asyncio.sleep(self._lag_s)
                    await self._flows.wait()
                    sink.write(data)
            finally:
                sink.close()
                await sink.wait_closed()
