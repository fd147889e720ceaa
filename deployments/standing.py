"""A replica's word to the schedulers of its pool: what it has loaded, what it has, how busy it is.

During a rollout there are two schedulers, the old application's and the new one's; both are told.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from serve.errors import EngineError
from serve.fleet.link import Address
from serve.fleet.replica import Standing
from serve.fleet.telling import Telling
from serve.ollama.gate import Gate
from serve.ollama.supervisor import Supervisor
from serve.settings import InferenceSettings

log = logging.getLogger("rayllama.inference")

Names = Callable[[], Awaitable[list[str]]]
"""The full names of a pool's schedulers."""
Resolve = Callable[[str], Awaitable[Address]]
"""Where the scheduler of that name listens."""

SILENCE_S = 4.0
"""After so long without a word, the other end of a scheduler's connection counts as gone."""

_LOOK_S = 5.0
"""How often a new scheduler is looked for."""


_OLLAMAS_CHOICE = 3
"""Models that an Ollama holds at once for each GPU if it isn't told (OLLAMA_MAX_LOADED_MODELS)."""


async def standing_of(
    name: str, supervisor: Supervisor, gate: Gate, shape: InferenceSettings
) -> Standing:
    """What the replica of that name says of itself. Raises `EngineError`."""
    models = await supervisor.holdings.catalogue.fresh()
    ids = {model: supervisor.holdings.weights(model, each.digest) for model, each in models.items()}
    told = {model: each for model, each in supervisor.holdings.shown.items() if model in ids}
    return Standing(
        name,
        shape.slots,
        shape.max_loaded_models or _OLLAMAS_CHOICE,
        await supervisor.holdings.loaded(),
        dict.fromkeys(ids.values(), 0) | {ids[model]: each.longest for model, each in told.items()},
        gate.at_work + gate.waiting,
        context=shape.context_length,
        contexts={model: each.own for model, each in told.items() if each.own},
        ids=ids,
        digests={model: each.digest for model, each in models.items()},
        engine_version=supervisor.engine_version,
        last_error=supervisor.last_error,
    )


class Standings:
    """Owns the task that tells, every `period_s` and after `poke`, and the connections.

    `standing` says how it is; `names` lists the schedulers, and `resolve` finds one of them.
    """

    def __init__(
        self,
        standing: Callable[[], Awaitable[Standing]],
        names: Names,
        resolve: Resolve,
        *,
        period_s: float,
        silence_s: float,
    ) -> None:
        self._standing = standing
        self._names = names
        self._resolve = resolve
        self._period_s = period_s
        self._silence_s = silence_s
        self._tellings: dict[str, Telling] = {}
        self._poked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")

    def start(self) -> None:
        """Begin to tell."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def poke(self) -> None:
        """Something has changed: tell at once."""
        self._poked.set()

    async def stop(self) -> None:
        """Tell nobody any more: with the connections the replica's place in the pool ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for telling in self._tellings.values():
            await telling.__aexit__(None, None, None)
        self._tellings.clear()

    async def _run(self) -> None:
        while True:
            self._poked.clear()
            try:
                await self._look()
                await self._tell()
            except Exception as error:  # noqa: BLE001  (last resort: `names` is Ray's)
                log.info("no word to the scheduler: %s: %s", type(error).__name__, error)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._period_s):
                    await self._poked.wait()

    async def _look(self) -> None:
        """Find new schedulers, and let go of those that are gone."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < _LOOK_S:
            return
        names = await self._names()
        self._looked_at = now if names else float("-inf")
        for name in [name for name in self._tellings if name not in names]:
            await self._tellings.pop(name).__aexit__(None, None, None)
        for name in names:
            if name not in self._tellings:
                telling = Telling(partial(self._resolve, name), silence_s=self._silence_s)
                self._tellings[name] = await telling.__aenter__()

    async def _tell(self) -> None:
        try:
            standing = await self._standing()
        except EngineError:
            return  # it is being restarted: what was said last holds, its calls wait in the gate
        for telling in self._tellings.values():
            telling.tell(standing)
