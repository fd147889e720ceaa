"""One replica's answers: through the gate, from the engine, each with what it was made from.

The only place that turns what goes wrong into what a client of Ollama would have seen.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, nullcontext

from serve.errors import DeadlineExceeded, EngineDied, EngineNotReady, RayllamaError
from serve.ollama.catalogue import Read
from serve.ollama.depot_routes import PREFIX, DepotRoutes
from serve.ollama.ending import Ending
from serve.ollama.gate import Gate
from serve.ollama.supervisor import Supervisor
from serve.ports import COMPUTED, Call, Failed, Frame, Head, Tail
from serve.wire.errors import native_body

_JSON = "application/json; charset=utf-8"
_DIGEST_S = 2.0


class Answers:
    """`serve.ports.Inference` over one engine.

    `up` gives the supervisor, or raises `EngineNotReady`. `name`: calls for other replicas are not
    for this one; "" takes all. `on_bytes`: an answer's first bytes are here, so a model is loaded.
    `depot` answers for the model store.
    """

    def __init__(
        self,
        up: Callable[[], Supervisor],
        gate: Gate,
        name: str,
        on_bytes: Callable[[], None],
        depot: DepotRoutes,
    ) -> None:
        self._up = up
        self._gate = gate
        self._name = name
        self._on_bytes = on_bytes
        self._depot = depot

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
                yield Head(error.status, _JSON, is_unreached=_may_go_elsewhere(error, call))
                yield native_body(error)

    async def _answer(self, call: Call) -> AsyncGenerator[Frame, None]:
        """The engine's answer and, if it ended well, its tail. Raises those of `serve.errors`."""
        supervisor, ending = self._up(), Ending()
        catalogue = supervisor.holdings.catalogue
        if call.replica and self._name and call.replica != self._name:
            yield Head(503, _JSON, is_unreached=True)
            yield native_body(EngineNotReady("that replica is gone"))
            return
        if call.path.startswith(PREFIX):
            async with aclosing(self._depot.stream(call)) as stored:
                async for frame in stored:
                    yield frame
            return
        is_computed = call.path in COMPUTED
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
                        before = catalogue.ask()  # a task: the frame leaves first
                        self._on_bytes()
                    yield frame
        if ending.is_good():
            after = catalogue.ask() if is_computed else None
            yield Tail(
                await _digest(before, call.model),
                await _digest(after, call.model),
                supervisor.fingerprint,
            )


def _may_go_elsewhere(error: RayllamaError, call: Call) -> bool:
    """Whether another replica may be asked the same, before any byte of an answer.

    What an engine died of may have been done, so that only goes for what changes nothing.
    """
    if isinstance(error, EngineDied):
        return call.path in COMPUTED or call.method in ("GET", "HEAD")
    return isinstance(error, EngineNotReady)


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
