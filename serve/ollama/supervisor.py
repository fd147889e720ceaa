"""The supervisor of one engine: starts it, knows when it is ready, restarts it, ends it.

    start ──▶ starting ──▶ ready ──(it died)──▶ restarting ──▶ ready …
                 │                                  │
                 ▼ raises                           ▼ too often: given up, the replica is replaced
    stop ──▶ stopped, from anywhere

Ready means: `/api/version` answers 200 and the configured models are loaded. The loads are our own
requests, since Ollama aborts a load when its client leaves. While it restarts, `ready` waits.
Serve replaces a replica only after three failed checks ten seconds apart; a restart in place is
seconds. With `engine: attach` there is no process: nothing is started, restarted or ended.

An engine that lives and is of no use (`fail`: `serve.ollama.canary` says when) is killed with all
that it started, and that is a death like others.
"""

import asyncio
import logging
import secrets
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

from serve.errors import EngineDied, EngineError, EngineNotReady, RayllamaError
from serve.ollama.catalogue import fingerprint
from serve.ollama.client import EngineClient
from serve.ollama.holdings import Holdings
from serve.ollama.lately import Manner
from serve.ollama.process import EngineProcess
from serve.ollama.pulse import Pulse
from serve.ollama.reaper import Mark, reap, reap_stale
from serve.ollama.restarts import Cause, Restarts
from serve.ollama.startup import Prepare, free_port, spawn, story, until_ready
from serve.ports import Call, Head
from serve.settings import Settings
from serve.wire.names import canonical

if TYPE_CHECKING:
    from pathlib import Path

_NOTICE_S = 1.0  # how long the news that an engine is gone may take after its last sign
_TRIM_S = 10.0
_PORT_TRIES = 3
_PORT_TAKEN = "address already in use"
_log = logging.getLogger(__name__)


class Supervisor:
    """One engine and its client. `async with`, or `start` and `stop`.

    `on_ready` is called after every start and restart, `prepare` during each, `on_restart`
    with each restart's cause.
    """

    def __init__(
        self,
        settings: Settings,
        on_ready: Callable[[], None] = lambda: None,
        on_restart: Callable[[Cause], None] = lambda _: None,
        prepare: Prepare | None = None,
    ) -> None:
        self._settings = settings
        self._inference = settings.inference
        self._on_ready = on_ready
        self._on_restart = on_restart
        self._prepare = prepare
        self.replica_id = secrets.token_hex(8)
        self._mark = Mark.of_this_process(self.replica_id)
        self._directory: Path | None = None
        self._process: EngineProcess | None = None
        self._client: EngineClient | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # ready, or no engine will come
        self._trouble = ""  # why none will come
        self._failure: tuple[Cause, str, float] | None = None
        self.restarts = Restarts(self._inference.max_restarts, self._inference.restart_window_s)
        self.last_error = ""
        """What went wrong last, in one line; "" if nothing did."""
        self.has_gpu = False
        """Whether one of its engines found a GPU as it started, as far as they say."""
        self.pulse = Pulse.of(self._inference, monotonic)
        self.engine_version = ""
        self.holdings = Holdings(self.ready, self._read_tags)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Return when the engine is ready.

        Raises `EngineNotReady` with the last lines of its log, or `ConfigError`; then nothing runs.
        """
        try:
            if self._inference.engine == "attach":
                self._client = EngineClient(self._inference.url, self.pulse)
                await self._until_ready(self._client, None)
            else:
                await asyncio.to_thread(reap_stale)
                process = await self._launch()
                self._watcher = asyncio.get_running_loop().create_task(self._watch(process))
                self._watcher.add_done_callback(self._watch_ended)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """SIGTERM, and after `stop_timeout_s` the whole family is killed. Twice does no harm."""
        self._give_up("the engine was stopped")
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        if self._process is not None:
            await self._process.stop(self._inference.stop_timeout_s)
            await asyncio.to_thread(reap, self._mark)
        await self.holdings.aclose()
        if self._client is not None:
            await self._client.aclose()
        if self._directory is not None:
            await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    async def ready(self) -> EngineClient:
        """The engine's client, once it is ready. Raises `EngineNotReady` if none will come."""
        await self._settled.wait()
        if self._trouble or self._client is None:
            raise EngineNotReady(self._trouble)
        return self._client

    async def stream(self, call: Call) -> AsyncGenerator[Head | bytes, None]:
        """The answer of the engine, once it is ready. Raises as `ready` and the client do.

        A connection that is refused has reached nobody: such a call is made once more, to the
        engine that follows.
        """
        client = await self.ready()
        try:
            async with aclosing(client.stream(call)) as frames:
                async for frame in frames:
                    yield frame
        except EngineDied:
            # A connection breaks a moment before its engine is gone. Whoever hears that it broke
            # and calls again shall wait for the next engine, not meet the dying one.
            if self._client is client and self._process is not None:
                await self._process.wait(_NOTICE_S)
            raise
        except EngineNotReady:
            successor = await self._successor(client)
            async with aclosing(successor.stream(call)) as frames:
                async for frame in frames:
                    yield frame

    async def _successor(self, refused: EngineClient) -> EngineClient:
        """The engine after that one. Raises `EngineNotReady` if it lives on, or none will come."""
        if self._client is refused:
            process = self._process
            if process is None or await process.wait(_NOTICE_S) is None:
                raise EngineNotReady("the engine is not reachable")
        return await self.ready()

    async def check(self) -> None:
        """Raise `EngineError` if the engine has been given up or doesn't answer.

        One that is being restarted passes: that takes a bounded time, or ends in giving up.
        """
        if self._trouble:
            raise EngineNotReady(self._trouble)
        if self._client is not None and self._settled.is_set():
            self.engine_version = await self._client.version()

    async def fail(self, cause: Cause, text: str, unnoticed_s: float) -> None:
        """Give the engine up, which lives and has been of no use for so long: the next one starts.

        One that isn't ours can't be restarted: the replica fails its checks from here on.
        """
        if self._failure is not None or not self.is_up:
            return
        self._failure = cause, text, unnoticed_s
        if self._process is None:
            self._note(text)
            self._give_up(text)
        else:
            self._unsettle()
            await self._process.kill()

    @property
    def is_up(self) -> bool:
        """Whether there is an engine, and it is ready."""
        return self._settled.is_set() and not self._trouble

    @property
    def fingerprint(self) -> str:
        """What besides the model decides this engine's answers."""
        return fingerprint(self._settings, self.engine_version)

    @property
    def engine_pid(self) -> int | None:
        """The engine's pid; None where it isn't ours, or isn't up."""
        return None if self._process is None else self._process.engine_pid

    async def _read_tags(self) -> bytes:
        if self._client is None or not self._settled.is_set():
            raise EngineNotReady("the engine is not ready")
        return await self._client.tags()

    async def _launch(self, tries: int = _PORT_TRIES) -> EngineProcess:
        """Start an engine on a free port and wait until it is ready. Failing, it leaves none."""
        process, client = await self._spawn()
        try:
            await self._until_ready(client, process)
        except BaseException as exc:
            await process.kill()
            # Between our look for a free port and the engine's bind, somebody else took it.
            is_taken = _PORT_TAKEN in process.log.tail().lower()
            if not (is_taken and tries > 1 and isinstance(exc, EngineError)):
                raise
        else:
            return process
        return await self._launch(tries - 1)

    async def _spawn(self) -> tuple[EngineProcess, EngineClient]:
        if self._directory is None:
            self._directory = self._mark.directory()
        if self._client is not None:
            await self._client.aclose()
        port = free_port()
        self._process = spawn(self._settings, port, self._mark, self._directory)
        self._process.exited.add_done_callback(lambda _: self._unsettle())
        self._client = EngineClient(f"http://127.0.0.1:{port}", self.pulse)
        return self._process, self._client

    async def _until_ready(self, client: EngineClient, process: EngineProcess | None) -> None:
        self.engine_version = await until_ready(client, process, self._inference, self._prepare)
        if process is None or not process.exited.done():  # else the watch restarts it
            self.pulse.vitals.started(self.pulse.clock())
            loaded = {canonical(model): Manner() for model in self._inference.models}
            self.pulse.lately.restarted(loaded)
            self.has_gpu = self.has_gpu or (process is not None and process.log.names_gpu())
            self._settled.set()
            self._on_ready()

    async def _watch(self, process: EngineProcess) -> None:
        """Restart the engine whenever it dies, until it dies too often."""
        while True:
            while (status := await process.wait(_TRIM_S)) is None:
                await asyncio.to_thread(process.log.trim)
            told, self._failure = self._failure, None
            cause, text, unnoticed_s = told or ("died", f"the engine ended with status {status}", 0)
            self._note(text, None if told else process)
            restarted = await self._restart(cause, unnoticed_s)
            if restarted is None:
                return
            process = restarted

    async def _restart(self, cause: Cause, unnoticed_s: float) -> EngineProcess | None:
        """The next engine; None once there were more than `max_restarts` in the window."""
        self.restarts.forget(monotonic(), unnoticed_s)
        while (pause_s := self.restarts.failed(cause, monotonic())) is not None:
            self._on_restart(cause)
            await asyncio.to_thread(reap, self._mark)
            await asyncio.sleep(pause_s)
            try:
                return await self._launch()
            except RayllamaError as exc:
                self.last_error = f"restart failed: {exc}".partition("\n")[0]
                _log.error("restart failed: %s", exc)
                cause = "died"
        times = self.restarts.most + 1
        text = f"the engine died {times} times; this replica is to be replaced"
        self._give_up(text if cause == "died" else f"{text}. The last time: {self.last_error}")
        return None

    def _note(self, text: str, process: EngineProcess | None = None) -> None:
        """In the log, and as `last_error`."""
        self.last_error = text
        _log.error(story(text, process))

    def _watch_ended(self, watcher: asyncio.Task[None]) -> None:
        """Nobody is left to restart the engine: whoever waits for one must not wait for ever."""
        if not watcher.cancelled() and (error := watcher.exception()) is not None:
            _log.critical("the engine is not supervised any more", exc_info=error)
            self._give_up(f"the engine's supervisor failed: {type(error).__name__}")

    def _unsettle(self) -> None:
        if not self._trouble:
            self._settled.clear()

    def _give_up(self, trouble: str) -> None:
        self._trouble = self._trouble or trouble
        self._settled.set()
