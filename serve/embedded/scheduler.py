"""Which models are loaded: load, share, expire, evict, reload. Ollama's rules on one event loop.

A request whose model is loaded as it wants it starts at once and waits for a slot of that model.
Any other waits in one bounded queue, served in order: while a model loads, the next one waits. A
model that must leave (the place is needed, or it is wanted with other options) finishes what it has
begun, and takes nothing new; the one to leave is idle if possible, and the one that would have
stayed for the shortest time. A load is never given up because the client who asked for it left.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass, fields
from typing import Any

from serve.embedded.loaded import Loaded
from serve.embedded.models import LocalModel
from serve.embedded.process import Launch, RunnerProcess
from serve.errors import EngineDied, EngineNotReady, Overloaded, RayllamaError

_log = logging.getLogger(__name__)


class Replaced(EngineNotReady):
    """The file of the model that a request found is another one by now: find the model again."""

    def __init__(self) -> None:
        super().__init__("the model's file is being replaced, please try again")


@dataclass(slots=True)
class Counters:
    """What the scheduler has done since the engine's start."""

    loads: int = 0
    failed_loads: int = 0
    unloads: int = 0
    evictions: int = 0
    reloads: int = 0
    deaths: int = 0

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(slots=True)
class _Pending:
    """A request that needs a load, and where it waits for its runner."""

    model: LocalModel
    launch: Launch
    keep_alive_s: float | None
    placed: asyncio.Future[Loaded]


class Scheduler:
    """Owns the runners of one engine; `run` must be running for loads to happen."""

    def __init__(self, *, max_loaded: int, max_queue: int, keep_alive_s: float) -> None:
        self._max_loaded = max_loaded
        self._max_queue = max_queue
        self._keep_alive_s = keep_alive_s
        self._loaded: dict[str, Loaded] = {}
        self._pending: asyncio.Queue[_Pending] = asyncio.Queue()
        self._placing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.counters = Counters()

    @property
    def loaded(self) -> list[Loaded]:
        """The models that are loaded now."""
        return list(self._loaded.values())

    @property
    def waiting(self) -> int:
        """Requests that need a load, the one that is being served too."""
        return self._pending.qsize() + self._placing

    @contextlib.asynccontextmanager
    async def runner(
        self, model: LocalModel, launch: Launch, keep_alive_s: float | None
    ) -> AsyncGenerator[Loaded, None]:
        """The model, loaded as `launch` says, for as long as the context lasts.

        `keep_alive_s`: how long it stays from then on; None leaves that as it is. Raises
        `Overloaded` where too many wait for loads already, `EngineDied` if it can't be loaded,
        `Replaced` where `model` isn't what its file holds any more.
        """
        self._retire_replaced()
        loaded = self._loaded.get(model.key)
        if loaded is not None and await _is_well(loaded) and loaded.suits(launch):
            loaded.begin(keep_alive_s)
        else:
            loaded = await self._wait(model, launch, keep_alive_s)
        try:
            yield loaded
        finally:
            self._finished(loaded)

    def expire(self, model: LocalModel) -> None:
        """Unloads the model as soon as nothing uses it."""
        loaded = self._loaded.get(model.key)
        if loaded is not None:
            loaded.keep_alive_s = 0
            if loaded.uses == 0:
                self._unload(loaded)

    async def run(self) -> None:
        """Serves the queue until it is cancelled; then every runner is killed."""
        try:
            while True:
                request = await self._pending.get()
                self._placing = True
                await self._serve(request)
                self._placing = False
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.gather(*(loaded.process.kill() for loaded in self.loaded))

    async def _wait(self, model: LocalModel, launch: Launch, keep_alive_s: float | None) -> Loaded:
        if self.waiting > self._max_queue:
            raise Overloaded
        placed: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._pending.put_nowait(_Pending(model, launch, keep_alive_s, placed))
        try:
            return await placed
        except asyncio.CancelledError:
            if placed.done() and not placed.cancelled() and placed.exception() is None:
                self._finished(placed.result())
            raise

    async def _serve(self, request: _Pending) -> None:
        if request.placed.done():
            return
        try:
            loaded = await self._place(request)
        except RayllamaError as error:
            if not request.placed.done():
                request.placed.set_exception(error)
            return
        loaded.begin(request.keep_alive_s)
        if request.placed.done():
            self._finished(loaded)
        else:
            request.placed.set_result(loaded)

    async def _place(self, request: _Pending) -> Loaded:
        """The runner for a request: the one that is there, or a new one once there is room."""
        while True:
            if not request.model.seen.holds:
                raise Replaced
            loaded = self._loaded.get(request.model.key)
            if loaded is not None and loaded.suits(request.launch):
                return loaded
            if loaded is not None:
                self.counters.reloads += not (loaded.retiring or loaded.process.is_dead)
                await self._retire(loaded)
            elif len(self._loaded) >= self._max_loaded:
                self.counters.evictions += 1
                await self._retire(min(self.loaded, key=Loaded.stay))
            else:
                return await self._load(request.model, request.launch)

    async def _load(self, model: LocalModel, launch: Launch) -> Loaded:
        started = time.monotonic()
        try:
            process = await RunnerProcess.start(launch)
        except EngineDied:
            self.counters.failed_loads += 1
            raise
        if not model.seen.holds:  # before the load it did: so the file changed meanwhile
            self.counters.failed_loads += 1
            await process.kill()
            raise Replaced
        loaded = Loaded(model, launch, process, self._keep_alive_s)
        self._loaded[model.key] = loaded
        self.counters.loads += 1
        self._start(self._watch(loaded))
        _log.info(
            "loaded %s as process %d in %.2f s", model.name, process.pid, time.monotonic() - started
        )
        return loaded

    def _retire_replaced(self) -> None:
        """Nothing new for runners whose file is another one by now; they end what they've begun."""
        for loaded in self.loaded:
            if not (loaded.retiring or loaded.model.seen.holds):
                self.counters.reloads += 1
                loaded.retiring = True
                if loaded.uses == 0:
                    self._unload(loaded)

    async def _retire(self, loaded: Loaded) -> None:
        """Waits until the model is gone; it takes no new requests meanwhile."""
        if loaded.uses == 0 or loaded.process.is_dead:
            self._unload(loaded)
        loaded.retiring = loaded.retiring or not loaded.process.is_dead
        await loaded.gone.wait()

    def _unload(self, loaded: Loaded) -> None:
        """Ends the process of a model that nothing uses; `_watch` sees it go."""
        loaded.retiring = loaded.retiring or not loaded.process.is_dead
        self._start(loaded.process.kill())

    async def _watch(self, loaded: Loaded) -> None:
        """Waits for the process to end, by an unload or by itself, and takes it off the list."""
        status = await loaded.process.wait()
        loaded.disarm()
        if self._loaded.get(loaded.model.key) is loaded:
            del self._loaded[loaded.model.key]
        if loaded.retiring:
            self.counters.unloads += 1
        else:
            self.counters.deaths += 1
            _log.error("the runner of %s ended by itself: status %d", loaded.model.name, status)
        loaded.gone.set()

    def _finished(self, loaded: Loaded) -> None:
        """One use less; the last one decides how long the model stays."""
        if loaded.end() and not loaded.gone.is_set():
            if loaded.retiring or loaded.keep_alive_s <= 0:
                self._unload(loaded)
            else:
                loaded.arm(lambda: self._unload(loaded))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _is_well(loaded: Loaded) -> bool:
    """Does it still answer? Those who use it would have noticed; an idle one is asked."""
    return loaded.uses > 0 or await loaded.process.answers()
