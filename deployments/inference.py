"""One inference replica: a gate, a supervised engine, and the calls that pass.

Owns:         one engine (a child process, or an attached server), its client, the gate before it,
              and the reports of its catalogue.
Does not own: which replica gets a call (the handle's router), what may be cached (serve.cache),
              dialects other than Ollama's own (serve.web).
Lives:        one per GPU, as many as `inference.replicas`; the ingress calls it through its handle.
Dies:         a dead engine, a wedged one, or one that lost its GPU is restarted in place; too many
              deaths fail the health check and Serve
              replaces the replica. Leaving, it has been drained by Serve, then stops the engine.
              Killed, its engine is ended by the keeper; its raylet killed, it ends itself.
"""

from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from functools import partial
from time import time
from typing import Any, Self

from deployments.seat import ALONE, Seat
from deployments.standing import SILENCE_S, Standings, standing_of
from serve.errors import EngineNotReady
from serve.fleet.pools import Pools
from serve.fleet.replica import Standing
from serve.ollama.answers import Answers
from serve.ollama.canary import Canary
from serve.ollama.dated import utc_offset_s
from serve.ollama.gate import Gate
from serve.ollama.parent import ParentWatch
from serve.ollama.reporter import CatalogueReporter, Connect
from serve.ollama.stocking import Stocking
from serve.ollama.supervisor import Supervisor
from serve.ports import Call, Frame, Head, Report
from serve.settings import Settings, parse


class Inference:
    """`serve.ports.Inference` on one engine. A plain class: Ray's options are put on it outside."""

    _standings: Standings | None = None
    _supervisor: Supervisor | None = None  # also when `__init__` never ran, or failed

    async def __init__(  # type: ignore[misc]  # Serve awaits it; others call `launch`
        self,
        settings: Settings | dict[str, Any],
        connect: Connect | None = None,
        seat: Seat = ALONE,
        *,
        watch_parent: bool = True,
    ) -> None:
        """Return when the engine is ready.

        `connect` finds who wants catalogue reports. `watch_parent`: end when the parent process
        does, as a Ray worker must. Raises `EngineNotReady` or `ConfigError`.
        """
        settings = settings if isinstance(settings, Settings) else parse(settings)
        self._pools = Pools(settings)
        self._pool = seat.pool
        self._name, rank = seat.who()
        inference = settings.shapes[seat.pool]
        if inference.engine == "attach":
            inference = inference.model_copy(
                update={"url": inference.attached[rank % len(inference.attached)]}
            )
        self._settings = settings.model_copy(update={"inference": inference})
        self._gate = Gate(inference.slots, inference.max_queue)
        self._stocking = Stocking(self._settings, seat.peers)
        self._answers = Answers(
            self._up, self._gate, self._name, self._poke_standings, self._stocking.routes
        )
        self._reporter = connect and CatalogueReporter(
            self.report, connect, self._settings.cache.catalogue_poll_s
        )
        self._watch = ParentWatch() if watch_parent else None
        if self._watch is not None:
            self._watch.start()
        supervisor = Supervisor(
            self._settings,
            self._poke,
            partial(seat.restarted, seat.pool),
            self._stocking.prepare,
        )
        await supervisor.start()
        self._supervisor = supervisor
        self._canary = Canary(supervisor, self._gate, inference)
        self._canary.start()
        self._stocking.start()
        if self._reporter is not None:
            self._reporter.start()
        self._standings = seat.tell and Standings(
            self.standing,
            *seat.tell,
            period_s=self._settings.cache.catalogue_poll_s,
            silence_s=SILENCE_S,
        )
        if self._standings is not None:
            self._standings.start()

    @classmethod
    async def launch(
        cls,
        settings: Settings,
        connect: Connect | None = None,
        seat: Seat = ALONE,
        *,
        watch_parent: bool = False,
    ) -> Self:
        """A replica outside of Serve."""
        replica = cls.__new__(cls)
        await cls.__init__(replica, settings, connect, seat, watch_parent=watch_parent)
        return replica

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        """See `serve.ports.Inference`. `POST /rayllama/report`: tell what has changed, now."""
        if call.path == "/rayllama/report":
            self._poke()
            yield Head(200, "application/json; charset=utf-8")
            yield b"{}"
            return
        async with aclosing(self._answers.stream(call)) as frames:
            async for frame in frames:
                yield frame

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
        models = await supervisor.holdings.dated.marked(await supervisor.holdings.catalogue.fresh())
        return Report(
            supervisor.replica_id,
            supervisor.engine_version,
            supervisor.fingerprint,
            {name: each for name, each in models.items() if self._pools.of(name) == self._pool},
            utc_offset_s(self._settings.inference, time()),
        )

    async def standing(self) -> Standing:
        """How it stands, for the scheduler. Raises `EngineError` while it has no engine."""
        supervisor = self._up()
        name = self._name or supervisor.replica_id
        return await standing_of(name, supervisor, self._gate, self._settings.inference)

    async def check_health(self) -> None:
        """Serve's: raise if this replica should be replaced."""
        await self._up().check()

    async def stop(self) -> None:
        """End the reports and the engine. Calls still running end with an error."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        if self._standings is not None:
            await self._standings.stop()
        if self._reporter is not None:
            await self._reporter.stop()
        await self._canary.stop()
        await self._stocking.stop()
        await supervisor.stop()
        if self._watch is not None:
            self._watch.stop()

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Serve calls this once, after the drain, and awaits what it returns.

        Not `async`: Python calls it too, when nobody is there to await anything.
        """
        return None if self._supervisor is None else self.stop()

    def _up(self) -> Supervisor:
        if self._supervisor is None:
            raise EngineNotReady("this replica is stopped")
        return self._supervisor

    def _poke(self) -> None:
        if self._reporter is not None:
            self._reporter.poke()
        self._poke_standings()

    def _poke_standings(self) -> None:
        """What is loaded may have changed."""
        if self._standings is not None:
            self._standings.poke()
