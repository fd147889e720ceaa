"""Rayllama without Ray: its real parts on one event loop in a thread, behind real sockets.

One inference replica with its engine process, one cache shard, and as many ingresses as asked for,
each with a near cache and a port of its own. What Ray adds (handles, placement, HAProxy) is tested
in `tests/system`.
"""

import asyncio
import random
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Self, TypeVar

import uvicorn

from deployments.inference import Inference
from serve.cache.client import Address
from serve.cache.reporter import Reporter
from serve.cache.service import AnswerCache
from serve.cache.shard import ShardServer
from serve.ports import Call, Fleet, Frame, Report
from serve.settings import Settings
from serve.web.app import create_app
from serve.web.identity import Directory
from serve.web.journal import Journal
from serve.web.meter import Meter
from serve.web.origin import Hosts, Origins
from serve.web.services import Services

if TYPE_CHECKING:
    from serve.edge.scout import Scout

T = TypeVar("T")
SECRET = b"s" * 32


class Pool:
    """The inference replica as the ingresses see it; counts the calls, and can be taken away."""

    def __init__(self, replica: Inference) -> None:
        self.replica = replica
        self.calls: list[Call] = []
        self.open = 0

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        if call.path not in ("/api/version", "/api/tags", "/api/ps"):
            self.calls.append(call)
        self.open += 1
        try:
            async with aclosing(self.replica.stream(call)) as frames:
                async for frame in frames:
                    yield frame
        finally:
            self.open -= 1


class Door:
    """One ingress: its port, its cache, its counts."""

    def __init__(self, url: str, answers: AnswerCache, meter: Meter) -> None:
        self.url = url
        self.answers = answers
        self.meter = meter


class Stack:
    """`with Stack(settings) as stack:`; `stack.url` is the first ingress."""

    def __init__(self, settings: Settings, doors: Sequence[Settings] = ()) -> None:
        self.settings = settings
        self.fleet: Fleet | None = None
        self.scout: Callable[[AnswerCache], Scout] | None = None
        self._doors = doors or [settings]
        self.doors: list[Door] = []
        self.reporters: list[Reporter] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stack", daemon=True)
        self._exits = AsyncExitStack()

    @property
    def url(self) -> str:
        return self.doors[0].url

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the stack's own loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(120)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.run(self._start())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._exits.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def restart_shard(self) -> None:
        """An empty shard, elsewhere."""
        self.shard = ShardServer(SECRET, self.settings.cache, clock=monotonic)
        host, port = await self.shard.start()
        self.shard_address: Address = (host, port, SECRET)

    async def _start(self) -> None:
        await self.restart_shard()
        self._exits.push_async_callback(lambda: self.shard.stop())
        self.pool = Pool(await Inference.launch(self.settings, self.connect))
        self._exits.push_async_callback(lambda: self.pool.replica.stop())
        for settings in self._doors:
            self.doors.append(await self._open(settings))
        for door in self.doors:
            await until(partial(_has_catalogue, door))

    async def _where(self) -> Address:
        return self.shard_address

    async def _everywhere(self) -> list[Address]:
        return [self.shard_address]

    async def connect(self) -> Callable[[Report], Awaitable[None]]:
        reporter = Reporter(
            [self._everywhere], clock=monotonic, lease_s=self.settings.cache.lease_s
        )
        await self._exits.enter_async_context(reporter)
        self.reporters.append(reporter)
        return reporter.report

    async def _open(self, settings: Settings) -> Door:
        answers = AnswerCache(settings.cache, [self._where], clock=monotonic, now=time)
        await self._exits.enter_async_context(answers)
        meter = Meter()
        services = Services(
            inference=self.pool,
            answers=answers,
            directory=Directory(settings.auth),
            origins=Origins(settings.ingress.origins),
            hosts=Hosts(loopback=True),
            meter=meter,
            journal=Journal(meter, settings.ingress.log_sample, random.Random(1)),
            now=time,
            max_body_bytes=settings.ingress.max_body_bytes,
            deadline_s=settings.ingress.deadline_s,
            fleet=self.fleet,
            scout=self.scout(answers) if self.scout else None,
            max_upload_backlog_bytes=settings.ingress.max_upload_backlog_bytes,
        )
        config = uvicorn.Config(
            create_app(services), host="127.0.0.1", port=0, log_config=None, lifespan="off"
        )
        server = uvicorn.Server(config)
        serving = asyncio.get_running_loop().create_task(server._serve())
        await until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]

        async def close() -> None:
            server.should_exit = server.force_exit = True
            await serving

        self._exits.push_async_callback(close)
        return Door(f"http://127.0.0.1:{port}", answers, meter)


def _has_catalogue(door: Door) -> bool:
    return door.answers.has_catalogue


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for a condition. Raises `TimeoutError`."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
