"""One inference replica: a gate, a supervised engine, and the calls that pass.

Owns:         one engine (a child process, or an attached server), its client, the gate before it,
              and the reports of its catalogue.
Does not own: which replica gets a call (the handle's router), what may be cached (serve.cache),
              dialects other than Ollama's own (serve.web).
Lives:        one per GPU, as many as `inference.replicas`; the ingress calls it through its handle.
Dies:         a dead engine is restarted in place; too many deaths fail the health check and Serve
              replaces the replica. Leaving, it has been drained by Serve, then stops the engine.
              Killed, its engine is ended by the keeper; its raylet killed, it ends itself.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, nullcontext
from time import time
from typing import Any, Self

from serve.errors import DeadlineExceeded, EngineNotReady, RayllamaError
from serve.ollama.catalogue import Read
from serve.ollama.dated import utc_offset_s
from serve.ollama.ending import Ending
from serve.ollama.gate import Gate
from serve.ollama.parent import ParentWatch
from serve.ollama.reporter import CatalogueReporter, Connect
from serve.ollama.supervisor import Supervisor
from serve.ports import Call, Failed, Frame, Head, Report, Tail
from serve.settings import Settings, parse
from serve.wire.errors import native_body

_JSON = "application/json; charset=utf-8"
_DIGEST_S = 2.0
_COMPUTED = frozenset({"/api/generate", "/api/chat", "/api/embed", "/api/embeddings"})


class Inference:
    """`serve.ports.Inference` on one engine. A plain class: Ray's options are put on it outside."""

    _supervisor: Supervisor | None = None  # also when `__init__` never ran, or failed

    async def __init__(  # type: ignore[misc]  # Serve awaits it; others call `launch`
        self,
        settings: Settings | dict[str, Any],
        connect: Connect | None = None,
        *,
        watch_parent: bool = True,
    ) -> None:
        """Return when the engine is ready.

        `connect` finds who wants catalogue reports. `watch_parent`: end when the parent process
        does, as a Ray worker must. Raises `EngineNotReady` or `ConfigError`.
        """
        self._settings = settings if isinstance(settings, Settings) else parse(settings)
        inference = self._settings.inference
        self._gate = Gate(inference.slots, inference.max_queue)
        self._reporter = connect and CatalogueReporter(
            self.report, connect, self._settings.cache.catalogue_poll_s
        )
        self._watch = ParentWatch() if watch_parent else None
        if self._watch is not None:
            self._watch.start()
        supervisor = Supervisor(self._settings, on_ready=self._poke)
        await supervisor.start()
        self._supervisor = supervisor
        if self._reporter is not None:
            self._reporter.start()

    @classmethod
    async def launch(
        cls, settings: Settings, connect: Connect | None = None, *, watch_parent: bool = False
    ) -> Self:
        """A replica outside of Serve."""
        replica = cls.__new__(cls)
        await cls.__init__(replica, settings, connect, watch_parent=watch_parent)
        return replica

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        """See `serve.ports.Inference`. The deadline counts until the first frame."""
        has_begun = False
        try:
            async with aclosing(self._answer(call)) as frames:
                try:
                    async with asyncio.timeout(call.deadline_s):
                        first = await anext(frames)
                except TimeoutError:
                    text = f"no answer within the deadline of {call.deadline_s:g} seconds"
                    raise DeadlineExceeded(text) from None
                has_begun = True
                yield first
                async for frame in frames:
                    yield frame
        except RayllamaError as error:
            if has_begun:
                yield Failed(str(error))
            else:
                yield Head(error.status, _JSON)
                yield native_body(error)

    async def packed(self, call: Call) -> AsyncGenerator[tuple[Frame, ...], None]:
        """`stream` as it crosses a handle: an answer's head travels with its first bytes.

        An item costs the first token about a millisecond, and no head comes before those bytes.
        """
        async with aclosing(self.stream(call)) as frames:
            head: tuple[Frame, ...] = (await anext(frames),)
            async for frame in frames:
                yield (*head, frame)
                head = ()
            if head:
                yield head

    async def report(self) -> Report:
        """What this replica's engine is and has, now. Raises `EngineError` while it has none."""
        supervisor = self._up()
        await supervisor.check()
        models = await supervisor.dated.marked(await supervisor.catalogue.fresh())
        return Report(
            supervisor.replica_id,
            supervisor.engine_version,
            supervisor.fingerprint,
            models,
            utc_offset_s(self._settings.inference, time()),
        )

    async def check_health(self) -> None:
        """Serve's: raise if this replica should be replaced."""
        await self._up().check()

    async def stop(self) -> None:
        """End the reports and the engine. Calls still running end with an error."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        if self._reporter is not None:
            await self._reporter.stop()
        await supervisor.stop()
        if self._watch is not None:
            self._watch.stop()

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Serve calls this once, after the drain, and awaits what it returns.

        Not `async`: Python calls it too, when nobody is there to await anything.
        """
        return None if self._supervisor is None else self.stop()

    async def _answer(self, call: Call) -> AsyncGenerator[Frame, None]:
        """The engine's answer and, if it ended well, its tail. Raises those of `serve.errors`."""
        supervisor, ending = self._up(), Ending()
        is_computed = call.path in _COMPUTED
        before: Read | None = None
        async with self._gate if is_computed else nullcontext():
            await supervisor.ready()
            # The digest before is read while the call runs, not ahead of it, which would cost
            # every first token a round trip, and once the first bytes are here, so that they don't
            # share the processor with it. That is sound: an answer is stored only if this digest
            # and the one after the last byte both equal that of its key, which the caller took
            # from a catalogue before it called. So the name stood for that digest before the
            # call, at some time during it, and after it. A tag that was moved between the first
            # two would have to be moved back in the same moment to be missed.
            async with aclosing(supervisor.stream(call)) as frames:
                async for frame in frames:
                    ending.see(frame)
                    if is_computed and before is None and isinstance(frame, bytes):
                        before = supervisor.catalogue.ask()  # a task: the frame leaves first
                    yield frame
        if ending.is_good():
            after = supervisor.catalogue.ask() if is_computed else None
            yield Tail(
                await _digest(before, call.model),
                await _digest(after, call.model),
                supervisor.fingerprint,
            )

    def _up(self) -> Supervisor:
        if self._supervisor is None:
            raise EngineNotReady("this replica is stopped")
        return self._supervisor

    def _poke(self) -> None:
        if self._reporter is not None:
            self._reporter.poke()


async def _digest(read: Read | None, model: str) -> str:
    """What that reading of the catalogue says of a model; "" if nothing, or if it failed.

    It costs an answer its place in the cache, so it is not waited for long: the answer is over.
    """
    if read is None:
        return ""
    try:
        async with asyncio.timeout(_DIGEST_S):
            found = (await asyncio.shield(read)).get(model)
    except (RayllamaError, TimeoutError):
        return ""
    return "" if found is None else found.digest
